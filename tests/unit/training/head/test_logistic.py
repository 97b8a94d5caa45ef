from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.support.training import blobs, by_sklearn, centred
from torch import Tensor

from unfreeze.training.head import logistic
from unfreeze.training.head.logistic import BatchedLogisticProblem, batched_problem, logits, solve
from unfreeze.training.head.regularisation_path import GRADIENT_NORM, PATH_TOLERANCE, TOLERANCE, fit_head

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 3


def folds(count: int, k: int) -> Tensor:
    return torch.stack([torch.arange(count) // CLASSES % k != fold for fold in range(k)])


def problem(count: int = 90, dimension: int = 6, k: int = 4) -> BatchedLogisticProblem:
    features, labels = blobs(count, dimension, CLASSES)
    return batched_problem(features[:, 0] - features.mean(dim=0), labels, folds(count, k), CLASSES)


def zeros(given: BatchedLogisticProblem, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.zeros(len(given.sample_weight), given.classes, given.features.shape[1] + 1, dtype=dtype)


def gradient(given: BatchedLogisticProblem, strength: float, found: Tensor) -> Tensor:
    """Return the largest entry of each regression's gradient, by torch's own differentiation."""
    parameters = found.double().requires_grad_()
    for share, own in zip(given.sample_weight, parameters, strict=True):
        z = given.features.double() @ own[:, :-1].T + own[:, -1]
        losses = torch.nn.functional.cross_entropy(z, given.labels, reduction="none")
        (losses @ share + strength / 2 * own[:, :-1].square().sum()).backward()
    assert parameters.grad is not None
    return parameters.grad.abs().amax(dim=(1, 2))


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_every_fold_agrees_with_scikit_learn(strength: float) -> None:
    given = problem()
    found = solve(given, strength, zeros(given), TOLERANCE, GRADIENT_NORM)
    for share, own in zip(given.sample_weight, found, strict=True):
        fitted = share > 0
        theirs, _ = by_sklearn(given.features[fitted], given.labels[fitted], CLASSES, strength)
        np.testing.assert_allclose(centred(own[:, :-1]), theirs, atol=1e-3)


@pytest.mark.parametrize("strength", [0.1, 1e-3, 1e-5, 1e-7])
def test_every_gradient_vanishes(strength: float) -> None:
    given = problem(dimension=12)
    assert (gradient(given, strength, solve(given, strength, zeros(given), TOLERANCE, GRADIENT_NORM)) < 1e-6).all()


def test_a_fold_without_a_class_is_solved_with_the_others() -> None:
    features, labels = blobs(60, 5, CLASSES)
    fitted = folds(60, 3)
    fitted[1] &= labels != 2
    given = batched_problem(features[:, 0], labels, fitted, CLASSES)
    found = solve(given, 1e-2, zeros(given), TOLERANCE, GRADIENT_NORM)
    assert (gradient(given, 1e-2, found) < 1e-6).all()
    assert logits(given.features, found)[1].softmax(dim=0)[2].max() < 1e-3


def test_folds_solved_together_are_those_solved_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    together = solve(given, 1e-3, zeros(given), TOLERANCE, GRADIENT_NORM)
    monkeypatch.setattr(logistic, "MAX_LOGITS", 1)
    alone = solve(given, 1e-3, zeros(given), TOLERANCE, GRADIENT_NORM)
    np.testing.assert_allclose(alone, together, atol=1e-4)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given = problem()
    whole = solve(given, 1e-3, zeros(given), TOLERANCE, GRADIENT_NORM)
    monkeypatch.setattr(logistic, "BLOCK_ROWS", 7)
    again = batched_problem(given.features, given.labels, folds(90, 4), CLASSES)
    np.testing.assert_allclose(again.covariance, given.covariance, atol=1e-12)
    np.testing.assert_allclose(solve(again, 1e-3, zeros(again), TOLERANCE, GRADIENT_NORM), whole, atol=1e-6)


def test_single_precision_finds_nearly_the_same_answers() -> None:
    given = problem()
    exact = solve(given, 1e-4, zeros(given), TOLERANCE, GRADIENT_NORM)
    rough = solve(given, 1e-4, zeros(given, torch.float32), PATH_TOLERANCE)
    assert rough.dtype == torch.float32
    right, found = (logits(given.features, each).softmax(dim=1).numpy() for each in (exact, rough))
    np.testing.assert_allclose(right, found, atol=5e-3)


def test_fewer_photos_than_dimensions_are_solved_in_the_space_that_they_span() -> None:
    features, labels = blobs(24, 40, CLASSES, views=1)
    fold = np.arange(24) // CLASSES % 4
    fit = fit_head(features, labels, fold, CLASSES)
    unit = features[:, 0] - features.mean(dim=(0, 1))
    scale = unit.square().mean().sqrt() * 40**0.5
    given = batched_problem(unit / scale, labels, torch.ones(1, 24, dtype=torch.bool), CLASSES)
    full = solve(given, fit.l2, zeros(given), TOLERANCE, GRADIENT_NORM)
    np.testing.assert_allclose(fit.head.weight * scale, full[0, :, :-1], atol=1e-3)
    expected = logits(given.features, full)[0].softmax(dim=0).T
    np.testing.assert_allclose(fit.head.probabilities(features[:, 0]), expected, atol=1e-5)


@pytest.mark.parametrize("strength", [1e-1, 1e-7])
def test_features_that_repeat_themselves_are_no_obstacle(strength: float) -> None:
    features, labels = blobs(12, 3, CLASSES)
    x = features[:, 0].repeat(2, 3)
    x[:, 4] = 1
    given = batched_problem(x, labels.repeat(2), torch.ones(1, 24, dtype=torch.bool), CLASSES)
    assert (gradient(given, strength, solve(given, strength, zeros(given), TOLERANCE, GRADIENT_NORM)) < 1e-6).all()


def test_two_photos_are_enough() -> None:
    fit = fit_head(torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]]]), torch.tensor([0, 1]), np.array([0, 1]), 2)
    assert fit.head.probabilities(torch.tensor([[0.0, 1.0]])).argmax() == 0
    assert np.isfinite(fit.out_of_fold).all()
