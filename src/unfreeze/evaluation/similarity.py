"""Similarity of two representations of the same images (CKA), and linear probes of a representation."""

from __future__ import annotations

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray

FOLDS = 5
PENALTIES = tuple(10.0**exponent for exponent in range(-4, 3))  # ridge penalties on features of mean squared norm 1


def linear_cka(a: FloatArray, b: FloatArray) -> float | None:
    """Return the linear centred kernel alignment of features (N, D) and (N, E): 1 if equal up to rotation and scale.

    Kornblith et al. (2019), "Similarity of neural network representations revisited", with the unbiased estimate of
    Song et al. (2012): the plain one is near 1 for any two wide representations of few images.  None below 4 images, or
    if a representation is constant.
    """
    n = len(a)
    if n < 4:
        return None
    hsic_ab, hsic_aa, hsic_bb = _hsic(a, b), _hsic(a, a), _hsic(b, b)
    return hsic_ab / (hsic_aa * hsic_bb) ** 0.5 if hsic_aa > 0 and hsic_bb > 0 else None


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
    """Return each image's top class (N,) by a linear probe that was fitted on the features of other images.

    The probe is a ridge regression onto the original classifier's logits, which needs no labels and works with one
    image a class.  A class that the probe still predicts was not lost: only the original head is misaligned with it.

    Args:
        features: Features of the probed backbone (N, D).
        targets: Logits of the original classifier on the original backbone (N, C).
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    x = features.astype(np.float64)
    x = x - x.mean(0)
    x /= max(float(np.sqrt((x**2).sum(1).mean())), 1e-12)
    penalties = [penalty * len(x) for penalty in PENALTIES]
    ridge = RidgeCV(alphas=penalties)
    folds = KFold(min(FOLDS, len(x)), shuffle=True, random_state=0)
    predicted = cross_val_predict(ridge, x, targets.astype(np.float64), cv=folds)
    return np.asarray(np.atleast_2d(predicted).argmax(1), dtype=np.int64)
