"""Areas under the ROC and the precision-recall curve, one class against the rest.

An interval over groups needs hundreds of resamples, and scikit-learn computes one curve at a time: of 200 resamples
of 1000 images both areas take 15 ms here and 1 s there, with the same values to the last digits.
"""

from __future__ import annotations

import numpy as np

from unfreeze.evaluation.proportions import Z95, wilson
from unfreeze.evaluation.resampling import FloatArray, Groups, Interval, group_codes, resamples

SPECIFICITY = 0.95
DRAWS, FEW_DRAWS = 200, 50  # resamples for a standard error (Efron & Tibshirani 1993, section 6.4: 50 to 200)
MANY = 100  # classes above which each costs so much that few must do
TINY = 1e-9


def roc_auc_and_ap(
    positive: FloatArray, scores: FloatArray, counts: FloatArray | None = None
) -> tuple[FloatArray, FloatArray]:
    """Return the area under the ROC curve and the average precision, each of shape (R,).

    Args:
        positive: 1.0 where the image is of the class (N,).
        scores: The more, the likelier it is of the class (N,); equal ones are one step of the curve.
        counts: How often each image was drawn in each of R resamples (R, N); None is once each.  A resample without
            positives or without negatives gives NaN.
    """
    counts = np.ones((1, len(scores))) if counts is None else counts
    order = np.argsort(-scores, kind="stable")
    steps = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # the last image of each score
    hits = np.cumsum((counts * positive)[:, order], axis=1)[:, steps]
    false = np.cumsum((counts * (1 - positive))[:, order], axis=1)[:, steps]
    with np.errstate(invalid="ignore", divide="ignore"):
        new_hits, new_false = np.diff(hits, axis=1, prepend=0), np.diff(false, axis=1, prepend=0)
        roc = (new_false * (hits - new_hits / 2)).sum(1) / (hits[:, -1] * false[:, -1])
        precision = np.nan_to_num(hits / (hits + false))
        average = (new_hits * precision).sum(1) / hits[:, -1]
    return roc, average


def roc_auc_and_ap_in_resamples(
    own: FloatArray, probabilities: FloatArray, *, groups: Groups | None = None, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Return both areas of every class in ``DRAWS`` resamples of the images, or of whole groups, each (draws, C).

    Args:
        own: 1.0 where the image is of the class (N, C).
        probabilities: Of the classes (N, C).
        groups: What images belong together (N,).
        seed: Of the resamples.
    """
    n, classes = own.shape
    codes = group_codes(groups, n)
    codes = np.arange(n) if codes is None else codes
    number = DRAWS if classes <= MANY else FEW_DRAWS
    counts = np.concatenate(list(resamples(int(codes.max()) + 1, seed=seed, number=number)))[:, codes]
    found = [roc_auc_and_ap(own[:, k], probabilities[:, k], counts) for k in range(classes)]
    return np.column_stack([roc for roc, _ in found]), np.column_stack([average for _, average in found])


def mann_whitney_interval(area: float, positives: int, negatives: int) -> Interval:
    """Return Newcombe's 95 % interval (2006, method 5) of an area under the ROC curve."""
    from scipy.optimize import brentq

    extra = (positives + negatives) / 2 - 1

    def away(true: float) -> float:
        spread = 1 + extra * (1 - true) / (2 - true) + extra * true / (1 + true)
        return (true - area) ** 2 - Z95**2 * true * (1 - true) * spread / (positives * negatives)

    low = float(brentq(away, 0.0, min(area, 1 - TINY))) if area > TINY else 0.0
    high = float(brentq(away, max(area, TINY), 1.0)) if area < 1 - TINY else 1.0
    return low, high


def sensitivity(positive: FloatArray, scores: FloatArray, specificity: float = SPECIFICITY) -> tuple[float, Interval]:
    """Return the highest share of positives found at a threshold that leaves ``specificity`` of the negatives alone.

    The interval is Wilson's, with the threshold taken as given.
    """
    threshold = float(np.quantile(scores[positive == 0], specificity, method="inverted_cdf"))
    found = int((scores[positive == 1] > threshold).sum())
    return found / int(positive.sum()), wilson(found, int(positive.sum()))
