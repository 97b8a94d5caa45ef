"""Files: every write is whole or not there at all, and a path that can't be looked into counts as missing."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from unfreeze.errors import RunError

Cell = str | int | float | None
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of one


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


def exists(path: str | Path) -> bool:
    """Return whether anything is there; False too where it can't be looked up."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Return whether the path is a folder; likewise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether the path is a file; likewise."""
    return os.path.isfile(path)  # noqa: PTH113
