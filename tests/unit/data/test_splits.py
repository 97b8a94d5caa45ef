from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unfreeze.data.sources import PhotoSet, Sample, Split
from unfreeze.data.splits import Splits, split
from unfreeze.errors import ConfigError, PhotosError

Row = tuple[int, str | None, Split | None]


def photo_set(rows: list[Row]) -> PhotoSet:
    """Make a set in which every class up to the highest label has photos."""
    samples = tuple(Sample(Path(f"{i}.png"), f"{i}.png", *row) for i, row in enumerate(rows))
    return PhotoSet(Path(), tuple(str(label) for label in range(1 + max(row[0] for row in rows))), samples)


def of_sizes(*sizes: int, side: Split | None = None) -> list[Row]:
    return [(label, None, side) for label, size in enumerate(sizes) for _ in range(size)]


def same(first: Splits, second: Splits) -> bool:
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ("train", "val", "test", "fold"))


labels = st.integers(0, 3)
groups = st.none() | st.sampled_from(list("pqrstu"))
sides = st.sampled_from([None, "train", "val", "test"])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(labels, groups, sides), min_size=4, max_size=60), st.integers(2, 6), st.integers(0, 99))
def test_nothing_is_lost_torn_or_moved(rows: list[Row], folds: int, seed: int) -> None:
    photos = photo_set(rows)
    try:
        result = split(photos, test_size=0.3, folds=folds, seed=seed)
    except PhotosError:
        return
    assert same(result, split(photos, test_size=0.3, folds=folds, seed=seed))
    together = np.concatenate([result.train, result.val, result.test])
    assert sorted(together) == list(range(len(rows)))
    assert all((np.diff(part) > 0).all() for part in (result.train, result.val, result.test))
    assert np.array_equal(np.flatnonzero(result.fold >= 0), result.train)
    used = set(result.fold[result.train].tolist())
    assert used == set(range(len(used)))
    assert 2 <= len(used) <= folds
    side_of = {i: name for name in ("train", "val", "test") for i in getattr(result, name)}
    fold_of_group: dict[str, int] = {}
    given_sides = {row[2] for row in rows}
    for index, (_, group, side) in enumerate(rows):
        if side == "val" and "test" not in given_sides:
            assert side_of[index] == "test"
        elif side in ("val", "test") or (side == "train" and None in given_sides):
            assert side_of[index] == side
        if group is not None and side_of[index] == "train":
            assert fold_of_group.setdefault(group, int(result.fold[index])) == result.fold[index]
    if not given_sides & {"val", "test"}:
        for group in {row[1] for row in rows} - {None}:
            assert len({side_of[i] for i, row in enumerate(rows) if row[1] == group}) == 1
        assert {rows[i][0] for i in result.train} == {row[0] for row in rows}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.floats(0.05, 0.95), st.integers(0, 99))
def test_class_shares_are_exact_within_a_photo(sizes: list[int], test_size: float, seed: int) -> None:
    rows = of_sizes(*sizes)
    try:
        result = split(photo_set(rows), test_size=test_size, folds=5, seed=seed)
    except PhotosError:
        return
    tested = Counter(rows[i][0] for i in result.test)
    for label, size in enumerate(sizes):
        assert tested[label] <= size - 1
        assert abs(tested[label] - size * test_size) <= 1
        per_fold = Counter(int(result.fold[i]) for i in result.train if rows[i][0] == label)
        counts = [per_fold[fold] for fold in range(result.fold.max() + 1)]
        assert max(counts) - min(counts) <= 1


def test_usual_sizes() -> None:
    result = split(photo_set(of_sizes(100, 50, 50)), test_size=0.2, folds=5, seed=0)
    assert (len(result.train), len(result.val), len(result.test)) == (160, 0, 40)
    assert Counter(result.fold.tolist()) == {-1: 40} | dict.fromkeys(range(5), 32)
    assert not same(result, split(photo_set(of_sizes(100, 50, 50)), test_size=0.2, folds=5, seed=1))


def test_one_photo_of_a_class_trains() -> None:
    result = split(photo_set(of_sizes(1, 30, 30)), test_size=0.5, folds=5, seed=0)
    assert 0 in result.train


def test_train_alone_is_as_good_as_no_split() -> None:
    named = split(photo_set(of_sizes(20, 20, side="train")), test_size=0.2, folds=5, seed=3)
    assert same(named, split(photo_set(of_sizes(20, 20)), test_size=0.2, folds=5, seed=3))


def test_val_alone_is_the_test_set() -> None:
    rows = of_sizes(6, 6, side="train") + of_sizes(2, 2, side="val")
    result = split(photo_set(rows), test_size=0.2, folds=3, seed=0)
    assert result.test.tolist() == [12, 13, 14, 15]
    assert result.val.size == 0


def test_groups_are_dealt_evenly() -> None:
    rows: list[Row] = [(patient % 2, f"patient {patient}", None) for patient in range(40) for _ in range(5)]
    result = split(photo_set(rows), test_size=0.2, folds=4, seed=0)
    assert Counter(rows[i][0] for i in result.test) == {0: 20, 1: 20}
    assert Counter(result.fold[result.train].tolist()) == dict.fromkeys(range(4), 40)


def test_folds_shrink_with_the_set() -> None:
    assert split(photo_set(of_sizes(4, 4)), test_size=0.25, folds=5, seed=0).fold.max() + 1 == 3
    rows = of_sizes(1, 1) + of_sizes(1, 1, side="test")
    assert split(photo_set(rows), test_size=0.25, folds=5, seed=0).fold.max() + 1 == 2


@pytest.mark.parametrize(("test_size", "folds"), [(-0.1, 5), (1.0, 5), (20.0, 5), (float("nan"), 5), (0.2, 1)])
def test_settings_out_of_range(test_size: float, folds: int) -> None:
    with pytest.raises(ConfigError):
        split(photo_set(of_sizes(20, 20)), test_size=test_size, folds=folds, seed=0)


def test_without_a_test_set_every_photo_trains() -> None:
    result = split(photo_set(of_sizes(20, 20)), test_size=0, folds=5, seed=0)
    assert (len(result.train), len(result.val), len(result.test)) == (40, 0, 0)
    assert Counter(result.fold.tolist()) == dict.fromkeys(range(5), 8)
    given = split(photo_set(of_sizes(20, 20) + of_sizes(3, 3, side="test")), test_size=0, folds=5, seed=0)
    assert len(given.test) == 6  # what the user held out stays so


def test_few_photos_are_not_held_out_unless_asked_for() -> None:
    assert len(split(photo_set(of_sizes(150, 149)), test_size=None, folds=5, seed=0).test) == 0
    assert len(split(photo_set(of_sizes(150, 150)), test_size=None, folds=5, seed=0).test) == 60
    assert len(split(photo_set(of_sizes(20, 20)), test_size=0.25, folds=5, seed=0).test) == 10


@pytest.mark.parametrize("seed", range(5))
def test_a_class_of_two_photos_is_on_both_sides(seed: int) -> None:
    photos = photo_set(of_sizes(160, 160, 2, 1))
    result = split(photos, test_size=0.2, folds=5, seed=seed)
    on_test = Counter(photos.samples[i].label for i in result.test)
    assert (on_test[2], on_test[3]) == (1, 0)
    grouped = photo_set([*of_sizes(160, 160), *[(2, group, None) for group in "aaaaaaaaaaaaaaaaaaaaaaaaaaaaab"]])
    on_test = Counter(grouped.samples[i].label for i in split(grouped, test_size=0.2, folds=5, seed=seed).test)
    assert on_test[2] in (1, 29)


def test_too_few_photos() -> None:
    with pytest.raises(PhotosError, match="too few for 5 classes"):
        split(photo_set(of_sizes(2, 2, 2, 2, 2)), test_size=0.2, folds=5, seed=0)
    with pytest.raises(PhotosError, match="No photo is left"):
        split(photo_set(of_sizes(3, 3, side="test")), test_size=0.2, folds=5, seed=0)
    with pytest.raises(PhotosError, match="in one group"):
        split(photo_set([(0, "g", "train"), (1, "g", "train"), (0, None, "test")]), test_size=0.2, folds=5, seed=0)


def test_many_photos_take_seconds_at_most() -> None:
    result = split(photo_set(of_sizes(*[100] * 100)), test_size=0.2, folds=5, seed=0)
    assert len(result.test) == 2000


def test_photos_without_a_side_follow_their_group(tmp_path: Path) -> None:
    sides: list[tuple[str, Split | None]] = [
        ("a", "test"),
        ("a", None),
        ("b", None),
        ("b", None),
        ("c", "train"),
        ("c", None),
    ]
    samples = tuple(
        Sample(tmp_path / f"{number}-{label}.jpg", f"{number}-{label}.jpg", label, group, side)
        for number, (group, side) in enumerate(sides)
        for label in (0, 1)
    )
    splits = split(PhotoSet(tmp_path, ("x", "y"), samples), test_size=0.2, folds=2, seed=0)
    groups = {name: {samples[index].group for index in getattr(splits, name)} for name in ("train", "test")}
    assert groups == {"train": {"b", "c"}, "test": {"a"}}
