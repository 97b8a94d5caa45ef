"""Traversal of a folder tree of images, robust to link loops, system files, side files and odd names."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from unfreeze.data.decode import HEIF_SUFFIXES, PHOTO_SUFFIXES
from unfreeze.data.signatures import HEAD_BYTES, photo_format
from unfreeze.files import exists

_IGNORED = frozenset({
    "thumbs.db", "desktop.ini", "dicomdir", "__macosx", "@eadir", "$recycle.bin", ".ds_store", ".appledouble",
    ".cache", ".dvc", ".fseventsd", ".git", ".hg", ".ipynb_checkpoints", ".picasaoriginals", ".spotlight-v100", ".svn",
    ".thumbnails", ".tox", ".trash", ".trashes", ".venv",
})  # fmt: skip
_SIDE_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".db", ".yaml", ".yml", ".html", ".pdf"})
# Raw photos begin like a TIFF, in which there is only a thumbnail.
_RAW_SUFFIXES = frozenset({
    ".3fr", ".arw", ".cr2", ".cr3", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mrw", ".nef", ".nrw", ".orf",
    ".pef", ".raf", ".raw", ".rw2", ".sr2", ".srf", ".srw", ".x3f",
})  # fmt: skip

_RUN_FILES = (("verdict.json",), ("compare.json",), ("args.toml", "checks.csv"))
"""Files by which the folder of a run, an unfinished one too, is known: its plots and heatmaps are no class."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that isn't used, and the reason."""

    file_name: str
    reason: str


@dataclass(frozen=True)
class Folder:
    """A folder of a tree.

    Attributes:
        path: Where it is.
        photos: The images directly in it.
        folders: The folders directly in it.
        n_unread: How many other files lie directly in it, by suffix, without side files.
    """

    path: Path
    photos: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)
    n_unread: Counter[str] = field(default_factory=Counter)

    @property
    def name(self) -> str:
        """The folder's name, for display."""
        return display_name(self.path.name)

    def all_photos(self) -> Iterator[Path]:
        """Yield the images anywhere below the folder."""
        yield from self.photos
        for folder in self.folders:
            yield from folder.all_photos()

    def all_unread(self) -> Counter[str]:
        """Return how many files anywhere below the folder aren't read, by suffix."""
        return sum((folder.all_unread() for folder in self.folders), self.n_unread)

    def has_photos(self) -> bool:
        """Return whether there is an image anywhere below the folder."""
        return bool(self.photos) or any(folder.has_photos() for folder in self.folders)

    def with_photos(self) -> list[Folder]:
        """Return the folders directly in it that have an image anywhere below."""
        return [folder for folder in self.folders if folder.has_photos()]


def display_name(text: str) -> str:
    r"""Return a file or class name as valid Unicode in NFC; bytes that are no Unicode are written as \xb9.

    Names that look alike become equal, and names of different bytes stay different.
    """
    return unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "backslashreplace"))


class FolderWalk:
    """A traversal of one tree, which enters every folder once, also through links, and records what it skips.

    Attributes:
        left_out: Files and folders skipped so far.
        side_files: Number of texts and tables found among the images so far.
        n_unread: Number of other files that aren't read so far, by suffix.
        n_by_content: Number of images with an unknown suffix so far, by suffix.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: list[Skipped] = []
        self.side_files = 0
        self.n_unread: Counter[str] = Counter()
        self.n_by_content: Counter[str] = Counter()
        self._hidden: dict[str, int] = {}  # photos in hidden folders
        self._by_reason: dict[str, list[str]] = {}  # names of what was left out
        self._entered = {os.path.realpath(root)}

    def name(self, path: Path) -> str:
        """Return the path relative to the root, for display."""
        return display_name(path.relative_to(self.root).as_posix())

    def leave_out(self, path: Path, reason: str, *, note: bool = True) -> None:
        """Record a file or folder that isn't used; ``note``: whether ``notes`` counts it by its reason."""
        self.left_out.append(Skipped(self.name(path), reason))
        if note:
            self._by_reason.setdefault(reason, []).append(self.left_out[-1].file_name)

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders directly in ``folder`` and mark them as entered: later links to them are skipped."""
        new = []
        # Real folders come before links: a class is named by its folder and not by a link to it.
        for entry in sorted((entry for entry in self._entries(folder) if entry.is_dir()), key=Path.is_symlink):
            real = os.path.realpath(entry)
            if entry.name.startswith("."):
                self._pass_over_hidden(entry)
            elif any(all(exists(entry / name) for name in names) for names in _RUN_FILES):
                self.leave_out(entry, "is the folder of a run, whose pictures are no photos")
            elif real in self._entered:
                self.leave_out(entry, "links to a folder that is read elsewhere", note=False)
            else:
                self._entered.add(real)
                new.append(entry)
        return sorted(new)

    def files(self, folder: Path) -> list[Path]:
        """Return the images directly in ``folder``, by suffix or content, and record other files as skipped."""
        photos = []
        for entry in self._entries(folder):
            suffix = entry.suffix.lower()
            if entry.is_dir():
                continue
            if entry.name.startswith("."):
                if suffix in PHOTO_SUFFIXES:
                    self.leave_out(entry, "is hidden, as its name begins with a dot; rename it if it is wanted")
            elif suffix in _SIDE_SUFFIXES:
                self.side_files += 1
            elif not entry.is_file():
                self.leave_out(entry, "is a link that leads nowhere, or no regular file")
            elif suffix in PHOTO_SUFFIXES - HEIF_SUFFIXES:
                photos.append(entry)
            elif suffix not in _RAW_SUFFIXES and (suffix in HEIF_SUFFIXES or _format_by_content(entry)):
                # Phones and messengers name JPEGs .heic, too.
                if suffix not in HEIF_SUFFIXES or _format_by_content(entry) not in (None, "HEIF"):
                    self.n_by_content[_suffix(entry)] += 1
                photos.append(entry)
            else:
                self.n_unread[_suffix(entry)] += 1
                reason = f"unknown suffix {display_name(suffix)!r}; convert it to JPEG or PNG if it is a photo"
                self.leave_out(entry, reason, note=False)
        return photos

    def iter_photos(self, folder: Path) -> Iterator[Path]:
        """Yield the images anywhere below ``folder``; one folder at a time is listed."""
        yield from self.files(folder)
        for inner in self.folders(folder):
            yield from self.iter_photos(inner)

    def photos(self, folder: Path) -> list[Path]:
        """Return the images anywhere below ``folder``."""
        return list(self.iter_photos(folder))

    def tree(self) -> Folder:
        """Return the whole tree.  It is read level by level: a folder is where it lies highest, not where a link is."""
        top = Folder(self.root)
        level = [top]
        while level:
            for folder in level:
                before = self.n_unread.copy()
                folder.photos.extend(self.files(folder.path))
                folder.n_unread.update(self.n_unread - before)
                folder.folders.extend(map(Folder, self.folders(folder.path)))
            level = [inner for folder in level for inner in folder.folders]
        return top

    def notes(self) -> list[str]:
        """Return a sentence for each kind of thing that was passed over, and one about unknown suffixes."""
        notes = []
        if self.side_files:
            notes.append(f"Side files that are no photos (texts, tables) were passed over: {self.side_files}.")
        if self.n_unread:
            notes.append(
                f"Files that are not read were left out: {count_suffixes(self.n_unread)}; "
                "save photos among them as JPEG or PNG."
            )
        if self.n_by_content:
            notes.append(
                f"Photos by their content, whatever their suffix says, are used: {count_suffixes(self.n_by_content)}."
            )
        if self._hidden:
            hidden = ", ".join(
                f"{name!r} ({count} photo{'' if count == 1 else 's'})" for name, count in list(self._hidden.items())[:8]
            )
            notes.append(f"Hidden folders were passed over: {hidden}; rename them if they are wanted.")
        notes += [f"Left out: {quote_list(names)}: {reason}." for reason, names in self._by_reason.items()]
        return notes

    def _pass_over_hidden(self, folder: Path) -> None:
        count = sum(
            Path(name).suffix.lower() in PHOTO_SUFFIXES and not name.startswith(".")
            for _, _, names in os.walk(folder)
            for name in names
        )
        if count:
            self._hidden[self.name(folder)] = count
            self.leave_out(folder, "is hidden, as its name begins with a dot; rename it if it is wanted", note=False)

    def _entries(self, folder: Path) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self.leave_out(folder, f"can't be listed: {error.strerror}")
            return []
        return [entry for entry in entries if not _is_litter(entry.name.lower())]


def _is_litter(name: str) -> bool:
    return name in _IGNORED or name.startswith(("._", ".trash-"))


def _format_by_content(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return photo_format(file.read(HEAD_BYTES))
    except OSError:
        return None


def _suffix(path: Path) -> str:
    """Return the suffix in lower case; numbers, as at the end of DICOM's names, are none."""
    suffix = display_name(path.suffix.lower())
    return "" if suffix[1:].isdigit() else suffix


def count_suffixes(counts: Counter[str]) -> str:
    """Return how many files have which suffix, for people, the most frequent first."""
    parts = [f"{count} {suffix!r}" if suffix else f"{count} without suffix" for suffix, count in counts.most_common(8)]
    return ", ".join(parts) + (f" and {len(counts) - 8} other suffixes" if len(counts) > 8 else "")


def quote_list(names: Iterable[str]) -> str:
    """Return the first eight names, quoted, and the number of others."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
