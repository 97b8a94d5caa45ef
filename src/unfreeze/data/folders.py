"""Traversal of a folder tree of images, robust to link loops, system files, side files and odd names."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from unfreeze.data.decode import PHOTO_SUFFIXES

_IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
_SIDE_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tsv", ".xml", ".md", ".db", ".yaml", ".yml", ".html", ".pdf"})


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file or folder that isn't used, and the reason."""

    file_name: str
    reason: str


def display_name(text: str) -> str:
    """Return a file or class name as valid Unicode in NFC: equal-looking names become equal."""
    return unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "replace"))


class FolderWalk:
    """A traversal of one tree, which enters every folder once, also through links, and records what it skips.

    Attributes:
        left_out: Files and folders skipped so far.
        side_files: Number of texts and tables found among the images so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: list[Skipped] = []
        self.side_files = 0
        self._entered = {os.path.realpath(root)}

    def name(self, path: Path) -> str:
        """Return the path relative to the root, for display."""
        return display_name(path.relative_to(self.root).as_posix())

    def leave_out(self, path: Path, reason: str) -> None:
        """Record a file or folder that isn't used."""
        self.left_out.append(Skipped(self.name(path), reason))

    def folders(self, folder: Path) -> list[Path]:
        """Return the folders directly in ``folder`` and mark them as entered: later links to them are skipped."""
        new = []
        # Real folders come before links: a class is named by its folder and not by a link to it.
        for entry in sorted((entry for entry in self._entries(folder) if entry.is_dir()), key=Path.is_symlink):
            real = os.path.realpath(entry)
            if real in self._entered:
                self.leave_out(entry, "links to a folder that is read elsewhere")
            else:
                self._entered.add(real)
                new.append(entry)
        return sorted(new)

    def files(self, folder: Path) -> list[Path]:
        """Return the images directly in ``folder``, recognised by suffix, and record other files as skipped."""
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

    def iter_photos(self, folder: Path) -> Iterator[Path]:
        """Yield the images anywhere below ``folder``; one folder at a time is listed."""
        yield from self.files(folder)
        for inner in self.folders(folder):
            yield from self.iter_photos(inner)

    def photos(self, folder: Path) -> list[Path]:
        """Return the images anywhere below ``folder``."""
        return list(self.iter_photos(folder))

    def notes(self) -> list[str]:
        """Return a sentence about the side files, if there are any."""
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
        return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED]


def quote_list(names: Iterable[str]) -> str:
    """Return the first eight names, quoted, and the number of others."""
    names = list(names)
    return ", ".join(repr(name) for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
