"""From a folder or a table to labelled photos: which files there are, what they are labelled, what was passed over."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from unfreeze.data.folders import FolderWalk, Skipped, display_name, quote_list
from unfreeze.data.tables import read_cells
from unfreeze.errors import PhotosError
from unfreeze.files import exists, is_file, is_folder

__all__ = ["PhotoSet", "Sample", "Skipped", "Split", "read_photos"]

Split = Literal["train", "val", "test"]

_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_LAYOUT = "Expected PHOTOS/CLASS/*, PHOTOS/{train,val,test}/CLASS/*, or a table with the columns file_name and label."


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled photo.

    Attributes:
        path: The file as it is spelled on disk; the only one to open.
        file_name: The path below the root with forward slashes, made safe for display (valid Unicode, NFC).
        label: Index into ``PhotoSet.classes``.
        group: Photos of one group (a patient, a tile) stay on one side of every split; None is a group of its own.
        split: The side that the user put it on, or None.
        digest: SHA-256 of the file, once it has been read.
        short_side: In pixels, likewise; of a large JPEG, a half, a quarter or an eighth of it.
    """

    path: Path
    file_name: str
    label: int
    group: str | None = None
    split: Split | None = None
    digest: str = ""
    short_side: int = 0


@dataclass(frozen=True)
class PhotoSet:
    """All photos of one source, in a stable order.

    Attributes:
        root: The folder that file names are relative to.
        classes: Class names by label, sorted; one list for all splits.
        samples: The photos that are used.
        left_out: The files that aren't.
        notes: One sentence each on what the user should know or do.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    left_out: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def read_photos(source: Path, *, to_train: bool = True) -> PhotoSet:
    """List the labelled photos of a folder (with or without splits) or of a CSV, TSV or Parquet table; opens no photo.

    Args:
        source: The folder or the table.
        to_train: Whether there must be two classes, each with photos to train on; photos that are only scored may be of
            one class, and all be test photos.

    Raises:
        PhotosError: The source doesn't exist, has another layout, or can't be trained on though it should.
        MissingExtraError: It is a Parquet table and pyarrow isn't installed.
    """
    if is_folder(source):
        photos = _read_folder(source)
    elif not exists(source):
        raise PhotosError("There is no such folder or table of photos.", where=source, mend=_LAYOUT)
    elif source.suffix.lower() in (".csv", ".tsv", ".parquet"):
        photos = _read_table(source)
    else:
        raise PhotosError("This is neither a folder nor a table (.csv, .tsv, .parquet).", where=source, mend=_LAYOUT)
    if to_train:
        _refuse_untrainable(photos)
    return photos


def _refuse_untrainable(photos: PhotoSet) -> None:
    if len(photos.classes) < 2:
        raise PhotosError(
            f"There is only one class with photos, {photos.classes[0]!r}, and a classifier needs two.",
            where=photos.root,
            mend="Name the folder whose direct subfolders are the classes.",
        )
    trained = {sample.label for sample in photos.samples if sample.split in (None, "train")}
    untrained = [name for label, name in enumerate(photos.classes) if label not in trained]
    if untrained:
        raise PhotosError(
            f"These classes are in val or test but not in train: {quote_list(untrained)}.",
            where=photos.root,
            mend="Spell class names alike in all splits, or add training photos of these classes.",
        )


class _Row(NamedTuple):
    path: Path
    file_name: str
    label: str
    group: str | None
    split: Split | None


def _read_folder(root: Path) -> PhotoSet:
    walk = FolderWalk(root)
    folders = walk.folders(root)
    inside = {folder: walk.folders(folder) for folder in folders if folder.name.lower() in _SPLITS}
    # A class may well be called "test" (or "train", beside "bus"): only class folders inside make it a split.
    splits = inside if any(inside.values()) else {}
    places: list[tuple[Path, Split | None]]
    if splits:
        _refuse_odd_splits(root, splits, [folder for folder in folders if folder not in splits and walk.photos(folder)])
        places = [(folder, _SPLITS[split.name.lower()]) for split in splits for folder in splits[split]]
    else:
        places = [(folder, None) for folder in folders]
    loose = [photo for folder in (root, *splits) for photo in walk.files(folder)]
    found = [(folder, split, walk.photos(folder)) for folder, split in places]
    rows = [
        _Row(photo, walk.name(photo), display_name(folder.name), None, split)
        for folder, split, photos in found
        for photo in photos
    ]
    empty = [walk.name(folder) for folder, _, photos in found if not photos]
    if not rows or (inside and not splits and {row.path.parent for row in rows} <= set(inside)):
        raise PhotosError(
            f"There are no class folders with photos, only {len(loose) + len(rows)} photos without a class.",
            where=root,
            mend=_LAYOUT,
        )
    for photo in loose:
        walk.leave_out(photo, "lies outside every class folder")
    notes = [f"Folders without photos were passed over: {quote_list(empty)}."] if empty else []
    within = [{photo.relative_to(folder).parts[:-1][:1] for photo in photos} for folder, _, photos in found if photos]
    shared = sorted(name for (name,) in set.intersection(*within) - {()})
    if len(shared) > 1:
        notes.append(
            f"All class folders hold {quote_list(shared)}: if those are the classes, name one of the folders instead."
        )
    spelled = {folder.name for folder, _ in places}
    return _photo_set(root, rows, walk.left_out, walk.notes() + notes + _twins(spelled))


def _refuse_odd_splits(root: Path, splits: dict[Path, list[Path]], strangers: list[Path]) -> None:
    if strangers:
        raise PhotosError(
            f"Split folders ({quote_list(folder.name for folder in splits)}) and other folders with photos "
            f"({quote_list(folder.name for folder in strangers)}) lie side by side: is the second a class or a split?",
            where=root,
            mend="Keep only train, val and test here, or only class folders, or list the photos in a table.",
        )
    if not any(_SPLITS[folder.name.lower()] == "train" for folder in splits):
        raise PhotosError(
            f"There is {quote_list(folder.name for folder in splits)}, but no train folder.",
            where=root,
            mend="Add PHOTOS/train/CLASS/*, or name the one folder whose direct subfolders are the classes.",
        )


def _read_table(table: Path) -> PhotoSet:
    rows: dict[str, _Row] = {}
    left_out: list[Skipped] = []
    repeated, spelled = 0, set()
    for number, cells in enumerate(read_cells(table), start=2):
        if not any(cells.values()):
            continue
        where = f"{table}, row {number}"
        name, label, side = cells.get("file_name", ""), cells.get("label", ""), cells.get("split", "").lower()
        if side and side not in _SPLITS:
            raise PhotosError(f"The split {side!r} is unknown.", where=where, mend="Write train, val or test.")
        path = table.parent / name
        if not name or not label:
            left_out.append(Skipped(display_name(name) or f"row {number}", "has no label" if name else "names no file"))
            continue
        if not is_file(path):
            left_out.append(Skipped(display_name(name), "does not exist (paths start at the table's folder)"))
            continue
        row = _Row(
            path, display_name(name), display_name(label), cells.get("group") or None, _SPLITS[side] if side else None
        )
        first = rows.setdefault(os.path.realpath(path), row)
        if (first.label, first.split) != (row.label, row.split):
            raise PhotosError(
                f"{row.file_name} is listed twice, as {_described(first)} and as {_described(row)}.",
                where=where,
                mend="Keep the row that is right.",
            )
        repeated += first is not row
        spelled.add(label)
    if not rows:
        why = f"; the first: {left_out[0].file_name} {left_out[0].reason}" if left_out else ""
        raise PhotosError(f"No row names a labelled photo that exists{why}.", where=table, mend=_LAYOUT)
    notes = [f"Rows that repeat another row and count once: {repeated}."] if repeated else []
    return _photo_set(table.parent, list(rows.values()), left_out, notes + _twins(spelled))


def _photo_set(root: Path, rows: list[_Row], left_out: list[Skipped], notes: list[str]) -> PhotoSet:
    classes = sorted({row.label for row in rows})
    labels = {name: label for label, name in enumerate(classes)}
    samples = tuple(Sample(row.path, row.file_name, labels[row.label], row.group, row.split) for row in rows)
    by_case: dict[str, list[str]] = {}
    for name in classes:
        by_case.setdefault(name.casefold(), []).append(name)
    notes = notes + [
        f"The classes {quote_list(names)} differ only in case and are kept apart; give them one name if they are one."
        for names in by_case.values()
        if len(names) > 1
    ]
    return PhotoSet(root, tuple(classes), samples, tuple(left_out), tuple(notes))


def _twins(spelled: set[str]) -> list[str]:
    """Return a note on each class whose name is spelled in several Unicode forms, which look the same to people."""
    shown = [display_name(name) for name in spelled]
    return [
        f"The class name {name!r} is spelled in {shown.count(name)} Unicode forms; they count as one class."
        for name in sorted(set(shown))
        if shown.count(name) > 1
    ]


def _described(row: _Row) -> str:
    return f"{row.label!r}" + (f" in {row.split}" if row.split else "")
