"""Labels of tables that are no classes: several tags a photo, measurements, ratings, or a text of each photo's own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from unfreeze.data.folders import quote_list
from unfreeze.errors import PhotosError

_SEPARATORS = re.compile(r"\s*[,;|]\s*")
_WORDS = re.compile(r"\s*[/+&]\s*|\s+")  # signs that class names have, too
_BRACKETS = "[](){}'\"` "
_MANY_ROWS = 10  # fewer are no evidence that labels never repeat
_MANY_NUMBERS, _FEW_EACH = 10, 5  # integers with fewer photos each look like ages or counts
_CLASSES = "This tool learns one class a photo"


def refuse_labels(labels: Sequence[str], table: Path) -> None:
    """Refuse labels that are no classes, with what was seen and what to do.

    Raises:
        PhotosError: Photos have several tags, or the labels are measurements, or nearly every photo has its own.
    """
    counts = Counter(labels)
    numbers = _numbers(counts)
    if numbers is not None:
        _refuse_measurements(counts, numbers, table)
        return
    tagged = _tagged(counts)
    if tagged:
        raise PhotosError(
            f"Labels name several classes, such as {quote_list(tagged[:3])}, on {sum(counts[tag] for tag in tagged)} "
            f"photos. {_CLASSES}.",
            where=table,
            mend="Keep the one label that matters in each row, or make one table a tag with the labels yes and no. If "
            "such a label is the name of one class, write it without the separator.",
        )
    if len(labels) >= _MANY_ROWS and len(counts) > len(labels) / 2:
        raise PhotosError(
            f"There are {len(counts)} labels for {len(labels)} photos, such as {quote_list(list(counts)[:3])}: these are "
            f"no classes. {_CLASSES}.",
            where=table,
            mend="Name the column of the classes label; each class needs several photos.",
        )


def label_notes(labels: Sequence[str]) -> list[str]:
    """Return sentences about labels that may be no classes, but often are."""
    counts = Counter(labels)
    numbers = _numbers(counts)
    if numbers is not None and len(numbers) > 2:
        low, high = min(numbers, key=numbers.__getitem__), max(numbers, key=numbers.__getitem__)
        return [f"The labels are numbers, {low} to {high}: each is taken for a class, not for a rating or an amount."]
    several = [label for label in counts if len(_parts(label)) > 1]
    if several and not _tagged(counts):
        return [f"Labels with a separator are one class each: {quote_list(several)}."]
    return []


def _refuse_measurements(counts: Counter[str], numbers: dict[str, float], table: Path) -> None:
    fractions = [label for label, number in numbers.items() if number != int(number)]
    few_each = len(counts) >= _MANY_NUMBERS and counts.total() < _FEW_EACH * len(counts)
    if fractions or few_each:
        shown = fractions or sorted(numbers, key=numbers.__getitem__)
        raise PhotosError(
            f"The labels are {len(counts)} numbers for {counts.total()} photos, such as {quote_list(shown[:3])}: "
            f"measurements or ratings, not classes. {_CLASSES}.",
            where=table,
            mend="Write classes such as low, middle and high in their place; if they are names of classes, write them as "
            "words, such as 'size 0.5'.",
        )


def _numbers(counts: Counter[str]) -> dict[str, float] | None:
    """Return the labels' values if all labels are numbers, in any common spelling."""
    values = {}
    for label in counts:
        match = re.fullmatch(r"([+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*%?", label)
        if match is None:
            return None
        values[label] = float(match[1].replace(",", "."))
    return values


def _tagged(counts: Counter[str]) -> list[str]:
    """Return the labels that name several classes: lists, or names whose parts are labels or parts of others."""
    lists = [label for label in counts if label.startswith(("[", "{", "(")) and len(_parts(label)) > 1]
    several = [label for label in counts if len(_parts(label)) > 1]
    occurs = Counter(part for label in counts for part in set(_parts(label)))
    shared = [label for label in several if any(occurs[part] > 1 for part in _parts(label))]
    # ImageNet's classes have synonyms, of which a few occur twice ("crane", "maillot").
    if several and 2 * len(shared) < len(several):
        shared = []
    joined = [
        label for label in counts if len(words := _WORDS.split(label)) > 1 and all(word in counts for word in words)
    ]
    return list(dict.fromkeys([*lists, *shared, *joined]))


def _parts(label: str) -> list[str]:
    """Return the parts of a label between commas, semicolons or bars."""
    return [part for piece in _SEPARATORS.split(label.strip(_BRACKETS)) if (part := piece.strip(_BRACKETS).casefold())]
