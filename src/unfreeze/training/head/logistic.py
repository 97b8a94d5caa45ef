"""Multinomial logistic regressions on the same rows, solved in one batch: one for each fold of a cross-validation.

L-BFGS (Nocedal & Wright 2006, algorithm 7.4) whose initial inverse Hessian is the inverse of ``h * covariance + l2``,
with h the mean of p (1 - p) over rows and classes.  It evens out the very uneven spectrum of a network's features,
which saves most iterations.  Logits are linear in the parameters, so those along a search direction need no pass over
the features: an iteration reads them twice, however long the line search is.

The solver is not scipy's because it solves all folds in one batch on the device of the features: scipy's L-BFGS-B with
the same preconditioner takes 1.0 to 1.5 times its CPU time, and scipy and scikit-learn at their usual tolerances stop
2e-5 to 4e-2 above its optimum, relative to the objective (``benchmarks/head.py``).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import torch
from torch import Tensor

MAX_ITERATIONS = 500
HISTORY = 10  # pairs of steps and gradient changes that L-BFGS stores
CURVATURE_INTERVAL = 8  # iterations between updates of h, which falls as the weights grow
MAX_SEARCH_STEPS = 20
SLOPE_REDUCTION = 0.1  # a line search ends at this fraction of the initial slope; L-BFGS gains nothing from less
BLOCK_ROWS = 4096  # rows whose probabilities are in memory at a time
MAX_LOGITS = 2**26  # logits of all folds, in memory twice; if there are more, folds are solved one after the other
MIN_CURVATURE = 1e-6


@dataclass(frozen=True)
class BatchedLogisticProblem:
    """k regressions on the same rows, which differ in the weight of each row.

    Attributes:
        features: Shape (rows, D), centred; float32 is enough, blocks are converted to the precision of the parameters.
        labels: Class indices, shape (rows,).
        sample_weight: Shape (k, rows): the weight of each row in each regression's mean; 0 where it is held out.
        classes: Number of classes C; a regression may have no row of some.
        covariance: Covariance of the features, shape (D, D), float64.
    """

    features: Tensor
    labels: Tensor
    sample_weight: Tensor
    classes: int
    covariance: Tensor

    def of(self, fitted: Tensor) -> BatchedLogisticProblem:
        """Return regressions on the same rows, each fitted on the rows that ``fitted``, (k, rows), marks for it."""
        weights = fitted.double()
        return replace(self, sample_weight=weights / weights.sum(dim=1, keepdim=True))


def batched_problem(features: Tensor, labels: Tensor, fitted: Tensor, classes: int) -> BatchedLogisticProblem:
    """Return k regressions on ``features`` (rows, D), each fitted on the rows that ``fitted``, (k, rows), marks."""
    covariance = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    for x in torch.split(features, BLOCK_ROWS):
        covariance += (x.T @ x).double() / len(features)
    return BatchedLogisticProblem(features, labels, fitted, classes, covariance).of(fitted)


def solve(
    problem: BatchedLogisticProblem, l2: float, init: Tensor, tolerance: float, gradient_norm: float = torch.inf
) -> Tensor:
    """Minimise mean cross-entropy + l2 / 2 * ||weight||^2 of each regression; biases are not penalised.

    scikit-learn's ``C`` is 1 / (N * l2).

    Args:
        problem: The regressions.
        l2: The L2 penalty.
        init: Initial weights and, last, biases, shape (k, C, D + 1); the solution has the same floating type.
        tolerance: Relative: stop when half the Newton decrement is at most ``tolerance * objective``.
        gradient_norm: The largest absolute entry of the gradient may not exceed this either.

    Returns:
        The parameters, shape (k, C, D + 1).
    """
    if len(init) > 1 and len(init) * problem.classes * len(problem.features) > MAX_LOGITS:
        pairs = zip(torch.split(problem.sample_weight, 1), torch.split(init, 1), strict=True)
        return torch.cat(
            [solve(replace(problem, sample_weight=one), l2, init, tolerance, gradient_norm) for one, init in pairs]
        )
    parameters, z = init, logits(problem.features, init)
    history: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=HISTORY)
    loss, gradient, curvature = _loss_and_gradient(problem, l2, parameters, z)
    for iteration in range(MAX_ITERATIONS):
        if iteration % CURVATURE_INTERVAL == 0:
            factor = _factor(problem.covariance, l2, float(curvature), gradient.dtype)
        preconditioned = _precondition(factor, curvature, gradient)
        decrement = _dot(gradient, preconditioned)
        if bool((decrement / 2 <= tolerance * loss).all()) and gradient.abs().max() <= gradient_norm:
            break
        direction = -_lbfgs(gradient, history, factor, curvature)
        z_direction = logits(problem.features, direction)
        step = _line_search(problem, l2, parameters, direction, z, z_direction)
        if not bool(step.any()):
            break  # no further decrease at this precision
        move = step * direction
        parameters = parameters + move
        z.addcmul_(z_direction, step)
        previous = gradient
        loss, gradient, curvature = _loss_and_gradient(problem, l2, parameters, z)
        change = gradient - previous
        history.append((move, change, _dot(move, change)))
    return parameters


def logits(features: Tensor, parameters: Tensor) -> Tensor:
    """Return logits (k, C, rows) of features (rows, D), in the floating type of the parameters (k, C, D + 1)."""
    weight, bias = parameters[..., :-1].flatten(0, 1), parameters[..., -1].flatten()
    out = torch.empty(len(weight), len(features), dtype=weight.dtype, device=weight.device)
    for start in range(0, len(features), BLOCK_ROWS):
        x = features[start : start + BLOCK_ROWS].to(weight.dtype)
        out[:, start : start + BLOCK_ROWS] = torch.addmm(bias[:, None], weight, x.T)
    return out.view(*parameters.shape[:2], -1)


def _blocks(problem: BatchedLogisticProblem, like: Tensor) -> list[tuple[slice, Tensor, Tensor]]:
    """Return for each block its rows, their labels one-hot (C, rows), and their weights (k, 1, rows)."""
    classes = torch.arange(problem.classes, device=like.device)[:, None]
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(problem.labels), BLOCK_ROWS)]
    return [
        (rows, problem.labels[rows] == classes, problem.sample_weight[:, None, rows].to(like.dtype)) for rows in blocks
    ]


def _loss_and_gradient(
    problem: BatchedLogisticProblem, l2: float, parameters: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the objectives (k,), their gradients (k, C, D + 1) and the mean of p (1 - p), a scalar."""
    weight = parameters[..., :-1]
    loss = l2 / 2 * weight.square().sum(dim=(1, 2))
    gradient = torch.zeros_like(parameters).flatten(0, 1)
    curvature = torch.zeros((), dtype=z.dtype, device=z.device)
    for rows, one_hot, sample_weight in _blocks(problem, z):
        x = problem.features[rows].to(z.dtype)
        log_probabilities = torch.log_softmax(z[..., rows], dim=1)
        loss = loss - (log_probabilities.masked_fill(~one_hot, 0) * sample_weight).sum(dim=(1, 2))
        p = log_probabilities.exp_()
        curvature += (p * (1 - p) * sample_weight).sum()
        residual = ((p - one_hot.to(p)) * sample_weight).flatten(0, 1)
        gradient[:, :-1].addmm_(residual, x)
        gradient[:, -1] += residual.sum(dim=1)
    gradient = gradient.view_as(parameters)
    gradient[..., :-1] += l2 * weight
    return loss, gradient, (curvature / (len(z) * problem.classes)).clamp_min(MIN_CURVATURE)


def _line_search(
    problem: BatchedLogisticProblem, l2: float, parameters: Tensor, direction: Tensor, z: Tensor, z_direction: Tensor
) -> Tensor:
    """Return the step along ``direction`` that minimises each objective, shape (k, 1, 1), by bracketed Newton steps."""
    weight, weight_direction = parameters[..., :-1], direction[..., :-1]
    linear, square = l2 * _dot(weight, weight_direction), l2 * _dot(weight_direction, weight_direction)

    def slope_and_curvature(step: Tensor) -> tuple[Tensor, Tensor]:
        slope, curvature = linear + square * step, square.clone()
        for rows, one_hot, sample_weight in _blocks(problem, z):
            a = z_direction[..., rows]
            p = torch.softmax(torch.addcmul(z[..., rows], a, step[:, None, None]), dim=1)
            mean = (p * a).sum(dim=1, keepdim=True)
            a_label = a.masked_fill(~one_hot, 0).sum(dim=1, keepdim=True)
            slope = slope + ((mean - a_label) * sample_weight).sum(dim=(1, 2))
            curvature = curvature + (p * (a - mean).square() * sample_weight).sum(dim=(1, 2))
        return slope, curvature

    zero = torch.zeros_like(linear)
    initial_slope, _ = slope_and_curvature(zero)
    low, high, step = zero, torch.full_like(zero, torch.inf), torch.ones_like(zero)
    for _ in range(MAX_SEARCH_STEPS):
        slope, curvature = slope_and_curvature(step)
        done = slope.abs() <= SLOPE_REDUCTION * initial_slope.abs()
        if bool(done.all()):
            break
        low, high = torch.where(slope < 0, step, low), torch.where(slope < 0, high, step)
        newton = step - slope / curvature
        bisected = torch.where(high.isinf(), 2 * step, (low + high) / 2)
        inside = (newton > low) & (newton < torch.minimum(high, 4 * step))
        step = torch.where(done, step, torch.where(inside, newton, bisected))
    return torch.where(initial_slope < 0, step, zero)[:, None, None]


def _lbfgs(
    gradient: Tensor, history: deque[tuple[Tensor, Tensor, Tensor]], factor: Tensor, curvature: Tensor
) -> Tensor:
    """Return the approximate inverse Hessian times the gradient, by the two-loop recursion, for all regressions."""
    direction, coefficients = gradient, []
    for move, change, product in reversed(history):
        coefficient = _ratio(_dot(move, direction), product)
        coefficients.append(coefficient)
        direction = direction - coefficient * change
    direction = _precondition(factor, curvature, direction)
    for (move, change, product), coefficient in zip(history, reversed(coefficients), strict=True):
        direction = direction + (coefficient - _ratio(_dot(change, direction), product)) * move
    return direction


def _ratio(numerator: Tensor, product: Tensor) -> Tensor:
    """Return the ratio, shape (k, 1, 1), 0 for a regression whose parameters did not change."""
    return torch.where(product > 0, numerator / torch.where(product > 0, product, 1), 0)[:, None, None]


def _factor(covariance: Tensor, l2: float, curvature: float, dtype: torch.dtype) -> Tensor:
    hessian = curvature * covariance
    hessian.diagonal().add_(l2)
    factor: Tensor = torch.linalg.cholesky(hessian)
    return factor.to(dtype)


def _precondition(factor: Tensor, curvature: Tensor, gradient: Tensor) -> Tensor:
    """Return the approximate inverse Hessian times the gradient; as features are centred, biases are separate."""
    weight = torch.cholesky_solve(gradient[..., :-1].flatten(0, 1).T, factor).T.reshape_as(gradient[..., :-1])
    return torch.cat([weight, gradient[..., -1:] / curvature], dim=2)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(1, 2))
