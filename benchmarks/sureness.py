"""Whether shipped probabilities are as sure as they are right, where few photos were there to learn it from.

    python -m benchmarks.sureness DATA [--sets hymenoptera ...] [--a-class 8 20] [--seeds 0 1 2]

DATA and the drawing of photos are those of peers/sets.py.  Every head is solved once; the temperatures that its folds
suggest, with and without doubt in the few labels (``calibration.LAPLACE_PSEUDO_ERROR``), are tried on the test photos.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from benchmarks.peers.sets import SETS, draw, read_set
from benchmarks.trust import write

import unfreeze
from unfreeze.data.sources import PhotoSet
from unfreeze.evaluation.calibration import LAPLACE_PSEUDO_ERROR, fit_temperature, softmax
from unfreeze.evaluation.metrics import score
from unfreeze.evaluation.resampling import FloatArray, IntArray

SURE = 0.99


def solved(photos: PhotoSet, a_class: int, seed: int, work: Path) -> tuple[FloatArray, IntArray, FloatArray, IntArray]:
    """Return logits and labels of the training photos, each by a head that never saw it, and of the test photos."""
    drawn = draw(photos, a_class, seed)
    labelled = [[(sample.path, drawn.classes[sample.label]) for sample in side] for side in (drawn.train, drawn.test)]
    table = write(work / "photos.csv", *labelled)
    with mock.patch("unfreeze.training.phase_one.fit_temperature", side_effect=fit_temperature) as fit:
        run = unfreeze.train(table, recipe="head-only", seed=seed, out=work / "run")
    with run.folder.predictions.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    stated = np.array([[float(row[f"head_only:{name}"]) for name in run.classes] for row in rows])
    labels = np.array([run.classes.index(row["label"]) for row in rows])
    calibration = run.verdict.scores.calibration
    assert calibration is not None
    logits = np.log(stated.clip(np.finfo(float).tiny)) * calibration.temperature
    return *fit.call_args.args, logits, labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--a-class", type=int, nargs="+", default=[8, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    ways = ("as solved", "without doubt", "with doubt")
    print(f"Of each way: temperature, log-loss, calibration error, mistakes that are more than {SURE:.0%} sure.\n")
    print("| set | a class | seed | mistakes of the folds | mistakes | " + " | ".join(ways) + " |")
    print("| --- " * (5 + len(ways)) + "|")
    losses = []
    for name in arguments.sets:
        photos = read_set(name, arguments.data)
        for a_class in arguments.a_class:
            for seed in arguments.seeds:
                with tempfile.TemporaryDirectory() as work:
                    own, learned, logits, labels = solved(photos, a_class, seed, Path(work))
                with mock.patch("unfreeze.evaluation.calibration.LAPLACE_PSEUDO_ERROR", 0.0):
                    plain = fit_temperature(own, learned)
                cells, found = [], []
                for temperature in (1.0, plain, fit_temperature(own, learned)):
                    stated = softmax(logits, temperature)
                    wrong = stated.argmax(1) != labels
                    scores = score(labels, stated)
                    sure = int((wrong & (stated.max(1) > SURE)).sum())
                    cells.append(f"{temperature:.2f}, {scores.log_loss:.3f}, {scores.ece:.3f}, {sure}")
                    found.append(scores.log_loss)
                losses.append(found)
                missed = f"{(own.argmax(1) != learned).sum()} of {len(learned)}", f"{wrong.sum()} of {len(labels)}"
                print("| " + " | ".join((name, str(a_class), str(seed), *missed, *cells)) + " |", flush=True)
    means = ", ".join(f"{way} {mean:.3f}" for way, mean in zip(ways, np.mean(losses, axis=0), strict=True))
    better = sum(after < before for _, before, after in losses)
    print(
        f"\nmean log-loss: {means}; with doubt (of {LAPLACE_PSEUDO_ERROR:g} photo) better than without "
        f"in {better} of {len(losses)}"
    )


if __name__ == "__main__":
    main()
