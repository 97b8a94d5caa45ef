"""Groups that the names of files tell, and names that tell none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from unfreeze.data.fingerprints import AREAS
from unfreeze.data.guessed_groups import GuessedGroups, by_number, guess_groups, single_group_classes
from unfreeze.data.sources import Sample

A_GROUP = 6


def samples(names: Iterable[str], scenes: Sequence[int] | None = None) -> list[Sample]:
    """Return samples of the classes a and b in turn; photos of one scene look alike."""
    random = np.random.default_rng(0)
    found = []
    for index, name in enumerate(names):
        scene = index if scenes is None else scenes[index]
        look = np.random.default_rng(1000 + scene).integers(60, 190, AREAS**2) + random.integers(-20, 21, AREAS**2)
        label = index % 2
        found.append(
            Sample(Path(name), f"{'ab'[label]}/{name}", label, fingerprint=bytes(8).hex() + bytes(look.tolist()).hex())
        )
    return found


def named(pattern: Callable[[int, int], str], n_groups: int = 12, *, alike: bool = True) -> list[Sample]:
    """Return samples of groups of six, named by their group and their number in it."""
    pairs = [(group, number) for group in range(n_groups) for number in range(A_GROUP)]
    return samples([pattern(*pair) for pair in pairs], [group for group, _ in pairs] if alike else None)


def sizes(guess: GuessedGroups | None) -> set[int]:
    assert guess is not None
    return {guess.names.count(name) for name in set(guess.names)}


@pytest.mark.parametrize(
    ("pattern", "evidence"),
    [
        (lambda group, number: f"C{group}P1_{number}.png", "the part before the first underscore"),
        (lambda group, number: f"x_{group}_{number}.png", "the part before the second underscore"),
        (lambda group, number: f"board {group}-{number}.png", "the number after 'board'"),
        (lambda group, number: f"{'klmnopqrstuv'[group]}{number}.png", "the part before the last number"),
        (lambda group, number: f"site {group}/{number}.png", "the folder"),
        (lambda group, number: f"left-eye_of_Patient-{group}_{number}.png", "the number after 'patient'"),
        (lambda group, number: f"frame_{1000 * group + 7 * number}.png", "names with close last numbers"),
    ],
)
def test_groups_in_names_are_found(pattern: Callable[[int, int], str], evidence: str) -> None:
    guess = guess_groups(named(pattern))
    assert sizes(guess) == {A_GROUP}
    assert guess is not None
    assert guess.evidence.startswith(evidence)


@pytest.mark.parametrize(
    "pattern",
    [
        lambda group, number: f"C{group}P1_{number}.png",
        lambda group, number: f"site {group}/{number}.png",
        lambda group, number: f"frame_{1000 * group + 7 * number}.png",
    ],
)
def test_names_of_photos_that_are_no_more_alike_tell_none(pattern: Callable[[int, int], str]) -> None:
    assert guess_groups(named(pattern, alike=False)) is None


def test_a_word_such_as_patient_needs_no_likeness() -> None:
    assert sizes(guess_groups(named(lambda group, number: f"patient{group:02}_{number}.png", alike=False))) == {A_GROUP}


@pytest.mark.parametrize(
    "name",
    [
        lambda index: f"{'cat' if index % 2 else 'dog'}_{index:04}.jpg",  # the class
        lambda index: f"ISIC_{index * 37:07}.jpg",  # the same in all
        lambda index: f"{index * 7919 % 100003}_{index * 31 % 997:x}.jpg",  # another in each
        lambda index: f"{index:04}.jpg",
        lambda index: f"site{index % 3}_{index}.jpg",  # too few
    ],
)
def test_names_of_other_kinds_tell_none(name: Callable[[int], str]) -> None:
    assert guess_groups(samples([name(index) for index in range(80)])) is None


def test_a_class_of_a_single_group_is_no_guess() -> None:
    photos = named(lambda group, number: f"C{group}P1_{number}.png")
    lone = [Sample(Path(f"{i}"), f"c/C1P1_{50 + i}.png", 2, fingerprint=photos[6].fingerprint) for i in range(6)]
    assert guess_groups([*photos, *lone]) is None


def test_no_photos_and_photos_without_fingerprints_tell_none() -> None:
    assert guess_groups([]) is None
    assert guess_groups([Sample(Path(f"{i}"), f"a/C{i % 9}_{i}.png", i % 2) for i in range(90)]) is None


def test_numbers_follow_each_other_by_steps() -> None:
    photos = samples(["x9.png", "x5.png", "x7.png", "x20.png", "none.png", "v2.x21.png"])
    assert by_number(photos, 2) == (
        "from number 5", "from number 5", "from number 5", "from number 20", None, "from number 20",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("names", "labels", "single"),
    [
        (("p", "p", "q", "q"), (0, 0, 1, 1), [0, 1]),
        (("p", "p", "q", None), (0, 0, 1, 1), [0]),
        ((None, None, None, None), (0, 0, 1, 1), []),
        (("p", "q", "p", "q"), (0, 0, 1, 1), []),
        (("p", "p", "q", "r", "s", "t"), (0, 0, 1, 1, 2, 2), []),  # a small class, beside others that can be tested
        (("p",) * 5 + ("q", "r", "s", "t"), (0,) * 5 + (1, 1, 2, 2), [0]),
    ],
)
def test_classes_of_a_single_group(names: tuple[str | None, ...], labels: tuple[int, ...], single: list[int]) -> None:
    assert single_group_classes(names, labels) == single
