"""Labelled images from a folder or a table, without opening the images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from unfreeze.data.decode import Trait
from unfreeze.data.folders import FolderWalk, Skipped, count_suffixes, quote_list
from unfreeze.data.label_tables import TABLES, table_of_labels
from unfreeze.data.layout import FOLDER_LAYOUT, choose_layout, no_photo_error
from unfreeze.data.names import name_classes
from unfreeze.data.rows import AUTO, Row, read_rows
from unfreeze.data.sides import Sides, Split, parse_sides
from unfreeze.errors import PhotosError
from unfreeze.files import exists, is_folder

__all__ = ["PhotoSet", "Sample", "Skipped", "Split", "read_photos"]


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
        no_score: Why no score of these photos would be honest; empty where it would be.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    left_out: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    no_score: str = ""


def read_photos(source: Path, *, to_train: bool = True, sides: str | None = None, group_by: str = AUTO) -> PhotoSet:
    """List the labelled images of a folder (with or without splits) or of a CSV, TSV or Parquet table.

    Args:
        source: The folder or the table.
        to_train: Whether to require two classes, each with training images; images that are only scored may be of one
            class, and all be test images.
        sides: The user's names of the train, val and test side, as in ``train=Training,test=Testing``; ``none``: every
            folder is a class; None: names that are known.
        group_by: The column of a table that names groups, where it has such a column; see ``group_by.find_groups``.

    Raises:
        PhotosError: The source doesn't exist, has another layout, or has no two classes to train on.
        ConfigError: ``sides`` can't be understood, or isn't what is there.
        MissingExtraError: The source is a Parquet table and pyarrow isn't installed.
    """
    given = parse_sides(sides)
    is_table = source.suffix.lower() in TABLES
    if is_folder(source):
        photos = _read_folder(source, given, to_train, group_by)
    elif not exists(source):
        raise PhotosError("There is no such folder or table of photos.", where=source, mend=FOLDER_LAYOUT)
    elif is_table:
        photos = _read_table(source, given, to_train, group_by)
    else:
        raise PhotosError(
            "This is neither a folder nor a table (.csv, .tsv, .parquet).",
            where=source,
            mend=f"{FOLDER_LAYOUT} A spreadsheet can be saved as CSV in UTF-8.",
        )
    if to_train:
        _refuse_untrainable(photos, is_table)
    return photos


def _refuse_untrainable(photos: PhotoSet, is_table: bool) -> None:
    if len(photos.classes) < 2:
        raise PhotosError(
            f"There is only one class with photos, {photos.classes[0]!r}, and a classifier needs two.",
            where=photos.root,
            mend="Add rows with another label to the table."
            if is_table
            else " ".join([*photos.notes, "Name the folder whose direct subfolders are the classes."]),
        )
    trained = {sample.label for sample in photos.samples if sample.split in (None, "train")}
    untrained = [name for label, name in enumerate(photos.classes) if label not in trained]
    if untrained:
        raise PhotosError(
            f"These classes are in val or test but not in train: {quote_list(untrained)}.",
            where=photos.root,
            mend="Spell class names alike in all splits, or add training photos of these classes.",
        )


def _read_folder(root: Path, given: Sides | None, to_train: bool, group_by: str) -> PhotoSet:
    walk = FolderWalk(root)
    layout = choose_layout(tree := walk.tree(), given, to_train=to_train)
    spelled = sorted({(str(entry.named.parent), entry.named.name) for entry in layout.classes})
    named, name_notes = name_classes(spelled)
    rows = [
        Row(photo, walk.name(photo), named[entry.named.name], None, entry.split)
        for entry in layout.classes
        for photo in entry.folder.all_photos()
    ]
    if len({row.label for row in rows}) < 2:
        photos = [*layout.loose, *(row.path for row in rows)]
        table = table_of_labels(root, photos) if photos else None
        if table is not None:
            return _labelled(_read_table(table, given, to_train, group_by), table, photos)
    if not rows:
        raise no_photo_error(tree, len(layout.loose), walk.left_out)
    for photo in layout.loose:
        walk.leave_out(photo, "lies outside every class folder")
    notes = [*walk.notes(), *layout.notes]
    with_photos = {row.label for row in rows}
    empty = []
    for entry in layout.classes:
        unread = entry.folder.all_unread()
        if entry.folder.has_photos():
            continue
        if not unread:
            empty.append(walk.name(entry.folder.path))
        elif (label := named[entry.named.name]) in with_photos:
            notes.append(f"No file in {walk.name(entry.folder.path)!r} is read: {count_suffixes(unread)}.")
        else:
            notes.append(f"The class {label!r} is lost, as none of its files is read: {count_suffixes(unread)}.")
    if empty:
        notes.append(f"Folders without photos were passed over: {quote_list(empty)}.")
    return _photo_set(root, rows, walk.left_out, [*notes, *name_notes])


def _labelled(listed: PhotoSet, table: Path, photos: list[Path]) -> PhotoSet:
    """Return what a folder's own table lists, with a note on it."""
    n_others = len({str(path) for path in photos} - {str(sample.path) for sample in listed.samples})
    others = f"; {n_others} photos of the folder are not used" if n_others else ""
    return replace(listed, notes=(f"The labels are those in {table.name}{others}.", *listed.notes))


def _read_table(table: Path, given: Sides | None, to_train: bool, group_by: str) -> PhotoSet:
    rows, left_out, notes = read_rows(table, given, to_train=to_train, group_by=group_by)
    named, name_notes = name_classes((str(table), row.label) for row in rows)
    rows = [row._replace(label=named[row.label]) for row in rows]
    return _photo_set(table.parent, rows, left_out, [*notes, *name_notes])


def _photo_set(root: Path, rows: list[Row], left_out: list[Skipped], notes: list[str]) -> PhotoSet:
    classes = sorted({row.label for row in rows})
    labels = {name: label for label, name in enumerate(classes)}
    samples = tuple(Sample(row.path, row.file_name, labels[row.label], row.group, row.split) for row in rows)
    tested = {row.label for row in rows if row.split == "test"}
    untested = [name for name in classes if name not in tested] if tested else []
    if untested:
        notes = [*notes, f"No test photo is of the class {quote_list(untested)}: the test says nothing about it."]
    return PhotoSet(root, tuple(classes), samples, tuple(left_out), tuple(notes))
