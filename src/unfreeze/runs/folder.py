"""The run folder: the paths of all its files, and how a folder is made and opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from unfreeze.errors import ArgumentError, RunError
from unfreeze.files import exists, is_folder
from unfreeze.paths import user_path
from unfreeze.scratch import prepare_folders

RUNS = Path("runs")
PICTURED = 12  # images of each kind (fixed, broken) that the report shows with heatmaps


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths in a run folder."""

    root: Path

    @property
    def args(self) -> Path:
        """The settings of the run."""
        return self.root / "args.toml"

    @property
    def verdict(self) -> Path:
        """The verdict; written last, so that its presence means that the run is complete."""
        return self.root / "verdict.json"

    @property
    def splits(self) -> Path:
        """The split and the fold of every image."""
        return self.root / "splits.csv"

    @property
    def photos(self) -> Path:
        """The SHA-256 and the fingerprint of every image, by which it is found again."""
        return self.root / "photos.csv"

    @property
    def predictions(self) -> Path:
        """Both models' probabilities for every scored image."""
        return self.root / "predictions.csv"

    @property
    def history(self) -> Path:
        """The training history, a row an epoch."""
        return self.root / "history.csv"

    @property
    def checks(self) -> Path:
        """The files that were left out, with reasons."""
        return self.root / "checks.csv"

    @property
    def report(self) -> Path:
        """The report: one page without external files."""
        return self.root / "report.html"

    @property
    def plots(self) -> Path:
        """The folder of the report's plots."""
        return self.root / "plots"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's events, if the run is tracked there."""
        return self.root / "tensorboard"

    def heatmap(self, row: int) -> Path:
        """The picture with both models' heatmaps of an image, by its row in ``predictions.csv`` from 0."""
        return self.root / "heatmaps" / f"{row}.jpg"

    @property
    def explained(self) -> Path:
        """The default folder of ``unfreeze explain``."""
        return self.root / "explained"

    @property
    def export(self) -> Path:
        """The default folder of ``unfreeze export``."""
        return self.root / "export"

    @property
    def rows(self) -> Path:
        """The table of a comparison: a row for every arm and seed."""
        return self.root / "compare.csv"

    @property
    def comparison(self) -> Path:
        """The figures of a comparison."""
        return self.root / "compare.json"

    @property
    def plot(self) -> Path:
        """The plot of a comparison: accuracy against forgetting."""
        return self.root / "compare.png"

    @property
    def model(self) -> Path:
        """The folder of the shipped model."""
        return self.root / "model"

    @property
    def weights(self) -> Path:
        """The shipped model's weights."""
        return self.model / "model.safetensors"

    @property
    def model_config(self) -> Path:
        """The architecture of the shipped model, in timm's hub format."""
        return self.model / "config.json"

    @property
    def model_code(self) -> Path:
        """The shipped model in plain torch; only where its head reads several stages."""
        return self.model / "modeling.py"

    @property
    def model_card(self) -> Path:
        """The model card of the shipped model."""
        return self.model / "README.md"


def refuse_used(out: Path | None) -> None:
    """Refuse a run folder that isn't empty; None is a folder that will be made.

    Raises:
        RunError: ``out`` isn't empty, or can't be read.
    """
    if out is None:
        return
    try:
        used = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise RunError(f"The run folder can't be read: {error}", where=out, mend="Take another --out.") from error
    if used:
        raise RunError("This folder is not empty, and a run never overwrites.", where=out, mend="Take another --out.")


def new_run(out: Path | None, kind: str = "train") -> RunFolder:
    """Make a new, empty run folder: ``out``, or the next free of runs/train, runs/train2, ... (runs/KIND, ...).

    Raises:
        RunError: ``out`` isn't empty, or can't be made.
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


def open_run(root: str | Path) -> RunFolder:
    """Return a finished run's folder.

    Raises:
        ArgumentError: ``root`` is no path.
        RunError: There is no such folder, or the run never finished.
    """
    if not isinstance(root, str | os.PathLike):
        raise ArgumentError(
            f"folder is no path: {'None' if root is None else type(root).__name__}.",
            where="folder",
            mend="Give the path of a run's folder, such as runs/train.",
        )
    root = user_path(root)
    above = next((folder for folder in root.parents[:2] if exists(folder / "verdict.json")), None)
    if above is not None and not exists(root / "verdict.json") and exists(root):
        raise RunError("This is a part of a run.", where=root, mend=f"Name {above}.")
    if not is_folder(root):
        raise RunError(
            "There is no such run folder.", where=root, mend="`unfreeze train` prints the folder that it makes."
        )
    folder = RunFolder(root)
    if not folder.verdict.is_file():
        raise RunError(
            "This run never finished: it has no verdict.json.", where=root, mend="Train again, or name another folder."
        )
    prepare_folders(root)
    return folder


def _point_latest(root: Path) -> None:
    """Let runs/latest point at ``root``, except where links aren't allowed (Windows)."""
    link = root.parent / f".latest-{os.getpid()}"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(root.name)
        link.replace(root.parent / "latest")
    except OSError:
        link.unlink(missing_ok=True)
