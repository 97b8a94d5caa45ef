"""Labelled images from a folder or a table, without opening the images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from unfreeze.data.decode import Trait
from unfreeze.data.folders import FolderWalk, Skipped, display_name, quote_list
from unfreeze.data.tables import read_cells
from unfreeze.errors import PhotosError, UnfreezeError
from unfreeze.files import exists, is_file, is_folder
from unfreeze.paths import user_path

__all__ = ["PhotoSet", "Sample", "Skipped", "Split", "read_photos"]

Split = Literal["train", "val", "test"]

_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_TABLES = (".csv", ".tsv", ".parquet")
_LAYOUT = "Expected PHOTOS/CLASS/*, PHOTOS/{train,val,test}/CLASS/*, or a table with the columns file_name and label."


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled image.

    Attributes:
        path: The file as it is spelled on disk, for opening it.
        file_name: The path below the root with forward slashes, for display (valid Unicode, NFC).
        label: Index into ``PhotoSet.classes``.
        group: Images of one group (a patient, a tile) stay together in every split; None is a group of its own.
        split: The split that the user gave, or None.
        digest: SHA-256 of the file; empty until it has been read.
        size: Width and height of the upright image in pixels; zeros until the file has been read.
        traits: What decoding leaves of the file unseen or changes.
        fingerprint: What the photo shows, to find copies of it; empty until the file has been read.
    """

    path: Path
    file_name: str
    label: int
    group: str | None = None
    split: Split | None = None
    digest: str = ""
    size: tuple[int, int] = (0, 0)
    traits: tuple[Trait, ...] = ()
    fingerprint: str = field(default="", compare=False, repr=False)

    @property
    def short_side(self) -> int:
        """The smaller of width and height."""
        return min(self.size)


@dataclass(frozen=True)
class PhotoSet:
    """All images of one source, in a stable order.

    Attributes:
        root: The folder that file names are relative to.
        classes: Class names by label, sorted; one list for all splits.
        samples: The images that are used.
        left_out: Files and folders that aren't used.
        notes: Sentences for the user.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    left_out: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()


def read_photos(source: Path, *, to_train: bool = True) -> PhotoSet:
    """List the labelled images of a folder (with or without splits) or of a CSV, TSV or Parquet table.

    Args:
        source: The folder or the table.
        to_train: Whether to require two classes, each with training images; images that are only scored may be of one
            class, and all be test images.

    Raises:
        PhotosError: The source doesn't exist, has another layout, or has no two classes to train on.
        MissingExtraError: The source is a Parquet table and pyarrow isn't installed.
    """
    if is_folder(source):
        photos = _read_folder(source, to_train)
    elif not exists(source):
        raise PhotosError("There is no such folder or table of photos.", where=source, mend=_LAYOUT)
    elif source.suffix.lower() in _TABLES:
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


def _read_folder(root: Path, to_train: bool) -> PhotoSet:
    walk = FolderWalk(root)
    folders = walk.folders(root)
    inside = {folder: walk.folders(folder) for folder in folders if folder.name.lower() in _SPLITS}
    # A class may be called "test" (or "train", beside "bus"): it is a split only with class folders inside.
    splits = inside if any(inside.values()) else {}
    class_folders: list[tuple[Path, Split | None]]
    if splits:
        others = [folder for folder in folders if folder not in splits and walk.photos(folder)]
        _refuse_odd_splits(root, splits, others, to_train)
        class_folders = [(folder, _SPLITS[split.name.lower()]) for split in splits for folder in splits[split]]
    else:
        class_folders = [(folder, None) for folder in folders]
    loose = [photo for folder in (root, *splits) for photo in walk.files(folder)]
    contents = [(folder, split, walk.photos(folder)) for folder, split in class_folders]
    rows = [
        _Row(photo, walk.name(photo), display_name(folder.name), None, split)
        for folder, split, photos in contents
        for photo in photos
    ]
    empty = [walk.name(folder) for folder, _, photos in contents if not photos]
    unlabelled = not rows or (inside and not splits and {row.path.parent for row in rows} <= set(inside))
    if unlabelled or len({row.label for row in rows}) == 1:
        photos_here = [*loose, *(row.path for row in rows)]
        labelled = _labelled_by_table(root, photos_here) if photos_here else None
        if labelled is not None:
            return labelled
    if unlabelled:
        raise PhotosError(
            f"There are no class folders with photos, only {len(loose) + len(rows)} photos without a class.",
            where=root,
            mend=_LAYOUT,
        )
    for photo in loose:
        walk.leave_out(photo, "lies outside every class folder")
    notes = [f"Folders without photos were passed over: {quote_list(empty)}."] if empty else []
    subfolders = [
        {photo.relative_to(folder).parts[:-1][:1] for photo in photos} for folder, _, photos in contents if photos
    ]
    shared = sorted(name for (name,) in set.intersection(*subfolders) - {()})
    if len(shared) > 1:
        notes.append(
            f"All class folders hold {quote_list(shared)}: if those are the classes, name one of the folders instead."
        )
    spelled = {folder.name for folder, _ in class_folders}
    return _photo_set(root, rows, walk.left_out, walk.notes() + notes + _unicode_form_notes(spelled))


def _labelled_by_table(root: Path, photos: list[Path]) -> PhotoSet | None:
    """Return the photos of a folder with the labels of the one table in it that has any; None without such a table.

    Raises:
        PhotosError: Several tables have labels, or the one is refused.
    """
    files = [path for path in sorted(root.iterdir()) if path.suffix.lower() in _TABLES and is_file(path)]
    listed = {str(path) for path in photos}
    tables = [path for path in files if path.name[0] != "." and not listed.isdisjoint(_named(path))]
    if len(tables) > 1:
        raise PhotosError(
            f"There are no class folders, but {len(tables)} tables: {quote_list(table.name for table in tables)}.",
            where=root,
            mend="Name the table that has the labels in place of the folder.",
        )
    if not tables:
        return None
    labelled = _read_table(tables[0])
    n_others = len(listed - {str(sample.path) for sample in labelled.samples})
    others = f"; {n_others} photos of the folder are not used" if n_others else ""
    return replace(labelled, notes=(f"The labels are those in {tables[0].name}{others}.", *labelled.notes))


def _named(table: Path) -> Iterator[str]:
    """Yield the paths that a table of photos names; none where it can't be read."""
    with suppress(UnfreezeError):
        for cells in read_cells(table):
            yield str(table.parent / user_path(cells.get("file_name", "")))


def _refuse_odd_splits(root: Path, splits: dict[Path, list[Path]], others: list[Path], to_train: bool) -> None:
    if others:
        raise PhotosError(
            f"Split folders ({quote_list(folder.name for folder in splits)}) and other folders with photos "
            f"({quote_list(folder.name for folder in others)}) lie side by side: is the second a class or a split?",
            where=root,
            mend="Keep only train, val and test here, or only class folders, or list the photos in a table.",
        )
    if to_train and not any(_SPLITS[folder.name.lower()] == "train" for folder in splits):
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
        path = table.parent / user_path(name)
        if not name or not label:
            left_out.append(Skipped(display_name(name) or f"row {number}", "has no label" if name else "names no file"))
            continue
        if not is_file(path):
            left_out.append(Skipped(display_name(name), "does not exist (paths start at the table's folder)"))
            continue
        row = _Row(
            path, display_name(name), display_name(label), cells.get("group") or None, _SPLITS[side] if side else None
        )
        earlier = rows.setdefault(os.path.realpath(path), row)
        if (earlier.label, earlier.split) != (row.label, row.split):
            raise PhotosError(
                f"{row.file_name} is listed twice, as {_describe(earlier)} and as {_describe(row)}.",
                where=where,
                mend="Keep the row that is right.",
            )
        repeated += earlier is not row
        spelled.add(label)
    if not rows:
        why = f"; the first: {left_out[0].file_name} {left_out[0].reason}" if left_out else ""
        raise PhotosError(f"No row names a labelled photo that exists{why}.", where=table, mend=_LAYOUT)
    notes = [f"Rows that repeat another row and count once: {repeated}."] if repeated else []
    return _photo_set(table.parent, list(rows.values()), left_out, notes + _unicode_form_notes(spelled))


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


def _unicode_form_notes(spelled: set[str]) -> list[str]:
    """Return a note on each class whose name occurs in several Unicode forms, which look alike."""
    shown = [display_name(name) for name in spelled]
    return [
        f"The class name {name!r} is spelled in {shown.count(name)} Unicode forms; they count as one class."
        for name in sorted(set(shown))
        if shown.count(name) > 1
    ]


def _describe(row: _Row) -> str:
    return f"{row.label!r}" + (f" in {row.split}" if row.split else "")
