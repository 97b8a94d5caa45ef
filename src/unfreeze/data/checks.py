"""What is wrong with a set of photos: unreadable files, copies, leaks, thin classes; nothing on disk is changed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import MappingProxyType

from unfreeze.data.decode import decode
from unfreeze.data.folders import Skipped, quote_list
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.errors import DecodeError, PhotosError
from unfreeze.runtime import progress_bar

_TINY_SIDE = 32
_FEW_PHOTOS = 5
_IMBALANCE = 10
# Of identical files on several sides, the copies on the last of these sides stay: a test set is dearer than one photo.
_SIDES = (None, "train", "val", "test")


def drop_unreadable(photos: PhotoSet, known: Mapping[str, int] = MappingProxyType({})) -> PhotoSet:
    """Decode every photo in full, and leave out those that can't be: all that photos must be which are only scored.

    Args:
        photos: As they were found.
        known: The short side of photos that were decoded before, by the SHA-256 of the file; they are only hashed.

    Raises:
        PhotosError: None can be read.
        MissingExtraError: There are DICOM files and pydicom isn't installed.
    """
    read, reasons = _inspect_all(photos.samples, known)
    if not read:
        raise PhotosError("None of these photos can be read.", where=photos.root, mend=_first(reasons))
    left_out = tuple(Skipped(sample.file_name, reason) for sample, reason in reasons.items())
    return replace(photos, samples=tuple(read.values()), left_out=photos.left_out + left_out)


def _first(reasons: dict[Sample, str]) -> str:
    return "\n         ".join(f"{sample.file_name}: {reason}" for sample, reason in list(reasons.items())[:5])


def check(photos: PhotoSet, known: Mapping[str, int] = MappingProxyType({})) -> PhotoSet:
    """Decode every photo in full and return the set that can be trained on, with what was left out and why.

    ``known`` is as in ``drop_unreadable``.

    - Unreadable files are left out.
    - Byte-identical files with two labels are all left out. On two given sides, only the copies in test (then val,
      then train) stay. Otherwise they join one group, and the user's groups that they touch become one, so that no
      split parts them.
    - A class without a photo left to train on is dropped, and the labels are numbered anew.

    Raises:
        PhotosError: Fewer than two classes have two readable photos, or none is left of a given val or test set.
        MissingExtraError: There are DICOM files and pydicom isn't installed.
    """
    read, reasons = _inspect_all(photos.samples, known)
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in read.values():
        copies[sample.digest].append(sample)
    for same in copies.values():
        reasons |= _conflicts(same)
    kept = [sample for sample in read.values() if sample not in reasons]
    trainable = {sample.label for sample in kept if sample.split in (None, "train")}
    reasons |= {sample: "its class has no photo left to train on" for sample in kept if sample.label not in trainable}
    kept = [sample for sample in kept if sample not in reasons]
    grouped = _joined(kept)
    n_copies = len(kept) - len({sample.digest for sample in kept})
    if sum(count >= 2 for count in _class_counts(grouped).values()) < 2:
        raise PhotosError(
            f"Of {len(photos.samples)} photos {len(grouped)} can be used, and fewer than two classes have two of them.",
            where=photos.root,
            mend=_first(reasons) or "Add photos.",
        )
    for side in ("val", "test"):
        gone = {sample: reason for sample, reason in reasons.items() if sample.split == side}
        if gone and not any(sample.split == side for sample in grouped):
            raise PhotosError(f"No photo of your {side} set can be used.", where=photos.root, mend=_first(gone))
    labels = {old: new for new, old in enumerate(sorted(trainable))}
    checked = PhotoSet(
        photos.root,
        tuple(photos.classes[old] for old in labels),
        tuple(replace(sample, label=labels[sample.label]) for sample in grouped),
        photos.left_out + tuple(Skipped(sample.file_name, reason) for sample, reason in reasons.items()),
    )
    dropped = [name for name in photos.classes if name not in checked.classes]
    return replace(checked, notes=photos.notes + tuple(_notes(checked, dropped, n_copies)))


def _inspect_all(samples: Sequence[Sample], known: Mapping[str, int]) -> tuple[dict[Sample, Sample], dict[Sample, str]]:
    """Return the readable photos with their digest and short side, by what they were, and the reasons against others."""
    read: dict[Sample, Sample] = {}
    reasons: dict[Sample, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = progress_bar(
            pool.map(lambda sample: _inspect(sample, known), samples), "checking photos", total=len(samples)
        )
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, DecodeError):
                reasons[sample] = f"{result.what} {result.mend or ''}".strip()
            else:
                read[sample] = result
    return read, reasons


def _inspect(sample: Sample, known: Mapping[str, int]) -> Sample | DecodeError:
    """Return the photo with its digest and short side, or what is wrong with it."""
    try:
        with sample.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return replace(sample, digest=digest, short_side=known.get(digest) or min(decode(sample.path, _TINY_SIDE).size))
    except DecodeError as error:
        return error
    except OSError as error:
        return DecodeError(f"The file can't be read: {error.strerror}.", where=sample.path)


def _conflicts(same: list[Sample]) -> dict[Sample, str]:
    """Return which of these byte-identical photos can't stay, and why."""
    if len({sample.label for sample in same}) > 1:
        others = {sample: next(other for other in same if other.label != sample.label) for sample in same}
        return {
            sample: f"is byte-identical to {other.file_name}, which has another label"
            for sample, other in others.items()
        }
    keeper = max(same, key=lambda sample: _SIDES.index(sample.split))
    return {
        sample: f"is byte-identical to {keeper.file_name}, which is in {keeper.split}"
        for sample in same
        if sample.split != keeper.split
    }


def _joined(samples: list[Sample]) -> list[Sample]:
    """Return the samples with copies, and the user's groups that share copies, joined into one group each."""
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    keys = {sample: f"file {sample.digest}" for sample in samples}
    for sample in samples:
        if sample.group is not None:
            parent[find(keys[sample])] = find(f"group {sample.group}")
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        members[find(keys[sample])].append(sample)

    def name(sample: Sample) -> str | None:
        together = members[find(keys[sample])]
        named = [other.group for other in together if other.group is not None]
        return min(named, default=f"copies of {together[0].file_name}" if len(together) > 1 else None)

    return [replace(sample, group=name(sample)) for sample in samples]


def _class_counts(samples: Sequence[Sample]) -> dict[int, int]:
    return dict(Counter(sample.label for sample in samples))


def _notes(checked: PhotoSet, dropped: list[str], n_copies: int) -> Iterator[str]:
    counts = {checked.classes[label]: count for label, count in sorted(_class_counts(checked.samples).items())}
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    yield f"{len(checked.samples)} photos in {len(counts)} classes can be used; {len(checked.left_out)} are left out."
    if dropped:
        yield f"No photo is left to train on in {quote_list(dropped)}: add readable photos to keep the class."
    if n_copies:
        yield f"Byte-identical copies among them: {n_copies}; no split parts them, but removing them is better."
    tiny = [sample.file_name for sample in checked.samples if sample.short_side < _TINY_SIDE]
    if tiny:
        yield f"Photos with a side below {_TINY_SIDE} pixels: {len(tiny)} (first: {tiny[0]}); take larger originals."
    if counts[largest] > _IMBALANCE * counts[smallest]:
        yield (
            f"{largest!r} has {counts[largest]} photos and {smallest!r} {counts[smallest]}: "
            "judge by balanced accuracy, and add photos to the small classes."
        )
    few = [name for name, count in counts.items() if count < _FEW_PHOTOS]
    if few:
        yield f"Fewer than {_FEW_PHOTOS} photos are in {quote_list(few)}: add some, or expect no reliable figure for these."
    sides: dict[str, set[str]] = defaultdict(set)
    for sample in checked.samples:
        if sample.group is not None and sample.split is not None:
            sides[sample.group].add(sample.split)
    torn = sorted(group for group, splits in sides.items() if len(splits) > 1)
    if torn:
        yield f"Your splits part the groups {quote_list(torn)}: scores will be too good; put each group on one side."
