"""The bootstrap that every interval of this package shares.

A statistic is written as a function of column sums, so that thousands of resamples are one matrix product: the counts
with which each image was drawn, times the columns.  Groups (a patient, a burst of photos) become summed rows first.
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
"""Efron & Tibshirani (1993) ask for 1000 or more where the ends of an interval are wanted."""

DRAWS_AT_ONCE = 2**20
"""Bounds the count matrix to 8 MiB."""


def group_codes(groups: Groups | None, n: int) -> IntArray | None:
    """Number the groups of ``n`` images from 0; an image whose group is None is a group of its own.

    Returns:
        Codes (n,), or None where no two images share a group: plain images are the same thing.

    Raises:
        ValueError: There aren't ``n`` groups.
    """
    if groups is None:
        return None
    if len(groups) != n:
        raise ValueError(f"{len(groups)} groups for {n} images")
    seen: dict[str | int, int] = {}
    codes = [seen.setdefault(index if name is None else name, len(seen)) for index, name in enumerate(groups)]
    return None if len(seen) == n else np.asarray(codes)


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
    teachers should know about the bootstrap"), as the plain ones are too narrow where images or groups are few.
    Groups are resampled whole (the cluster bootstrap: Davison & Hinkley 1997, section 3.8).
    A single group can tell nothing of others; its images are resampled, and the interval speaks of that group alone.
    Of a single image, the interval has no width.

    Args:
        columns: (N, K), what each image adds to each sum.
        statistic: Maps the sums of R resamples (R, K) to S numbers each (R, S).
        groups: The group of each image (N,).
        strata: Labels (N,) whose counts every resample keeps; of no effect where groups are resampled.
        seed: The same seed gives the same resamples.
    """
    codes = group_codes(groups, len(columns))
    if codes is not None and codes.max() > 0:
        columns, strata = _sum_by(codes, columns), None
    draws = resamples(len(columns), strata=strata, seed=seed)
    return percentiles(statistic(np.concatenate([counts @ columns for counts in draws])), len(columns))


def resamples(
    n: int, *, strata: IntArray | None = None, seed: int = 0, number: int = RESAMPLES
) -> Iterator[FloatArray]:
    """Yield how often each of ``n`` images (or groups) is drawn in each of ``number`` resamples, shape (some, n)."""
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
    """Return the interval of each statistic from its values in all resamples (R, S) of ``n`` images or groups."""
    tail = _expanded_tail(n)
    low, high = np.quantile(values, [tail, 1 - tail], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def mean_interval(values: FloatArray, *, groups: Groups | None = None, seed: int = 0) -> Interval:
    """Return the 95 % bootstrap interval of the mean of ``values`` (N,); of paired differences, the paired one."""
    columns = np.column_stack([np.ones(len(values)), values])
    return bootstrap(columns, lambda sums: sums[:, 1:] / sums[:, :1], groups=groups, seed=seed)[0]


def _sum_by(codes: IntArray, columns: FloatArray) -> FloatArray:
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    return np.add.reduceat(columns[order], first, axis=0)


def _expanded_tail(n: int) -> float:
    from scipy.special import ndtr, stdtrit  # scipy.stats takes longer to import than a bootstrap to run

    return float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, 0.025))) if n > 1 else 0.0
