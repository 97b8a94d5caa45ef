"""The bootstrap of all intervals in this package.

A statistic is a function of column sums, so that thousands of resamples are one matrix product: the counts of each
image in each resample, times the columns.  The rows of a group (a patient, a burst of images) are summed first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from unfreeze.runtime import generator

IntArray: TypeAlias = npt.NDArray[np.int64]
FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
Interval: TypeAlias = tuple[float, float]
Groups: TypeAlias = Sequence[str | None]

RESAMPLES = 2000
"""Efron & Tibshirani (1993) recommend 1000 or more for the ends of an interval."""

DRAWS_AT_ONCE = 2**20
"""The number of counts in a block of resamples, 8 MiB."""


def group_codes(groups: Groups | None, n: int) -> IntArray | None:
    """Number the groups of ``n`` images from 0; an image whose group is None is a group of its own.

    Returns:
        Codes (n,), or None where no two images share a group, which is equal to no groups.

    Raises:
        ValueError: There aren't ``n`` groups.
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} images")
    code_of: dict[str | int, int] = {}
    codes = [code_of.setdefault(index if name is None else name, len(code_of)) for index, name in enumerate(groups)]
    return None if len(code_of) == n else np.asarray(codes)


def bootstrap(
    columns: FloatArray,
    statistic: Callable[[FloatArray], FloatArray],
    *,
    groups: Groups | None = None,
    strata: IntArray | None = None,
    seed: int = 0,
) -> list[Interval]:
    """Return a 95 % bootstrap interval for each number that ``statistic`` computes.

    They are percentile intervals (Efron & Tibshirani 1993, chapter 13), expanded by Student's t (Hesterberg 2015, "What
    teachers should know about the bootstrap"), as the plain ones are too narrow for few images or groups.
    Groups are resampled whole (the cluster bootstrap: Davison & Hinkley 1997, section 3.8).
    Of a single group, the images are resampled, and the interval holds for that group alone.
    Of a single image, the interval has no width.

    Args:
        columns: Contribution of each image to each of K sums (N, K).
        statistic: Maps the sums of R resamples (R, K) to S numbers each (R, S).
        groups: Group of each image (N,).
        strata: Labels (N,) whose counts are the same in every resample; ignored where groups are resampled.
        seed: Seed of the resamples.
    """
    codes = group_codes(groups, len(columns))
    if codes is not None and codes.max() > 0:
        columns, strata = _sum_by(codes, columns), None
    draws = resamples(len(columns), strata=strata, seed=seed)
    return percentiles(statistic(np.concatenate([counts @ columns for counts in draws])), len(columns))


def resamples(
    n: int, *, strata: IntArray | None = None, seed: int = 0, number: int = RESAMPLES
) -> Iterator[FloatArray]:
    """Yield the counts of ``n`` images (or groups) in ``number`` resamples, in blocks of shape (r, n)."""
    strata = np.zeros(n, int) if strata is None else strata
    order = np.argsort(strata, kind="stable")
    _, sizes = np.unique(strata, return_counts=True)
    size, start = np.repeat(sizes, sizes), np.repeat(np.cumsum(sizes) - sizes, sizes)
    rng = generator(seed)
    rows = max(1, DRAWS_AT_ONCE // n)
    for done in range(0, number, rows):
        r = min(rows, number - done)
        drawn = order[(rng.random((r, n)) * size).astype(np.int64) + start] + n * np.arange(r)[:, None]
        yield np.bincount(drawn.ravel(), minlength=r * n).reshape(r, n).astype(float)


def percentiles(values: FloatArray, n: int) -> list[Interval]:
    """Return the interval of each of S statistics from its values in R resamples (R, S) of ``n`` images or groups."""
    tail = _expanded_tail(n)
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def mean_interval(values: FloatArray, *, groups: Groups | None = None, seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of the mean of ``values`` (N,), which may be paired differences."""
    columns = np.column_stack([np.ones(len(values)), values])
    return bootstrap(columns, lambda sums: sums[:, 1:] / sums[:, :1], groups=groups, seed=seed)[0]


def _sum_by(codes: IntArray, columns: FloatArray) -> FloatArray:
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.add.reduceat(columns[order], starts, axis=0)


def _expanded_tail(n: int) -> float:
    from scipy.special import ndtr, stdtrit  # scipy.stats takes longer to import than a bootstrap to run

    return float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025))) if n > 1 else 0.0
