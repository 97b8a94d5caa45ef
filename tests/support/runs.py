"""Finished runs that are made by hand: a verdict alone, or a whole run folder with its photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tomli_w
from PIL import Image

from unfreeze.evaluation.calibration import Calibration
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import score
from unfreeze.evaluation.resampling import FloatArray
from unfreeze.evaluation.significance import gain
from unfreeze.files import write_table, write_text
from unfreeze.runs.folder import RunFolder
from unfreeze.verdict import Arm, Cost, Data, Model, Point, ScoreSheet, TrialSummary, Verdict

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = ("=cmd", HOSTILE, '$x^2$ & "co"')


def point(alpha: float, accuracy: float, balanced_accuracy: float, log_loss: float, z: float | None = None) -> Point:
    """Return a point between the phases."""
    return Point(alpha=alpha, accuracy=accuracy, balanced_accuracy=balanced_accuracy, log_loss=log_loss, z=z)


def expected(point: Point, gain: float, spread: float, p_worse: float) -> Point:
    """Return the point with an expected gain over phase 1."""
    return point.model_copy(update={"expected": gain, "expected_spread": spread, "p_worse": p_worse})


TRIALS = (
    TrialSummary(
        depth="blocks.6", lr=3e-4, points=(point(0, 0.8, 0.8, 0.5), point(0.5, 0.85, 0.84, 0.45)), seconds=12.3
    ),
    TrialSummary(
        depth="blocks.5",
        lr=3e-4,
        points=(
            point(0, 0.8, 0.8, 0.5, 0),
            expected(point(0.5, 0.9, 0.9, 0.4, 2.31), 0.031, 0.02, 0.06),
            expected(point(1, 0.88, 0.9, 0.41, 1.2), 0.012, 0.03, 0.34),
        ),
        seconds=20,
    ),
)
FORGOTTEN = Forgetting(
    reference="photos", n=500, before=0.9, after=0.8, drop=0.1, drop_ci95=(0.06, 0.14), weights_drop=0.02,
    batch_norm_drop=0.08, top5_before=0.99, top5_after=0.98, top5_drop=0.01, probe_before=0.85, probe_after=0.84,
    probe_drop=0.01, agreement=0.75, agreement_n=60, kl=0.123, cka={"blocks.5": 0.99, "blocks.6": 0.9},
)  # fmt: skip


def verdict(classes: tuple[str, ...]) -> Verdict:
    """Return the verdict of a run on a few photos whose phase 2, from blocks.1 up, doesn't ship."""
    labels = np.arange(12) % len(classes)
    scores = score(labels, np.eye(len(classes))[labels] * 0.8 + 0.2 / len(classes))
    return Verdict(
        shipped="head_only",
        data=Data(n_train=30, n_test=12, classes=classes, left_out=0),
        model=Model(name="tiny_cnn", boundary=3, depth="blocks.1", alpha=0, bn="frozen"),
        scores=ScoreSheet(protocol="test", head_only=scores, shipped=scores),
        cost=Cost(seconds={"total": 1.0}),
    )


def drawn_answers(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]], classes: int, wrong: float, seed: int
) -> FloatArray:
    """Return probabilities that are wrong for a share of the photos, rounded as the table rounds them."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, (len(labels), classes))
    answer = np.where(random.random(len(labels)) < wrong, random.integers(0, classes, len(labels)), labels)
    logits[np.arange(len(labels)), answer] += 4
    powers = np.exp(logits)
    return np.asarray((powers / powers.sum(axis=1, keepdims=True)).round(6))


def finished_run(
    root: Path,
    *,
    classes: Sequence[str] = CLASSES,
    count: int = 60,
    second: bool = True,
    shipped: Arm = "two_phase",
    drawn: bool = True,
    forgotten: Forgetting | None = FORGOTTEN,
    cross_fitted: bool = False,
    named: Sequence[str] = (HOSTILE,),
) -> RunFolder:
    """Make a finished run, and the photos beside it."""
    folder, source = RunFolder(root / "run"), root / "photos"
    labels = np.arange(count) % len(classes)
    arms = {"head_only": drawn_answers(labels, len(classes), 0.5, 1)}
    if second:
        arms["two_phase"] = drawn_answers(labels, len(classes), 0.3, 2)
    scores = {arm: score(labels, probabilities) for arm, probabilities in arms.items()}
    names = [
        f"{label}/{number} {named[number % len(named)].replace('/', '')}.png" for number, label in enumerate(labels)
    ]
    if drawn:
        for number, name in enumerate(names):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng(number).integers(0, 255, (200, 220, 3), np.uint8)
            Image.fromarray(noise).save(source / name)
    verdict = Verdict(
        shipped=shipped,
        data=Data(n_train=200, n_test=0 if cross_fitted else count, classes=tuple(classes), left_out=60),
        model=Model(name="efficientnet_lite0", boundary=5, depth="blocks.5", alpha=0.5 if second else 0, bn="frozen"),
        scores=ScoreSheet(
            protocol="cross_fitted" if cross_fitted else "test",
            head_only=scores["head_only"],
            two_phase=scores.get("two_phase"),
            shipped=replace(scores[shipped], accuracy=0.715) if cross_fitted else scores[shipped],
            calibration=Calibration(0.5, 100, 0.1, 0.02, 0.5, 0.4),
        ),
        gain=gain(labels, arms["head_only"], arms["two_phase"]) if second else None,
        forgetting=forgotten,
        trials=TRIALS if second else (),
        warnings=(f"it went wrong at {HOSTILE}",) if second else (),
        cost=Cost(seconds={"head": 1.0, "total": 2.0}, forecast={"head": 3.0}, peak_rss_mib=512.4),
        versions={"unfreeze": "0.1", "torch": "2.10"},
    )
    write_text(folder.args, tomli_w.dumps({"photos": str(source), "model": "efficientnet_lite0"}))
    write_text(folder.verdict, verdict.to_json())
    write_text(folder.weights, "weights")
    write_table(folder.checks, ["file_name", "reason"], [(f"{HOSTILE}{n}", "is <b>damaged</b>") for n in range(60)])
    write_table(
        folder.splits,
        ["file_name", "label", "group", "split", "fold"],
        [(name, classes[label], None, "test", None) for name, label in zip(names, labels.tolist(), strict=True)],
    )
    write_table(
        folder.predictions,
        ["file_name", "label", *(f"{arm}:{name}" for arm in arms for name in classes)],
        [
            [name, classes[label], *(float(value) for of in arms.values() for value in of[row])]
            for row, (name, label) in enumerate(zip(names, labels.tolist(), strict=True))
        ],
    )
    history = [
        (f"phase 2 from blocks.5, validating {fold} of 2", epoch, 1 / epoch, 0.9 if epoch < 3 else None)
        for fold in (1, 2)
        for epoch in (1, 2, 1, 2, 3)  # trained twice: the first went wrong
    ]
    write_table(folder.history, ["phase", "epoch", "train_loss", "val_loss"], history if second else [])
    return folder
