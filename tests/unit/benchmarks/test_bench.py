from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from benchmarks.peers.bench import LEFT_TO_TEST, draw
from benchmarks.peers.rivals import ARMS, FAMILIES, WITHDRAWN, arms_named

from unfreeze.data.sources import PhotoSet, Sample, Split


def photos(counts: dict[str, int], side: Split | None = None) -> list[Sample]:
    return [
        Sample(Path(f"{name}/{side}{number}.png"), f"{name}/{side}{number}.png", label, None, side)
        for label, (name, count) in enumerate(counts.items())
        for number in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_quarter_of_each_class_is_left_to_test(seed: int) -> None:
    counts = {"many": 120, "few": 12, "one": 1}
    train, test = draw(PhotoSet(Path(), tuple(counts), tuple(photos(counts))), 20, seed)
    assert Counter(sample.label for sample in train) == {0: 20, 1: 9}
    tested = Counter(sample.label for sample in test)
    assert tested == {0: 100, 1: 3, 2: 1}
    assert all(tested[label] >= LEFT_TO_TEST * count for label, count in enumerate(counts.values()))
    assert not {sample.path for sample in train} & {sample.path for sample in test}


def test_named_sides_are_kept() -> None:
    counts = {"a": 30, "b": 8}
    both = photos(counts, "train") + photos(counts, "val")
    train, test = draw(PhotoSet(Path(), tuple(counts), tuple(both)), 20, 0)
    assert {sample.split for sample in train} == {"train"}
    assert {sample.split for sample in test} == {"val"}
    assert Counter(sample.label for sample in train) == {0: 20, 1: 8}


def test_every_arm_is_a_script_that_is_there() -> None:
    for arm in ARMS.values():
        assert Path("benchmarks/peers/arms", f"{arm.command[0]}.py").exists()


def test_a_rival_s_name_means_all_of_its_variants() -> None:
    assert arms_named(["fastai", "layer decay"]) == ["fastai fine_tune", *FAMILIES["layer decay"]]
    variant = next(iter(FAMILIES["Lightning"]))
    assert arms_named([variant, "fastai"]) == ["fastai fine_tune", variant]


def test_no_arm_has_the_name_of_a_withdrawn_one() -> None:
    assert not WITHDRAWN.keys() & (ARMS.keys() | FAMILIES.keys())
    assert len(ARMS) == sum(len(variants) for variants in FAMILIES.values())
