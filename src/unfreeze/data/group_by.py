"""Which photos belong together (``--group-by``): by the user's table, by DICOM headers, or by file names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unfreeze.data.folders import quote_list
from unfreeze.data.guessed_groups import NUMBERS, Names, by_number, by_pattern, guess_groups, single_group_classes
from unfreeze.data.header_groups import ID_KINDS, header_groups
from unfreeze.data.rows import AUTO, NONE
from unfreeze.data.sources import Sample
from unfreeze.errors import ConfigError, PhotosError

_KEYWORDS = {keyword.lower(): keyword for keyword in ID_KINDS}
_MEND = (
    "Name a column of the table, PatientID, StudyInstanceUID or SeriesInstanceUID for DICOM, or a pattern (regular "
    'expression) for file names whose bracket is the group, such as "(patient[0-9]+)".'
)


@dataclass(frozen=True)
class Grouping:
    """The group of each photo, and how it was found.

    Attributes:
        names: The group of each photo, in order; None: a photo alone.
        kind: What one group is, in a word: a patient, a study, a series, or a group.
        group_by: The value of ``--group-by`` that gives the same groups; empty for the user's own.
        evidence: What speaks for groups that nobody asked for, as a clause; empty for others.
    """

    names: Names
    kind: str = "group"
    group_by: str = ""
    evidence: str = ""

    @property
    def n_groups(self) -> int:
        """The number of groups with a name."""
        return len(set(self.names) - {None})

    def sentence(self) -> str | None:
        """Return how photos are grouped, for the user; None where there is nothing to say."""
        if not self.n_groups or not self.group_by:
            return None
        found = f"Photos are grouped by {self.group_by}: {self.n_groups} groups"
        if self.evidence:
            found = f"{self.n_groups} groups of photos that belong together were found: {self.evidence}"
        alone = self.names.count(None)
        without = f"; {alone} photos are in none" if alone else ""
        return f"{found}{without}. Each stays on one side of our splits (--group-by none parts them)."


def find_groups(samples: Sequence[Sample], group_by: str) -> Grouping:
    """Return which samples belong together.

    Args:
        samples: The images, with fingerprints, and with the groups that a table names.
        group_by: ``auto``: the table's groups, or else those of DICOM headers, or else those that file names tell;
            ``none``; a column of the table, which was read with it; an id of DICOM headers; ``numbers:STEP``; a pattern.

    Raises:
        ConfigError: It is no pattern, or finds nothing.
    """
    named = tuple(sample.group for sample in samples)
    if group_by == NONE:
        return Grouping((None,) * len(samples))
    if any(named):
        return Grouping(named)
    if group_by == AUTO:
        return _by_headers(samples) or _by_names(samples) or Grouping(named)
    names, kind = _asked(samples, group_by)
    if not any(names):
        raise ConfigError(f"No photo has a group by {group_by!r}.", where="--group-by", mend=_MEND)
    return Grouping(names, kind, group_by)


def _asked(samples: Sequence[Sample], group_by: str) -> tuple[Names, str]:
    keyword = _KEYWORDS.get(group_by.lower())
    if keyword is not None:
        return header_groups(samples)[keyword], ID_KINDS[keyword]
    if group_by.startswith(NUMBERS):
        step = group_by.removeprefix(NUMBERS)
        if not step.isdecimal() or not int(step):
            raise ConfigError(f"{group_by!r} names no step.", where="--group-by", mend="Write numbers:10, for example.")
        return by_number(samples, int(step)), "group"
    try:
        return by_pattern(samples, re.compile(group_by)), "group"
    except re.error as error:
        raise ConfigError(f"{group_by!r} is no pattern: {error}.", where="--group-by", mend=_MEND) from error


def _by_headers(samples: Sequence[Sample]) -> Grouping | None:
    """Return groups by the first id of DICOM headers that joins some photos and parts others."""
    for keyword, names in header_groups(samples).items():
        groups = set(names) - {None}
        if not groups:
            continue
        n_named = len(names) - names.count(None)
        if 1 < len(groups) < n_named:
            evidence = f"{keyword} in the DICOM headers has {len(groups)} values in {n_named} photos"
            return Grouping(names, ID_KINDS[keyword], keyword, evidence)
    return None


def _by_names(samples: Sequence[Sample]) -> Grouping | None:
    guess = guess_groups(samples)
    return Grouping(guess.names, "group", guess.group_by, guess.evidence) if guess is not None else None


def no_honest_score(samples: Sequence[Sample], classes: Sequence[str], grouping: Grouping) -> str | None:
    """Return why no score of these photos would be honest: a class has a single group.  None where it is.

    A model that only knows the patient is then as right as one that knows the class, on every photo of these.
    """
    alone = single_group_classes(grouping.names, [sample.label for sample in samples])
    if not alone:
        return None
    counts = Counter(sample.label for sample in samples)
    names = quote_list([classes[label] for label in alone])
    photos = sum(counts[label] for label in alone)
    of_them = "the class" if len(alone) == 1 else "each of the classes"
    return (
        f"No honest score exists: all {photos} photos of {of_them} {names} are of one {grouping.kind}, so that a model "
        f"which only tells one {grouping.kind} from another would score as well as one that tells the classes apart."
    )


def refuse_single_groups(reason: str, kind: str, root: Path) -> PhotosError:
    """Return the error for photos of which no score would be honest."""
    return PhotosError(
        reason,
        where=root,
        mend=f"Add photos of another {kind} to each such class, or leave the class out. With --group-by none a model is "
        "trained all the same, and nothing is scored.",
    )
