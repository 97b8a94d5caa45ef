"""Which folders of a tree are classes, and which are the train, val and test sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unfreeze.data.folders import Folder, Skipped, count_suffixes, quote_list
from unfreeze.data.sides import PLAIN_NAMES, Sides, Split, find_sides, is_filler
from unfreeze.errors import ConfigError, PhotosError

FOLDER_LAYOUT = (
    "Expected PHOTOS/CLASS/*, PHOTOS/{train,val,test}/CLASS/*, or a table with the columns file_name and label."
)


class ClassFolder(NamedTuple):
    """A folder whose images are all of one class and of one side; ``named`` is the folder that the class is named by."""

    named: Path
    folder: Folder
    split: Split | None


@dataclass(frozen=True)
class Layout:
    """The class folders of a tree, the images outside them, and sentences for the user."""

    classes: tuple[ClassFolder, ...]
    loose: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def choose_layout(root: Folder, given: Sides | None, *, to_train: bool) -> Layout:
    """Return which folders are classes.

    - Folders with the names of sides (``sides.find_sides``) that hold class folders are sides.
    - Class folders that hold nothing but such folders are divided by them: CLASS/train, CLASS/test.
    - A folder that holds nothing but another with the sides in it, as archives have it, is passed through.

    Args:
        root: The tree.
        given: The user's own names of sides; empty: every folder is a class; None: names that are known.
        to_train: Whether to require a train side, and to refuse class folders that look like something else.

    Raises:
        PhotosError: The tree has another layout, or could mean two things.
        ConfigError: No folder has any of the given names.
    """
    top, loose = _unwrap_root(root, given)
    _refuse_unknown(top, given or {})
    found = find_sides([folder.name for folder in top.folders], given)
    sides = {folder.path: found[folder.name] for folder in top.folders if folder.name in found}
    # A class may be called "test" (or "train", beside "bus"): it is a side only with class folders inside.
    named = [folder for folder in top.folders if folder.path in sides]
    if any(folder.folders for folder in named):
        others = [folder for folder in top.folders if folder.path not in sides and folder.has_photos()]
        return _by_sides(top, named, others, sides, loose, strict=given is None, to_train=to_train)
    if given is None and top.with_photos() and all(folder.path in sides for folder in top.with_photos()):
        return Layout((), (*loose, *top.all_photos()), ())
    divided = _inner_sides(top, given)
    if divided:
        return _by_class_first(top, divided, given, loose)
    if to_train and given is None:
        _refuse_shared_subfolders(top)
    classes = tuple(ClassFolder(folder.path, folder, None) for folder in top.folders)
    return Layout(classes, (*loose, *top.photos), tuple(_shared_note(top)))


def _refuse_unknown(top: Folder, given: Sides) -> None:
    names = {folder.name.lower() for folder in (*top.folders, *(inner for f in top.folders for inner in f.folders))}
    unknown = [name for name in given if name not in names]
    if unknown:
        raise ConfigError(
            f"No folder is called {quote_list(unknown)}; "
            f"there are {quote_list(folder.name for folder in top.folders) or 'none'}.",
            where="--sides",
            mend="Name folders that lie in PHOTOS, or in each of its class folders.",
        )


def no_photo_error(root: Folder, n_loose: int, left_out: Sequence[Skipped]) -> PhotosError:
    """Return the error for a tree without a class folder with photos."""
    unread = root.all_unread()
    if unread - root.n_unread or (left_out and not n_loose):
        first = f"{left_out[0].file_name}: {left_out[0].reason}" if left_out else ""
        seen = f"there are {count_suffixes(unread)}" if unread else first
        return PhotosError(
            f"No photo that can be read is in the folders here; {seen}.",
            where=root.path,
            mend="Save photos as JPEG or PNG, with that suffix, in PHOTOS/CLASS/*."
            if unread
            else "Put photos into PHOTOS/CLASS/*.",
        )
    return PhotosError(
        f"There are no class folders with photos, only {n_loose} photos without a class.",
        where=root.path,
        mend=FOLDER_LAYOUT,
    )


def _unwrap_root(root: Folder, given: Sides | None) -> tuple[Folder, list[Path]]:
    """Return the folder that holds the sides, and the images above it; the root where no sides lie deeper."""
    holder, loose = root, list[Path]()
    while len(holder.with_photos()) == 1:
        loose += holder.photos
        (holder,) = holder.with_photos()
        if find_sides([holder.name], given):
            break
        sides = find_sides([folder.name for folder in holder.folders], given)
        divided = "train" in sides.values() and any(folder.folders for folder in holder.folders if folder.name in sides)
        if divided or (len(holder.with_photos()) > 1 and _inner_sides(holder, given)):
            return holder, loose
    return root, []


def _by_sides(
    top: Folder,
    named: list[Folder],
    others: list[Folder],
    sides: dict[Path, Split],
    loose: list[Path],
    *,
    strict: bool,
    to_train: bool,
) -> Layout:
    if strict and others:
        raise PhotosError(
            f"Split folders ({quote_list(folder.name for folder in named)}) and other folders with photos "
            f"({quote_list(folder.name for folder in others)}) lie side by side: is the second a class or a split?",
            where=top.path,
            mend="Say which is which, --sides train=FOLDER,test=FOLDER, or --sides none if all are classes.",
        )
    if to_train and "train" not in sides.values():
        raise PhotosError(
            f"There is {quote_list(folder.name for folder in named)}, but no train folder.",
            where=top.path,
            mend="Add PHOTOS/train/CLASS/*, name it (--sides train=FOLDER,test=FOLDER), or name the one folder whose "
            "direct subfolders are the classes.",
        )
    loose = [*loose, *top.photos]
    classes: list[ClassFolder] = []
    for folder in named:
        split, holder = sides[folder.path], folder
        while (inner := _wrapped(holder, split, sides)) is not None:
            loose += holder.photos
            holder = inner
        loose += holder.photos
        classes += [ClassFolder(inner.path, inner, split) for inner in holder.folders]
    notes = []
    if any(folder.name.lower() not in PLAIN_NAMES for folder in named):
        notes.append("Sides: " + ", ".join(f"{folder.name!r} is {sides[folder.path]}" for folder in named) + ".")
    if others:
        notes.append(f"Folders that --sides doesn't name were passed over: {quote_list(f.name for f in others)}.")
        loose += [photo for folder in others for photo in folder.all_photos()]
    return Layout(tuple(classes), tuple(loose), tuple(notes))


def _wrapped(folder: Folder, split: Split, sides: dict[Path, Split]) -> Folder | None:
    """Return the only folder in a side if it is no class but the side once more: seg_train/seg_train, train/images."""
    if folder.photos or len(folder.with_photos()) != 1:
        return None
    (inner,) = folder.with_photos()
    again = inner.name.lower() == folder.name.lower() or find_sides([inner.name]).get(inner.name) == split
    return inner if inner.with_photos() and (again or is_filler(inner.name)) else None


def _inner_sides(top: Folder, given: Sides | None) -> dict[str, Split]:
    """Return the sides within class folders, by name; empty unless more than one class or side is divided so.

    Raises:
        PhotosError: Some class folders are divided into sides, and others aren't.
    """
    if given is not None and not given:
        return {}
    classes = top.with_photos()
    found = [find_sides([inner.name for inner in folder.with_photos()], given) for folder in classes]
    sides = {name: split for inside in found for name, split in inside.items()}
    if "train" not in sides.values() or len(set(sides.values())) < 2:
        return {}
    whole = [
        not folder.photos and len(inside) == len({inner.name for inner in folder.with_photos()})
        for folder, inside in zip(classes, found, strict=True)
    ]
    if not all(whole):
        divided = [folder.name for folder, inside in zip(classes, found, strict=True) if len(inside) > 1]
        rest = [folder.name for folder, is_whole in zip(classes, whole, strict=True) if not is_whole]
        if not divided:
            return {}
        raise PhotosError(
            f"The class folders {quote_list(divided)} hold {quote_list(sides)}, and {quote_list(rest)} other photos, too.",
            where=top.path,
            mend="Put every photo of a class into CLASS/train or CLASS/test, or none; --sides none: all of them train.",
        )
    return sides


def _by_class_first(top: Folder, sides: dict[str, Split], given: Sides | None, loose: list[Path]) -> Layout:
    classes = [
        ClassFolder(folder.path, inner, sides[inner.name])
        for folder in top.folders
        for inner in folder.folders
        if inner.name in sides
    ]
    empty = [ClassFolder(folder.path, folder, None) for folder in top.folders if not folder.has_photos()]
    parts = ", ".join(f"{name!r} is {split}" for name, split in sorted(sides.items()))
    return Layout((*classes, *empty), (*loose, *top.photos), (f"Sides within the class folders: {parts}.",))


def _refuse_shared_subfolders(top: Folder) -> None:
    """Refuse folders that are all divided alike: sites or sides, probably, and the classes lie in them."""
    folders = top.with_photos()
    inside = [{inner.name for inner in folder.with_photos()} for folder in folders]
    if len(folders) < 2 or any(folder.photos for folder in folders):
        return
    shared = set.intersection(*inside)
    if len(shared) < 2 or (len(folders) > 2 and any(names != shared for names in inside)):
        return
    by_size = sorted(folders, key=lambda folder: -sum(1 for _ in folder.all_photos()))
    first, second = by_size[0].name, by_size[1].name
    raise PhotosError(
        f"The folders {quote_list(folder.name for folder in folders)} hold the same folders, "
        f"{quote_list(sorted(shared))}: are those the classes?",
        where=top.path,
        mend=f"If they are, say what to train and to test on (--sides train={first},test={second}), or name one folder "
        f"({by_size[0].path}). If {first!r} and {second!r} are the classes: --sides none.",
    )


def _shared_note(top: Folder) -> Iterator[str]:
    inside = [{inner.name for inner in folder.with_photos()} for folder in top.with_photos()]
    shared = sorted(set.intersection(*inside)) if inside else []
    if len(shared) > 1:
        yield f"All class folders hold {quote_list(shared)}: if those are the classes, name one of the folders instead."
