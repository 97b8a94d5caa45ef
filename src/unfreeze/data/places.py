"""Image paths to predict, from files, folders, glob patterns, and lists of files and folders."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path

from unfreeze.data.folders import FolderWalk, display_name
from unfreeze.errors import PhotosError
from unfreeze.files import exists, is_folder
from unfreeze.paths import user_path
from unfreeze.runtime import echo

_WILD = frozenset("*?[")


def find_photos(paths: Iterable[str | Path]) -> list[Path]:
    """Return the given files, whatever their suffix, and all images below the given folders; each once, in order.

    Raises:
        PhotosError: A path doesn't exist, a pattern matches nothing, or no image was found.
    """
    paths = list(paths)
    notes: list[str] = []
    photos = list(iter_photos(expand_globs(paths), notes))
    if not photos:
        raise no_photo_error(paths, notes)
    for note in notes:
        echo(f"note: {note}")
    return photos


def no_photo_error(paths: Iterable[str | Path], notes: Sequence[str] = ()) -> PhotosError:
    """Return the error for paths without any image; ``notes`` say what else is there."""
    return PhotosError(
        "No photo was found.",
        where=", ".join(map(str, paths)),
        mend=" ".join([*notes, "Name photos or folders of photos."]),
    )


def iter_photos(paths: Sequence[Path], notes: list[str] | None = None) -> Iterator[Path]:
    """Yield the given files, whatever their suffix, and all images below the given folders; each once, in order.

    Sentences on what each folder holds besides are appended to ``notes`` when it has been read.  For a single folder,
    memory is bounded by the names in its largest subfolder.  Paths already yielded are stored only where several were
    given, which may overlap.
    """
    seen: set[Path] = set()
    for path in paths:
        for photo in _photos_at(path, notes):
            if len(paths) == 1:
                yield photo
            elif photo not in seen:
                seen.add(photo)
                yield photo


def _photos_at(path: Path, notes: list[str] | None) -> Iterator[Path]:
    if not is_folder(path):
        yield path
        return
    walk = FolderWalk(path)
    yield from walk.iter_photos(path)
    if notes is not None:
        notes += [f"{display_name(str(path))}: {note}" for note in walk.notes()]


def expand_globs(paths: Iterable[str | Path]) -> list[Path]:
    """Return the paths, with each glob pattern replaced by its matches, sorted.

    ``*``, ``?`` and ``[...]`` match within a name, except hidden files; ``**`` matches any number of folders and
    follows no links.  A pattern that is itself the name of an existing file or folder is taken literally.

    Raises:
        PhotosError: A path doesn't exist, or a pattern matches nothing.
    """
    return [match for path in paths for match in _matches(user_path(path))]


def read_path_list(stream: BufferedIOBase, *, null: bool = False, notes: list[str] | None = None) -> Iterator[Path]:
    """Yield the images of a list of files and folders while it is being read, as often as each is listed.

    A missing file is yielded, too: the reader of the file reports it, and the rest of a long list is still processed.

    Args:
        stream: The list; glob patterns are not expanded.
        null: Whether each name ends with a NUL, as from ``find -print0``, instead of a newline.
        notes: Gets the sentences of ``iter_photos``.
    """
    end, rest = b"\0" if null else b"\n", b""
    while block := stream.read1(2**16):
        *names, rest = (rest + block).split(end)
        yield from _photos_of_names(names, null, notes)
    yield from _photos_of_names([rest], null, notes)


def _photos_of_names(names: Iterable[bytes], null: bool, notes: list[str] | None) -> Iterator[Path]:
    for name in names:
        path = name if null else name.removesuffix(b"\r")
        if path:
            yield from iter_photos([user_path(os.fsdecode(path))], notes)


def _matches(pattern: Path) -> list[Path]:
    root, rest = Path(), list(pattern.parts)
    while rest and (not _WILD & set(rest[0]) or exists(root / rest[0])):
        root /= rest.pop(0)
    if not rest:
        if not exists(root):
            raise PhotosError("There is no such file or folder.", where=pattern)
        return [root]
    try:
        matches = sorted(path for path in root.glob("/".join(rest)) if not _hidden(path.relative_to(root), rest))
    except ValueError as error:
        raise PhotosError(f"The pattern can't be understood: {error}", where=pattern) from error
    if not matches:
        raise PhotosError("Nothing matches this pattern.", where=pattern, mend="** stands for any number of folders.")
    return matches


def _hidden(path: Path, pattern: Sequence[str]) -> bool:
    """Return whether any part of the path is hidden, except parts that the pattern names literally."""
    return any(part.startswith(".") and part not in pattern for part in path.parts)
