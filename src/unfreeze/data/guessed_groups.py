"""Groups that nobody named, guessed from file names: a patient, a scene, a board, a video.

A guess is only worth what speaks for it, so each of these must hold, and the evidence is told in words:

- There are enough groups for five folds and a test set, no group holds most photos, and most photos share theirs.
- The groups divide the classes: a group that is a class, or a class with a single group, tells nothing.
- Photos of a group look more alike than others of their class do.  Where the name says what it is (patient_07), this
  isn't asked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from unfreeze.data.fingerprints import luminances
from unfreeze.data.sources import Sample

MIN_GROUPS = 8  # fewer can't be divided into five folds and a test set; the smallest sets of patients have nine
MAX_SHARE = 0.4  # of the photos in one group
MIN_SHARED = 0.5  # share of the photos that aren't alone in their group
MIN_MATCHED = 0.9  # share of the names that have the part
FEW = 5  # photos: a class with as many must have several groups
MIN_Z = 5.0  # standard errors by which photos of a group must be more alike than by chance; 0 to 2 in random groups
MIN_EXPLAINED = 0.02  # share of the variance within classes, beyond chance
PERMUTATIONS = 40
_SEPARATORS = {"_": "underscore", "-": "hyphen", " ": "space", ".": "dot"}
_ORDINALS = ("first", "second", "third", "fourth")
_WORDS = (
    "patient|pat|subject|subj|person|animal|mouse|specimen|slide|biopsy|case|donor|participant|scene|video|vid|clip|"
    "movie|sequence|seq|tile|plot|board|item|series|study"
)

_LAST_NUMBER = re.compile(r"(\d{1,18})\D*$")
_NAMED = re.compile(rf"(?i)(?<![a-z])({_WORDS})[-_ ]?\d+")
STEPS = (2, 5, 10, 20, 50, 100, 200)  # between the numbers of two photos of one scene
NEARLY = 0.8  # of the best step's explained variance
NUMBERS = "numbers:"  # --group-by numbers:100

IntArray = npt.NDArray[np.int64]
Names = tuple[str | None, ...]


@dataclass(frozen=True)
class GuessedGroups:
    """Groups of photos, and what speaks for them.

    Attributes:
        names: The group of each photo, in order; None: a photo alone.
        evidence: Why these are groups, as a clause.
        group_by: The value of ``--group-by`` that gives the same groups.
    """

    names: Names
    evidence: str
    group_by: str


@dataclass(frozen=True)
class _Part:
    """A part of file names: the value of ``--group-by`` that takes it, what it is in words, whether the name says so."""

    group_by: str
    words: str
    is_named: bool = False


def by_pattern(samples: Sequence[Sample], pattern: re.Pattern[str]) -> Names:
    """Return each sample's group: what the pattern's first bracket, or all of it, finds in the file's name."""
    found = (pattern.search(sample.file_name) for sample in samples)
    return tuple((match[1] if pattern.groups else match[0]) or None if match else None for match in found)


def by_number(samples: Sequence[Sample], step: int) -> Names:
    """Return each sample's group: names whose last numbers follow each other with steps of at most ``step``."""
    numbers = [_last_number(sample) for sample in samples]
    groups: dict[int, int] = {}
    first = previous = None
    for number in sorted({number for number in numbers if number is not None}):
        if first is None or previous is None or number - previous > step:
            first = number
        groups[number], previous = first, number
    return tuple(None if number is None else f"from number {groups[number]}" for number in numbers)


def _last_number(sample: Sample) -> int | None:
    match = _LAST_NUMBER.search(PurePosixPath(sample.file_name).stem)
    return int(match[1]) if match else None


def guess_groups(samples: Sequence[Sample]) -> GuessedGroups | None:
    """Return the groups that the names of the files tell, or None; of several sound guesses, the largest groups.

    Args:
        samples: The images, with fingerprints.
    """
    labels = np.array([sample.label for sample in samples], np.int64)
    alike = _Likeness(samples, labels)
    sound: list[tuple[bool, int, GuessedGroups]] = []
    seen: set[Names] = set()
    for part in _parts(samples):
        names = by_pattern(samples, re.compile(part.group_by))
        if names not in seen and _divides(names, labels) and (part.is_named or alike.explained(names) > MIN_EXPLAINED):
            sound.append((not part.is_named, len(set(names)), _told(names, part)))
        seen.add(names)
    if (bursts := _bursts(samples, labels, alike)) is not None:
        sound.append((True, len(set(bursts.names)), bursts))
    return min(sound, key=lambda guess: guess[:2])[2] if sound else None


def single_group_classes(names: Names, labels: Sequence[int]) -> list[int]:
    """Return the labels of classes whose photos are all of one group, if that leaves no fair test.

    A class of fewer than ``FEW`` photos is left alone where several others have several groups: it is only untested.
    """
    groups: dict[int, set[str | int]] = defaultdict(set)
    for index, (name, label) in enumerate(zip(names, labels, strict=True)):
        groups[label].add(index if name is None else name)
    sizes = Counter(labels)
    single = [label for label in sorted(groups) if len(groups[label]) == 1 and sizes[label] > 1]
    few_left = len(groups) - len(single) < 2
    return [label for label in single if few_left or sizes[label] >= FEW]


def _told(names: Names, part: _Part) -> GuessedGroups:
    counts = Counter(name for name in names if name is not None)
    name, count = counts.most_common()[len(counts) // 2]
    evidence = f"{part.words} stands in several names: {name!r} in {count}, for example"
    return GuessedGroups(names, evidence, part.group_by)


def _bursts(samples: Sequence[Sample], labels: IntArray, alike: _Likeness) -> GuessedGroups | None:
    """Return groups of photos whose numbers follow each other, as in a video or a series of shots.

    Of the steps that give sound groups, the largest is taken whose groups are nearly as alike as the best.
    """
    explained: dict[int, float] = {}
    for step in STEPS:
        names = by_number(samples, step)
        if _divides(names, labels) and (share := alike.explained(names)) > MIN_EXPLAINED:
            explained[step] = share
    if not explained:
        return None
    step = max(step for step, share in explained.items() if share >= NEARLY * max(explained.values()))
    names = by_number(samples, step)
    group, count = Counter(names).most_common(1)[0]
    members = [sample.file_name for sample, name in zip(samples, names, strict=True) if name == group]
    evidence = (
        f"names with close last numbers (steps of at most {step}) are of one scene: {count} photos beside {members[0]}, "
        "for example"
    )
    return GuessedGroups(names, evidence, f"{NUMBERS}{step}")


def _parts(samples: Sequence[Sample]) -> Iterator[_Part]:
    """Yield the parts of names that may be groups: words such as patient_07, folders, beginnings."""
    for word in sorted({match[1].lower() for sample in samples for match in _NAMED.finditer(sample.file_name)}):
        yield _Part(rf"(?i)(?<![a-z])({word}[-_ ]?\d+)", f"the number after {word!r}", is_named=True)
    yield _Part(r"([^/]+)/[^/]+$", "the folder")
    yield _Part(r"([^/]+)/[^/]+/[^/]+$", "the folder above")
    for separator, name in _SEPARATORS.items():
        mark = re.escape(separator)
        for number, ordinal in enumerate(_ORDINALS):
            further = rf"(?:{mark}[^/{mark}]+){{{number}}}" if number else ""
            yield _Part(rf"([^/{mark}]+{further}){mark}[^/]*\.[^./]+$", f"the part before the {ordinal} {name}")
    yield _Part(r"([^/]*[^/\d])\d+\.[^./]+$", "the part before the last number")


def _divides(names: Names, labels: IntArray) -> bool:
    """Return whether the groups can be divided into sides, and divide the classes."""
    n = len(names)
    counts = Counter(name for name in names if name is not None)
    if counts.total() < MIN_MATCHED * n or len(counts) < MIN_GROUPS or max(counts.values()) > MAX_SHARE * n:
        return False
    if sum(count for count in counts.values() if count > 1) < MIN_SHARED * n:
        return False
    return not single_group_classes(names, labels.tolist())


class _Likeness:
    """How much more alike photos of a group and class are than photos of the class: a permutation test.

    It compares the luminances of 8 x 8 areas, from which the class's means are subtracted.
    """

    def __init__(self, samples: Sequence[Sample], labels: IntArray) -> None:
        fingerprints = [sample.fingerprint for sample in samples]
        self._labels = labels
        self._values = luminances(fingerprints).astype(np.float64) if fingerprints and all(fingerprints) else None
        self._members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
        if self._values is not None:
            for rows in self._members:
                self._values[rows] -= self._values[rows].mean(axis=0)

    def explained(self, names: Names) -> float:
        """Return the share of the variance that the groups explain beyond chance; 0 where that isn't certain."""
        values = self._values
        if values is None:
            return 0.0
        cells = [f"{label} {name}" for name, label in zip(names, self._labels.tolist(), strict=True)]
        codes = np.unique(cells, return_inverse=True)[1].astype(np.int64)

        def between(codes: IntArray) -> float:
            counts = np.bincount(codes)
            sums = np.add.reduceat(values[np.argsort(codes, kind="stable")], np.cumsum(counts) - counts)
            return float(((sums**2).sum(axis=1) / counts).sum())

        rng = np.random.default_rng(0)
        by_chance = []
        for _ in range(PERMUTATIONS):
            shuffled = codes.copy()
            for rows in self._members:
                shuffled[rows] = codes[rng.permutation(rows)]
            by_chance.append(between(shuffled))
        excess = between(codes) - float(np.mean(by_chance))
        total = float((values**2).sum())
        return excess / total if total > 0 and excess > MIN_Z * float(np.std(by_chance)) else 0.0
