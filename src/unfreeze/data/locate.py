"""Where the photos of a finished run are now, by the names that its tables give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unfreeze.data.sources import read_photos
from unfreeze.errors import UnfreezeError
from unfreeze.files import is_file, is_folder


def relocate_images(source: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """Return where the photos of a source are, by the names that a run's tables give them; lost ones are absent."""
    if source is None:
        return {}
    root = source if is_folder(source) else source.parent
    found = {name: root / name for name in names if is_file(root / name)}
    if len(found) < len(names):
        # The tables have names as they are shown; on disk they may be spelled in another form of Unicode, or in none.
        try:
            listed = read_photos(source, to_train=False).samples
        except (UnfreezeError, OSError):
            return found
        lost = set(names) - set(found)
        found |= {sample.file_name: sample.path for sample in listed if sample.file_name in lost}
    return found
