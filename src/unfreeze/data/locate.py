"""Locations of the images of a finished run, by the names in the run's tables, or by their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unfreeze.data.folders import FolderWalk
from unfreeze.data.places import iter_photos
from unfreeze.data.sources import read_photos
from unfreeze.errors import UnfreezeError
from unfreeze.files import is_file, is_folder
from unfreeze.paths import user_path
from unfreeze.runtime import progress_bar


def relocate_images(source: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """Return the paths of a source's images by the names in a run's tables; missing ones are absent."""
    if source is None:
        return {}
    root = source if is_folder(source) else source.parent
    paths = {name: root / user_path(name) for name in names if is_file(root / user_path(name))}
    if len(paths) < len(names):
        # The tables have display names; on disk a name may be in another Unicode form, or invalid Unicode.
        try:
            found = dict(_named_images(source))
        except (UnfreezeError, OSError):
            return paths
        paths |= {name: found[name] for name in names if name not in paths and name in found}
    return paths


def unchanged(paths: Mapping[str, Path], digests: Mapping[str, str]) -> dict[str, Path]:
    """Return those of the paths whose files have the SHA-256 in ``digests``, or a name that isn't there."""
    return {name: path for name, path in paths.items() if name not in digests or _sha256(path) == digests[name]}


def find_by_content(folder: Path, digests: Mapping[str, str]) -> dict[str, Path]:
    """Return the paths of the images anywhere below a folder that have one of these SHA-256, by the images' names.

    Every image in the folder is read; those that were moved or renamed are found, those that were saved anew aren't.
    """
    names: dict[str, list[str]] = {}
    for name, digest in digests.items():
        names.setdefault(digest, []).append(name)
    if not names or not is_folder(folder):
        return {}
    files = list(iter_photos([folder]))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashed = progress_bar(pool.map(_sha256, files), "looking for photos", total=len(files))
        found = {digest: path for path, digest in zip(files, hashed, strict=True) if digest in names}
    return {name: path for digest, path in found.items() for name in names[digest]}


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _named_images(source: Path) -> Iterator[tuple[str, Path]]:
    """Yield the display name and the path of each image, whatever the layout of the source."""
    if is_folder(source):
        walk = FolderWalk(source)
        yield from ((walk.name(path), path) for path in walk.iter_photos(source))
    else:
        yield from ((sample.file_name, sample.path) for sample in read_photos(source, to_train=False).samples)
