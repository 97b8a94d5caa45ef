"""The run folder: every file name in it stands here, and every write is whole or not there at all."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from unfreeze.errors import RunError
from unfreeze.files import is_folder

RUNS = Path("runs")
PICTURED = 12  # photos of a kind that the report shows: so many have heatmaps


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The places in one run's folder."""

    root: Path

    @property
    def args(self) -> Path:
        """The whole configuration as run."""
        return self.root / "args.toml"

    @property
    def verdict(self) -> Path:
        """The figures; written last, so that its presence means that the run is complete."""
        return self.root / "verdict.json"

    @property
    def splits(self) -> Path:
        """Which photo was on which side."""
        return self.root / "splits.csv"

    @property
    def predictions(self) -> Path:
        """Every scored photo with both arms' probabilities."""
        return self.root / "predictions.csv"

    @property
    def history(self) -> Path:
        """A row an epoch."""
        return self.root / "history.csv"

    @property
    def checks(self) -> Path:
        """What was left out, and why."""
        return self.root / "checks.csv"

    @property
    def report(self) -> Path:
        """The run for people: one page that needs nothing else."""
        return self.root / "report.html"

    @property
    def plots(self) -> Path:
        """The folder of the report's plots."""
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        """Where TensorBoard finds the run, if it is tracked there."""
        return self.root / "tensorboard"

    def heatmap(self, row: int) -> Path:
        """Of a photo, by its row in ``predictions.csv`` from 0: what both models saw in it, where they differ."""
        return self.root / "heatmaps" / f"{row}.jpg"

    @property
    def explained(self) -> Path:
        """Where ``unfreeze explain`` draws what it isn't told to draw elsewhere."""
        return self.root / "explained"

    @property
    def export(self) -> Path:
        """Where ``unfreeze export`` writes what it isn't told to write elsewhere."""
        return self.root / "export"

    @property
    def rows(self) -> Path:
        """Of a comparison: a row for every arm and seed."""
        return self.root / "compare.csv"

    @property
    def comparison(self) -> Path:
        """Of a comparison: its figures."""
        return self.root / "compare.json"

    @property
    def plot(self) -> Path:
        """Of a comparison: accuracy against forgetting."""
        return self.root / "compare.png"

    @property
    def model(self) -> Path:
        """The folder of the model that ships."""
        return self.root / "model"

    @property
    def weights(self) -> Path:
        """The shipped model's weights."""
        return self.model / "model.safetensors"

    @property
    def model_config(self) -> Path:
        """How to build the shipped model again, in timm's hub format."""
        return self.model / "config.json"

    @property
    def model_card(self) -> Path:
        """The shipped model for people."""
        return self.model / "README.md"


def refuse_used(out: Path | None) -> None:
    """Refuse a place for a run that holds something already; None is a place that will be made.

    Raises:
        RunError: It does, or can't be looked into.
    """
    if out is None:
        return
    try:
        used = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise RunError(
            f"The run folder can't be looked into: {error}", where=out, mend="Take another --out."
        ) from error
    if used:
        raise RunError("This folder is not empty, and a run never overwrites.", where=out, mend="Take another --out.")


def new_run(out: Path | None, kind: str = "train") -> RunFolder:
    """Make a new, empty run folder; ``out``, or the next free of runs/train, runs/train2, ...; likewise for other kinds.

    Raises:
        RunError: ``out`` holds something already, or can't be made.
    """
    try:
        if out is not None:
            refuse_used(out)
            out.mkdir(parents=True, exist_ok=True)
            return RunFolder(out)
        RUNS.mkdir(exist_ok=True)
        number = 1
        while True:
            root = RUNS / f"{kind}{number if number > 1 else ''}"
            try:
                root.mkdir()
            except FileExistsError:
                number += 1
            else:
                if kind == "train":
                    _point_latest(root)
                return RunFolder(root)
    except OSError as error:
        raise RunError(
            f"The run folder can't be made: {error}", where=out or RUNS, mend="Take another --out."
        ) from error


def open_run(root: Path) -> RunFolder:
    """Return a finished run's folder.

    Raises:
        RunError: There is none, or it never finished.
    """
    if not is_folder(root):
        raise RunError(
            "There is no such run folder.", where=root, mend="`unfreeze train` prints the folder that it makes."
        )
    folder = RunFolder(root)
    if not folder.verdict.is_file():
        raise RunError(
            "This run never finished: it has no verdict.json.", where=root, mend="Train again, or name another folder."
        )
    return folder


def _point_latest(root: Path) -> None:
    """Let runs/latest point at ``root``; where links aren't allowed (Windows), do without."""
    link = root.parent / f".latest-{os.getpid()}"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(root.name)
        link.replace(root.parent / "latest")
    except OSError:
        link.unlink(missing_ok=True)
