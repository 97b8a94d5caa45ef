"""Locations of the images of a finished run, by the names in the run's tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unfreeze.data.folders import FolderWalk
from unfreeze.data.sources import read_photos
from unfreeze.errors import UnfreezeError
from unfreeze.files import is_file, is_folder


def relocate_images(source: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """Return the paths of a source's images by the names in a run's tables; missing ones are absent."""
    if source is None:
        return {}
    root = source if is_folder(source) else source.parent
    paths = {name: root / name for name in names if is_file(root / name)}
    if len(paths) < len(names):
        # The tables have display names; on disk a name may be in another Unicode form, or invalid Unicode.
        try:
            found = dict(_named_images(source))
        except (UnfreezeError, OSError):
            return paths
        paths |= {name: found[name] for name in names if name not in paths and name in found}
    return paths


def _named_images(source: Path) -> Iterator[tuple[str, Path]]:
    """Yield the display name and the path of each image, whatever the layout of the source."""
    if is_folder(source):
        walk = FolderWalk(source)
        yield from ((walk.name(path), path) for path in walk.iter_photos(source))
    else:
        yield from ((sample.file_name, sample.path) for sample in read_photos(source, to_train=False).samples)
