from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.support.training import blobs, by_sklearn, centred
from torch import Tensor

from unfreeze.evaluation.calibration import softmax
from unfreeze.training.head import logistic
from unfreeze.training.head.regularisation_path import GRADIENT_NORM, L2_PATH, PATIENCE, TOLERANCE, Linear, fit_head

pytestmark = pytest.mark.usefixtures("one_thread")

Array = NDArray[np.float64]
LOOSE = 5e-3  # heads that are only compared with one another needn't converge as far as the one that ships


def solve(features: Tensor, labels: Tensor, classes: int, strength: float, start: Linear | None = None) -> Linear:
    """Solve a single regression on features (N, D), as far as the head that ships."""
    problem = logistic.batched_problem(features, labels, torch.ones(1, len(labels), dtype=torch.bool), classes)
    first = torch.zeros(1, classes, features.shape[1] + 1, dtype=torch.float64)
    if start is not None:
        first[0] = torch.cat([start.weight, start.bias[:, None]], dim=1)
    found = logistic.solve(problem, strength, first, TOLERANCE, GRADIENT_NORM)[0]
    return Linear(found[:, :-1], found[:, -1])


@pytest.mark.parametrize("strength", [1.0, 0.1, 1e-2, 1e-3])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_solve_agrees_with_scikit_learn(classes: int, strength: float) -> None:
    features, labels = blobs(120, 6, classes)
    ours = solve(features[:, 0], labels, classes, strength)
    theirs, model = by_sklearn(features[:, 0], labels, classes, strength)
    np.testing.assert_allclose(centred(ours.weight), theirs, atol=1e-3)
    probabilities = ours.probabilities(features[:, 0]).numpy()
    np.testing.assert_allclose(probabilities, model.predict_proba(features[:, 0].numpy()), atol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("strength", [1.0, 1e-2, 1e-4])
def test_a_solve_ends_where_the_gradient_vanishes(strength: float) -> None:
    features, labels = blobs(90, 8, 3)
    head = solve(features[:, 0], labels, 3, strength)
    weight, bias = head.weight.clone().requires_grad_(), head.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(features[:, 0] @ weight.T + bias, labels)
    (loss + strength / 2 * weight.square().sum()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert bias.grad is not None
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-5
    assert weight.abs().max() > 1e-2


def test_a_warm_start_reaches_the_same_optimum() -> None:
    features, labels = blobs(120, 6, 3)
    cold = solve(features[:, 0], labels, 3, 1e-2)
    random = torch.Generator().manual_seed(1)
    start = Linear(torch.randn(3, 6, generator=random).double(), torch.randn(3, generator=random).double())
    for warm in (solve(features[:, 0], labels, 3, 1e-2, start), solve(features[:, 0], labels, 3, 1e-2, cold)):
        np.testing.assert_allclose(centred(warm.weight), centred(cold.weight), atol=1e-4)
        np.testing.assert_allclose(warm.probabilities(features[:, 0]), cold.probabilities(features[:, 0]), atol=1e-5)


def test_a_class_without_photos_is_improbable() -> None:
    features, labels = blobs(60, 4, 2)
    answers = solve(features[:, 0], labels, 3, 1e-3).probabilities(features[:, 0])
    assert answers.shape == (60, 3)
    assert answers[:, 2].max() < 0.01


def test_the_chosen_strength_is_the_best_of_its_path() -> None:
    features, labels = blobs(150, 10, 3, views=2)
    fit = fit_head(features, labels, np.arange(150) % 4, 3)
    strengths, losses = zip(*fit.path, strict=True)
    assert strengths == L2_PATH[: len(strengths)]
    assert fit.l2 == strengths[int(np.argmin(losses))]
    assert 1 < losses.index(min(losses)) + 1 < len(losses)  # the path has a valley, and the search looks beyond it
    assert len(losses) - 1 - int(np.argmin(losses)) == PATIENCE


def test_out_of_fold_answers_are_at_the_strength_that_the_other_folds_like() -> None:
    features, labels = blobs(150, 10, 3, views=2)
    fold = np.arange(150) % 4
    fit = fit_head(features, labels, fold, 3)
    unit = features - features.mean(dim=(0, 1))
    unit = unit / (unit.square().mean().sqrt() * 10**0.5)
    strengths = [strength for strength, _ in fit.path]

    def answers(strength: float, held: int) -> np.ndarray:
        seen = torch.from_numpy(fold != held)
        head = solve(unit[seen].flatten(0, 1), labels[seen].repeat_interleave(2), 3, strength)
        found: np.ndarray = head.probabilities(unit[~seen, 0]).numpy()
        return found

    def loss(strength: float, held: int) -> np.ndarray:
        own: np.ndarray = -np.log(
            answers(strength, held)[np.arange((fold == held).sum()), labels.numpy()[fold == held]]
        )
        return own

    for held in range(4):
        judged = [np.concatenate([loss(s, other) for other in range(4) if other != held]).mean() for s in strengths]
        expected = answers(strengths[int(np.argmin(judged))], held)
        np.testing.assert_allclose(softmax(fit.out_of_fold[fold == held]), expected, atol=LOOSE)


def test_the_search_ends_at_once_where_a_weaker_penalty_is_clearly_worse() -> None:
    features, labels = blobs(600, 100, 3)
    blurred = features + 6 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1)).double()
    losses = [loss for _, loss in fit_head(blurred, labels, np.arange(600) % 4, 3).path]
    assert np.argmin(losses) == len(losses) - 2
    assert losses[-1] > 1.2 * losses[-2]


def test_out_of_fold_answers_come_from_heads_that_never_saw_the_photo() -> None:
    features, labels = blobs(90, 6, 3, views=2)
    fold = np.arange(90) // 3 % 3
    features = features * 40 + 100  # raw features have any scale and offset
    fit = fit_head(features, labels, fold, 3)
    spread = float((features - features.mean(dim=(0, 1))).square().mean())
    raw_strength = fit.l2 * spread * features.shape[2]  # the same penalty in raw units
    for index in range(3):
        seen, held = torch.from_numpy(fold != index), torch.from_numpy(fold == index)
        views, repeated = features[seen].flatten(0, 1), labels[seen].repeat_interleave(2)
        center = views.mean(dim=0)  # scikit-learn converges on centred features; the bias takes the shift up
        _, model = by_sklearn((views - center) / 40, repeated, 3, raw_strength / 1600)
        plain = features[held, 0]
        expected = model.predict_proba(((plain - center) / 40).numpy())
        found = softmax(fit.out_of_fold[held.numpy()])
        np.testing.assert_allclose(found, expected, atol=LOOSE)
        informed = fit.head.probabilities(plain).numpy()
        assert np.abs(found - informed).max() > 5 * LOOSE


def test_a_folds_head_is_the_one_that_answered_its_photos() -> None:
    features, labels = blobs(90, 30, 3, views=2)
    fold = np.arange(90) // 3 % 3
    fit = fit_head(features, labels, fold, 3, smoothing=0.1)
    assert len(fit.fold_heads) == 3
    for index, head in enumerate(fit.fold_heads):
        held = fold == index
        answers = head.logits(features[torch.from_numpy(held), 0]).numpy()
        np.testing.assert_allclose(softmax(answers), softmax(fit.out_of_fold[held]), atol=LOOSE)
    pairs = zip(fit.fold_heads, fit.fold_inits, strict=True)
    assert not all(torch.equal(head.weight, start.weight) for head, start in pairs)  # smoothed labels like others


def test_an_out_of_fold_answer_ignores_the_photos_own_label() -> None:
    features, labels = blobs(60, 5, 2)
    fold = np.arange(60) // 2 % 3
    held = fold == 0
    swapped = labels.clone()
    swapped[torch.from_numpy(held)] = 1 - swapped[torch.from_numpy(held)]
    one, other = fit_head(features, labels, fold, 2), fit_head(features, swapped, fold, 2)
    common = min(len(one.path), len(other.path))
    assert common > 1
    unit = features - features.mean(dim=(0, 1))
    unit = unit / (unit.square().mean().sqrt() * 5**0.5)
    seen = torch.from_numpy(~held)
    for fit in (one, other):
        expected = solve(unit[seen, 0], labels[seen], 2, fit.l2).probabilities(unit[~seen, 0])
        np.testing.assert_allclose(softmax(fit.out_of_fold[held]), expected, atol=LOOSE)


def test_heads_work_on_raw_features_of_any_scale() -> None:
    features, labels = blobs(80, 5, 4)
    fold = np.arange(80) // 4 % 4
    offset = torch.linspace(-300, 700, 5).double()
    small, large = fit_head(features, labels, fold, 4), fit_head(features * 1000 + offset, labels, fold, 4)
    assert small.l2 == large.l2
    np.testing.assert_allclose(
        large.head.probabilities(features[:, 0] * 1000 + offset), small.head.probabilities(features[:, 0]), atol=1e-6
    )
    np.testing.assert_allclose(large.out_of_fold, small.out_of_fold, atol=1e-5)
    np.testing.assert_allclose(large.head.weight * 1000, small.head.weight, atol=1e-5)


def test_undoing_the_scale_changes_no_answer() -> None:
    features, labels = blobs(80, 5, 3)
    features = features * 7 + 3
    fit = fit_head(features, labels, np.arange(80) // 3 % 3, 3)
    center = features.mean(dim=(0, 1))
    unit = (features - center) / ((features - center).square().mean().sqrt() * 5**0.5)
    expected = solve(unit[:, 0], labels, 3, fit.l2).probabilities(unit[:, 0])
    np.testing.assert_allclose(fit.head.probabilities(features[:, 0]), expected, atol=1e-5)


def test_a_class_that_a_folds_rest_lacks_is_no_obstacle() -> None:
    features, labels = blobs(60, 4, 3)
    labels[labels == 2] = 0
    labels[7] = 2  # the only photo of its class
    fit = fit_head(features, labels, np.arange(60) % 4, 3)
    assert np.isfinite([loss for _, loss in fit.path]).all()
    assert softmax(fit.out_of_fold)[7, 2] < 0.05  # no head that hasn't seen photo 7 knows its class
    assert fit.head.probabilities(features[7]).argmax() == 2 or fit.l2 > 1e-3
    assert np.isfinite(fit.out_of_fold).all()


def test_constant_features_are_no_obstacle() -> None:
    labels = torch.tensor([0, 0, 0, 1] * 6)
    fit = fit_head(torch.ones(24, 1, 5), labels, np.arange(24) % 3, 2)
    np.testing.assert_allclose(fit.head.probabilities(torch.ones(1, 5)), [[0.75, 0.25]], atol=1e-4)


def test_all_views_are_learned_from_and_the_plain_one_is_judged() -> None:
    features, labels = blobs(60, 4, 3, views=2)
    fold = np.arange(60) // 3 % 3
    both, plain = fit_head(features, labels, fold, 3), fit_head(features[:, :1], labels, fold, 3)
    assert not np.allclose(both.head.weight, plain.head.weight, atol=1e-3)
    unit = (features - features.mean(dim=(0, 1))) / (features - features.mean(dim=(0, 1))).square().mean().sqrt() / 2
    seen = torch.from_numpy(fold != 1)
    expected = solve(unit[seen].flatten(0, 1), labels[seen].repeat_interleave(2), 3, both.l2)
    np.testing.assert_allclose(softmax(both.out_of_fold[fold == 1]), expected.probabilities(unit[~seen, 0]), atol=LOOSE)


def test_phase_two_starts_from_the_head_that_its_smoothed_labels_like_best() -> None:
    features, labels = blobs(90, 30, 3, views=2)
    fold = np.arange(90) // 3 % 3
    fit = fit_head(features, labels, fold, 3, smoothing=0.1)
    center = features.mean(dim=(0, 1))
    unit = (features - center) / ((features - center).square().mean().sqrt() * 30**0.5)

    def fitted_loss(index: int, strength: float) -> float:
        seen = torch.from_numpy(fold != index)
        x, y = unit[seen].flatten(0, 1), labels[seen].repeat_interleave(2)
        logits = solve(x, y, 3, strength).probabilities(x).log()
        return float(torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1))

    tried = L2_PATH[: L2_PATH.index(fit.l2) + 1]
    losses = [np.mean([fitted_loss(index, strength) for index in range(3)]) for strength in tried]
    expected = tried[int(np.argmin(losses))]
    assert expected > fit.l2  # the head that ships is surer of the photos it has seen
    start = solve(unit.flatten(0, 1), labels.repeat_interleave(2), 3, expected)
    np.testing.assert_allclose(
        fit.init_for_phase2.probabilities(features[:, 0]), start.probabilities(unit[:, 0]), atol=LOOSE
    )
    for index, head in enumerate(fit.fold_inits):
        seen = torch.from_numpy(fold != index)
        own = tried[int(np.argmin([fitted_loss(index, strength) for strength in tried]))]
        theirs = solve(unit[seen].flatten(0, 1), labels[seen].repeat_interleave(2), 3, own)
        np.testing.assert_allclose(head.probabilities(features[:, 0]), theirs.probabilities(unit[:, 0]), atol=LOOSE)


def test_without_smoothing_phase_two_starts_from_the_head_of_phase_one() -> None:
    features, labels = blobs(90, 30, 3, views=2)
    fit = fit_head(features, labels, np.arange(90) // 3 % 3, 3)
    assert torch.equal(fit.init_for_phase2.weight, fit.head.weight)
    assert torch.equal(fit.init_for_phase2.bias, fit.head.bias)
    for head, start in zip(fit.fold_heads, fit.fold_inits, strict=True):
        assert torch.equal(start.weight, head.weight)
        assert torch.equal(start.bias, head.bias)


def test_two_fits_are_equal_to_the_bit() -> None:
    features, labels = blobs(60, 4, 3, views=2)
    one, other = (fit_head(features, labels, np.arange(60) // 3 % 3, 3) for _ in range(2))
    assert torch.equal(one.head.weight, other.head.weight)
    assert np.array_equal(one.out_of_fold, other.out_of_fold)
    assert one.path == other.path
