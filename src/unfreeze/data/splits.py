"""Division of the images into training, validation and test sets and folds; groups stay whole.

scikit-learn's StratifiedGroupKFold is not used: it makes folds but no test set, and less even ones.  With two classes
in 60 groups of 20 to 159 images, a class misses its exact share of a fold by 7 images here and by 18 there (means of
10 seeds).
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
MIN_TO_HOLD_OUT = 300  # images: of fewer, a fifth is too small a test set and too large a loss of training images

_HOLD_OUT, _FOLDS = 0, 1  # numbers of the seed's random streams


@dataclass(frozen=True)
class Splits:
    """Indices into ``PhotoSet.samples``; train, val and test are disjoint and cover all samples.

    Attributes:
        train: Sorted indices of the training images.
        val: Sorted indices of the user's validation images; empty unless a test set was given, too.
        test: Sorted indices of the test images.
        fold: Shape (samples,): 0..k-1 for train samples, each fold non-empty, -1 for others.
    """

    train: IntArray
    val: IntArray
    test: IntArray
    fold: IntArray

    @property
    def train_and_val(self) -> IntArray:
        """Indices of the training images, then of the validation images."""
        return np.concatenate([self.train, self.val])


def split(photos: PhotoSet, *, test_size: float | None, folds: int, seed: int) -> Splits:
    """Divide the images into train, val and test, and the train images into cross-validation folds.

    - Given splits are used.  A given val without a test becomes the test set, so that the test images select nothing.
    - Without val and test, ``test_size`` of the images (of those without a split, where only some have one) is held
      out, stratified by class.  Every class has at least one training image and, where it has two images (or
      groups) that may be held out, at least one that is.
    - Groups are never divided, except by given splits: an image without a split joins others of its group that do.
      Without groups, class counts are within one image of exact shares.
    - There are at most as many folds as a class has groups on average, and at least 2.

    Args:
        photos: The images; the result depends on their order and ``seed`` alone.
        test_size: Share to hold out, at least 0 and below 1; used only where no val and no test is given.  0: none;
            None: ``TEST_SIZE``, or 0 below ``MIN_TO_HOLD_OUT`` images.
        folds: Number of folds wanted, at least 2.
        seed: Non-negative.

    Raises:
        ConfigError: ``test_size`` or ``folds`` is out of range.
        PhotosError: No training image is left, or the test set would have fewer images than there are classes.
    """
    if test_size is None:
        test_size = TEST_SIZE if len(photos.samples) >= MIN_TO_HOLD_OUT else 0.0
    if not 0 <= test_size < 1:
        raise ConfigError(f"The test size {test_size} isn't between 0 and 1.", where="test_size", mend="Take 0.2.")
    if folds < 2:
        raise ConfigError(f"Cross-validation with {folds} folds isn't possible.", where="folds", mend="Take 5.")
    samples = photos.samples
    given = np.array([name or "" for name in _given_splits(samples)])
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


def _given_splits(samples: Sequence[Sample]) -> list[Split | None]:
    """Return each sample's given split, or else that of others of its group: test before val before train."""
    by_group: dict[str, Split] = {}
    for name in ("train", "val", "test"):
        by_group |= {sample.group: name for sample in samples if sample.group is not None and sample.split == name}
    return [sample.split or (by_group.get(sample.group) if sample.group is not None else None) for sample in samples]


def _hold_out(photos: PhotoSet, test_size: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which samples are held out, shape (samples,)."""
    samples = photos.samples
    unassigned = any(sample.split is None for sample in samples)
    free = [sample.split is None or not unassigned for sample in samples]
    units = [unit for unit in _units(samples) if all(free[index] for index in unit)]
    counts = [Counter(samples[index].label for index in unit) for unit in units]
    rng = generator(seed, _HOLD_OUT)
    bins = _stratify(counts, (test_size, 1 - test_size), rng)
    remaining = Counter(sample.label for sample in samples)
    held_out = np.zeros(len(samples), bool)
    for unit, count, bin_index in zip(units, counts, bins, strict=True):
        if bin_index == 0 and all(remaining[label] > count[label] for label in count):
            remaining -= count
            held_out[unit] = True
    if held_out.sum() < len(photos.classes):
        raise PhotosError(
            f"Holding out {test_size:.0%} of {len(samples)} photos gives {held_out.sum()} to test on, too few for "
            f"{len(photos.classes)} classes.",
            where=photos.root,
            mend="Add photos, raise the test size, make groups smaller, or give a test set of your own.",
        )
    tested = {samples[index].label for index in np.flatnonzero(held_out)}
    # Rounding, or large groups, may leave a class without a test image: one of its smallest units is added.
    for index in sorted(rng.permutation(len(units)), key=lambda index: len(units[index])):
        unit, count = units[index], counts[index]
        if not held_out[unit].any() and set(count) - tested and all(remaining[label] > count[label] for label in count):
            remaining -= count
            held_out[unit] = True
            tested |= set(count)
    return held_out


def _fold_numbers(samples: Sequence[Sample], folds: int, seed: int, root: Path) -> IntArray:
    """Return each training sample's fold, shape (samples,)."""
    units = _units(samples)
    if len(units) < 2:
        what = "All photos to train on are in one group" if samples else "No photo is left to train on"
        raise PhotosError(f"{what}, and cross-validation needs two.", where=root, mend="Add photos of other groups.")
    counts = [Counter(samples[index].label for index in unit) for unit in units]
    n_folds = min(folds, max(2, len(units) // len({sample.label for sample in samples})))
    bins = _stratify(counts, [1 / n_folds] * n_folds, generator(seed, _FOLDS))
    numbers = np.empty(len(samples), np.int64)
    for unit, number in zip(units, np.unique(bins, return_inverse=True)[1], strict=True):
        numbers[unit] = number
    return numbers


def _units(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the indices that stay together: a list for each group, and one for each sample without a group."""
    units: dict[str | int, list[int]] = {}
    for index, sample in enumerate(samples):
        units.setdefault(index if sample.group is None else sample.group, []).append(index)
    return list(units.values())


def _stratify(counts: Sequence[Counter[int]], shares: Sequence[float], rng: np.random.Generator) -> IntArray:
    """Assign units to bins so that each class is divided by ``shares``; return each unit's bin, shape (units,).

    Units are assigned in order of size, in random order among equals, each to the bin that lacks its classes most.
    This greedy choice adds least to the squared distance from the exact shares; of single images it rounds them.
    """
    totals = np.zeros(1 + max((label for count in counts for label in count), default=0))
    for count in counts:
        totals[list(count)] += list(count.values())
    lacking = np.outer(shares, totals)
    room = lacking.sum(1)
    bins = np.empty(len(counts), np.int64)
    for index in sorted(rng.permutation(len(counts)), key=lambda index: -counts[index].total()):
        labels, n_images = list(counts[index]), np.array(list(counts[index].values()))
        need = (lacking[:, labels] * n_images / totals[labels]).sum(1)
        # Rounding makes equal needs compare equal: the emptier bin decides, not the last bit of a float.
        best = max(range(len(shares)), key=lambda number: (round(need[number], 9), round(room[number], 9)))
        lacking[best, labels] -= n_images
        room[best] -= n_images.sum()
        bins[index] = best
    return bins
