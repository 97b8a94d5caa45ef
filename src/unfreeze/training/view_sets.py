"""The sets of evaluation views over which logits may be averaged, from an image set's sizes and symmetry."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from unfreeze.data.rendering.framings import scaled_size
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import CROP, GRIDS, PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Framing, Grid, Views, tiles

MAX_VIEWS = 4  # predicting takes at most so many times the time of one view
ELONGATED = 1.5  # from this median aspect ratio on, relative to the input's, a centre crop loses a third of the image
MUCH_LARGER = 2.0  # from this median short side on, in sides of the input, four tiles show what no single view does
SQUEEZED = 0.1  # of an aspect ratio above a whole number by at most this much, the tiles are squeezed by up to a tenth


def candidate_framings(sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing) -> tuple[Framing, ...]:
    """Return the framings that may be averaged beside the centre crop: the whole image, and the tiles of one grid.

    The whole image is left out where it is the centre crop to the pixel.  There are tiles where the images are elongated
    (along the long side) or much larger than the input (two by two), in the median.

    Args:
        sizes: Width and height of each training image.
        preprocessing: The backbone's preprocessing.
    """
    height, width = preprocessing.size
    if not sizes or all(scaled_size(size, preprocessing) == (width, height) for size in set(sizes)):
        return ()
    grid = best_grid(sizes, preprocessing)
    is_much_larger = median(min(size[0] * height, size[1] * width) for size in sizes) > MUCH_LARGER * width * height
    return (SQUEEZE, *tiles(grid)) if grid[0] == 1 or is_much_larger else (SQUEEZE,)


def best_grid(sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing) -> Grid:
    """Return the grid of tiles for images of ``sizes``: along the long side of elongated ones, else two by two."""
    height, width = preprocessing.size
    sides = [sorted((size[0] * height, size[1] * width)) for size in sizes]  # in units of 1 / (width * height) inputs
    aspect = median([long / short for short, long in sides] or [1.0])
    if aspect <= ELONGATED:
        return 2, 2
    return 1, min(math.ceil(aspect - SQUEEZED), max(long for _, long in GRIDS))


def candidate_views(
    orientations: Sequence[Orientation], framings: Sequence[Framing], max_views: int = MAX_VIEWS
) -> tuple[Views, ...]:
    """Return the sets of at most ``max_views`` views over which logits may be averaged, the plain view alone first.

    - the centre crop in all orientations;
    - the centre crop and the whole image, one view each;
    - both in all orientations; with too many orientations, each of them in one of both framings;
    - the centre crop and the tiles; the tiles alone;
    - of elongated images, the whole image alone: what tells the classes may lie outside the centre.

    Args:
        orientations: Those that preserve the label, the identity first.
        framings: Those beside the centre crop, see ``candidate_framings``.
        max_views: The largest number of views in a set.
    """
    sets: list[Views] = [PLAIN_ONLY, _views(CROP, orientations)]
    if SQUEEZE in framings:
        of_crop, of_squeeze = orientations, orientations
        if 2 * len(orientations) > MAX_VIEWS:
            of_crop, of_squeeze = orientations[::2], orientations[1::2]
        squeezed = _views(SQUEEZE, of_squeeze)
        sets += [(PLAIN, squeezed[0]), (*_views(CROP, of_crop), *squeezed)]
    if tiled := _views_of_tiles(framings):
        sets += [(PLAIN, *tiled), tiled]
    if SQUEEZE in framings and any(framing.grid[0] == 1 for framing in framings if framing.kind == "tile"):
        sets.append(_views(SQUEEZE, orientations[:1]))
    return tuple(dict.fromkeys(views for views in sets if len(views) <= max_views))


def name_of(views: Sequence[EvaluationView]) -> str:
    """Return the name of a set of views in the prior: its framings and the number of views, such as ``crop+squeeze x4``."""
    return f"{'+'.join(dict.fromkeys(view.framing.kind for view in views))} x{len(views)}"


def union(sets: Sequence[Views]) -> Views:
    """Return the views of all sets, each once, in order."""
    return tuple(dict.fromkeys(view for views in sets for view in views))


def _views(framing: Framing, orientations: Sequence[Orientation]) -> Views:
    return tuple(EvaluationView.of(framing, orientation) for orientation in orientations)


def _views_of_tiles(framings: Sequence[Framing]) -> Views:
    return tuple(EvaluationView.of(framing) for framing in framings if framing.kind == "tile")
