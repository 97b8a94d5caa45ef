"""What a report is made from: a finished run's files, read once."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unfreeze.errors import RunError
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.resampling import FloatArray
from unfreeze.files import read_table
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import load
from unfreeze.verdict import Arm, Verdict

T = TypeVar("T")

ARMS: tuple[Arm, ...] = ("head_only", "two_phase")
NAMES: dict[Arm, str] = {"head_only": "head-only", "two_phase": "two-phase"}


@dataclass(frozen=True)
class Predictions:
    """What both models said of the scored photos.

    Attributes:
        file_names: Of the photos (N).
        labels: Their classes (N,).
        arms: The probabilities (N, C) of each model that answered.
    """

    file_names: tuple[str, ...]
    labels: NDArray[np.int64]
    arms: Mapping[Arm, FloatArray]


@dataclass(frozen=True)
class Epoch:
    """A row of ``history.csv``; a loss is absent where none was measured."""

    phase: str
    epoch: int
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True)
class RunData:
    """A finished run's files; what is no longer in the folder is empty.

    Attributes:
        name: The folder's.
        verdict: The figures.
        predictions: Of every scored photo.
        history: The epochs, in the order of training.
        sides: Class and side of every photo that was used.
        left_out: Files that weren't, and why.
        args: The configuration.
        sha256: Of the shipped weights.
        heatmaps: What both models saw in photos where they differ, JPEG, by the photo's place among the predictions.
    """

    name: str
    verdict: Verdict
    predictions: Predictions | None = None
    history: tuple[Epoch, ...] = ()
    sides: tuple[tuple[str, str], ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    args: Mapping[str, object] = field(default_factory=dict)
    sha256: str | None = None
    heatmaps: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def arm(self) -> str:
        """The name of the model that ships."""
        return NAMES[self.verdict.shipped]

    @property
    def answers(self) -> FloatArray | None:
        """What it said, shape (N, C)."""
        return self.predictions.arms.get(self.verdict.shipped) if self.predictions is not None else None

    @property
    def scores(self) -> Scores:
        """Its scores, without the choice between the models that cross-fitting counts in."""
        scores = self.verdict.scores
        chosen = scores.two_phase if self.verdict.shipped == "two_phase" else scores.head_only
        return chosen if chosen is not None else scores.shipped

    @property
    def seen(self) -> str:
        """What it was scored on."""
        if self.verdict.scores.protocol == "test":
            return f"{self.scores.n} test photos"
        return f"{self.scores.n} photos, each answered by a model that never saw it"


def read_run_data(folder: RunFolder) -> RunData:
    """Read a finished run.

    Raises:
        RunError: There is none, or one of its files is damaged.
    """
    verdict = load(folder.root).verdict
    try:
        args = tomllib.loads(folder.args.read_text("utf-8")) if folder.args.is_file() else {}
    except (OSError, ValueError) as error:
        raise RunError(f"The configuration can't be read: {error}", where=folder.args) from error
    predictions = _sound(folder.predictions, lambda header, rows: _predictions(header, rows, verdict.data.classes))
    pictures = {row: folder.heatmap(row) for row in range(len(predictions.labels) if predictions is not None else 0)}
    return RunData(
        name=folder.root.resolve().name,
        verdict=verdict,
        predictions=predictions,
        history=_sound(folder.history, _history) or (),
        sides=_sound(folder.splits, _pairs("label", "split")) or (),
        left_out=_sound(folder.checks, _pairs("file_name", "reason")) or (),
        args=args,
        sha256=_digest(folder.weights),
        heatmaps={row: path.read_bytes() for row, path in pictures.items() if path.is_file()},
    )


def _sound(path: Path, made: Callable[[list[str], list[list[str]]], T]) -> T | None:
    """Return what is made of a table's header and rows, or None where it has none."""
    header, rows = read_table(path)
    if not rows:
        return None
    try:
        return made(header, rows)
    except ValueError as error:
        raise RunError(f"The table is damaged: {error}.", where=path) from error


def _predictions(header: list[str], rows: list[list[str]], classes: tuple[str, ...]) -> Predictions:
    arms = [arm for arm in ARMS if any(column.startswith(f"{arm}:") for column in header)]
    number = {name: label for label, name in enumerate(classes)}
    names, label = header.index("file_name"), header.index("label")
    strangers = {row[label] for row in rows} - set(classes)
    if strangers:
        raise ValueError(f"the verdict knows no class {min(strangers)!r}")
    places = {arm: [header.index(f"{arm}:{name}") for name in classes] for arm in arms}
    return Predictions(
        file_names=tuple(row[names] for row in rows),
        labels=np.array([number[row[label]] for row in rows]),
        arms={arm: np.array([[float(row[place]) for place in of] for row in rows]) for arm, of in places.items()},
    )


def _history(header: list[str], rows: list[list[str]]) -> tuple[Epoch, ...]:
    phase, epoch, train, val = (header.index(name) for name in ("phase", "epoch", "train_loss", "val_loss"))
    return tuple(Epoch(row[phase], int(row[epoch]), _number(row[train]), _number(row[val])) for row in rows)


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _pairs(first: str, second: str) -> Callable[[list[str], list[list[str]]], tuple[tuple[str, str], ...]]:
    def made(header: list[str], rows: list[list[str]]) -> tuple[tuple[str, str], ...]:
        left, right = header.index(first), header.index(second)
        return tuple((row[left], row[right]) for row in rows)

    return made


def _digest(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
