"""Temperature scaling: one number that makes a classifier as sure as it is right (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray

LOG_RANGE = (-3.0, 3.0)  # of the temperature's logarithm: from 1/20 to 20
SMALLEST_PROBABILITY = 1e-7  # a class that a fold's training part lacks has no finite log-loss
PRIOR = 1.0
"""Standard deviation of the logarithm around 0.  Photos that are all answered rightly would have every answer certain: the
prior weighs about as much as one photo, and only there decides."""
LAPLACE_PSEUDO_ERROR = 1.0
"""Photos that are taken to be answered wrongly, whatever was seen: of n photos that are all right, the next is right with a
chance of (n + 1) / (n + 2) (Laplace's rule of succession; Platt 1999, section 2.2, fits a sigmoid to such targets)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What temperature scaling did to the model that ships.

    Attributes:
        temperature: Its logits are divided by it; above 1 it was too sure.
        n: Out-of-fold or validation photos that it was fitted on.
        ece_before: Calibration error on the scored photos without it.
        ece_after: With it.
        log_loss_before: Likewise, in nats.
        log_loss_after: With it.
    """

    temperature: float
    n: int
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float


def softmax(logits: FloatArray, temperature: float = 1.0) -> FloatArray:
    """Return probabilities (N, C), float64."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(logits: FloatArray, labels: IntArray) -> float:
    """Return the temperature that suits photos that the model wasn't fitted on; 1 where there are none.

    It has the lowest log-loss, where each label is taken to be another one with the chance that ``LAPLACE_PSEUDO_ERROR`` leaves: few photos
    don't make a model certain, however right it is on them.

    Args:
        logits: Shape (N, C).
        labels: Classes (N,).
    """
    return _temperature(_floored(logits), labels, LAPLACE_PSEUDO_ERROR / (len(labels) + 2))


def calibrated_nll(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Return each photo's log-loss (N,), in nats, at the temperature where it is lowest.

    How sure a model is differs between the phases (phase 2's smoothed labels make it less so) and says nothing of what its
    features are worth: models are compared by this.
    """
    floored = _floored(logits)
    return _nats(floored, labels, _temperature(floored, labels, doubt=0.0))


def significantly_lower(losses: FloatArray, than: FloatArray, errors: float = 1.0) -> bool:
    """Tell whether losses of the same photos (N,) are lower by more than so many standard errors of their differences."""
    gain, error = _lower(losses, than)
    return gain > errors * error


def paired_z(losses: FloatArray, than: FloatArray) -> float:
    """Return by how many standard errors losses of the same photos (N,) are lower; 0 where all of them differ alike."""
    gain, error = _lower(losses, than)
    return gain / error if error else 0.0


def _lower(losses: FloatArray, than: FloatArray) -> tuple[float, float]:
    """Return by how much losses of the same photos (N,) are lower on the mean, and the standard error of that."""
    better = than - losses
    return float(better.mean()), float(better.std()) / math.sqrt(len(better))


def _temperature(logits: FloatArray, labels: IntArray, doubt: float) -> float:
    """Return the temperature with the lowest log-loss, each label being wrong with a chance of ``doubt``."""
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    own = logits[np.arange(len(labels)), labels]
    others = (logits.sum(axis=1) - own) / (logits.shape[1] - 1)
    # of the loss with doubtful labels, all but the normalising term is linear in the logits
    expected = (1 - doubt) * own + doubt * others

    def regret(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        losses = _normaliser(logits, temperature) - expected / temperature
        return float(losses.sum() + (log_temperature / PRIOR) ** 2 / 2)

    found = minimize_scalar(regret, bounds=LOG_RANGE, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))


def _floored(logits: FloatArray) -> FloatArray:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(logits.astype(np.float64), axis=1).clip(math.log(SMALLEST_PROBABILITY)))


def _normaliser(logits: FloatArray, temperature: float) -> FloatArray:
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logits / temperature, axis=1))


def _nats(logits: FloatArray, labels: IntArray, temperature: float) -> FloatArray:
    return _normaliser(logits, temperature) - logits[np.arange(len(labels)), labels] / temperature
