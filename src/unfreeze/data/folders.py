"""Walking a tree of photos as people and their systems leave it: link loops, litter, side files, odd names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.data.decode import PHOTO_SUFFIXES

_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
_SIDE_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".db", ".yaml", ".yml", ".html", ".pdf"})


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that isn't used, and why."""

    file_name: str
    reason: str


def display_name(text: str) -> str:
    """Return a file or class name as valid Unicode in NFC, so that equal-looking names are equal and can be written."""
    return unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "replace"))


class FolderWalk:
    """One walk over a tree: enters every folder once, whatever the links in it say, and remembers what it passed over.

    Attributes:
        left_out: Files and folders that were passed over, so far.
        side_files: Number of texts and tables that lie between the photos, so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: list[Skipped] = []
        self.side_files = 0
        self._entered = {os.path.realpath(root)}

    def name(self, path: Path) -> str:
        """Return a path below the root for display."""
        return display_name(path.relative_to(self.root).as_posix())

    def leave_out(self, path: Path, reason: str) -> None:
        """Remember a file or folder that isn't used."""
        self.left_out.append(Skipped(self.name(path), reason))

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders directly in ``folder`` and claim them: links elsewhere can't enter them any more."""
        new = []
        # Real folders come before links, so that a class isn't named after a link to it.
        for entry in sorted((entry for entry in self._entries(folder) if entry.is_dir()), key=Path.is_symlink):
            real = os.path.realpath(entry)
            if real in self._entered:
                self.leave_out(entry, "links to a folder that is read elsewhere")
            else:
                self._entered.add(real)
                new.append(entry)
        return sorted(new)

    def files(self, folder: Path) -> list[Path]:
        """Return the photos directly in ``folder``, told by suffix, and leave out what is no photo."""
        photos = []
        for entry in self._entries(folder):
            suffix = entry.suffix.lower()
            if entry.is_dir():
                continue
            if suffix in _SIDE_SUFFIXES:
                self.side_files += 1
            elif suffix not in PHOTO_SUFFIXES:
                self.leave_out(
                    entry, f"unknown suffix {display_name(suffix)!r}; convert it to JPEG or PNG if it is a photo"
                )
            elif not entry.is_file():
                self.leave_out(entry, "is a link that leads nowhere, or no regular file")
            else:
                photos.append(entry)
        return photos

    def each(self, folder: Path) -> Iterator[Path]:
        """Yield the photos anywhere below ``folder``; of the folders, one at a time is listed."""
        yield from self.files(folder)
        for inner in self.folders(folder):
            yield from self.each(inner)

    def photos(self, folder: Path) -> list[Path]:
        """Return the photos anywhere below ``folder``."""
        return list(self.each(folder))

    def notes(self) -> list[str]:
        """Return a sentence on the side files, where there are any."""
        return (
            [f"Side files that are no photos (texts, tables) were passed over: {self.side_files}."]
            if self.side_files
            else []
        )

    def _entries(self, folder: Path) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self.leave_out(folder, f"can't be listed: {error.strerror}")
            return []
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LITTER]


def quote_list(names: Iterable[str]) -> str:
    """Return the first few names, quoted."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
