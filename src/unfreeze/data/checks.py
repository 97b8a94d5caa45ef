"""Checks of an image set: unreadable files, copies, leaks between splits, small classes.  No file is changed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from unfreeze.data.copies import DECODED_SIDE, Copies, find_copies
from unfreeze.data.decode import Facts, as_picture, facts_key, inspect, trait_notes
from unfreeze.data.decode.traits import traits_from
from unfreeze.data.fingerprints import fingerprint
from unfreeze.data.folders import Skipped, quote_list
from unfreeze.data.groups import merge_groups
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.errors import DecodeError, PhotosError
from unfreeze.reading import FIRST_FRAME, Reading
from unfreeze.runtime import progress_bar

_TINY_SIDE = 32
_FEW_PHOTOS = 5
_IMBALANCE = 10
# Of identical files in several splits, those in the last of these splits are used: the test set stays complete.
_SPLITS = (None, "train", "val", "test")
_NONE_KNOWN: Mapping[str, Facts] = MappingProxyType({})


def drop_unreadable(
    photos: PhotoSet, known: Mapping[str, Facts] = _NONE_KNOWN, reading: Reading = FIRST_FRAME
) -> PhotoSet:
    """Decode every image in full and leave out the unreadable ones: the only check for images that are only scored.

    Args:
        photos: The images that were found.
        known: What is known of images decoded before, by ``facts_key``; these are only hashed.
        reading: How files are read.

    Raises:
        PhotosError: No image can be read.
        MissingExtraError: There are DICOM files and pydicom isn't installed.
    """
    readable, reasons = _inspect_all(photos.samples, known, reading)
    if not readable:
        raise PhotosError("None of these photos can be read.", where=photos.root, mend=_first_reasons(reasons))
    left_out = tuple(Skipped(sample.file_name, reason) for sample, reason in reasons.items())
    checked = replace(photos, samples=tuple(readable.values()), left_out=photos.left_out + left_out)
    return with_trait_notes(checked, reading)


def _first_reasons(reasons: dict[Sample, str]) -> str:
    return "\n         ".join(f"{sample.file_name}: {reason}" for sample, reason in list(reasons.items())[:5])


def check(photos: PhotoSet, known: Mapping[str, Facts] = _NONE_KNOWN, reading: Reading = FIRST_FRAME) -> PhotoSet:
    """Decode every image in full and return the set to train on, with the reason for every file that is left out.

    - Unreadable files are left out.
    - Files with the same bytes or the same pixels and two labels are all left out.  In two given splits, only the copies
      in test (then val, then train) are used.  Otherwise the copies, and the user's groups that share them, become one
      group, which no split divides.
    - Files that look the same (saved anew in another size or quality) become one group, too, unless the given splits
      part them: that is noted.
    - A class without a training image is dropped, and the labels are renumbered.

    Args:
        photos: The images that were found.
        known: See ``drop_unreadable``.
        reading: How files are read.

    Raises:
        PhotosError: Fewer than two classes have two readable images, or a given val or test set has none left.
        MissingExtraError: There are DICOM files and pydicom isn't installed.
    """
    readable, reasons = _inspect_all(photos.samples, known, reading)
    copies = find_copies(readable.values(), reading)
    by_content: dict[str, list[Sample]] = defaultdict(list)
    for sample in readable.values():
        by_content[copies.content(sample)].append(sample)
    for identical in by_content.values():
        reasons |= _conflicts(identical)
    usable = [sample for sample in readable.values() if sample not in reasons]
    trainable = {sample.label for sample in usable if sample.split in (None, "train")}
    reasons |= {sample: "its class has no photo left to train on" for sample in usable if sample.label not in trainable}
    usable = [sample for sample in usable if sample not in reasons]
    grouped = merge_groups(usable, copies)
    if sum(count >= 2 for count in _class_counts(grouped).values()) < 2:
        raise PhotosError(
            f"Of {len(photos.samples)} photos {len(grouped)} can be used, and fewer than two classes have two of them.",
            where=photos.root,
            mend=_first_reasons(reasons) or "Add photos.",
        )
    for name in ("val", "test"):
        lost = {sample: reason for sample, reason in reasons.items() if sample.split == name}
        if lost and not any(sample.split == name for sample in grouped):
            raise PhotosError(f"No photo of your {name} set can be used.", where=photos.root, mend=_first_reasons(lost))
    labels = {old: new for new, old in enumerate(sorted(trainable))}
    checked = PhotoSet(
        photos.root,
        tuple(photos.classes[old] for old in labels),
        tuple(replace(sample, label=labels[sample.label]) for sample in grouped),
        photos.left_out + tuple(Skipped(sample.file_name, reason) for sample, reason in reasons.items()),
    )
    dropped = [name for name in photos.classes if name not in checked.classes]
    return replace(checked, notes=(*photos.notes, *_notes(checked, dropped, copies)))


def with_trait_notes(photos: PhotoSet, reading: Reading) -> PhotoSet:
    """Return the set with a note on each trait of its files that the user should know of, as they are read."""
    notes = trait_notes((sample.traits for sample in photos.samples), reading)
    return replace(photos, notes=(*photos.notes, *notes))


def _inspect_all(
    samples: Sequence[Sample], known: Mapping[str, Facts], reading: Reading
) -> tuple[dict[Sample, Sample], dict[Sample, str]]:
    """Return the readable samples with digest and size, by the given sample, and why the others can't be read."""
    readable: dict[Sample, Sample] = {}
    reasons: dict[Sample, str] = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = progress_bar(
            pool.map(lambda sample: _inspect(sample, known, reading), samples), "checking photos", total=len(samples)
        )
        for sample, result in zip(samples, results, strict=True):
            if isinstance(result, DecodeError):
                reasons[sample] = f"{result.what} {result.mend or ''}".strip()
            else:
                readable[sample] = result
    return readable, reasons


def _inspect(sample: Sample, known: Mapping[str, Facts], reading: Reading) -> Sample | DecodeError:
    """Return the sample with its digest, size, traits and fingerprint, or the error."""
    try:
        with sample.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        facts = known.get(facts_key(digest, reading)) or _decoded(sample.path, reading)
        return replace(sample, digest=digest, size=facts.size, traits=facts.traits, fingerprint=facts.fingerprint)
    except DecodeError as error:
        return error
    except OSError as error:
        return DecodeError(f"The file can't be read: {error.strerror}.", where=sample.path)


def _decoded(path: Path, reading: Reading) -> Facts:
    """Decode a file and return what is kept of it: a large JPEG is decoded to a fraction of its size, which is faster."""
    decoded = inspect(path, DECODED_SIDE, Reading(reading.frame))
    traits = decoded.traits
    if reading.channels:
        traits = traits_from({*traits, *inspect(path, DECODED_SIDE, reading).traits})
    return Facts(decoded.size, traits, fingerprint(as_picture(decoded.image)))


def _conflicts(identical: list[Sample]) -> dict[Sample, str]:
    """Return which of these images with the same bytes or pixels can't be used, and why."""
    if len({sample.label for sample in identical}) > 1:
        others = {sample: next(other for other in identical if other.label != sample.label) for sample in identical}
        return {
            sample: f"{_identity(sample, other)} {other.file_name}, which has another label"
            for sample, other in others.items()
        }
    used = max(identical, key=lambda sample: _SPLITS.index(sample.split))
    return {
        sample: f"{_identity(sample, used)} {used.file_name}, which is in {used.split}"
        for sample in identical
        if sample.split != used.split
    }


def _identity(sample: Sample, other: Sample) -> str:
    return "is byte-identical to" if sample.digest == other.digest else "has pixels identical to those of"


def _class_counts(samples: Sequence[Sample]) -> dict[int, int]:
    return dict(Counter(sample.label for sample in samples))


def _notes(checked: PhotoSet, dropped: list[str], copies: Copies) -> Iterator[str]:
    counts = {checked.classes[label]: count for label, count in sorted(_class_counts(checked.samples).items())}
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if dropped:
        yield f"No photo is left to train on in {quote_list(dropped)}: add readable photos to keep the class."
    yield from _copy_notes(checked, copies)
    tiny = [sample.file_name for sample in checked.samples if sample.short_side < _TINY_SIDE]
    if tiny:
        yield f"Photos with a side below {_TINY_SIDE} pixels: {len(tiny)} (first: {tiny[0]}); take larger originals."
    if counts[largest] > _IMBALANCE * counts[smallest]:
        yield (
            f"{largest!r} has {counts[largest]} photos and {smallest!r} {counts[smallest]}: "
            "compare by balanced accuracy, and add photos to the small classes."
        )
    few = [name for name, count in counts.items() if count < _FEW_PHOTOS]
    if few:
        yield (
            f"Fewer than {_FEW_PHOTOS} photos are in {quote_list(few)}: "
            "add some, or expect no reliable figure for these."
        )
    splits_by_group: dict[str, set[str]] = defaultdict(set)
    for sample in checked.samples:
        if sample.group is not None and sample.split is not None:
            splits_by_group[sample.group].add(sample.split)
    divided = sorted(group for group, splits in splits_by_group.items() if len(splits) > 1)
    if divided:
        yield f"Your splits part the groups {quote_list(divided)}: scores will be too good; put each group on one side."


def _copy_notes(checked: PhotoSet, copies: Copies) -> Iterator[str]:
    n_copies = len(checked.samples) - len({copies.content(sample) for sample in checked.samples})
    if n_copies:
        yield (
            f"Identical copies among them (the same bytes or pixels): {n_copies}; no split parts them, but removing them "
            "is better."
        )
    by_digest = {sample.digest: sample for sample in checked.samples}
    pairs = [(by_digest[a], by_digest[b]) for a, b in copies.alike if a in by_digest and b in by_digest]
    parted = [pair for pair in pairs if None not in (pair[0].split, pair[1].split) and pair[0].split != pair[1].split]
    together = [pair for pair in pairs if pair not in parted]
    if together:
        kept = (
            "no split parts them"
            if all(a.group is not None and a.group == b.group for a, b in together)
            else ("some are on both sides of a split, as they are too many of their class")
        )
        yield f"Photos that look the same as another one (saved anew?): {len(together)}, {_first(together)}; {kept}."
    if parted:
        yield (
            f"Photos that look the same on both sides of your splits: {len(parted)}, {_first(parted)}: scores will be "
            "too good; keep one of each."
        )
    odd = [(a, b) for a, b in pairs if a.label != b.label]
    if odd:
        yield f"Photos that look the same but have two labels: {len(odd)}, {_first(odd)}; check the labels."


def _first(pairs: Sequence[tuple[Sample, Sample]]) -> str:
    return f"such as {pairs[0][1].file_name} and {pairs[0][0].file_name}"
