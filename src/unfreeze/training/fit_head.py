"""Phase 1 is convex, so it is solved: multinomial logistic regression on cached features, no learning rate, no epochs.

The strength of the L2 penalty is chosen by cross-validation over a path from strong to weak, each solve warm-started from
the last (the sweep of Kornblith et al. 2019, section 3, and of LP-FT, Kumar et al. 2022, appendix B).  The features are
centred and divided by one common scale, so the same path serves every backbone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.runtime import track

STRENGTHS = tuple(10.0**exponent for exponent in range(-1, -8, -1))  # penalty on features of mean squared length 1
PATIENCE = 2  # the cross-validated loss has one minimum along the path, up to noise
GRADIENT_NORM = 1e-6  # largest entry of the gradient at which a solve has converged; the loss is a mean, of order 1
PATH_GRADIENT_NORM = 1e-5  # enough to tell strengths a factor of 10 apart, in a fraction of the iterations
ITERATIONS = 500
SMALLEST_PROBABILITY = 1e-7  # a class that a fold's training part lacks has no finite log-loss

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """A linear classifier's weights (C, D) and biases (C,)."""

    weight: Tensor
    bias: Tensor

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities, shape (N, C), for features (N, D)."""
        return torch.softmax(features.to(self.weight) @ self.weight.T + self.bias, dim=1)


@dataclass(frozen=True)
class HeadFit:
    """The head that phase 1 ends with, the one that phase 2 goes on from, and the evidence by which they were chosen.

    Attributes:
        head: Fitted on every training photo at the chosen strength.
        start: Fitted on every training photo at a strength no weaker than the chosen one: that with the lowest
            smoothed loss on photos that were fitted.  ``head`` is often so sure of them that phase 2, whose labels
            are smoothed, would first of all shake the backbone to make it less so.
        fold_starts: For each fold, the head fitted on the other folds at the strength of ``start``.
        strength: The chosen L2 penalty (on features of mean squared length 1).
        path: The cross-validated log-loss of each strength tried, in order.
        out_of_fold: Probabilities for each training photo from a head that never saw it, shape (N, C).
    """

    head: Linear
    start: Linear
    fold_starts: tuple[Linear, ...]
    strength: float
    path: tuple[tuple[float, float], ...]
    out_of_fold: Array


def fit_head(
    features: Tensor, labels: Tensor, fold: NDArray[np.int64], classes: int, smoothing: float = 0.0
) -> HeadFit:
    """Solve phase 1.

    Args:
        features: Shape (N, views, D); the plain view is first.  Heads are fitted on all views and judged on the plain one.
        labels: Shape (N,).
        fold: The fold of each photo, 0 to k - 1.
        classes: How many classes there are; a fold may lack some.
        smoothing: Of the labels in phase 2; 0 makes it start from the head of phase 1.
    """
    device = torch.device("cpu") if features.device.type == "mps" else features.device  # Apple's cards lack float64
    features = features.to(device=device, dtype=torch.float64)
    center = features.mean(dim=(0, 1))
    scale = (features - center).square().mean().sqrt().clamp_min(1e-12) * features.shape[2] ** 0.5
    exact = (features - center) / scale
    unit = exact.float()
    labels = labels.to(device)
    rounds = [torch.from_numpy(fold == index).to(device) for index in range(int(fold.max()) + 1)]

    heads: list[tuple[Linear, ...]] = []  # of each strength tried, the head of each round
    path: list[tuple[float, float]] = []
    best = 0
    answers = torch.zeros(len(labels), classes, device=device)
    for strength in track(STRENGTHS, "phase 1: solving the head"):
        warm: tuple[Linear | None, ...] = heads[-1] if heads else (None,) * len(rounds)
        heads.append(
            tuple(
                solve(*_flatten(unit[~held], labels[~held]), classes, strength, last, PATH_GRADIENT_NORM)
                for held, last in zip(rounds, warm, strict=True)
            )
        )
        predicted = torch.zeros_like(answers)
        for held, head in zip(rounds, heads[-1], strict=True):
            predicted[held] = head.probabilities(unit[held, 0])
        path.append((strength, _log_loss(predicted, labels, rounds)))
        if len(path) == 1 or path[-1][1] < path[best][1]:
            best, answers = len(path) - 1, predicted
        if len(path) - 1 - best >= PATIENCE:
            break
    start = int(np.argmin([_smoothed(unit, labels, rounds, each, smoothing) for each in heads[: best + 1]]))

    def all_photos(place: int) -> Linear:
        weights = torch.stack([head.weight for head in heads[place]]).mean(dim=0)
        biases = torch.stack([head.bias for head in heads[place]]).mean(dim=0)
        return solve(*_flatten(exact, labels), classes, path[place][0], Linear(weights, biases))

    full = all_photos(best)
    return HeadFit(
        head=_undo_scaling(full, center, scale),
        start=_undo_scaling(full if start == best else all_photos(start), center, scale),
        fold_starts=tuple(_undo_scaling(head, center, scale) for head in heads[start]),
        strength=path[best][0],
        path=tuple(path),
        out_of_fold=answers.double().cpu().numpy(),
    )


def _smoothed(
    features: Tensor, labels: Tensor, rounds: list[Tensor], heads: tuple[Linear, ...], smoothing: float
) -> float:
    """Return the cross-entropy with smoothed labels on the photos that each round's head was fitted on, all views."""
    losses = []
    for held, head in zip(rounds, heads, strict=True):
        x, y = _flatten(features[~held], labels[~held])
        logits = x @ head.weight.T + head.bias
        losses.append(float(torch.nn.functional.cross_entropy(logits, y, label_smoothing=smoothing)))
    return sum(losses) / len(losses)


def solve(
    features: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    start: Linear | None = None,
    tolerance: float = GRADIENT_NORM,
) -> Linear:
    """Minimise mean cross-entropy + strength / 2 * ||weight||^2 by L-BFGS; biases are not penalised.

    scikit-learn's ``C`` is 1 / (N * strength).

    Args:
        features: Shape (N, D); their precision is the solution's.
        labels: Shape (N,).
        classes: Number of classes C.
        strength: The L2 penalty.
        start: Where to begin; zero by default.
        tolerance: The largest entry of the gradient at the solution.
    """
    count, dimension = features.shape
    parameters = torch.zeros(classes, dimension + 1, dtype=features.dtype, device=features.device)
    if start is not None:
        parameters.copy_(torch.cat([start.weight, start.bias[:, None]], dim=1))
    parameters.requires_grad_()
    targets = torch.nn.functional.one_hot(labels, classes).to(features)
    optimizer = torch.optim.LBFGS(
        [parameters],
        max_iter=ITERATIONS,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def objective() -> Tensor:
        with torch.no_grad():  # the gradient in closed form: half the work of tracing it
            weight, bias = parameters[:, :-1], parameters[:, -1]
            log_probabilities = torch.log_softmax(features @ weight.T + bias, dim=1)
            residual = (log_probabilities.exp() - targets) / count
            parameters.grad = torch.cat(
                [residual.T @ features + strength * weight, residual.sum(dim=0)[:, None]], dim=1
            )
            return -(log_probabilities * targets).sum() / count + strength / 2 * weight.square().sum()

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    solution = parameters.detach()
    return Linear(solution[:, :-1].clone(), solution[:, -1].clone())


def _flatten(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return features.flatten(0, 1), labels.repeat_interleave(features.shape[1])


def _log_loss(predicted: Tensor, labels: Tensor, rounds: list[Tensor]) -> float:
    """Return the mean log-loss over photos whose class the fitting part of their round has (over all, if none has)."""
    own = predicted[torch.arange(len(labels), device=labels.device), labels].clamp_min(SMALLEST_PROBABILITY)
    known = torch.zeros_like(labels, dtype=torch.bool)
    for held in rounds:
        known[held] = torch.isin(labels[held], labels[~held])
    return float(-(own[known] if known.any() else own).log().mean())


def _undo_scaling(head: Linear, center: Tensor, scale: Tensor) -> Linear:
    """Return the same classifier for features as the backbone gives them."""
    weight = head.weight.double() / scale
    return Linear(weight.cpu(), (head.bias.double() - weight @ center).cpu())
