"""Temperature scaling: one divisor of the logits that calibrates a classifier (Guo et al. 2017, section 4.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unfreeze.evaluation.resampling import FloatArray, IntArray

LOG_RANGE = (-3.0, 3.0)  # bounds of the temperature's logarithm: 1/20 to 20
SMALLEST_PROBABILITY = 1e-7  # floor: a class that is absent from a fold's training images has no finite log-loss
PRIOR = 1.0
"""Standard deviation of the Gaussian prior on the temperature's logarithm, around 0.  If all images are classified
correctly, the likelihood alone has no finite optimum; the prior weighs about as much as one image."""
LAPLACE_PSEUDO_ERROR = 1.0
"""Pseudo-count of misclassified images: after n correct ones, the next is correct with probability (n + 1) / (n + 2)
(Laplace's rule of succession; Platt 1999, section 2.2, fits a sigmoid to such targets)."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Effect of temperature scaling on the shipped model.

    Attributes:
        temperature: Divisor of the logits; above 1 the model was over-confident.
        n: The number of out-of-fold or validation images that the temperature was fitted on.
        ece_before: Expected calibration error on the scored images at temperature 1.
        ece_after: Expected calibration error at ``temperature``.
        log_loss_before: Log-loss in nats at temperature 1.
        log_loss_after: Log-loss in nats at ``temperature``.
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
    """Return the temperature with the lowest smoothed log-loss on images outside the training set; 1 without any.

    The labels are smoothed by the error rate that ``LAPLACE_PSEUDO_ERROR`` implies, so that few images don't make a
    model certain even where all are classified correctly.

    Args:
        logits: Logits (N, C).
        labels: Class indices (N,).
    """
    return _temperature(_clipped_log_probabilities(logits), labels, LAPLACE_PSEUDO_ERROR / (len(labels) + 2))


def calibrated_nll(logits: FloatArray, labels: IntArray) -> FloatArray:
    """Return each image's log-loss (N,), in nats, at the temperature with the lowest mean.

    Models are compared by this loss: confidence differs between the phases (label smoothing lowers it in phase 2)
    independently of the quality of the features.
    """
    log_probabilities = _clipped_log_probabilities(logits)
    return _log_losses(log_probabilities, labels, _temperature(log_probabilities, labels, error_rate=0.0))


def significantly_lower(losses: FloatArray, than: FloatArray, errors: float = 1.0) -> bool:
    """Return whether paired losses (N,) are lower by more than ``errors`` standard errors of their differences."""
    reduction, error = _paired_reduction(losses, than)
    return reduction > errors * error


def paired_z(losses: FloatArray, than: FloatArray) -> float:
    """Return the reduction of paired losses (N,) in standard errors; 0 where all differences are equal."""
    reduction, error = _paired_reduction(losses, than)
    return reduction / error if error else 0.0


def _paired_reduction(losses: FloatArray, than: FloatArray) -> tuple[float, float]:
    """Return the mean reduction of paired losses (N,) and its standard error."""
    reductions = than - losses
    return float(reductions.mean()), float(reductions.std()) / math.sqrt(len(reductions))


def _temperature(logits: FloatArray, labels: IntArray, error_rate: float) -> float:
    """Return the temperature with the lowest log-loss, if each label is wrong with probability ``error_rate``."""
    from scipy.optimize import minimize_scalar

    if not len(labels):
        return 1.0
    own = logits[np.arange(len(labels)), labels]
    others = (logits.sum(axis=1) - own) / (logits.shape[1] - 1)
    # The loss with smoothed labels is the normalising term minus a term that is linear in the logits.
    expected = (1 - error_rate) * own + error_rate * others

    def objective(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        losses = _normaliser(logits, temperature) - expected / temperature
        return float(losses.sum() + (log_temperature / PRIOR) ** 2 / 2)

    optimum = minimize_scalar(objective, bounds=LOG_RANGE, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(optimum.x))


def _clipped_log_probabilities(logits: FloatArray) -> FloatArray:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(logits.astype(np.float64), axis=1).clip(math.log(SMALLEST_PROBABILITY)))


def _normaliser(logits: FloatArray, temperature: float) -> FloatArray:
    from scipy.special import logsumexp

    return np.asarray(logsumexp(logits / temperature, axis=1))


def _log_losses(logits: FloatArray, labels: IntArray, temperature: float) -> FloatArray:
    return _normaliser(logits, temperature) - logits[np.arange(len(labels)), labels] / temperature
