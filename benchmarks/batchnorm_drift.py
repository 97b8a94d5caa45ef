"""What BatchNorm's mode alone does to the textbook recipe: new task and original task, the same run twice.

    python -m benchmarks.batchnorm_drift DATA [--sets hymenoptera ...] [--seeds 0 1 2] [--a-class 20] [--csv FILE]

Adam 1e-3 on the head for 5 epochs, then Adam 1e-5 on everything for 5, batches of 32, float32; the same photos, views,
order and first head in both arms, which differ in the mode of BatchNorm and in nothing else.  The third row is the arm in
train mode with its trained weights and the ORIGINAL statistics: what it gets back was lost by moved statistics, the rest by
weights that were trained on batches' statistics.  DATA is as for real_photos.py, which draws the photos.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from benchmarks.real_photos import draw_table, some_of, spread

from unfreeze.compare.baselines import classic
from unfreeze.config import make_config
from unfreeze.data.checks import check, drop_unreadable
from unfreeze.data.reference import read_reference
from unfreeze.data.rendering.renderer import DecodedImageCache, Renderer
from unfreeze.data.sources import read_photos
from unfreeze.data.splits import split
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.inputs import Inputs
from unfreeze.models.backbones import load_backbone
from unfreeze.models.state import ModelState
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.scoring.forgetting import ForgettingMeter, forgetting_meter
from unfreeze.scoring.held_out import EvaluationSet, open_test_set, predict_held_out
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune
from unfreeze.training.recipe import Recipe
from unfreeze.views import PLAIN_ONLY

SETS = ("hymenoptera", "bccd_cells", "magnetic_tile")
ARMS = ("frozen", "train mode", "train mode, original statistics put back")
FIELDS = ("set", "seed", "arm", "accuracy", "balanced", "before", "original")
EPOCHS = 5
Row = dict[str, str | int | float]


def measure(table: Path, reference_folder: Path, seed: int) -> Iterator[Row]:
    """Train both arms on one drawing of photos; yield a row for each, and one for the statistics put back."""
    config = make_config(
        {"photos": table, "recipe": "classic", "head_epochs": EPOCHS, "epochs": EPOCHS, "seed": seed, "test_size": 0.5}
    )
    photos = check(read_photos(table))
    splits = split(photos, test_size=config.test_size, folds=5, seed=seed)
    backbone = load_backbone("efficientnet_lite0")
    reference = drop_unreadable(read_reference(reference_folder, backbone.network.labels))
    inputs = Inputs(photos, splits, backbone, reference, open_cache(None, 0), seed)
    data, evaluation = inputs.data, None
    for bn in ("frozen", "train"):
        recipe = classic(config, backbone, len(data.train), data.n_classes, "train" if bn == "train" else "frozen")
        (augmentation,) = recipe.augmentations
        plain = Renderer((), backbone.network.preprocessing, augmentation, seed, image_cache=DecodedImageCache(2**29))
        renderer = plain.for_samples(inputs.training_samples)
        evaluation = evaluation or set_up(inputs, recipe, renderer)
        with deterministic(seed):
            features = compute_features(inputs.cache, backbone, [renderer], data, recipe, seed)
            state = fine_tune(features, train_head(features, recipe), recipe).state
        yield scores("frozen" if bn == "frozen" else "train mode", inputs, evaluation, state)
    assert evaluation is not None
    yield scores(ARMS[2], inputs, evaluation, state.with_buffers_of(backbone))


Evaluation = tuple[EvaluationSet, ForgettingMeter]


def set_up(inputs: Inputs, recipe: Recipe, renderer: Renderer) -> Evaluation:
    """Compute what both arms are scored on."""
    test = open_test_set(inputs, recipe, renderer, PLAIN_ONLY)
    assert test is not None, "there are test photos"
    return test, forgetting_meter(inputs, recipe, renderer, test)


def scores(arm: str, inputs: Inputs, evaluation: Evaluation, state: ModelState) -> Row:
    """Score a model on the new task, and the original classifier on its backbone."""
    test, meter = evaluation
    truth = np.array([sample.label for sample in inputs.test_samples])
    right = predict_held_out(inputs.backbone, state, test).argmax(1) == truth
    forgotten = meter.measure(state, [], inputs.seed, diagnose=False)
    assert forgotten is not None, "there are reference photos"
    assert forgotten.before is not None
    assert forgotten.after is not None
    return {
        "arm": arm,
        "accuracy": float(right.mean()),
        "balanced": balanced_accuracy(truth, right.astype(float)),
        "before": forgotten.before,
        "original": forgotten.after,
    }


def summarise(rows: list[Row]) -> str:
    """Return the table: means over seeds, with the smallest and largest."""
    lines = [
        "| set | BatchNorm | accuracy | balanced | original classifier before | after |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in [*dict.fromkeys(str(row["set"]) for row in rows), "mean"]:
        for arm in ARMS:
            own = [row for row in rows if row["arm"] == arm and name in (row["set"], "mean")]
            cells = " | ".join(spread([100 * float(row[key]) for row in own]) for key in FIELDS[3:])
            lines.append(f"| {name} | {arm} | {cells} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--csv", type=Path, default=Path("batchnorm_drift.csv"))
    arguments = parser.parse_args()
    prepare_process()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work, arguments.csv.open("w", newline="", encoding="utf-8") as file:
        results = csv.DictWriter(file, FIELDS)
        results.writeheader()
        reference = some_of(arguments.data / "imagenet_train1k", Path(work) / "reference")
        for seed in arguments.seeds:
            for name in arguments.sets:
                table = draw_table(arguments.data, name, arguments.a_class, seed, Path(work))
                for found in measure(table, reference, seed):
                    row: Row = {"set": name, "seed": seed} | found
                    print(row, file=sys.stderr, flush=True)
                    results.writerow(row)
                    file.flush()
                    rows.append(row)
    print(summarise(rows))


if __name__ == "__main__":
    main()
