"""What a user should know of a set of photos before training, in a sentence each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from unfreeze.data.copies import Copies
from unfreeze.data.folders import quote_list
from unfreeze.data.group_by import Grouping
from unfreeze.data.sources import PhotoSet, Sample

_TINY_SIDE = 32
_FEW_PHOTOS = 5
_IMBALANCE = 10


def photo_notes(checked: PhotoSet, dropped: list[str], copies: Copies, grouping: Grouping) -> Iterator[str]:
    """Yield a sentence for each thing that the user should know of these photos.

    Args:
        checked: The photos that are used.
        dropped: Classes without a photo to train on.
        copies: Which files show the same photo.
        grouping: Which photos belong together.
    """
    counts = {
        checked.classes[label]: count
        for label, count in sorted(Counter(sample.label for sample in checked.samples).items())
    }
    largest, smallest = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
    if dropped:
        yield f"No photo is left to train on in {quote_list(dropped)}: add readable photos to keep the class."
    yield from _copy_notes(checked, copies)
    if (grouped := grouping.sentence()) is not None:
        yield grouped
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
