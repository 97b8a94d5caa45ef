"""Rows of text from CSV, TSV and Parquet tables of images."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unfreeze.data.folders import quote_list
from unfreeze.errors import MissingExtraError, PhotosError

COLUMNS = ("file_name", "label", "group", "split")
_SYNONYMS = {
    "file_name": ("filename", "file", "image", "path", "filepath", "image_path", "image_name", "photo", "name", "id"),
    "label": ("labels", "class", "category", "target", "species", "diagnosis", "class_name", "y"),
}
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def read_cells(table: Path) -> Iterator[dict[str, str]]:
    """Yield each row of a CSV, TSV or Parquet table: cells as text by lower-case column name.

    Text is never interpreted: labels such as no, 001 or NA stay as written.

    Raises:
        PhotosError: The table can't be read, has no column file_name or label or has one twice, or a row has more cells
            than columns or runs over several lines.
        MissingExtraError: The table is a Parquet table and pyarrow isn't installed.
    """
    try:
        rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_text(table)
    except (ValueError, OSError, csv.Error) as error:  # pyarrow's errors and UnicodeDecodeError are ValueErrors
        reason = (str(error).splitlines() or ["it is damaged"])[0]
        raise PhotosError(
            f"The table can't be read: {reason}",
            where=table,
            mend="Save the table anew as CSV in UTF-8 (in Excel: Save as, CSV UTF-8).",
        ) from error
    header, *lines = rows or [[]]
    columns = [column.strip().lower() for column in header]
    _refuse_columns(columns, table)
    for number, line in enumerate(lines, start=2):
        if any(cell.strip() for cell in line[len(columns) :]):
            raise PhotosError(
                f"The row has {len(line)} cells, and the table {len(columns)} columns: {quote_list(line)}.",
                where=f"{table}, row {number}",
                mend="Quote cells with the separator in them; a photo has one label.",
            )
        yield dict(zip(columns, (cell.strip() for cell in line), strict=False))


def _refuse_columns(columns: list[str], table: Path) -> None:
    missing = sorted({"file_name", "label"} - set(columns))
    if missing:
        similar = [f"{column} to {name}" for name in missing for column in columns if column in _SYNONYMS[name]]
        raise PhotosError(
            f"The table has no column {quote_list(missing)}; its columns are {quote_list(columns) or 'none'}.",
            where=table,
            mend=f"Rename the column {', '.join(similar)}."
            if similar
            else "Name the columns in the first row: file_name,label and, if wanted, group and split.",
        )
    twice = [name for name, count in Counter(columns).items() if count > 1 and name in COLUMNS]
    if twice:
        raise PhotosError(
            f"The table has {columns.count(twice[0])} columns called {twice[0]!r}.",
            where=table,
            mend="Keep the one that counts, and rename the others. A photo has one label.",
        )


def _read_text(table: Path) -> list[list[str]]:
    content = table.read_bytes()
    if b"\0" in content[:2] and not content.startswith(_UTF16_MARKS):
        raise ValueError("it is in UTF-16 without a mark that says so.")
    text = content.decode("utf-16" if content.startswith(_UTF16_MARKS) else "utf-8-sig")
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    before = 0
    try:
        for row in reader:
            if reader.line_num - before > 1:
                _refuse_swallowed(row, rows[0] if rows else [], delimiter, f"{table}, line {before + 1}")
            before = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise _stray_quote(f"{table}, line {before + 1}", str(error)) from error
    return rows


def _refuse_swallowed(row: list[str], header: list[str], delimiter: str, where: str) -> None:
    """Refuse a row over several lines, unless they are a text in a column that isn't read."""
    read = [cell for name, cell in zip(header, row, strict=False) if name.strip().lower() in COLUMNS]
    inner = [line for cell in row if "\n" in cell for line in cell.splitlines()]
    if (
        not header
        or any("\n" in cell for cell in read)
        or any(line.count(delimiter) >= len(header) - 1 for line in inner)
    ):
        raise _stray_quote(where, "the quote runs over several lines")


def _stray_quote(where: str, why: str) -> PhotosError:
    return PhotosError(
        f"A quote is out of place, and would swallow rows: {why}.",
        where=where,
        mend='Remove the stray ", or double it within a quoted cell.',
    )


def _read_parquet(table: Path) -> list[list[str]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet table") from None
    read = parquet.read_table(table)
    columns = [["" if cell is None else str(cell) for cell in column.to_pylist()] for column in read.columns]
    return [list(read.column_names), *map(list, zip(*columns, strict=True))]
