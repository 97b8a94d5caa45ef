"""Division of the images into training, validation and test sets and folds; groups stay whole.

scikit-learn's StratifiedGroupKFold is not used: it deals folds but no test set, and less evenly.  Of two classes in
60 groups of 20 to 159 images, a class misses its exact share of a fold by 7 images here and by 18 there (means of 10
draws).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from unfreeze.data.sources import PhotoSet, Sample, Split
from unfreeze.errors import ConfigError, PhotosError
from unfreeze.runtime import generator

IntArray = npt.NDArray[np.int64]

FOLDS = 5
TEST_SIZE = 0.2
FEW = 300  # photos below which a held-out fifth would be too few to score by, and too many to do without

# Which draw of the seed's random numbers is meant.
_HOLD_OUT, _FOLDS = 0, 1


@dataclass(frozen=True)
class Splits:
    """Indices into ``PhotoSet.samples``; train, val and test are disjoint and cover all samples.

    Attributes:
        train: Sorted indices of the photos that train.
        val: Sorted indices of the photos that the user gave for choosing; empty unless a test set was given too.
        test: Sorted indices of the photos that only score.
        fold: Shape (samples,): 0..k-1 for train samples, each fold non-empty, -1 for others.
    """

    train: IntArray
    val: IntArray
    test: IntArray
    fold: IntArray

    @property
    def learning(self) -> IntArray:
        """All that training may see: the photos that train, then those that choose."""
        return np.concatenate([self.train, self.val])


def split(photos: PhotoSet, *, test_size: float | None, folds: int, seed: int) -> Splits:
    """Divide the photos into train, val and test, and the train photos into cross-validation folds.

    - Given sides are kept. A given val without a test is held out as the test: what scores mustn't have chosen.
    - Without val and test, ``test_size`` of the photos (of those without a side, where only some have one) is held out,
      class by class, and every class keeps a photo to train on.  With a ``test_size`` of 0, none is.
    - Groups are never parted, given sides apart: a photo without a side follows others of its group that have one.
      Without groups, class counts are within one photo of exact shares.
    - There are at most as many folds as a class has groups on average, and at least 2.

    Args:
        photos: The photos; the result depends on their order and ``seed`` alone.
        test_size: Share to hold out, at least 0 and below 1; used only where no val and no test is given. 0 holds out none;
            None is ``TEST_SIZE``, or 0 below ``FEW`` photos.
        folds: Number of folds wanted, at least 2.
        seed: Non-negative.

    Raises:
        ConfigError: ``test_size`` or ``folds`` is out of range.
        PhotosError: Nothing is left to train on, or the test set would have fewer photos than there are classes.
    """
    if test_size is None:
        test_size = TEST_SIZE if len(photos.samples) >= FEW else 0.0
    if not 0 <= test_size < 1:
        raise ConfigError(f"The test size {test_size} isn't between 0 and 1.", where="test_size", mend="Take 0.2.")
    if folds < 2:
        raise ConfigError(f"Cross-validation with {folds} folds isn't possible.", where="folds", mend="Take 5.")
    samples = photos.samples
    given = np.array([side or "" for side in _sides(samples)])
    if (given == "test").any():
        test, val = given == "test", given == "val"
    elif (given == "val").any():
        test, val = given == "val", np.zeros(len(samples), bool)
    else:
        held_out = _hold_out(photos, test_size, seed) if test_size else np.zeros(len(samples), bool)
        test, val = held_out, np.zeros(len(samples), bool)
    train = np.flatnonzero(~test & ~val)
    fold = np.full(len(samples), -1, np.int64)
    fold[train] = _fold_numbers([samples[index] for index in train], folds, seed, photos.root)
    return Splits(train, np.flatnonzero(val), np.flatnonzero(test), fold)


def _sides(samples: Sequence[Sample]) -> list[Split | None]:
    """Return each sample's given side; one without goes where others of its group were put, test before val."""
    of_group: dict[str, Split] = {}
    for side in ("train", "val", "test"):
        of_group |= {sample.group: side for sample in samples if sample.group is not None and sample.split == side}
    return [sample.split or (of_group.get(sample.group) if sample.group is not None else None) for sample in samples]


def _hold_out(photos: PhotoSet, test_size: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which samples are held out, shape (samples,)."""
    samples = photos.samples
    unassigned = any(sample.split is None for sample in samples)
    free = [sample.split is None or not unassigned for sample in samples]
    units = [unit for unit in _units(samples) if all(free[index] for index in unit)]
    counts = [Counter(samples[index].label for index in unit) for unit in units]
    bins = _deal(counts, (test_size, 1 - test_size), generator(seed, _HOLD_OUT))
    left = Counter(sample.label for sample in samples)
    held_out = np.zeros(len(samples), bool)
    for unit, count, side in zip(units, counts, bins, strict=True):
        if side == 0 and all(left[label] > count[label] for label in count):
            left -= count
            held_out[unit] = True
    if held_out.sum() < len(photos.classes):
        raise PhotosError(
            f"Holding out {test_size:.0%} of {len(samples)} photos gives {held_out.sum()} to test on, too few for "
            f"{len(photos.classes)} classes.",
            where=photos.root,
            mend="Add photos, raise the test size, make groups smaller, or give a test set of your own.",
        )
    return held_out


def _fold_numbers(samples: Sequence[Sample], folds: int, seed: int, root: Path) -> IntArray:
    """Return each training sample's fold, shape (samples,)."""
    units = _units(samples)
    if len(units) < 2:
        what = "All photos to train on are in one group" if samples else "No photo is left to train on"
        raise PhotosError(f"{what}, and cross-validation needs two.", where=root, mend="Add photos of other groups.")
    counts = [Counter(samples[index].label for index in unit) for unit in units]
    n_folds = min(folds, max(2, len(units) // len({sample.label for sample in samples})))
    bins = _deal(counts, [1 / n_folds] * n_folds, generator(seed, _FOLDS))
    numbers = np.empty(len(samples), np.int64)
    for unit, number in zip(units, np.unique(bins, return_inverse=True)[1], strict=True):
        numbers[unit] = number
    return numbers


def _units(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the indices that mustn't be parted: one list a group, one a photo that has no group."""
    units: dict[str | int, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(index if sample.group is None else sample.group, []).append(index)
    return list(units.values())


def _deal(counts: Sequence[Counter[int]], shares: Sequence[float], rng: np.random.Generator) -> IntArray:
    """Deal units into bins so that each class divides by ``shares``; return a bin for each unit, shape (units,).

    Large units go first, in random order among equals, each to the bin that lacks its classes most.  Of all the greedy
    choices, that one adds least to the squared distance from the exact shares; for single photos it rounds them.
    """
    totals = np.zeros(1 + max((label for count in counts for label in count), default=0))
    for count in counts:
        totals[list(count)] += list(count.values())
    lacking = np.outer(shares, totals)
    room = lacking.sum(1)
    bins = np.empty(len(counts), np.int64)
    for index in sorted(rng.permutation(len(counts)), key=lambda index: -counts[index].total()):
        labels, photos = list(counts[index]), np.array(list(counts[index].values()))
        need = (lacking[:, labels] * photos / totals[labels]).sum(1)
        # Rounding makes equal needs equal, so that the emptier bin decides and not the last bit of a float.
        best = max(range(len(shares)), key=lambda side: (round(need[side], 9), round(room[side], 9)))
        lacking[best, labels] -= photos
        room[best] -= photos.sum()
        bins[index] = best
    return bins
