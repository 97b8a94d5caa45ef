"""Groups of photos that no split of ours divides: the user's, copies of one photo, and both where they share photos."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from unfreeze.data.copies import Copies
from unfreeze.data.sources import Sample

# Photos of a class that are kept together because they look the same: most of its photos in one group leave no fair
# split.  The larger of a fifth, and of half where that is few photos.
LARGEST_SHARE, LARGEST_SHARE_OF_FEW, FEW = 0.2, 0.5, 20


def merge_groups(samples: Sequence[Sample], copies: Copies) -> list[Sample]:
    """Return the samples with copies, and the user's groups that share copies, merged into one group each.

    Files that look the same are merged only where no given split parts them, and up to a share of their class.
    """
    units = _Units()
    keys = {sample: f"file {copies.content(sample)}" for sample in samples}
    for sample in samples:
        if sample.group is not None:
            units.merge(keys[sample], f"group {sample.group}")
    _merge_alike(units, samples, copies)
    members: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        members[units.root(keys[sample])].append(sample)

    def group_name(sample: Sample) -> str | None:
        together = members[units.root(keys[sample])]
        named = [other.group for other in together if other.group is not None]
        return min(named, default=f"copies of {together[0].file_name}" if len(together) > 1 else None)

    return [replace(sample, group=group_name(sample)) for sample in samples]


class _Units:
    """Disjoint sets of keys."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, key: str) -> str:
        """Return the key that stands for the set of ``key``."""
        while self._parent.setdefault(key, key) != key:
            key = self._parent[key]
        return key

    def merge(self, key: str, other: str) -> None:
        """Make one set of two."""
        self._parent[self.root(key)] = self.root(other)


def _merge_alike(units: _Units, samples: Sequence[Sample], copies: Copies) -> None:
    by_digest = {sample.digest: sample for sample in samples}
    keys = {digest: f"file {copies.content(sample)}" for digest, sample in by_digest.items()}
    classes = Counter(sample.label for sample in samples)
    limits = {
        label: max(count * LARGEST_SHARE, min(count * LARGEST_SHARE_OF_FEW, FEW)) for label, count in classes.items()
    }
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    splits: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        root = units.root(keys[sample.digest])
        counts[root][sample.label] += 1
        splits[root] |= {sample.split} if sample.split is not None else set()
    for pair in copies.alike:
        if not by_digest.keys() >= set(pair):  # one of them is left out
            continue
        first, second = (units.root(keys[digest]) for digest in pair)
        together = counts[first] + counts[second]
        if first == second or len(splits[first] | splits[second]) > 1:
            continue
        if all(count <= limits[label] for label, count in together.items()):
            units.merge(first, second)
            counts[second], splits[second] = together, splits[first] | splits[second]
