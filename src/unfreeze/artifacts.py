"""The run folder: every file name in it stands here, and every write is whole or not there at all."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from unfreeze.errors import RunError
from unfreeze.paths import is_folder

RUNS = Path("runs")
PICTURED = 12  # photos of a kind that the report shows: so many have heatmaps
Cell = str | int | float | None
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


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


def refuse_used(out: Path) -> None:
    """Refuse a place for a run that holds something already.

    Raises:
        RunError: It does, or can't be looked into.
    """
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


def write_text(path: Path, text: str) -> None:
    """Write a file so that readers see the old one or the new one, and a crash leaves no half of it."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """See ``write_text``.

    Raises:
        RunError: The disk is full, or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise RunError(
            f"The file can't be written: {error}", where=path, mend="Make room, or take another --out."
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, in a folder that exists.

    Raises:
        OSError: It can't be written; nothing new is left.
    """
    with _replacing(path) as file:
        file.write(content)


@contextmanager
def rewriting(path: Path) -> Iterator[TextIO]:
    """Give a text file to write into piece by piece; it is there, whole, once the block is left without an error.

    Raises:
        RunError: The disk is full, or the folder can't be written: where it can't, nothing in the block is run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            yield text
            text.detach()
    except BrokenPipeError:  # of the standard output, while the file is open
        raise
    except OSError as error:
        raise RunError(f"The file can't be written: {error}", where=path, mend="Make room, or take another.") from error


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
    """Write a CSV file; see ``rows_into``."""
    buffer = io.StringIO()
    write = rows_into(buffer)
    for row in (header, *rows):
        write(row)
    write_text(path, buffer.getvalue())


def rows_into(file: TextIO) -> Callable[[Sequence[Cell]], None]:
    """Return what writes a row of CSV; a cell that a spreadsheet would run as a formula gets a quote in front."""
    writer = csv.writer(file, lineterminator="\n")

    def write(row: Sequence[Cell]) -> None:
        writer.writerow([_inert(cell) for cell in row])

    return write


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read what ``write_table`` wrote: the header and the rows, without the quotes in front; a missing file is empty.

    Raises:
        RunError: It can't be read, or its rows aren't as long as its header.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [[_plain(cell) for cell in row] for row in csv.reader(file)] or [[]]
    except FileNotFoundError:
        return [], []
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise RunError(f"The table can't be read: {error}", where=path) from error
    if any(len(row) != len(header) for row in rows):
        raise RunError("The table is damaged: its rows differ in length.", where=path)
    return header, rows


def _inert(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _plain(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def _point_latest(root: Path) -> None:
    """Let runs/latest point at ``root``; where links aren't allowed (Windows), do without."""
    link = root.parent / f".latest-{os.getpid()}"
    try:
        link.unlink(missing_ok=True)
        link.symlink_to(root.name)
        link.replace(root.parent / "latest")
    except OSError:
        link.unlink(missing_ok=True)
