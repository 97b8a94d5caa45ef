"""The labelled images that a table lists, and what in it is no class."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path
from typing import NamedTuple

from unfreeze.data.folders import Skipped, display_name
from unfreeze.data.labels import label_notes, refuse_labels
from unfreeze.data.sides import Sides, Split, side
from unfreeze.data.tables import read_cells
from unfreeze.errors import PhotosError
from unfreeze.files import is_file, is_folder
from unfreeze.paths import user_path

AUTO, NONE = "auto", "none"  # of --group-by: what the photos tell, or nothing
_TABLE = "Write one row a photo: file_name (from the table's folder, with suffix) and label."


class Row(NamedTuple):
    """One labelled image, its label as it is spelled; for the rest see ``sources.Sample``."""

    path: Path
    file_name: str
    label: str
    group: str | None
    split: Split | None


def read_rows(
    table: Path, given: Sides | None, *, to_train: bool, group_by: str = AUTO
) -> tuple[list[Row], list[Skipped], list[str]]:
    """Read a table's rows; return the images, what is left out, and sentences for the user.

    Args:
        table: A CSV, TSV or Parquet file.
        given: The user's own names of sides in the column ``split``; see ``sources.read_photos``.
        to_train: Whether to refuse labels that are no classes.
        group_by: The column of groups where the table has it; else the column ``group`` with ``auto`` and ``none``.

    Raises:
        PhotosError: The table can't be read, contradicts itself, or names no image that exists.
        MissingExtraError: The table is a Parquet table and pyarrow isn't installed.
    """
    rows: dict[str, Row] = {}
    left_out: list[Skipped] = []
    repeated = n_backslashes = 0
    for number, cells in enumerate(read_cells(table), start=2):
        if not any(cells.values()):
            continue
        where = f"{table}, row {number}"
        name, label = cells.get("file_name", ""), cells.get("label", "")
        split = _split(cells.get("split", ""), given, where)
        if not name or not label:
            left_out.append(Skipped(display_name(name) or f"row {number}", "has no label" if name else "names no file"))
            continue
        path = table.parent / user_path(name)
        if not is_file(path) and is_file(slashed := table.parent / name.replace("\\", "/")):
            path, name = slashed, name.replace("\\", "/")
            n_backslashes += 1
        if not is_file(path):
            left_out.append(Skipped(display_name(name), _why_missing(table.parent, name, search=not left_out)))
            continue
        row = Row(path, display_name(name), label, cells.get(_group_column(group_by, cells)) or None, split)
        earlier = rows.setdefault(os.path.realpath(path), row)
        if (earlier.label, earlier.split) != (row.label, row.split):
            raise PhotosError(
                f"{row.file_name} is listed twice, as {_describe(earlier)} and as {_describe(row)}.",
                where=where,
                mend="Keep the row that is right: a photo is of one class, and on one side.",
            )
        repeated += earlier is not row
    if not rows:
        why = f"; the first: {left_out[0].file_name} {left_out[0].reason}" if left_out else ""
        raise PhotosError(f"No row names a labelled photo that exists{why}.", where=table, mend=_TABLE)
    labels = [row.label for row in rows.values()]
    if to_train:
        refuse_labels(labels, table)
    notes = [f"Rows that repeat another row and count once: {repeated}."] if repeated else []
    if n_backslashes:
        notes.append(rf"Paths in the table with \ were read with / in its place: {n_backslashes}.")
    missing = [skipped.file_name for skipped in left_out]
    if missing:
        notes.append(f"Rows left out: {len(missing)} of {len(missing) + len(rows)}, first {_first(left_out)}.")
    return list(rows.values()), left_out, notes + label_notes(labels)


def _group_column(group_by: str, columns: Container[str]) -> str:
    """Return the column of groups; a name that no table has where ``group_by`` is no column but a pattern."""
    named = group_by.strip().lower()
    return named if named in columns else "group" if named in (AUTO, NONE) else ""


def _first(left_out: list[Skipped]) -> str:
    return f"{left_out[0].file_name!r}, which {left_out[0].reason}".rstrip(".")


def _split(text: str, given: Sides | None, where: str) -> Split | None:
    """Return the side that a cell names; None for an empty one."""
    if not text:
        return None
    split = side(text) if given is None else given.get(text.lower())
    if split is None:
        raise PhotosError(
            f"The split {text.lower()!r} is unknown.",
            where=where,
            mend=f"Write train, val or test, or say what it is: --sides train=...,val={text}.",
        )
    return split


def _why_missing(folder: Path, name: str, *, search: bool) -> str:
    """Return why a table's file may not be found, as the end of a sentence about it; ``search``: list its folder."""
    if re.match(r"[A-Za-z]:[\\/]|\\\\", name):
        return (
            "does not exist: it is a path of a Windows computer; write paths from the table's folder, as photos/1.jpg"
        )
    if is_folder(folder / name):
        return "is a folder; write one row a photo"
    wanted = folder / name.replace("\\", "/")
    similar = _similar_name(wanted) if search else None
    if similar is not None:
        return f"does not exist, but {similar!r} does: write file names as they are, with their suffix"
    if not wanted.suffix:
        return "does not exist, and has no suffix such as .jpg: write file names with it, from the table's folder"
    return "does not exist (paths start at the table's folder)"


def _similar_name(path: Path) -> str | None:
    """Return the name of a file beside ``path`` that differs from it by the suffix, or by upper and lower case."""
    wanted = path.name.casefold()
    try:
        names = sorted(entry.name for entry in path.parent.iterdir())
    except OSError:
        return None
    return next((name for name in names if wanted in (name.casefold(), Path(name).stem.casefold())), None)


def _describe(row: Row) -> str:
    return f"{display_name(row.label)!r}" + (f" in {row.split}" if row.split else "")
