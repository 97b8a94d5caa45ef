"""The data of a report: a finished run's files, read once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unfreeze.config_file import read_config
from unfreeze.errors import ConfigError, RunError
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.resampling import FloatArray
from unfreeze.files import read_table
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import load
from unfreeze.verdict import Arm, Verdict

T = TypeVar("T")

ARMS: tuple[Arm, ...] = ("head_only", "two_phase")
ARM_NAMES: dict[Arm, str] = {"head_only": "head-only", "two_phase": "two-phase"}


@dataclass(frozen=True)
class Predictions:
    """Predictions of both models for the N scored images of C classes.

    Attributes:
        file_names: Names of the images (N).
        labels: Indices of their classes (N,).
        arms: The probabilities (N, C) of each model.
    """

    file_names: tuple[str, ...]
    labels: NDArray[np.int64]
    arms: Mapping[Arm, FloatArray]


@dataclass(frozen=True)
class Epoch:
    """A row of ``history.csv``; a loss that was not measured is None."""

    phase: str
    epoch: int
    train_loss: float | None
    val_loss: float | None


@dataclass(frozen=True)
class RunData:
    """A finished run's files; fields whose file is missing are empty.

    Attributes:
        name: Name of the folder.
        verdict: The run's verdict.
        predictions: Predictions for every scored image.
        history: The epochs, in the order of training.
        splits: Class and split of every image that was used.
        skipped: Name of every file that was left out, and the reason.
        args: The settings.
        sha256: Digest of the shipped weights.
        heatmaps: JPEG files with both models' heatmaps, by the image's index among the predictions.
        folder: The run's folder.
        photos: Where the images are now; None: where they were.
    """

    name: str
    verdict: Verdict
    predictions: Predictions | None = None
    history: tuple[Epoch, ...] = ()
    splits: tuple[tuple[str, str], ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    args: Mapping[str, object] = field(default_factory=dict)
    sha256: str | None = None
    heatmaps: Mapping[int, bytes] = field(default_factory=dict)
    folder: RunFolder | None = None
    photos: Path | None = None

    @property
    def arm(self) -> str:
        """The name of the model that ships."""
        return ARM_NAMES[self.verdict.shipped]

    @property
    def probabilities(self) -> FloatArray | None:
        """The shipped model's probabilities, shape (N, C)."""
        return self.predictions.arms.get(self.verdict.shipped) if self.predictions is not None else None

    @property
    def scores(self) -> Scores:
        """The shipped model's scores, without the choice between the models, which cross-fitting includes."""
        scores = self.verdict.scores
        own = scores.two_phase if self.verdict.shipped == "two_phase" else scores.head_only
        return own if own is not None else scores.shipped

    @property
    def scored_on(self) -> str:
        """The number and the kind of the images that the model was scored on."""
        if self.verdict.scores.protocol == "test":
            return f"{self.scores.n} test photos"
        return f"{self.scores.n} photos, each answered by a model that never saw it"


def read_run_data(folder: RunFolder, photos: Path | None = None) -> RunData:
    """Read a finished run, whose images are in ``photos`` now (None: where they were).

    Raises:
        RunError: There is no finished run in the folder, or one of its files is damaged.
    """
    verdict = load(folder.root).verdict
    try:
        args = read_config(folder.args) if folder.args.is_file() else {}
    except ConfigError as error:
        raise RunError(error.what, where=folder.args) from error
    predictions = _parse(
        folder.predictions, lambda header, rows: _parse_predictions(header, rows, verdict.data.classes)
    )
    heatmaps = {row: folder.heatmap(row) for row in range(len(predictions.labels) if predictions is not None else 0)}
    return RunData(
        name=folder.root.resolve().name,
        verdict=verdict,
        predictions=predictions,
        history=_parse(folder.history, _parse_history) or (),
        splits=_parse(folder.splits, _pairs("label", "split")) or (),
        skipped=_parse(folder.checks, _pairs("file_name", "reason")) or (),
        args=args,
        sha256=_sha256(folder.weights),
        heatmaps={row: path.read_bytes() for row, path in heatmaps.items() if path.is_file()},
        folder=folder,
        photos=photos,
    )


def _parse(path: Path, parse_table: Callable[[list[str], list[list[str]]], T]) -> T | None:
    """Return a table's content as ``parse_table`` converts its header and rows; None where it has no rows."""
    header, rows = read_table(path)
    if not rows:
        return None
    try:
        return parse_table(header, rows)
    except ValueError as error:
        raise RunError(f"The table is damaged: {error}.", where=path) from error


def _parse_predictions(header: list[str], rows: list[list[str]], classes: tuple[str, ...]) -> Predictions:
    arms = [arm for arm in ARMS if any(column.startswith(f"{arm}:") for column in header)]
    class_index = {name: index for index, name in enumerate(classes)}
    name_column, label_column = header.index("file_name"), header.index("label")
    unknown = {row[label_column] for row in rows} - set(classes)
    if unknown:
        raise ValueError(f"the verdict has no class {min(unknown)!r}")
    columns = {arm: [header.index(f"{arm}:{name}") for name in classes] for arm in arms}
    return Predictions(
        file_names=tuple(row[name_column] for row in rows),
        labels=np.array([class_index[row[label_column]] for row in rows]),
        arms={arm: np.array([[float(row[i]) for i in indices] for row in rows]) for arm, indices in columns.items()},
    )


def _parse_history(header: list[str], rows: list[list[str]]) -> tuple[Epoch, ...]:
    phase, epoch, train, val = (header.index(name) for name in ("phase", "epoch", "train_loss", "val_loss"))
    return tuple(Epoch(row[phase], int(row[epoch]), _number(row[train]), _number(row[val])) for row in rows)


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _pairs(first: str, second: str) -> Callable[[list[str], list[list[str]]], tuple[tuple[str, str], ...]]:
    """Return a parser for two columns of a table."""

    def parse_table(header: list[str], rows: list[list[str]]) -> tuple[tuple[str, str], ...]:
        i, j = header.index(first), header.index(second)
        return tuple((row[i], row[j]) for row in rows)

    return parse_table


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
