"""How alike two representations of the same photos are, and what a linear reader still finds in one of them."""

from __future__ import annotations

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray

FOLDS = 5
PENALTIES = tuple(10.0**exponent for exponent in range(-4, 3))  # on features of mean squared length 1


def linear_cka(a: FloatArray, b: FloatArray) -> float | None:
    """Return the linear centred kernel alignment of features (N, D) and (N, E): 1 for the same up to rotation and scale.

    Kornblith et al. (2019), "Similarity of neural network representations revisited", with the unbiased estimate of Song et
    al. (2012): the plain one calls any two wide representations of few photos alike.  None below 4 photos, or where one
    representation is constant.
    """
    n = len(a)
    if n < 4:
        return None
    across, own_a, own_b = _hsic(a, b), _hsic(a, a), _hsic(b, b)
    return across / (own_a * own_b) ** 0.5 if own_a > 0 and own_b > 0 else None


def _hsic(a: FloatArray, b: FloatArray) -> float:
    """Return the unbiased Hilbert-Schmidt independence criterion (Song et al. 2012, equation 5)."""
    n = len(a)
    k, m = (_gram(x) for x in (a, b))
    total = float((k * m).sum()) + float(k.sum()) * float(m.sum()) / ((n - 1) * (n - 2))
    return (total - 2 * float(k.sum(0) @ m.sum(0)) / (n - 2)) / (n * (n - 3))


def _gram(x: FloatArray) -> FloatArray:
    centred = x.astype(np.float64) - x.mean(0, dtype=np.float64)
    gram = np.asarray(centred @ centred.T)
    np.fill_diagonal(gram, 0)
    return gram


def probe(features: FloatArray, targets: FloatArray) -> IntArray:
    """Return each photo's top class by a linear reader that was refitted on other photos' features.

    The reader is ridge regression onto what the original classifier said, which needs no labels and serves where there is
    one photo a class.  A class that it still finds in the features was not lost: the original head only looks past it.

    Args:
        features: Of the backbone as it is now (N, D).
        targets: Logits of the original classifier on the original backbone (N, C).
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    x = features.astype(np.float64)
    x = x - x.mean(0)
    x /= max(float(np.sqrt((x**2).sum(1).mean())), 1e-12)
    penalties = [penalty * len(x) for penalty in PENALTIES]
    reader = RidgeCV(alphas=penalties)
    folds = KFold(min(FOLDS, len(x)), shuffle=True, random_state=0)
    read = cross_val_predict(reader, x, targets.astype(np.float64), cv=folds)
    return np.asarray(np.atleast_2d(read).argmax(1), dtype=np.int64)
