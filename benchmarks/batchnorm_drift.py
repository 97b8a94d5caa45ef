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
from unfreeze.exam import Exam, set_exam

from unfreeze.config import make_config
from unfreeze.data.checks import check, readable
from unfreeze.data.loaders import Memory, Renderer
from unfreeze.data.reference import read_reference
from unfreeze.data.sources import read_photos
from unfreeze.data.splits import split
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.models.backbone import Backbone, Head, new_head
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.training.baselines import classic
from unfreeze.training.gather import gather
from unfreeze.training.phase_one import phase_one
from unfreeze.training.phase_two import phase_two
from unfreeze.training.rounds import TrainingData
from unfreeze.training.store import open_store

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
    reference = readable(read_reference(reference_folder, backbone.network.labels))
    learning, test = ([photos.samples[i] for i in side] for side in (splits.learning, splits.test))
    data = TrainingData.of(learning, splits, len(photos.classes))
    truth = np.array([sample.label for sample in test])
    store = open_store(None, 0)
    pretrained, exam = backbone.snapshot(), None
    for bn in ("frozen", "train"):
        recipe = classic(config, backbone, len(learning), data.classes, "train" if bn == "train" else "frozen")
        (augmentation,) = recipe.augmentations
        renderer = Renderer((), backbone.network.preprocessing, augmentation, seed, memory=Memory(2**29)).of(learning)
        exam = exam or set_exam(store, backbone, 0, renderer, test, reference)
        with deterministic(seed):
            sources, at_head = gather(store, backbone, renderer, data, recipe)
            first = phase_one(store, backbone, at_head, data, recipe, seed)
            second = phase_two(backbone, sources, data, recipe, first, seed)
        head = new_head(backbone, data.classes, seed)
        second.final.install(backbone, head, pretrained)
        yield scores("frozen" if bn == "frozen" else "train mode", exam, backbone, head, truth)
    backbone.restore(backbone.with_buffers_of(pretrained))
    assert exam is not None
    yield scores(ARMS[2], exam, backbone, head, truth)


def scores(arm: str, exam: Exam, backbone: Backbone, head: Head, truth: np.ndarray) -> Row:
    """Score the model on the new task, and the original classifier on its backbone."""
    right = exam.answers(backbone, head).argmax(1) == truth
    assert exam.reference is not None
    assert exam.reference_before is not None
    now = exam.reference.look(backbone).ranks
    assert now is not None
    assert exam.reference_before.ranks is not None
    return {
        "arm": arm,
        "accuracy": float(right.mean()),
        "balanced": balanced_accuracy(truth, right.astype(float)),
        "before": float((exam.reference_before.ranks == 0).mean()),
        "original": float((now == 0).mean()),
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
