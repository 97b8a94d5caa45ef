from __future__ import annotations

import numpy as np
import pytest
import torch

from unfreeze.evaluation.calibration import calibrated_nll, fit_temperature, significantly_lower, softmax
from unfreeze.evaluation.resampling import FloatArray, IntArray


def drawn(n: int, scale: float, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Return logits ``scale`` times too large, and labels that follow the right ones."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    labels = (rng.random(n)[:, None] > softmax(logits).cumsum(1)).sum(1).clip(0, 3)
    return scale * logits, labels


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0])
def test_the_temperature_is_found_again(scale: float) -> None:
    assert fit_temperature(*drawn(20_000, scale)) == pytest.approx(scale, rel=0.03)


def test_it_is_the_minimum_that_torch_finds() -> None:
    logits, labels = drawn(300, 1.5)
    log_temperature = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scaled = torch.from_numpy(logits) / log_temperature.exp()
        doubt = 1 / 302  # torch spreads it over all 4 classes, the label included
        value = torch.nn.functional.cross_entropy(
            scaled, torch.from_numpy(labels), reduction="sum", label_smoothing=doubt * 4 / 3
        )
        value = value + (log_temperature**2).sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert fit_temperature(logits, labels) == pytest.approx(float(log_temperature.detach().exp()), rel=1e-3)


def test_a_few_photos_that_are_all_right_do_not_make_it_certain() -> None:
    logits = np.tile([[2.0, 0.0]], (20, 1))
    found = fit_temperature(logits, np.zeros(20, int))
    assert 0.2 < found < 1
    assert softmax(logits, found).max() < 21 / 22  # what the rule of succession allows


@pytest.mark.parametrize("sure", [2.0, 4.0, 8.0])
def test_however_sure_a_model_is_a_few_photos_do_not_prove_it_right(sure: float) -> None:
    logits = np.tile([[sure, 0.0]], (40, 1))
    assert 0.9 < softmax(logits, fit_temperature(logits, np.zeros(40, int))).max() < 0.985


def test_without_photos_nothing_is_scaled() -> None:
    assert fit_temperature(np.empty((0, 3)), np.empty(0, int)) == 1.0


def test_a_class_that_a_fold_never_saw_does_not_decide() -> None:
    logits, labels = drawn(200, 1.0)
    logits[0] = [-1e4, 0, 0, 0]
    labels[0] = 0
    assert fit_temperature(logits, labels) == pytest.approx(fit_temperature(logits[1:], labels[1:]), rel=0.3)
    assert calibrated_nll(logits, labels)[0] < 20


def test_softmax_of_large_logits() -> None:
    found = softmax(np.array([[1e4, 0.0], [0.0, 0.0]]))
    assert found.tolist() == [[1, 0], [0.5, 0.5]]


def test_losses_do_not_depend_on_how_sure_the_model_is() -> None:
    logits, labels = drawn(500, 1.0)
    apart = calibrated_nll(logits, labels) - calibrated_nll(2 * logits, labels)
    assert np.abs(apart).max() < 0.02


@pytest.mark.parametrize(("gain", "expected"), [(0.0, False), (0.9, False), (1.1, True), (-1.1, False)])
def test_clearly_lower_is_by_more_than_a_standard_error(gain: float, expected: bool) -> None:
    random = np.random.default_rng(0)
    before, noise = random.gamma(1, 1, 100), random.normal(size=100)
    better = gain / 10 + (noise - noise.mean()) / noise.std()  # its standard error is a tenth
    assert significantly_lower(before - better, before) is expected


def test_what_is_equal_is_not_lower() -> None:
    assert not significantly_lower(np.ones(3), np.ones(3))
    assert significantly_lower(np.ones(3), np.full(3, 1.01))  # by the same on every photo
