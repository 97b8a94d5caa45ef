"""Files: a write is complete or leaves no file, and a path that can't be accessed counts as missing."""

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
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins so as a formula


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old or the new content, even after a crash.

    Raises:
        RunError: The disk is full, or the folder can't be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, as ``write_text`` does.

    Raises:
        RunError: The disk is full, or the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    except OSError as error:
        raise RunError(
            f"The file can't be written: {error.strerror or error}.",
            where=path,
            mend="Make room, or take another --out.",
        ) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file atomically, in a folder that exists.

    Raises:
        OSError: It can't be written; the old file, if any, is unchanged.
    """
    with _replacing(path) as file:
        file.write(content)


@contextmanager
def rewriting(path: Path) -> Iterator[TextIO]:
    """Open a text file for writing in a block; the file appears when the block ends without an error.

    Raises:
        RunError: The disk is full, or the folder can't be written; in the latter case the block is not run.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _replacing(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="")
            yield text
            text.detach()
    except BrokenPipeError:  # raised by writing to stdout within the block
        raise
    except OSError as error:
        raise RunError(
            f"The file can't be written: {error.strerror or error}.", where=path, mend="Make room, or take another."
        ) from error


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
    """Write a CSV file atomically; cells are quoted as ``rows_into`` does."""
    buffer = io.StringIO()
    write_row = rows_into(buffer)
    for row in (header, *rows):
        write_row(row)
    write_text(path, buffer.getvalue())


def rows_into(file: TextIO) -> Callable[[Sequence[Cell]], None]:
    """Return a function that writes one CSV row; a cell that looks like a formula gets an apostrophe in front."""
    writer = csv.writer(file, lineterminator="\n")

    def write_row(row: Sequence[Cell]) -> None:
        writer.writerow([_escape(cell) for cell in row])

    return write_row


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read the header and the rows of a file by ``write_table``, apostrophes removed; a missing file is empty.

    Raises:
        RunError: It can't be read, or its rows aren't as long as its header.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = [[_unescape(cell) for cell in row] for row in csv.reader(file)] or [[]]
    except FileNotFoundError:
        return [], []
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise RunError(f"The table can't be read: {error}", where=path) from error
    if any(len(row) != len(header) for row in rows):
        raise RunError("The table is damaged: its rows differ in length.", where=path)
    return header, rows


def _escape(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA_PREFIXES) else cell


def _unescape(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA_PREFIXES) else cell


def exists(path: str | Path) -> bool:
    """Return whether the path exists; False if it can't be accessed."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Return whether the path is a folder; False if it can't be accessed."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether the path is a file; False if it can't be accessed."""
    return os.path.isfile(path)  # noqa: PTH113
