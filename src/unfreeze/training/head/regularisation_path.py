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

from unfreeze.evaluation.calibration import SMALLEST_PROBABILITY
from unfreeze.runtime import limit_threads, progress_bar
from unfreeze.training.head.logistic import BLOCK, batched_problem, logits, solve

L2_PATH = tuple(10.0**exponent for exponent in range(-1, -8, -1))  # penalty on features of mean squared length 1
PATIENCE = 2  # the cross-validated loss has one minimum along the path, up to noise
Z_CLEARLY_WORSE = 2.0  # standard errors by which a strength must be worse than the best for no weaker one to be tried
TOLERANCE = 1e-9  # share of its objective by which a head that ships may be above its minimum
GRADIENT_NORM = 1e-6  # and the largest entry of its gradient; the loss is a mean, of order 1
PATH_TOLERANCE = 1e-6  # probabilities of photos that were held out are then right to half a percent

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """A linear classifier's weights (C, D) and biases (C,)."""

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return logits, shape (N, C), for features (N, D)."""
        return features.to(self.weight) @ self.weight.T + self.bias

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities, shape (N, C), for features (N, D)."""
        return torch.softmax(self.logits(features), dim=1)


@dataclass(frozen=True)
class HeadFit:
    """The head that phase 1 ends with, the one that phase 2 goes on from, and the evidence by which they were chosen.

    Attributes:
        head: Fitted on every training photo at the chosen strength.
        init_for_phase2: Fitted on every training photo at a strength no weaker than the chosen one: that with the lowest
            smoothed loss on photos that were fitted.  ``head`` is often so sure of them that phase 2, whose labels
            are smoothed, would first of all shake the backbone to make it less so.
        fold_heads: For each fold, the head of the other folds alone: fitted on them, at a strength that they choose.
        fold_inits: For each fold, what its training goes on from, chosen likewise.
        l2: The chosen L2 penalty (on features of mean squared length 1).
        path: The cross-validated log-loss of each strength tried, in order.
        out_of_fold: Logits for each training photo from a head that never saw it, at the strength that the other folds'
            photos like best, shape (N, C): neither its fit nor its strength knows the photo.
    """

    head: Linear
    init_for_phase2: Linear
    fold_heads: tuple[Linear, ...]
    fold_inits: tuple[Linear, ...]
    l2: float
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
    rows = features.to(device).flatten(0, 1)
    with limit_threads(len(rows) * min(rows.shape) * classes * (int(fold.max()) + 1)):
        unit, space = _scaled(rows)
        return _fit(unit, space, features.shape[1], labels.to(device), fold, classes, smoothing)


def _fit(
    unit: Tensor, space: _Space, views: int, labels: Tensor, fold: NDArray[np.int64], classes: int, smoothing: float
) -> HeadFit:
    device = labels.device
    rounds = [torch.from_numpy(fold == index).to(device) for index in range(int(fold.max()) + 1)]
    repeated = labels.repeat_interleave(views)
    fitted = ~torch.stack(rounds).repeat_interleave(views, dim=1)
    problem = batched_problem(unit, repeated, fitted, classes)

    heads: list[Tensor] = []  # of each strength tried, the heads of all rounds
    path: list[tuple[float, float]] = []
    smoothed: list[Tensor] = []  # of each strength, the loss of every round's head on the photos that it was fitted on
    answers: list[Tensor] = []  # of each strength, to the photos that were held out
    losses: list[Tensor] = []
    known = _known(labels, rounds)
    masks = [
        known,
        *(known & ~held for held in rounds),
    ]  # who ends the path and chooses on it: all, and for a fold the others
    lengths: list[int | None] = [None for _ in masks]
    for strength in progress_bar(L2_PATH, "phase 1: solving the head"):
        heads.append(solve(problem, strength, _warm_start(heads, len(rounds), classes, unit), PATH_TOLERANCE))
        answers.append(torch.zeros(len(labels), classes, device=device))
        fitting = []
        for held, learned, head in zip(rounds, fitted, heads[-1], strict=True):
            z = logits(unit, head[None])[0].T
            answers[-1][held] = z[::views][held]
            fitting.append(torch.nn.functional.cross_entropy(z[learned], repeated[learned], label_smoothing=smoothing))
        smoothed.append(torch.stack(fitting))
        losses.append(_log_losses(answers[-1], labels))
        path.append((strength, float(losses[-1][known].mean())))
        for index, mask in enumerate(masks):
            if lengths[index] is None and _ends(losses, mask):
                lengths[index] = len(path)
        if None not in lengths:
            break
    best, *by_others = (
        _argmin_validation_loss(losses[:length], mask) for length, mask in zip(lengths, masks, strict=True)
    )
    start = int(torch.stack([each.mean() for each in smoothed[: best + 1]]).argmin())
    fold_starts = [int(torch.stack(smoothed)[: by_others[own] + 1, own].argmin()) for own in range(len(rounds))]
    out_of_fold = answers[0].clone()
    for held, place in zip(rounds, by_others, strict=True):
        out_of_fold[held] = answers[place][held]
    everything = problem.of(torch.ones_like(fitted[:1]))

    def all_photos(place: int) -> Linear:
        near = solve(everything, path[place][0], heads[place].mean(dim=0, keepdim=True), PATH_TOLERANCE)
        return space.head(solve(everything, path[place][0], near.double(), TOLERANCE, GRADIENT_NORM)[0])

    full = all_photos(best)
    return HeadFit(
        head=full,
        init_for_phase2=full if start == best else all_photos(start),
        fold_heads=tuple(space.head(heads[place][own]) for own, place in enumerate(by_others)),
        fold_inits=tuple(space.head(heads[place][own]) for own, place in enumerate(fold_starts)),
        l2=path[best][0],
        path=tuple(path),
        out_of_fold=out_of_fold.double().cpu().numpy(),
    )


@dataclass(frozen=True)
class _Space:
    """Where heads are solved: features less ``center``, over ``scale``, in the coordinates of ``basis`` (D, rank)."""

    center: Tensor
    scale: Tensor
    basis: Tensor | None

    def head(self, parameters: Tensor) -> Linear:
        """Return the same classifier, of parameters (C, rank + 1), for features as the backbone gives them."""
        weight, bias = parameters[:, :-1].double(), parameters[:, -1].double()
        weight = (weight if self.basis is None else weight @ self.basis.T) / self.scale
        return Linear(weight.cpu(), (bias - weight @ self.center).cpu())


def _scaled(features: Tensor) -> tuple[Tensor, _Space]:
    """Return float32 features (rows, D) of mean 0 and mean squared length 1, and the space that they are in.

    Where there are fewer rows than dimensions they are (rows, rows): no optimum has a part that is orthogonal to every
    photo, and the penalty doesn't depend on the basis.
    """
    rows, dimension = features.shape
    center = torch.stack([x.double().sum(dim=0) for x in torch.split(features, BLOCK)]).sum(dim=0) / rows
    squares = torch.stack([(x.double() - center).square().sum() for x in torch.split(features, BLOCK)]).sum()
    scale = (squares / rows).sqrt().clamp_min(1e-12)
    basis = None
    if rows < dimension:
        exact = (features.double() - center) / scale
        basis, _ = torch.linalg.qr(exact.T)
        return (exact @ basis).float(), _Space(center, scale, basis)
    unit = torch.empty(rows, dimension, device=features.device)
    for x, out in zip(torch.split(features, BLOCK), torch.split(unit, BLOCK), strict=True):
        out.copy_((x.double() - center) / scale)
    return unit, _Space(center, scale, basis)


def _warm_start(heads: list[Tensor], rounds: int, classes: int, features: Tensor) -> Tensor:
    """Return where to begin: the last two strengths' heads tell where the next one's are, a factor of 10 on."""
    if not heads:
        return torch.zeros(rounds, classes, features.shape[1] + 1, device=features.device)
    return heads[-1] if len(heads) == 1 else 2 * heads[-1] - heads[-2]


def _log_losses(predicted: Tensor, labels: Tensor) -> Tensor:
    own = torch.softmax(predicted, dim=1)[torch.arange(len(labels), device=labels.device), labels]
    return -own.clamp_min(SMALLEST_PROBABILITY).log()


def _known(labels: Tensor, rounds: list[Tensor]) -> Tensor:
    """Return which photos' classes the fitting part of their round has; all, if none has."""
    known = torch.zeros_like(labels, dtype=torch.bool)
    for held in rounds:
        known[held] = torch.isin(labels[held], labels[~held])
    return known if known.any() else ~known


def _argmin_validation_loss(losses: list[Tensor], mask: Tensor) -> int:
    """Return the index of the penalty with the lowest log-loss on the masked images; 0 where there are none."""
    return int(torch.stack([each[mask].mean() for each in losses]).argmin()) if mask.any() else 0


def _ends(losses: list[Tensor], mask: Tensor) -> bool:
    """Tell whether the masked images end the path: the lowest loss is ``PATIENCE`` penalties back, or far below the last."""
    if not mask.any():
        return True
    best = _argmin_validation_loss(losses, mask)
    worse = (losses[-1] - losses[best])[mask]
    return bool(
        len(losses) - 1 - best >= PATIENCE
        or worse.mean() > Z_CLEARLY_WORSE * worse.std(correction=0) / len(worse) ** 0.5
    )
