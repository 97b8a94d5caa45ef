"""The images of a finished run: what its tables keep of them, to find them again and to know them elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from unfreeze.config_file import photos_of
from unfreeze.data.fingerprints import close_to
from unfreeze.data.locate import find_by_content, relocate_images, unchanged
from unfreeze.data.sources import Sample
from unfreeze.errors import RunError
from unfreeze.files import read_table
from unfreeze.runs.folder import RunFolder


class Trained(NamedTuple):
    """How many images of a set trained a model: the same files, and others that look the same."""

    identical: int
    alike: int

    def sentence(self, n_images: int) -> str:
        """Return what that means for scores on the ``n_images`` of the set."""
        anew = f" ({self.alike} of them saved anew)" if self.alike else ""
        return (
            f"{sum(self)} of these {n_images} photos trained this model{anew}, so the scores are too good: "
            "score photos that it never saw."
        )


def find_photos_of(
    folder: RunFolder, names: Sequence[str], given: Path | None, *, verify: bool = True
) -> dict[str, Path]:
    """Return the paths of a run's images by their names in its tables; missing ones are absent.

    Args:
        folder: The run.
        names: The names of the images.
        given: The folder where they are now: those that aren't there under their names are found by their content.
            None: the folder or table that the run was trained on.
        verify: Whether a file with the name of an image must have its content; always so in a folder that is given.

    Raises:
        RunError: A table is damaged.
    """
    digests = _columns(folder.photos, "file_name", "sha256")
    digests = {name: digests[name] for name in names if name in digests}
    paths = relocate_images(given if given is not None else photos_of(folder.args), names)
    if verify or given is not None:
        paths = unchanged(paths, digests)
    if given is not None and len(paths) < len(names):
        paths |= find_by_content(given, {name: digest for name, digest in digests.items() if name not in paths})
    return paths


def count_trained(folder: RunFolder, samples: Sequence[Sample]) -> Trained:
    """Return how many of these images, which were read, are among those that trained or selected the run's model.

    Raises:
        RunError: A table is damaged.
    """
    trained = {name for name, split in _columns(folder.splits, "file_name", "split").items() if split != "test"}
    digests = _columns(folder.photos, "file_name", "sha256")
    known = {digests[name] for name in trained if name in digests}
    others = [sample.fingerprint for sample in samples if sample.digest not in known]
    fingerprints = _columns(folder.photos, "file_name", "fingerprint")
    close = close_to(others, [fingerprints[name] for name in trained if name in fingerprints])
    return Trained(len(samples) - len(others), sum(close))


def _columns(table: Path, key: str, value: str) -> Mapping[str, str]:
    """Return two columns of a table as a mapping; it is empty where the table isn't there."""
    header, rows = read_table(table)
    if not header:
        return {}
    try:
        i, j = header.index(key), header.index(value)
    except ValueError as error:
        raise RunError(f"The table is damaged: {error}.", where=table) from error
    return {row[i]: row[j] for row in rows}
