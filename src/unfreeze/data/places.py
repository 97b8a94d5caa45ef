"""Where the photos to predict are: files, folders, patterns, and lists of files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path

from unfreeze.data.folders import FolderWalk
from unfreeze.errors import PhotosError
from unfreeze.files import exists, is_folder

_WILD = frozenset("*?[")


def find_photos(places: Iterable[str | Path]) -> list[Path]:
    """Return the given files, whatever their suffix, and all photos below the given folders; each once, in order.

    Raises:
        PhotosError: A place doesn't exist, a pattern matches nothing, or there is no photo in any.
    """
    given = list(places)
    found = list(each_photo(expand_globs(given)))
    if not found:
        raise no_photo(given)
    return found


def no_photo(places: Iterable[str | Path]) -> PhotosError:
    """Return what is to be said where the places hold no photo."""
    return PhotosError(
        "No photo was found.", where=", ".join(map(str, places)), mend="Name photos or folders of photos."
    )


def each_photo(places: Sequence[Path]) -> Iterator[Path]:
    """Yield the given files, whatever their suffix, and all photos below the given folders; each once, in order.

    A single folder takes no more memory than its largest folder's names; what was seen is remembered only where several
    places may overlap.
    """
    seen: set[Path] = set()
    for place in places:
        for photo in FolderWalk(place).each(place) if is_folder(place) else (place,):
            if len(places) == 1:
                yield photo
            elif photo not in seen:
                seen.add(photo)
                yield photo


def expand_globs(places: Iterable[str | Path]) -> list[Path]:
    """Return the places with what patterns match in their stead, sorted.

    ``*``, ``?`` and ``[...]`` match within a name, hidden files aside, and ``**`` matches any number of folders, but follows
    no links.  What exists under a pattern's very name is meant itself.

    Raises:
        PhotosError: A place doesn't exist, or a pattern matches nothing.
    """
    return [found for place in places for found in _matches(Path(place))]


def listed(stream: BufferedIOBase, *, null: bool = False) -> Iterator[Path]:
    """Yield the photos of a list of files and folders, as soon as they come, as often as they are listed.

    A file that doesn't exist is yielded, too: who opens it reports it, and the rest of a long list isn't lost.

    Args:
        stream: The list; its names mean themselves, patterns or not.
        null: Whether the names end with a NUL, as those of ``find -print0`` do, and not with the line.
    """
    end, rest = b"\0" if null else b"\n", b""
    while block := stream.read1(2**16):
        *names, rest = (rest + block).split(end)
        yield from _photos_at(names, null)
    yield from _photos_at([rest], null)


def _photos_at(names: Iterable[bytes], null: bool) -> Iterator[Path]:
    for name in names:
        plain = name if null else name.removesuffix(b"\r")
        if plain:
            yield from each_photo([Path(os.fsdecode(plain))])


def _matches(place: Path) -> list[Path]:
    root, rest = Path(), list(place.parts)
    while rest and (not _WILD & set(rest[0]) or exists(root / rest[0])):
        root /= rest.pop(0)
    if not rest:
        if not exists(root):
            raise PhotosError("There is no such file or folder.", where=place)
        return [root]
    try:
        found = sorted(path for path in root.glob("/".join(rest)) if not _hidden(path.relative_to(root), rest))
    except ValueError as error:
        raise PhotosError(f"The pattern can't be understood: {error}", where=place) from error
    if not found:
        raise PhotosError("Nothing matches this pattern.", where=place, mend="** stands for any number of folders.")
    return found


def _hidden(path: Path, pattern: Sequence[str]) -> bool:
    """Return whether any part of the path is hidden, apart from those that the pattern spells out."""
    return any(part.startswith(".") and part not in pattern for part in path.parts)
