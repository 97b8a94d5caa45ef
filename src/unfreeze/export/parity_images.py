"""The real images on which exported files are compared: the run's own, or others where those are missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from unfreeze.data.places import find_photos
from unfreeze.errors import PhotosError, RunError
from unfreeze.files import read_table
from unfreeze.runs.photos import find_photos_of
from unfreeze.runs.run import Run

T = TypeVar("T")
MAX_COMPARED = 64  # images on which outputs are compared


@dataclass(frozen=True)
class Photo:
    """A labelled image of the run: its file, the index of its class, and its group."""

    path: Path
    label: int
    group: str | None


@dataclass(frozen=True)
class ParityImages:
    """The images that were found.

    Attributes:
        train_and_val: Images that the shipped model was trained or selected on.
        test: Images that it never saw; empty for a cross-fitted run.
        others: Images that do not belong to the run.
    """

    train_and_val: tuple[Photo, ...] = ()
    test: tuple[Photo, ...] = ()
    others: tuple[Path, ...] = ()

    def to_compare(self) -> tuple[Path, ...]:
        """Return up to ``MAX_COMPARED`` paths, evenly spaced over the list; test images where there are any.

        Raises:
            PhotosError: There are fewer than two images, too few to compare a single one with a batch.
        """
        paths = tuple(photo.path for photo in self.test or self.train_and_val) or self.others
        if len(paths) < 2:
            raise PhotosError(
                "The answers of an exported file are compared on real photos, and the run's are not where they were.",
                mend="Say with --photos where they are now, or name a folder with two photos or more like them.",
            )
        return tuple(evenly_spaced(paths, MAX_COMPARED))


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` items, evenly spaced over a list."""
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, min(count, len(items))).round()]


def find_parity_images(run: Run, photos: Path | None) -> ParityImages:
    """Find the run's images.

    Args:
        run: Its tables name them.
        photos: Their present folder, or one of other images; None: the folder that the run was trained on.

    Raises:
        PhotosError: ``photos`` doesn't exist, or has no images.
        RunError: The run's tables are damaged.
    """
    header, rows = read_table(run.folder.splits)
    try:
        columns = [header.index(name) for name in ("file_name", "label", "group", "split")] if header else []
        listed = [tuple(row[column] for column in columns) for row in rows]
        class_index = {name: index for index, name in enumerate(run.classes)}
        paths = find_photos_of(run.folder, [name for name, *_ in listed], photos, verify=False)
        found = [
            (Photo(paths[name], class_index[label], group or None), split)
            for name, label, group, split in listed
            if name in paths
        ]
    except (ValueError, KeyError) as error:
        raise RunError("The table is damaged.", where=run.folder.splits) from error
    train_and_val = tuple(photo for photo, split in found if split != "test")
    test = tuple(photo for photo, split in found if split == "test")
    others = tuple(find_photos([photos])) if photos is not None and not found else ()
    return ParityImages(train_and_val, test, others)
