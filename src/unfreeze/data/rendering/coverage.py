"""How much of each image the model sees, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from unfreeze.data.rendering.framings import scaled_size
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import CROP, SQUEEZE, Framing

MUCH_UNSEEN = 0.1  # share of the images' area; where more is never seen, the user is told
WHOLE = 0.995  # a larger share is shown as all


def seen_share(
    sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing, framings: Sequence[Framing] = (CROP,)
) -> float:
    """Return the share of the images' area that the framings show together, in the mean over the images.

    Args:
        sizes: Width and height of each image.
        preprocessing: The backbone's preprocessing.
        framings: The framings that are shown.
    """
    if not sizes or preprocessing.fit == "pad" or set(framings) != {CROP}:  # only crops leave something out
        return 1.0
    return fmean(_crop_share(size, preprocessing) for size in sizes)


def _crop_share(size: tuple[int, int], preprocessing: Preprocessing) -> float:
    """Return the share of an image of ``size`` (width, height) that is left of it in ``framings.plain``."""
    width, height = scaled_size(size, preprocessing)
    return min(1.0, preprocessing.size[0] / height) * min(1.0, preprocessing.size[1] / width)


def describe_sight(
    sizes: Sequence[tuple[int, int]], preprocessing: Preprocessing, framings: Sequence[Framing] = (CROP,)
) -> str:
    """Return what the model sees of each image, for people, before the run.

    Args:
        sizes: Width and height of each training image.
        preprocessing: The backbone's preprocessing.
        framings: The framings that predictions may be from, the plain view's among them or not.
    """
    height, width = preprocessing.size
    size = f"the model sees {width} x {height}"
    n_tiles = sum(framing.kind == "tile" for framing in framings)
    if CROP not in framings:
        return f"{size}, {n_tiles} overlapping parts that cover each photo"
    if preprocessing.fit == "pad":
        return f"{size}, the whole of each photo, with borders where its shape differs"
    if preprocessing.fit == "squash":
        return f"{size}, the whole of each photo, squashed where its shape differs"
    share = seen_share(sizes, preprocessing)
    seen = f"the middle {share * 100:.0f} % of each photo" if share < WHOLE else "the whole of each photo"
    if set(framings) == {CROP} or share >= WHOLE:
        return f"{size}, {seen}"
    ways = ["squashed"] * (SQUEEZE in framings) + [f"in {n_tiles} parts"] * bool(n_tiles)
    return f"{size}, {seen}, or all of it ({' or '.join(ways)}), whichever is better on the folds"


def unseen_note(share: float) -> str | None:
    """Return a note where much of the images is never seen, ``share`` being the share that is."""
    if 1 - share <= MUCH_UNSEEN:
        return None
    return (
        f"{(1 - share) * 100:.0f} % of your photos' area, outside their middle, is never seen: --fit squash or "
        "--fit pad shows the model all of it"
    )
