"""Locations of the images of a finished run, by the names in the run's tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
            samples = read_photos(source, to_train=False).samples
        except (UnfreezeError, OSError):
            return paths
        missing = set(names) - set(paths)
        paths |= {sample.file_name: sample.path for sample in samples if sample.file_name in missing}
    return paths
