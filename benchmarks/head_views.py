"""How many views of a photo a solved head should learn from, and whether its mirrored or turned orientations are as good.

    python -m benchmarks.head_views DATA [--sets hymenoptera ...] [--seeds 7 8] [--a-class 20]

DATA is as for real_photos.py, which draws the photos.  Test photos are asked about in all orientations that mean the same:
aerial photos are turned, all others mirrored.  Balanced accuracy, and log-loss at the temperature that suits the answers;
means over the seeds.
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
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.activations import PixelSource, compute_or_load, pooled_features
from unfreeze.training.features.cache import open_cache
from unfreeze.training.folds import TrainingSet
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.recipes import recipe_for
from unfreeze.views import EvaluationView

TURNED = ("aid150",)
WAYS = (
    "plain",
    "plain, orientations",
    "2",
    "2, orientations",
    "3",
    "4",
    "4, orientations",
)  # views that are learned from


def measure(table: Path, seed: int, turned: bool) -> NDArray[np.float64]:
    """Return balanced accuracy and log-loss of each way, shape (ways, 2)."""
    symmetry = "rotate" if turned else "flip"
    config = make_config({"photos": table, "recipe": "head-only", "seed": seed, "symmetry": symmetry})
    photos = check(read_photos(table))
    splits = split(photos, test_size=config.test_size, folds=5, seed=seed)
    backbone = load_backbone(config.model, precision=choose_precision("auto", torch.device("cpu")))
    recipe = recipe_for(config, backbone, len(splits.train), len(photos.classes))
    learning, test = ([photos.samples[i] for i in side] for side in (splits.train_and_val, splits.test))
    data, truth = TrainingSet.of(learning, splits, len(photos.classes)), np.array([sample.label for sample in test])
    train, labels = data.train.tolist(), data.labels[torch.from_numpy(data.train)]
    (renderer,) = make_renderers(recipe, backbone, learning, seed)
    orientations, store = tuple(map(EvaluationView, renderer.tta_orientations)), open_cache(None, 0)
    found = []
    with deterministic(seed):
        wanted = data.requested_views(4, orientations)
        learned = compute_or_load(
            store, backbone, PixelSource(renderer), backbone.head_boundary, wanted, "reading training photos"
        )
        asked = dict.fromkeys(range(len(test)), orientations)
        tested = compute_or_load(
            store,
            backbone,
            PixelSource(renderer.for_samples(test)),
            backbone.head_boundary,
            asked,
            "reading test photos",
        )
        shown = pooled_features(tested, range(len(test)), orientations).mean(dim=1)
        for way in WAYS:
            first = way.removesuffix(", orientations")
            augmented = range(1 if first == "plain" else int(first))
            views = (*augmented, *orientations[1:]) if way != first else tuple(augmented)
            fit = fit_head(pooled_features(learned, train, views), labels, data.fold, data.n_classes)
            said = fit.head.logits(shown).numpy()
            right = (said.argmax(axis=1) == truth).astype(float)
            found.append((balanced_accuracy(truth, right) * 100, calibrated_nll(said, truth).mean()))
    return np.array(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="folders of DATA")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--a-class", type=int, default=20)
    arguments = parser.parse_args()
    prepare_process()
    print("| set | a class | seeds | " + " | ".join(WAYS) + " |")
    print("| --- | --- | --- |" + " --- |" * len(WAYS))
    with tempfile.TemporaryDirectory() as work:
        for name in arguments.sets:
            tables = (draw_table(arguments.data, name, arguments.a_class, seed, Path(work)) for seed in arguments.seeds)
            found = [measure(table, seed, name in TURNED) for table, seed in zip(tables, arguments.seeds, strict=True)]
            cells = [f"{balanced:.1f}, {loss:.3f}" for balanced, loss in np.mean(found, axis=0)]
            print(f"| {name} | {arguments.a_class} | {len(found)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
