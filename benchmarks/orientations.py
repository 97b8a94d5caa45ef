"""What it is worth to show a photo mirrored or turned, too, and to average what the head says of it.

    python -m benchmarks.orientations DATA [--sets hymenoptera ...] [--seeds 0] [--a-class 20]

DATA is as for real_photos.py, which draws the photos.  Head-only, trained on mirrored views or on turned ones, on its test
photos; log-losses are at the temperature that suits the answers.  "Taken" is what a run takes, by the folds.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.real_photos import SETS, draw_table
from numpy.typing import NDArray

from unfreeze.acceleration.precision import choose_precision
from unfreeze.config import make_config
from unfreeze.data.checks import check
from unfreeze.data.sources import read_photos
from unfreeze.data.splits import split
from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.inputs import Inputs
from unfreeze.models.backbones import load_backbone
from unfreeze.predict import Logits
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.scoring.held_out import open_test_set, predict_held_out
from unfreeze.training.augmentation import make_renderers, select_augmentation
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.recipes import recipe_for
from unfreeze.views import PLAIN_ONLY


def measure(table: Path, seed: int, name: str) -> None:
    """Print a row for each way to turn training views, asked about the plain view alone and in all orientations."""
    config = make_config({"photos": table, "recipe": "head-only", "seed": seed})
    photos = check(read_photos(table))
    splits = split(photos, test_size=config.test_size, folds=5, seed=seed)
    backbone = load_backbone(config.model, precision=choose_precision("auto", torch.device("cpu")))
    inputs = Inputs(photos, splits, backbone, None, open_cache(None, 0), seed)
    recipe = recipe_for(config, backbone, len(splits.train), len(photos.classes))
    truth = np.array([sample.label for sample in inputs.test_samples])
    renderers = make_renderers(recipe, backbone, inputs.training_samples, seed)
    with deterministic(seed):
        selected = select_augmentation(inputs.cache, backbone, renderers, inputs.data, recipe).final
    for renderer in renderers:
        shown_all = recipe.evaluation_views(renderer)
        with deterministic(seed):
            features = compute_features(inputs.cache, backbone, [renderer], inputs.data, recipe, seed)
            first = train_head(features, recipe)
        test = open_test_set(inputs, recipe, renderer, shown_all)
        assert test is not None, "there are test photos"
        assert renderer.augmentation is not None
        for shown in (PLAIN_ONLY, shown_all):
            said = predict_held_out(backbone, first.state, test, shown)
            taken = "taken" if shown == first.views and renderer is selected else ""
            cells = [name, seed, renderer.augmentation.symmetry, len(shown), _scores(said, truth), taken]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def _scores(said: Logits, truth: NDArray[np.int64]) -> str:
    right = (said.argmax(axis=1) == truth).astype(float)
    balanced = balanced_accuracy(truth, right)
    return f"{right.mean() * 100:.1f} | {balanced * 100:.1f} | {calibrated_nll(said, truth).mean():.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders of DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--a-class", type=int, default=20)
    arguments = parser.parse_args()
    prepare_process()
    print("| set | seed | views | orientations | accuracy | balanced | log-loss | |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.sets:
            for seed in arguments.seeds:
                measure(draw_table(arguments.data, name, arguments.a_class, seed, Path(work)), seed, name)


if __name__ == "__main__":
    main()
