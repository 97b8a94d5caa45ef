"""Checks of an image set: unreadable files, copies, leaks between splits, small classes.  No file is changed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from unfreeze.data.copies import DECODED_SIDE, find_copies
from unfreeze.data.decode import Facts, as_picture, facts_key, inspect, trait_notes
from unfreeze.data.decode.traits import traits_from
from unfreeze.data.fingerprints import fingerprint
from unfreeze.data.folders import Skipped
from unfreeze.data.group_by import Grouping, find_groups, no_honest_score, refuse_single_groups
from unfreeze.data.groups import merge_groups
from unfreeze.data.photo_notes import photo_notes
from unfreeze.data.rows import AUTO, NONE
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.errors import DecodeError, PhotosError
from unfreeze.reading import FIRST_FRAME, Reading
from unfreeze.runtime import progress_bar

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


def check(
    photos: PhotoSet,
    known: Mapping[str, Facts] = _NONE_KNOWN,
    reading: Reading = FIRST_FRAME,
    group_by: str | None = None,
) -> PhotoSet:
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
        group_by: Which images belong together, see ``group_by.find_groups``; None: those that a table says.

    Raises:
        PhotosError: Fewer than two classes have two readable images, a given val or test set has none left, or a class
            is of one group (unless ``group_by`` is ``none``).
        ConfigError: ``group_by`` finds nothing.
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
    grouping, no_score = _grouping(usable, photos, group_by)
    usable = [replace(sample, group=name) for sample, name in zip(usable, grouping.names, strict=True)]
    grouped = merge_groups(usable, copies)
    if sum(count >= 2 for count in Counter(sample.label for sample in grouped).values()) < 2:
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
        no_score=no_score,
    )
    dropped = [name for name in photos.classes if name not in checked.classes]
    return replace(checked, notes=(*photos.notes, *photo_notes(checked, dropped, copies, grouping)))


def with_trait_notes(photos: PhotoSet, reading: Reading) -> PhotoSet:
    """Return the set with a note on each trait of its files that the user should know of, as they are read."""
    notes = trait_notes((sample.traits for sample in photos.samples), reading)
    return replace(photos, notes=(*photos.notes, *notes))


def _grouping(usable: Sequence[Sample], photos: PhotoSet, group_by: str | None) -> tuple[Grouping, str]:
    """Return which images belong together, and why no score of them would be honest, if so.

    Raises:
        PhotosError: None would be, and the user didn't ask for that.
    """
    if group_by is None:
        return Grouping(tuple(sample.group for sample in usable)), ""
    grouping = find_groups(usable, AUTO if group_by == NONE else group_by)
    no_score = no_honest_score(usable, photos.classes, grouping)
    if group_by == NONE:
        return find_groups(usable, NONE), no_score or ""
    if no_score:
        raise refuse_single_groups(no_score, grouping.kind, photos.root)
    return grouping, ""


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
