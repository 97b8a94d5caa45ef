"""The table of labels that lies in a folder of photos."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from unfreeze.data.folders import quote_list
from unfreeze.data.tables import read_cells
from unfreeze.errors import PhotosError, UnfreezeError
from unfreeze.files import is_file
from unfreeze.paths import user_path

TABLES = (".csv", ".tsv", ".parquet")


def table_of_labels(root: Path, photos: Sequence[Path]) -> Path | None:
    """Return the one table in a folder that lists any of its photos; None without such a table.

    Raises:
        PhotosError: Several tables do.
    """
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in TABLES and is_file(path)]
    listed = {str(path) for path in photos}
    tables = [path for path in files if path.name[0] != "." and not listed.isdisjoint(_named(path))]
    if len(tables) > 1:
        raise PhotosError(
            f"There are no class folders, but {len(tables)} tables: {quote_list(table.name for table in tables)}.",
            where=root,
            mend="Name the table that has the labels in place of the folder.",
        )
    return tables[0] if tables else None


def _named(table: Path) -> Iterator[str]:
    """Yield the paths that a table of photos names; none where it can't be read."""
    with suppress(UnfreezeError):
        for cells in read_cells(table):
            yield str(table.parent / user_path(cells.get("file_name", "")))
