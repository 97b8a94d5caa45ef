"""The real photos that exported files are asked about: the run's own, or any others where those are gone."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from unfreeze.data.locate import relocate_images
from unfreeze.data.places import find_photos
from unfreeze.errors import PhotosError, RunError
from unfreeze.files import read_table
from unfreeze.runs.run import Run

T = TypeVar("T")
COMPARED = 64  # photos that the answers to are compared


@dataclass(frozen=True)
class Photo:
    """A labelled photo of the run: its file, its class's number, and what it belongs together with."""

    path: Path
    label: int
    group: str | None


@dataclass(frozen=True)
class ParityImages:
    """What was found.

    Attributes:
        learnt: Photos that the shipped model was trained or chosen on.
        test: Photos that it never saw; none where the run was cross-fitted.
        others: Photos that are none of the run's.
    """

    learnt: tuple[Photo, ...] = ()
    test: tuple[Photo, ...] = ()
    others: tuple[Path, ...] = ()

    def compared(self) -> tuple[Path, ...]:
        """Return the photos to compare answers on: up to 64, from all over the list, test photos where there are any.

        Raises:
            PhotosError: There are fewer than two, so that there is no comparing one at a time with many.
        """
        paths = tuple(photo.path for photo in self.test or self.learnt) or self.others
        if len(paths) < 2:
            raise PhotosError(
                "The answers of an exported file are compared on real photos, and the run's are not where they were.",
                mend="Say with --photos where they are now, or name a folder with two photos or more like them.",
            )
        return tuple(spread(paths, COMPARED))


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return at most ``count`` items, from all over a list."""
    return [items[int(place)] for place in np.linspace(0, len(items) - 1, min(count, len(items))).round()]


def find_parity_images(run: Run, photos: Path | None) -> ParityImages:
    """Find the run's photos.

    Args:
        run: Its tables name them.
        photos: Where they are now, or other photos; None: where they were.

    Raises:
        PhotosError: ``photos`` doesn't exist, or holds none.
        RunError: The run's tables are damaged.
    """
    source = photos if photos is not None else _source(run)
    header, rows = read_table(run.folder.splits)
    try:
        columns = [header.index(name) for name in ("file_name", "label", "group", "split")] if header else []
        named = [tuple(row[column] for column in columns) for row in rows]
        number = {name: place for place, name in enumerate(run.classes)}
        found = relocate_images(source, [name for name, *_ in named])
        known = [
            (Photo(found[name], number[label], group or None), side)
            for name, label, group, side in named
            if name in found
        ]
    except (ValueError, KeyError) as error:
        raise RunError("The table is damaged.", where=run.folder.splits) from error
    learnt = tuple(photo for photo, side in known if side != "test")
    test = tuple(photo for photo, side in known if side == "test")
    others = tuple(find_photos([photos])) if photos is not None and not known else ()
    return ParityImages(learnt, test, others)


def _source(run: Run) -> Path | None:
    """Return where the photos were when the run was trained."""
    try:
        place = tomllib.loads(run.folder.args.read_text("utf-8")).get("photos")
    except (OSError, ValueError):
        return None
    return Path(place) if isinstance(place, str) else None
