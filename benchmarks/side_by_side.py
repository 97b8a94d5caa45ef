"""Trainings of phase 2 side by side, against one after the other on all threads.

    python benchmarks/side_by_side.py [--model efficientnet_lite0] [--depth blocks.5] [--photos 40] [--epochs 10]

Random activations of as many photos, in six trainings (five folds and all photos); the arms take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from unfreeze.acceleration.precision import choose_precision
from unfreeze.config import TrainConfig
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbones import load_backbone
from unfreeze.models.state import ModelState, random_head
from unfreeze.planning.timed_activations import random_activations
from unfreeze.runtime import prepare_process
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import FoldActivations, TrainingFeatures
from unfreeze.training.finetune.parallel import ProgressFn, run_parallel
from unfreeze.training.folds import Folds, TrainingSet
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.recipes import recipe_for
from unfreeze.training.search import SearchContext
from unfreeze.views import PLAIN_ONLY

CLASSES, FOLDS = 2, 5


def head_only(start: ModelState, n_folds: int) -> HeadOnlyResult:
    """Return a phase 1 whose models are all the same."""
    states = (start,) * n_folds
    return HeadOnlyResult(
        state=start, views=PLAIN_ONLY, fold_logits=(), temperature=1.0, n_calibration=0, fold_states=states,
        fold_views=(PLAIN_ONLY,) * n_folds, phase2_init=start, fold_inits=states, history=(),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--depth", default="blocks.5")
    parser.add_argument("--photos", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    prepare_process()
    backbone = load_backbone(arguments.model, precision=choose_precision("auto", torch.device("cpu")))
    count = arguments.photos
    numbers = np.arange(count)
    data = TrainingSet(
        torch.from_numpy(numbers % CLASSES), numbers, numbers[:0], numbers // CLASSES % FOLDS, CLASSES, numbers
    )
    config = TrainConfig(photos=Path(), depth=arguments.depth, epochs=arguments.epochs)
    recipe = recipe_for(config, backbone, count, CLASSES)
    (candidate,) = recipe.candidates
    renderer = Renderer((), backbone.network.preprocessing)
    source = random_activations(backbone, renderer, candidate.boundary)
    start = random_head(backbone, CLASSES, 0)
    folds = Folds.of(data, recipe.min_validation_images)
    trainings, activations = folds.trainings, FoldActivations(renderer, {candidate.boundary: source}, source)
    features = TrainingFeatures(open_cache(None, 0), backbone, data, folds, activations, (activations,) * FOLDS, seed=0)
    bench = SearchContext(features, head_only(start, len(folds.validation)), backbone.snapshot(candidate.boundary), ())

    def train(bench: SearchContext, number: int, follow: ProgressFn) -> None:
        bench.train(candidate, start, trainings[number], "benchmark", follow)

    together = min(len(trainings), torch.get_num_threads())
    seconds: dict[int, list[float]] = {1: [], together: []}
    for _ in range(arguments.rounds):
        for workers, found in seconds.items():
            started = time.perf_counter()
            list(run_parallel(bench.replicas(workers), range(len(trainings)), train))
            found.append(time.perf_counter() - started)
    ratios = [one / other for one, other in zip(seconds[together], seconds[1], strict=True)]
    print(f"{count} photos, {len(trainings)} trainings of {candidate.schedule.epochs} epochs")
    print(f"{torch.get_num_threads()} threads\n")
    print(
        "| trained from | one after the other, s | so many side by side | s | ratio |\n| --- | --- | --- | --- | --- |"
    )
    cells = spread(seconds[1]), str(together), spread(seconds[together]), spread(ratios)
    print(f"| {arguments.depth} | {' | '.join(cells)} |")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
