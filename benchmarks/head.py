"""The head solved for all folds at once against fold by fold with scipy's L-BFGS: seconds, ratio, and the same optimum.

    python benchmarks/head.py [PHOTOS] [--model efficientnet_lite0] [--rounds 3] [--threads 2] [--cases 80x2 600x30]

Drawn features have a spectrum that falls as 1 / j, as a network's do; PHOTOS is a labelled folder whose real ones are tried
too.  Both sides solve the same strengths and take turns; every figure is a ratio within this run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from unfreeze.data.checks import check
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import read_photos
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import prepare_process
from unfreeze.training.activations import Rendered, features, keep
from unfreeze.training.fit_head import Linear, fit_head
from unfreeze.training.recipes import MILD
from unfreeze.training.store import open_store

VIEWS, DIMENSION, FOLDS = 4, 1280, 5
CASES = ("80x2", "600x30", "2000x6", "2000x30")
GIB = 4.0
Case = tuple[str, Tensor, Tensor, int]


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
    store = open_store(None, GIB)
    photos = check(read_photos(folder), store.known_photos())
    backbone = load_backbone(model)
    samples = photos.samples
    renderer = Renderer(
        tuple(sample.path for sample in samples), backbone.network.preprocessing, MILD, 0,
        tuple(sample.digest for sample in samples),
    )  # fmt: skip
    wanted = dict.fromkeys(range(len(samples)), range(VIEWS))
    at_head = keep(store, backbone, Rendered(renderer), backbone.head_boundary, wanted, "computing features")
    labels = torch.tensor([sample.label for sample in samples])
    found = features(at_head, range(len(samples)), range(VIEWS))
    return f"{folder.name}, {len(samples)} photos, {len(photos.classes)} classes", found, labels, len(photos.classes)


def plain_solve(x: Tensor, y: Tensor, classes: int, strength: float, start: Tensor, tolerance: float) -> Tensor:
    """Return parameters (C, D + 1) at which the largest entry of the gradient is below ``tolerance``, by scipy."""
    targets = torch.nn.functional.one_hot(y, classes).to(x)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        parameters = torch.from_numpy(flat).view(classes, -1).to(x)
        weight, bias = parameters[:, :-1], parameters[:, -1]
        log_probabilities = torch.log_softmax(x @ weight.T + bias, dim=1)
        residual = (log_probabilities.exp() - targets) / len(x)
        gradient = torch.cat([residual.T @ x + strength * weight, residual.sum(dim=0)[:, None]], dim=1)
        loss = -(log_probabilities * targets).sum() / len(x) + strength / 2 * weight.square().sum()
        return float(loss), gradient.double().numpy().ravel()

    options = {"maxiter": 500, "maxcor": 20, "gtol": tolerance, "ftol": 0}
    found = minimize(objective, start.double().numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    return torch.from_numpy(found.x).view(classes, -1)


def plain_fit(
    given: Tensor, labels: Tensor, fold: NDArray[np.int64], classes: int, tried: list[float], best: float
) -> Linear:
    """Solve every strength fold by fold in float32, warm-started, and the best on all photos in float64."""
    x = given.double().flatten(0, 1)
    center = x.mean(dim=0)
    scale = (x - center).square().sum(dim=1).mean().sqrt()
    exact, y = (x - center) / scale, labels.repeat_interleave(VIEWS)
    unit = exact.float()
    rounds = [torch.from_numpy(fold != index).repeat_interleave(VIEWS) for index in range(FOLDS)]
    heads = [torch.zeros(classes, x.shape[1] + 1)] * FOLDS
    chosen = heads
    for strength in tried:
        heads = [
            plain_solve(unit[fitted], y[fitted], classes, strength, head, 1e-5)
            for fitted, head in zip(rounds, heads, strict=True)
        ]
        chosen = heads if strength == best else chosen
    final = plain_solve(exact, y, classes, best, torch.stack(chosen).mean(dim=0), 1e-6)
    weight = final[:, :-1] / scale
    return Linear(weight, final[:, -1] - weight @ center)


def objective_of(head: Linear, given: Tensor, labels: Tensor, strength: float) -> float:
    """Return what both minimise."""
    x = given.double().flatten(0, 1)
    z = x @ head.weight.T + head.bias
    squares = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    loss = torch.nn.functional.cross_entropy(z, labels.repeat_interleave(VIEWS))
    return float(loss + strength / 2 * squares * head.weight.square().sum())


def compare(case: Case, rounds: int) -> str:
    name, given, labels, classes = case
    fold = np.random.default_rng(0).permutation(len(labels)) % FOLDS
    before: list[float] = []
    after: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        fit = fit_head(given, labels, fold, classes)
        after.append(time.perf_counter() - started)
        started = time.perf_counter()
        plain = plain_fit(given, labels, fold, classes, [strength for strength, _ in fit.path], fit.strength)
        before.append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(before, after, strict=True)]
    ours, theirs = (objective_of(head, given, labels, fit.strength) for head in (fit.head, plain))
    apart = (fit.head.probabilities(given[:, 0]) - plain.probabilities(given[:, 0])).abs().max()
    return (
        f"| {name} | {fit.strength:g} | {spread(before)} | {spread(after)} | {spread(ratios)} "
        f"| {ours - theirs:.1e} | {float(apart):.1e} |"
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
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads, {VIEWS} views, {FOLDS} folds; median (smallest to largest)\n")
    print(
        "| features | strength | fold by fold, s | at once, s | ratio | objective less theirs | probabilities apart |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for text in arguments.cases:
        count, classes = (int(part) for part in text.split("x"))
        print(compare(drawn(count, classes), arguments.rounds), flush=True)
    if arguments.photos is not None:
        print(compare(real(arguments.photos, arguments.model), arguments.rounds), flush=True)


if __name__ == "__main__":
    main()
