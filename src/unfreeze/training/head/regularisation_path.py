"""Phase 1 as a convex problem: multinomial logistic regression on cached features, without learning rate and epochs.

The L2 penalty is chosen by cross-validation over a path from strong to weak, each solve warm-started from the last (the
sweep of Kornblith et al. 2019, section 3, and of LP-FT, Kumar et al. 2022, appendix B).  The features are centred and
divided by one common scale, so the same path serves every backbone; of several stages, whose scales differ by orders
of magnitude, each has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unfreeze.evaluation.calibration import SMALLEST_PROBABILITY
from unfreeze.runtime import limit_threads, progress_bar
from unfreeze.training.head.logistic import BLOCK_ROWS, batched_problem, logits, solve

L2_PATH = tuple(10.0**exponent for exponent in range(-1, -8, -1))  # penalty on features of mean squared length 1
PATIENCE = 2  # penalties after the best before the path ends: up to noise, the cross-validated loss has one minimum
Z_CLEARLY_WORSE = 2.0  # the path also ends at a penalty that is worse than the best by this many standard errors
TOLERANCE = 1e-9  # relative excess over the minimum of its objective that a shipped head may have
GRADIENT_NORM = 1e-6  # the largest absolute entry of its gradient; the loss is a mean, of order 1
PATH_TOLERANCE = 1e-6  # the same as TOLERANCE along the path: held-out probabilities are then exact to half a percent

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
class Standardisation:
    """Standardisation of the features of several stages: subtract ``center`` (D,), then multiply by ``scale`` (D,).

    All features of a block, one pooling of one stage, have one scale, by which the sum of their variances is the square root
    of their number: what varies more within a block says more, and a wide block says more than a narrow one, but not in
    proportion (benchmarks/RESULTS.md, "The head on several stages").  It is 0 for a block of constant features.
    """

    center: Tensor
    scale: Tensor

    def weights(self, head: Linear) -> tuple[Tensor, Tensor]:
        """Return the weights (C, D) and biases (C,) on standardised features of a classifier of the features."""
        inverse = torch.where(self.scale > 0, 1 / self.scale.clamp_min(1e-300), 0.0)
        return head.weight * inverse, head.bias + head.weight @ self.center


@dataclass(frozen=True)
class HeadFit:
    """The head of phase 1, the initial head of phase 2, and the validation results that selected them.

    Attributes:
        head: Fitted on all training images at the selected penalty.
        init_for_phase2: Fitted on all training images at a penalty at least as strong: the one with the lowest
            label-smoothed loss on fitted images.  An over-confident head gives large initial gradients under label
            smoothing, which would change the backbone first of all.
        fold_heads: For each fold, a head fitted on the other folds, at the penalty that they select.
        fold_inits: For each fold, the initial head of its phase 2, fitted on and selected by the other folds.
        l2: The selected L2 penalty, for features of mean squared length 1.
        path: The penalties tried, in order, each with its cross-validated log-loss.
        out_of_fold: Logits of each training image, shape (N, C), from a head fitted on the other folds, at the penalty
            that the other folds select: neither depends on the image.
        standardisation: Of features of several stages; None where the head reads the last stage alone.
    """

    head: Linear
    init_for_phase2: Linear
    fold_heads: tuple[Linear, ...]
    fold_inits: tuple[Linear, ...]
    l2: float
    path: tuple[tuple[float, float], ...]
    out_of_fold: Array
    standardisation: Standardisation | None = None


def fit_head(
    features: Tensor,
    labels: Tensor,
    fold: NDArray[np.int64],
    classes: int,
    smoothing: float = 0.0,
    blocks: Sequence[int] = (),
) -> HeadFit:
    """Solve phase 1.

    Args:
        features: Shape (N, views, D), the plain view first.  Heads are fitted on all views,
            validated on the plain one.
        labels: Class indices, shape (N,).
        fold: The fold of each image, 0 to k - 1, shape (N,).
        classes: Number of classes C; a fold may lack some.
        smoothing: Label smoothing of phase 2; with 0, phase 2 starts from the head of phase 1.
        blocks: The number of features of each block that has a scale of its own; empty: one scale for all.
    """
    device = torch.device("cpu") if features.device.type == "mps" else features.device  # Apple's GPUs lack float64
    rows = features.to(device).flatten(0, 1)
    with limit_threads(len(rows) * min(rows.shape) * classes * (int(fold.max()) + 1)):
        standardisation = _standardisation(rows, blocks) if blocks else None
        scaled, space = _scale(rows, standardisation)
        fit = _fit(scaled, space, features.shape[1], labels.to(device), fold, classes, smoothing)
        return replace(fit, standardisation=standardisation)


def _fit(
    features: Tensor,
    space: _Space,
    n_views: int,
    labels: Tensor,
    fold: NDArray[np.int64],
    classes: int,
    smoothing: float,
) -> HeadFit:
    device = labels.device
    held_out = [torch.from_numpy(fold == index).to(device) for index in range(int(fold.max()) + 1)]
    view_labels = labels.repeat_interleave(n_views)
    fitted = ~torch.stack(held_out).repeat_interleave(n_views, dim=1)
    problem = batched_problem(features, view_labels, fitted, classes)

    # Of each penalty tried:
    heads: list[Tensor] = []  # of all folds, shape (k, C, D + 1)
    path: list[tuple[float, float]] = []
    smoothed: list[Tensor] = []  # label-smoothed loss of each fold's head on the rows it was fitted on, shape (k,)
    fold_logits: list[Tensor] = []  # of each image, by the head of the fold that holds it out, shape (N, C)
    losses: list[Tensor] = []
    known = _known(labels, held_out)
    masks = [known, *(known & ~held for held in held_out)]  # images that select the penalty: all, for a fold the others
    lengths: list[int | None] = [None for _ in masks]
    for l2 in progress_bar(L2_PATH, "phase 1: solving the head"):
        heads.append(solve(problem, l2, _warm_start(heads, len(held_out), classes, features), PATH_TOLERANCE))
        fold_logits.append(torch.zeros(len(labels), classes, device=device))
        fold_smoothed = []
        for held, rows, head in zip(held_out, fitted, heads[-1], strict=True):
            z = logits(features, head[None])[0].T
            fold_logits[-1][held] = z[::n_views][held]
            fold_smoothed.append(functional.cross_entropy(z[rows], view_labels[rows], label_smoothing=smoothing))
        smoothed.append(torch.stack(fold_smoothed))
        losses.append(_log_losses(fold_logits[-1], labels))
        path.append((l2, float(losses[-1][known].mean())))
        for index, mask in enumerate(masks):
            if lengths[index] is None and _ends(losses, mask):
                lengths[index] = len(path)
        if None not in lengths:
            break
    best, *fold_best = (
        _argmin_validation_loss(losses[:length], mask) for length, mask in zip(lengths, masks, strict=True)
    )
    init = int(torch.stack([loss.mean() for loss in smoothed[: best + 1]]).argmin())
    fold_init = [int(torch.stack(smoothed)[: fold_best[k] + 1, k].argmin()) for k in range(len(held_out))]
    out_of_fold = fold_logits[0].clone()
    for held, index in zip(held_out, fold_best, strict=True):
        out_of_fold[held] = fold_logits[index][held]
    all_rows = problem.of(torch.ones_like(fitted[:1]))

    def final_head(index: int) -> Linear:
        rough = solve(all_rows, path[index][0], heads[index].mean(dim=0, keepdim=True), PATH_TOLERANCE)
        return space.head(solve(all_rows, path[index][0], rough.double(), TOLERANCE, GRADIENT_NORM)[0])

    final = final_head(best)
    return HeadFit(
        head=final,
        init_for_phase2=final if init == best else final_head(init),
        fold_heads=tuple(space.head(heads[index][k]) for k, index in enumerate(fold_best)),
        fold_inits=tuple(space.head(heads[index][k]) for k, index in enumerate(fold_init)),
        l2=path[best][0],
        path=tuple(path),
        out_of_fold=out_of_fold.double().cpu().numpy(),
    )


@dataclass(frozen=True)
class _Space:
    """The space in which heads are solved: (features - ``center``) / ``scale``, in the basis ``basis`` (D, rank)."""

    center: Tensor
    scale: Tensor
    basis: Tensor | None

    def head(self, parameters: Tensor) -> Linear:
        """Convert parameters (C, rank + 1) to the same classifier of the backbone's features."""
        weight, bias = parameters[:, :-1].double(), parameters[:, -1].double()
        weight = (weight if self.basis is None else weight @ self.basis.T) / self.scale
        return Linear(weight.cpu(), (bias - weight @ self.center).cpu())


def _standardisation(features: Tensor, blocks: Sequence[int]) -> Standardisation:
    """Return the standardisation of features (rows, D), whose columns are consecutive ``blocks``, in float64."""
    parts = torch.split(features, BLOCK_ROWS)
    center = torch.stack([x.double().sum(dim=0) for x in parts]).sum(dim=0) / len(features)
    variance = torch.stack([(x.double() - center).square().sum(dim=0) for x in parts]).sum(dim=0) / len(features)
    per_block = torch.stack([each.sum() / len(each) ** 0.5 for each in torch.split(variance, list(blocks))])
    scale = torch.where(per_block > 0, per_block.clamp_min(1e-300).rsqrt(), 0.0)
    return Standardisation(center.cpu(), scale.repeat_interleave(torch.tensor(blocks, device=scale.device)).cpu())


def _scale(features: Tensor, standardisation: Standardisation | None = None) -> tuple[Tensor, _Space]:
    """Return float32 features (rows, D) of mean 0 and mean squared length 1, and their space.

    With fewer rows than dimensions they are (rows, rows): no optimum has a component orthogonal to every row, and the
    penalty doesn't depend on the basis.
    """
    rows, dimension = features.shape
    center = torch.stack([x.double().sum(dim=0) for x in torch.split(features, BLOCK_ROWS)]).sum(dim=0) / rows
    own = torch.ones((), dtype=torch.float64) if standardisation is None else standardisation.scale
    own = own.to(features.device)
    squares = torch.stack([((x.double() - center) * own).square().sum() for x in torch.split(features, BLOCK_ROWS)])
    scale = (squares.sum() / rows).sqrt().clamp_min(1e-12) / own  # infinite for constant features
    basis = None
    if rows < dimension:
        in_float64 = (features.double() - center) / scale
        basis, _ = torch.linalg.qr(in_float64.T)
        return (in_float64 @ basis).float(), _Space(center, scale, basis)
    scaled = torch.empty(rows, dimension, device=features.device)
    for x, out in zip(torch.split(features, BLOCK_ROWS), torch.split(scaled, BLOCK_ROWS), strict=True):
        out.copy_((x.double() - center) / scale)
    return scaled, _Space(center, scale, basis)


def _warm_start(heads: list[Tensor], n_folds: int, classes: int, features: Tensor) -> Tensor:
    """Return initial parameters: those of the last two penalties, extrapolated by one factor of 10."""
    if not heads:
        return torch.zeros(n_folds, classes, features.shape[1] + 1, device=features.device)
    return heads[-1] if len(heads) == 1 else 2 * heads[-1] - heads[-2]


def _log_losses(predictions: Tensor, labels: Tensor) -> Tensor:
    p = torch.softmax(predictions, dim=1)[torch.arange(len(labels), device=labels.device), labels]
    return -p.clamp_min(SMALLEST_PROBABILITY).log()


def _known(labels: Tensor, held_out: list[Tensor]) -> Tensor:
    """Mark the images whose class occurs in the other folds; all images, if there are none."""
    known = torch.zeros_like(labels, dtype=torch.bool)
    for held in held_out:
        known[held] = torch.isin(labels[held], labels[~held])
    return known if known.any() else ~known


def _argmin_validation_loss(losses: list[Tensor], mask: Tensor) -> int:
    """Return the index of the penalty with the lowest log-loss on the masked images; 0 where there are none."""
    return int(torch.stack([loss[mask].mean() for loss in losses]).argmin()) if mask.any() else 0


def _ends(losses: list[Tensor], mask: Tensor) -> bool:
    """Return whether the path ends for the masked images: the best penalty is ``PATIENCE`` back, or far better."""
    if not mask.any():
        return True
    best = _argmin_validation_loss(losses, mask)
    excess = (losses[-1] - losses[best])[mask]
    return bool(
        len(losses) - 1 - best >= PATIENCE
        or excess.mean() > Z_CLEARLY_WORSE * excess.std(correction=0) / len(excess) ** 0.5
    )
