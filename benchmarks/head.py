"""The head solved for all folds at once against fold by fold with scipy and scikit-learn: seconds, and the same optimum.

    python benchmarks/head.py [PHOTOS] [--model efficientnet_lite0] [--rounds 3] [--threads 2] [--cases 600x30 3000x30]

Drawn features have a spectrum that falls as 1 / j, as a network's do; PHOTOS is a labelled folder whose real ones are tried
too.  Every arm solves the same penalties of the path, warm-started, for 5 folds in float32, then the chosen penalty on all
photos in float64; arms take turns, and ratios are within a round.
scipy and scikit-learn end where no entry of the gradient exceeds 1e-5 (1e-6 at last); the preconditioned arm gives scipy
parameters scaled by the covariance's eigenvalues, and ends by the rule of ``logistic.solve``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor

from unfreeze.data.checks import check
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import read_photos
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import prepare_process
from unfreeze.training.features.activations import PixelSource, compute_or_load, pooled_features
from unfreeze.training.features.cache import open_cache
from unfreeze.training.head.regularisation_path import PATH_TOLERANCE, TOLERANCE, Linear, fit_head
from unfreeze.training.recipes import LIGHT_AUG

VIEWS, DIMENSION, FOLDS = 4, 1280, 5
CASES = ("80x2", "600x30", "3000x30")
MAX_ITERATIONS = 500
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
GIB = 4.0
Array = NDArray[np.float64]
Case = tuple[str, Tensor, Tensor, int]
FitOne = Callable[[Tensor, Tensor, float, Tensor, bool], tuple[Tensor, int]]


@dataclass(frozen=True)
class Problem:
    """Photos' features, centred and of mean squared length 1, with the folds they are held out in.

    Attributes:
        exact: Shape (photos * views, D), float64; of fewer rows than dimensions, in the coordinates of ``basis``.
        labels: Shape (photos,).
        fold: Shape (photos,).
        classes: Number of classes.
        center: Shape (D,): was subtracted.
        scale: What the features were divided by, after that.
        basis: Orthonormal, shape (features' dimension, D).
    """

    exact: Tensor
    labels: Tensor
    fold: NDArray[np.int64]
    classes: int
    center: Tensor
    scale: Tensor
    basis: Tensor | None


@dataclass(frozen=True)
class Stop:
    """When scipy ends: by the gradient's largest entry, or by half its squared length as a share of the objective."""

    gradient: float
    decrement: float = 0.0


@dataclass(frozen=True)
class Fit:
    """The final classifier, the held-out log-loss of each penalty, and evaluations of the objective, or iterations."""

    head: Linear
    losses: list[float]
    evaluations: int


def drawn(count: int, classes: int) -> Case:
    random = torch.Generator().manual_seed(0)
    scales = torch.arange(1, DIMENSION + 1).float() ** -0.5
    labels = torch.arange(count) % classes
    centers = 0.5 * torch.randn(classes, 1, DIMENSION, generator=random)
    plain = centers[labels] + torch.randn(count, 1, DIMENSION, generator=random)
    views = 0.6 * torch.randn(count, VIEWS, DIMENSION, generator=random)
    views[:, 0] = 0
    return f"drawn, {count} photos, {classes} classes", (plain + views) * scales, labels, classes


def real(folder: Path, model: str) -> Case:
    store = open_cache(None, GIB)
    photos = check(read_photos(folder), store.decode_index())
    backbone = load_backbone(model)
    samples = photos.samples
    renderer = Renderer(
        tuple(sample.path for sample in samples), backbone.network.preprocessing, LIGHT_AUG, 0,
        tuple(sample.digest for sample in samples),
    )  # fmt: skip
    wanted = dict.fromkeys(range(len(samples)), range(VIEWS))
    at_head = compute_or_load(
        store, backbone, PixelSource(renderer), backbone.head_boundary, wanted, "computing features"
    )
    labels = torch.tensor([sample.label for sample in samples])
    found = pooled_features(at_head, range(len(samples)), range(VIEWS))
    return f"{folder.name}, {len(samples)} photos, {len(photos.classes)} classes", found, labels, len(photos.classes)


def scipy_solve(
    x: Tensor, y: Tensor, classes: int, strength: float, start: Tensor, scale: Tensor, stop: Stop
) -> tuple[Tensor, int]:
    """Minimise mean cross-entropy + strength / 2 * ||weight||^2 with scipy's L-BFGS-B; return parameters and evaluations.

    Args:
        x: Features (N, D).
        y: Labels (N,).
        classes: Number of classes C.
        strength: The L2 penalty.
        start: Parameters (C, D + 1), biases last.
        scale: What each column of the parameters is divided by before scipy sees it (D + 1,).
        stop: When it ends.
    """
    targets = torch.nn.functional.one_hot(y, classes).to(x)
    last = {"loss": float("inf"), "squares": float("inf"), "evaluations": 0.0}

    def objective(flat: Array) -> tuple[float, Array]:
        parameters = (torch.from_numpy(flat).view(classes, -1) * scale).to(x)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        log_probabilities = torch.log_softmax(torch.addmm(bias, x, weight.T), dim=1)
        loss = -(log_probabilities * targets).sum() / len(x) + strength / 2 * weight.square().sum()
        residual = log_probabilities.exp_().sub_(targets).div_(len(x))
        gradient = torch.cat([residual.T @ x + strength * weight, residual.sum(dim=0)[:, None]], dim=1)
        scaled = (gradient.double() * scale).numpy().ravel()
        last.update(loss=float(loss), squares=float(scaled @ scaled), evaluations=last["evaluations"] + 1)
        return float(loss), scaled

    def end_early(intermediate_result: OptimizeResult) -> None:
        if last["squares"] / 2 <= stop.decrement * last["loss"]:
            raise StopIteration

    options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "gtol": stop.gradient, "ftol": 0}
    first = (start.double() / scale).numpy().ravel()
    result = minimize(objective, first, jac=True, method="L-BFGS-B", options=options, callback=end_early)
    return torch.from_numpy(result.x).view(classes, -1) * scale, int(last["evaluations"])


def scipy_fit(problem: Problem, strengths: list[float], best: float) -> Fit:
    """Solve every penalty fold by fold in float32, warm-started, and the best one on all photos in float64."""
    plain = torch.ones(problem.exact.shape[1] + 1, dtype=torch.float64)

    def fit_one(x: Tensor, y: Tensor, strength: float, start: Tensor, final: bool) -> tuple[Tensor, int]:
        return scipy_solve(x, y, problem.classes, strength, start, plain, Stop(gradient=1e-6 if final else 1e-5))

    return solve_path(problem, problem.exact, strengths, best, fit_one, problem.basis)


def scaled_scipy_fit(problem: Problem, strengths: list[float], best: float) -> Fit:
    """Likewise, with parameters scaled by the covariance's eigenvalues: what ``logistic.solve`` preconditions with."""
    values, vectors = torch.linalg.eigh(problem.exact.T @ problem.exact / len(problem.exact))

    def fit_one(x: Tensor, y: Tensor, strength: float, start: Tensor, final: bool) -> tuple[Tensor, int]:
        p = torch.softmax(x @ start[:, :-1].T.to(x) + start[:, -1].to(x), dim=1)
        curvature = float((p * (1 - p)).mean())
        scale = torch.cat([curvature * values.clamp_min(0) + strength, torch.tensor([curvature])]).rsqrt()
        stop = Stop(gradient=0.0, decrement=TOLERANCE if final else PATH_TOLERANCE)
        return scipy_solve(x, y, problem.classes, strength, start, scale, stop)

    basis = vectors if problem.basis is None else problem.basis @ vectors
    return solve_path(problem, problem.exact @ vectors, strengths, best, fit_one, basis)


def sklearn_fit(problem: Problem, strengths: list[float], best: float) -> Fit:
    """Likewise with scikit-learn's LogisticRegression; of two classes it fits one row, whose penalty counts half."""
    two = problem.classes == 2

    def fit_one(x: Tensor, y: Tensor, strength: float, start: Tensor, final: bool) -> tuple[Tensor, int]:
        model = LogisticRegression(
            C=(2 if two else 1) / (len(x) * strength), solver="lbfgs", tol=1e-6 if final else 1e-5,
            max_iter=MAX_ITERATIONS, warm_start=True,
        )  # fmt: skip
        known = (start[1:] - start[:1] if two else start).numpy()
        model.classes_ = np.arange(problem.classes)
        model.coef_, model.intercept_ = known[:, :-1].astype(x.numpy().dtype), known[:, -1].astype(x.numpy().dtype)
        model.fit(x.numpy(), y.numpy())
        found = torch.from_numpy(np.column_stack([model.coef_, model.intercept_]).astype(np.float64))
        return torch.cat([-found / 2, found / 2]) if two else found, int(model.n_iter_.max())

    return solve_path(problem, problem.exact, strengths, best, fit_one, problem.basis)


def solve_path(
    problem: Problem, exact: Tensor, strengths: list[float], best: float, fit_one: FitOne, basis: Tensor | None
) -> Fit:
    """Return the final classifier of a path of penalties, and the held-out log-loss of each."""
    x, y, classes = exact.float(), problem.labels.repeat_interleave(VIEWS), problem.classes
    held_out = [torch.from_numpy(problem.fold != index) for index in range(FOLDS)]
    fitted = [mask.repeat_interleave(VIEWS) for mask in held_out]
    rows = [(x[mask], y[mask]) for mask in fitted]
    heads = previous = chosen = [torch.zeros(classes, x.shape[1] + 1, dtype=torch.float64)] * FOLDS
    losses, evaluations = [], 0
    for number, strength in enumerate(strengths):
        # the two penalties before tell where the next optimum is, as in ``fit_head``
        starts = [2 * now - before if number > 1 else now for now, before in zip(heads, previous, strict=True)]
        found = [fit_one(*own, strength, start, False) for own, start in zip(rows, starts, strict=True)]
        previous, heads = heads, [head for head, _ in found]
        evaluations += sum(count for _, count in found)
        losses.append(held_out_loss(x[::VIEWS], problem.labels, held_out, heads))
        chosen = heads if strength == best else chosen
    final, count = fit_one(exact, y, best, torch.stack(chosen).mean(dim=0), True)
    weight = final[:, :-1] if basis is None else final[:, :-1] @ basis.T
    weight = weight / problem.scale
    return Fit(Linear(weight, final[:, -1] - weight @ problem.center), losses, evaluations + count)


def held_out_loss(x: Tensor, labels: Tensor, fitted: list[Tensor], heads: list[Tensor]) -> float:
    total = 0.0
    for mask, head in zip(fitted, heads, strict=True):
        z = x[~mask] @ head[:, :-1].T.float() + head[:, -1].float()
        total += float(torch.nn.functional.cross_entropy(z, labels[~mask], reduction="sum"))
    return total / len(labels)


def problem_of(given: Tensor, labels: Tensor, classes: int) -> Problem:
    """Centre and scale the features as ``fit_head`` does."""
    x = given.double().flatten(0, 1)
    center = x.mean(dim=0)
    scale = (x - center).square().sum(dim=1).mean().sqrt()
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    exact, basis = (x - center) / scale, None
    if len(x) < x.shape[1]:
        basis, _ = torch.linalg.qr(exact.T)
        exact = exact @ basis
    return Problem(exact, labels, fold, classes, center, scale, basis)


def objective_of(head: Linear, given: Tensor, labels: Tensor, strength: float) -> float:
    """Return what every arm minimises."""
    x = given.double().flatten(0, 1)
    z = x @ head.weight.T + head.bias
    squares = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    loss = torch.nn.functional.cross_entropy(z, labels.repeat_interleave(VIEWS))
    return float(loss + strength / 2 * squares * head.weight.square().sum())


LIBRARIES: dict[str, Callable[[Problem, list[float], float], Fit]] = {
    "scipy L-BFGS-B": scipy_fit,
    "scikit-learn lbfgs": sklearn_fit,
    "scipy L-BFGS-B, preconditioned": scaled_scipy_fit,
}


def compare(case: Case, rounds: int, clock: Callable[[], float]) -> Iterator[str]:
    """Yield the table's rows: every arm solves once in each round."""
    name, given, labels, classes = case
    seconds: dict[str, list[float]] = {arm: [] for arm in ("own", *LIBRARIES)}
    fits: dict[str, Fit] = {}
    for _ in range(rounds):
        started = clock()
        problem = problem_of(given, labels, classes)
        preparing = clock() - started
        started = clock()
        own = fit_head(given, labels, problem.fold, classes)
        seconds["own"].append(clock() - started)
        strengths = [strength for strength, _ in own.path]
        for arm, solve_by in LIBRARIES.items():
            started = clock()
            fits[arm] = solve_by(problem, strengths, own.l2)
            seconds[arm].append(preparing + clock() - started)
            print(
                f"{name}, {arm}: {seconds[arm][-1]:.2f} s, own {seconds['own'][-1]:.2f} s", file=sys.stderr, flush=True
            )
    lowest = objective_of(own.head, given, labels, own.l2)
    path = f"{strengths[0]:g} to {strengths[-1]:g}, {own.l2:g} chosen"
    yield f"| {name}; {path} | own | {spread(seconds['own'])} | 1 | | | | |"
    for arm, fit in fits.items():
        ratios = [one / other for one, other in zip(seconds[arm], seconds["own"], strict=True)]
        excess = objective_of(fit.head, given, labels, own.l2) / lowest - 1
        plain = given[:, 0]
        apart = (own.head.probabilities(plain) - fit.head.probabilities(plain)).abs().max()
        off = max(abs(one - loss) for one, (_, loss) in zip(fit.losses, own.path, strict=True))
        yield (
            f"| | {arm} | {spread(seconds[arm])} | {spread(ratios)} | {fit.evaluations} "
            f"| {excess:.1e} | {float(apart):.1e} | {off:.1e} |"
        )


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, nargs="?")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cases", nargs="*", default=list(CASES), help="photos x classes")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of the process, where others share it")
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    threadpool_limits(arguments.threads)  # NumPy's and SciPy's
    print(
        f"{arguments.threads} threads, {arguments.clock} clock, {VIEWS} views, {FOLDS} folds; median (smallest to largest)\n"
    )
    print(
        "| features; penalties | solver | seconds | times own | evaluations (scikit-learn: iterations) "
        "| final objective above own, relative | probabilities apart | path's log-losses apart, nats |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    cases = (drawn(*map(int, text.split("x"))) for text in arguments.cases)
    photos = () if arguments.photos is None else (real(arguments.photos, arguments.model),)
    for case in (*cases, *photos):
        for row in compare(case, arguments.rounds, CLOCKS[arguments.clock]):
            print(row, flush=True)


if __name__ == "__main__":
    main()
