"""What training on kept views costs in accuracy: phase 2 on 8 kept views of each photo, against a new view every epoch.

    python -m benchmarks.cached_accuracy DATA [--sets hymenoptera ...] [--seeds 0 1 2 3 4] [--depth blocks.5] [--views 8]

DATA is as for peers/bench.py; real_photos.py draws the photos: 20 a class to train on, and up to 400 to test on.  Both arms
begin with the same solved head and take the same steps under auto's schedule, without validation; they differ in the views
alone, and in that what is kept may be in bf16.  Differences are kept less computed, in points, on the same test photos.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.real_photos import SETS, draw_table

from unfreeze.acceleration.precision import choose_precision
from unfreeze.config import make_config
from unfreeze.data.checks import check
from unfreeze.data.sources import read_photos
from unfreeze.data.splits import split
from unfreeze.inputs import Inputs
from unfreeze.models.backbones import load_backbone
from unfreeze.models.state import ModelState
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.scoring.held_out import open_test_set, predict_held_out
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.activations import Activations, PixelSource
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.phase_one import train_head
from unfreeze.training.recipes import CACHED_VIEWS, recipe_for
from unfreeze.training.schedule import Schedule
from unfreeze.views import PLAIN_ONLY


@dataclass(frozen=True)
class Accuracies:
    """Shares of the test photos that are right."""

    head_only: float
    kept: float
    computed: float


def measure(table: Path, model: str, depth: str, views: int, seed: int) -> Accuracies:
    """Train both arms on one drawing of photos."""
    config = make_config(
        {
            "photos": table,
            "model": model,
            "depth": depth,
            "views": views,
            "symmetry": "flip",
            "tta": False,
            "seed": seed,
        }
    )
    photos = check(read_photos(table))
    splits = split(photos, test_size=config.test_size, folds=5, seed=seed)
    backbone = load_backbone(model, precision=choose_precision("auto", torch.device("cpu")))
    recipe = recipe_for(config, backbone, len(splits.train), len(photos.classes))
    (candidate,) = recipe.candidates
    inputs = Inputs(photos, splits, backbone, None, open_cache(None, 0), seed)
    data, plan = inputs.data, candidate.plan
    (renderer,) = make_renderers(recipe, backbone, inputs.training_samples, seed)
    with deterministic(seed):
        features = compute_features(inputs.cache, backbone, [renderer], data, recipe, seed)
        first = train_head(features, recipe)
    test = open_test_set(inputs, recipe, renderer, PLAIN_ONLY)
    assert test is not None, "there are test photos"
    truth = np.array([sample.label for sample in inputs.test_samples])

    def accuracy(state: ModelState) -> float:
        return float((predict_held_out(backbone, state, test).argmax(axis=1) == truth).mean())

    def tuned(source: Activations, schedule: Schedule) -> float:
        with deterministic(seed):
            state = finetune(
                backbone, first.phase2_init, source, data.labels, plan, schedule,
                phase="phase 2", train=data.train, val=data.train[:0], seed=seed,
            ).state  # fmt: skip
        return accuracy(state)

    return Accuracies(
        head_only=accuracy(first.state),
        kept=tuned(features.final.by_boundary[plan.boundary], candidate.schedule),
        computed=tuned(PixelSource(renderer), replace(candidate.schedule, n_views=None)),
    )


def row(name: str, found: list[Accuracies]) -> str:
    """Return a line of the table: means over seeds, and every seed's difference."""
    means = [
        100 * statistics.mean(values)
        for values in zip(*((f.head_only, f.kept, f.computed) for f in found), strict=True)
    ]
    apart = [100 * (each.kept - each.computed) for each in found]
    seeds = ", ".join(f"{value:+.1f}" for value in apart)
    shown = " | ".join(f"{mean:.1f}" for mean in means)
    return f"| {name} | {shown} | {statistics.mean(apart):+.2f} | {seeds} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--depth", default="blocks.5")
    parser.add_argument("--views", type=int, default=CACHED_VIEWS)
    arguments = parser.parse_args()
    prepare_process()
    found: dict[str, list[Accuracies]] = {}
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.sets:
            for seed in arguments.seeds:
                table = draw_table(arguments.data, name, arguments.a_class, seed, Path(work))
                one = measure(table, arguments.model, arguments.depth, arguments.views, seed)
                print(f"{name}, seed {seed}: {one}", file=sys.stderr, flush=True)
                found.setdefault(name, []).append(one)
    print("| set | head-only | kept views | a new view every epoch | difference | of each seed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, each in found.items():
        print(row(name, each))
    print(row("mean", [one for each in found.values() for one in each]))


if __name__ == "__main__":
    main()
