"""Multinomial logistic regressions that share their photos, solved at once: every fold of a cross-validation is one.

L-BFGS (Nocedal & Wright 2006, algorithm 7.4) whose first guess of the inverse Hessian is that of ``h * covariance +
strength``, with h the mean of p (1 - p) over photos and classes: it evens out the very uneven spectrum of a network's
features, which takes most iterations away.  Logits are linear in the parameters, so those along a search direction are
found without looking at the features again: an iteration reads them twice, whatever the line search does.

Own code rather than scipy's because one solve serves all folds; scipy's L-BFGS-B with the same preconditioner comes
within 5e-9 of the same optimum in 1.0 to 1.5 times the CPU time (``benchmarks/head.py``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

ITERATIONS = 500
HISTORY = 10
RESTART_EVERY = 8  # iterations after which h is measured anew: photos become surer as the weights grow
SEARCH_STEPS = 20
SLOPE_REDUCTION = 0.1  # a line search ends where the slope is this share of what it was; L-BFGS gains nothing from more
BLOCK = 4096  # rows whose probabilities are in memory at a time
LARGEST = 2**26  # logits in memory, twice; where folds together have more, they are solved one after the other
SMALLEST_CURVATURE = 1e-6


@dataclass(frozen=True)
class BatchedLogisticProblem:
    """k regressions on the same rows, told apart by how much each row weighs in them.

    Attributes:
        features: Shape (rows, D), centred; float32 is enough, blocks of it are converted where more is asked for.
        labels: Shape (rows,).
        sample_weight: Shape (k, rows): each row's weight in each regression's mean; 0 where it is held out.
        classes: Number of classes C; a regression may have no row of some.
        covariance: Of the features, shape (D, D), float64.
    """

    features: Tensor
    labels: Tensor
    sample_weight: Tensor
    classes: int
    covariance: Tensor

    def of(self, fitted: Tensor) -> BatchedLogisticProblem:
        """Return regressions on the same rows of which row i counts in those where ``fitted[:, i]``, (k, rows)."""
        weights = fitted.double()
        return replace(self, sample_weight=weights / weights.sum(dim=1, keepdim=True))


def batched_problem(features: Tensor, labels: Tensor, fitted: Tensor, classes: int) -> BatchedLogisticProblem:
    """Return the regressions on ``features``, as ``BatchedLogisticProblem`` and its ``of`` describe them."""
    covariance = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    for x in torch.split(features, BLOCK):
        covariance += (x.T @ x).double() / len(features)
    return BatchedLogisticProblem(features, labels, fitted, classes, covariance).of(fitted)


def solve(
    problem: BatchedLogisticProblem, strength: float, start: Tensor, tolerance: float, gradient_norm: float = torch.inf
) -> Tensor:
    """Minimise mean cross-entropy + strength / 2 * ||weight||^2 of each regression; biases are not penalised.

    scikit-learn's ``C`` is 1 / (N * strength).

    Args:
        problem: The regressions.
        strength: The L2 penalty.
        start: Weights and, last, biases to begin at, shape (k, C, D + 1); their precision is the solution's.
        tolerance: How far above its minimum the objective may be, by the quadratic model's word, as a share of it.
        gradient_norm: What no entry of the gradient may exceed either.

    Returns:
        The parameters, shape (k, C, D + 1).
    """
    if len(start) > 1 and len(start) * problem.classes * len(problem.features) > LARGEST:
        pairs = zip(torch.split(problem.sample_weight, 1), torch.split(start, 1), strict=True)
        return torch.cat(
            [solve(replace(problem, sample_weight=one), strength, at, tolerance, gradient_norm) for one, at in pairs]
        )
    parameters, z = start, logits(problem.features, start)
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    loss, gradient, curvature = _loss_and_gradient(problem, strength, parameters, z)
    for iteration in range(ITERATIONS):
        if iteration % RESTART_EVERY == 0:
            factor = _factor(problem.covariance, strength, float(curvature), gradient.dtype)
        plain = _precondition(factor, curvature, gradient)
        if bool((_dot(gradient, plain) / 2 <= tolerance * loss).all()) and gradient.abs().max() <= gradient_norm:
            break
        direction = -_lbfgs(gradient, history, factor, curvature)
        along = logits(problem.features, direction)
        step = _line_search(problem, strength, parameters, direction, z, along)
        if not bool(step.any()):
            break  # rounding hides the way down
        moved = step * direction
        parameters = parameters + moved
        z.addcmul_(along, step)
        before = gradient
        loss, gradient, curvature = _loss_and_gradient(problem, strength, parameters, z)
        turned = gradient - before
        history.append((moved, turned, _dot(moved, turned)))
    return parameters


def logits(features: Tensor, parameters: Tensor) -> Tensor:
    """Return shape (k, C, rows) for features (rows, D) and parameters (k, C, D + 1), in the precision of these."""
    weight, bias = parameters[..., :-1].flatten(0, 1), parameters[..., -1].flatten()
    out = torch.empty(len(weight), len(features), dtype=weight.dtype, device=weight.device)
    for begin in range(0, len(features), BLOCK):
        x = features[begin : begin + BLOCK].to(weight.dtype)
        out[:, begin : begin + BLOCK] = torch.addmm(bias[:, None], weight, x.T)
    return out.view(*parameters.shape[:2], -1)


def _blocks(problem: BatchedLogisticProblem, like: Tensor) -> list[tuple[slice, Tensor, Tensor]]:
    """Return the rows, whether each is of each class, (C, rows), and their shares, (k, 1, rows), of each block."""
    classes = torch.arange(problem.classes, device=like.device)[:, None]
    spans = [slice(begin, begin + BLOCK) for begin in range(0, len(problem.labels), BLOCK)]
    return [
        (rows, problem.labels[rows] == classes, problem.sample_weight[:, None, rows].to(like.dtype)) for rows in spans
    ]


def _loss_and_gradient(
    problem: BatchedLogisticProblem, strength: float, parameters: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objectives (k,), their gradients (k, C, D + 1) and the mean curvature p (1 - p), a scalar."""
    weight = parameters[..., :-1]
    loss = strength / 2 * weight.square().sum(dim=(1, 2))
    gradient = torch.zeros_like(parameters).flatten(0, 1)
    curvature = torch.zeros((), dtype=z.dtype, device=z.device)
    for rows, own, share in _blocks(problem, z):
        x = problem.features[rows].to(z.dtype)
        log_probabilities = torch.log_softmax(z[..., rows], dim=1)
        loss = loss - (log_probabilities.masked_fill(~own, 0) * share).sum(dim=(1, 2))
        p = log_probabilities.exp_()
        curvature += (p * (1 - p) * share).sum()
        residual = ((p - own.to(p)) * share).flatten(0, 1)
        gradient[:, :-1].addmm_(residual, x)
        gradient[:, -1] += residual.sum(dim=1)
    gradient = gradient.view_as(parameters)
    gradient[..., :-1] += strength * weight
    return loss, gradient, (curvature / (len(z) * problem.classes)).clamp_min(SMALLEST_CURVATURE)


def _line_search(
    problem: BatchedLogisticProblem, strength: float, parameters: Tensor, direction: Tensor, z: Tensor, along: Tensor
) -> Tensor:
    """Return how far along ``direction`` each objective is lowest, shape (k, 1, 1): Newton's steps, kept in a bracket."""
    weight, change = parameters[..., :-1], direction[..., :-1]
    linear, square = strength * _dot(weight, change), strength * _dot(change, change)

    def slope(step: Tensor) -> tuple[Tensor, Tensor]:
        first, second = linear + square * step, square.clone()
        for rows, own, share in _blocks(problem, z):
            a = along[..., rows]
            p = torch.softmax(torch.addcmul(z[..., rows], a, step[:, None, None]), dim=1)
            mean = (p * a).sum(dim=1, keepdim=True)
            first = first + ((mean - a.masked_fill(~own, 0).sum(dim=1, keepdim=True)) * share).sum(dim=(1, 2))
            second = second + (p * (a - mean).square() * share).sum(dim=(1, 2))
        return first, second

    zero = torch.zeros_like(linear)
    steepest, _ = slope(zero)
    low, high, step = zero, torch.full_like(zero, torch.inf), torch.ones_like(zero)
    for _ in range(SEARCH_STEPS):
        first, second = slope(step)
        done = first.abs() <= SLOPE_REDUCTION * steepest.abs()
        if bool(done.all()):
            break
        low, high = torch.where(first < 0, step, low), torch.where(first < 0, high, step)
        newton = step - first / second
        halved = torch.where(high.isinf(), 2 * step, (low + high) / 2)
        inside = (newton > low) & (newton < torch.minimum(high, 4 * step))
        step = torch.where(done, step, torch.where(inside, newton, halved))
    return torch.where(steepest < 0, step, zero)[:, None, None]


def _lbfgs(
    gradient: Tensor, history: deque[tuple[Tensor, Tensor, Tensor]], factor: Tensor, curvature: Tensor
) -> Tensor:
    """Return the inverse Hessian's guess times the gradient: the two-loop recursion, for all regressions at once."""
    direction, kept = gradient, []
    for moved, turned, product in reversed(history):
        share = _ratio(_dot(moved, direction), product)
        kept.append(share)
        direction = direction - share * turned
    direction = _precondition(factor, curvature, direction)
    for (moved, turned, product), share in zip(history, reversed(kept), strict=True):
        direction = direction + (share - _ratio(_dot(turned, direction), product)) * moved
    return direction


def _ratio(numerator: Tensor, product: Tensor) -> Tensor:
    """Return the ratio, shape (k, 1, 1), 0 where a regression didn't move."""
    return torch.where(product > 0, numerator / torch.where(product > 0, product, 1), 0)[:, None, None]


def _factor(covariance: Tensor, strength: float, curvature: float, dtype: torch.dtype) -> Tensor:
    hessian = curvature * covariance
    hessian.diagonal().add_(strength)
    factor: Tensor = torch.linalg.cholesky(hessian)
    return factor.to(dtype)


def _precondition(factor: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient over the Hessian's guess; features are centred, so biases are apart from weights."""
    weight = torch.cholesky_solve(gradient[..., :-1].flatten(0, 1).T, factor).T.reshape_as(gradient[..., :-1])
    return torch.cat([weight, gradient[..., -1:] / curvature], dim=2)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(1, 2))
