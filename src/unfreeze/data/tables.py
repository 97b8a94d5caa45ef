"""Rows of text from CSV, TSV and Parquet tables of images."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from unfreeze.data.folders import quote_list
from unfreeze.errors import MissingExtraError, PhotosError


def read_cells(table: Path) -> Iterator[dict[str, str]]:
    """Yield each row of a CSV, TSV or Parquet table: cells as text by lower-case column name.

    Text is never interpreted: labels such as no, 001 or NA stay as written.

    Raises:
        PhotosError: The table can't be read, or has no column file_name or label.
        MissingExtraError: The table is a Parquet table and pyarrow isn't installed.
    """
    try:
        rows = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_text(table)
    except (ValueError, OSError, csv.Error) as error:  # pyarrow's errors and UnicodeDecodeError are ValueErrors
        reason = (str(error).splitlines() or ["it is damaged"])[0]
        raise PhotosError(f"The table can't be read: {reason}", where=table, mend="Save it as CSV in UTF-8.") from error
    header, *lines = rows or [[]]
    columns = [column.strip().lower() for column in header]
    missing = {"file_name", "label"} - set(columns)
    if missing:
        raise PhotosError(
            f"The table has no column {quote_list(sorted(missing))}; its columns are {quote_list(columns) or 'none'}.",
            where=table,
            mend="Name the columns in the first row: file_name,label and, if wanted, group and split.",
        )
    for line in lines:
        yield dict(zip(columns, (cell.strip() for cell in line), strict=False))


def _read_text(table: Path) -> list[list[str]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        return list(csv.reader(file, delimiter=max(",;\t", key=header.count), skipinitialspace=True))


def _read_parquet(table: Path) -> list[list[str]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "Reading a Parquet table") from None
    columns = parquet.read_table(table).to_pydict()
    cells = [["" if cell is None else str(cell) for cell in column] for column in columns.values()]
    return [list(columns), *map(list, zip(*cells, strict=True))]
