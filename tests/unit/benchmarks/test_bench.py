from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest
from benchmarks.peers.bench import ARMS, FIELDS, LEFT_TO_TEST, Row, draw, read_rows, seconds_to, summarise

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


def row(arm: str, points: str, *, seed: str = "0", name: str = "aid150") -> Row:
    clock, accuracy, balanced = points.split(";")[-1].split()
    return {
        "set": name, "a_class": "20", "seed": seed, "arm": arm, "accuracy": accuracy, "balanced": balanced,
        "original": "0.8", "clock": clock, "wall": "50", "cpu": "60", "peak_mib": "900", "points": points,
    }  # fmt: skip


def test_how_soon_an_accuracy_is_reached() -> None:
    found = row("unfreeze auto", "4.0 0.70 0.6;20.0 0.80 0.7")
    assert seconds_to(found, 0.6) == 4.0
    assert seconds_to(found, 0.75) == 20.0
    assert seconds_to(found, 0.81) is None


def test_the_tables_compare_within_a_seed_and_say_never() -> None:
    table = summarise(
        [
            row("fastai fine_tune", "100.0 0.75 0.7"),
            row("fastai fine_tune", "100.0 0.90 0.7", seed="1"),
            row("unfreeze head-only", "5.0 0.70 0.6"),
            row("unfreeze head-only", "5.0 0.90 0.6", seed="1"),
            row("unfreeze auto", "4.0 0.70 0.6;20.0 0.80 0.7"),
            row("unfreeze auto", "4.0 0.70 0.6;20.0 0.80 0.7", seed="1"),
        ]
    )
    assert "| aid150 | 0 | 75.0 | 100 | never | 5.0x | 5.0x |" in table
    assert "| aid150 | 1 | 90.0 | 100 | 20.0x | never | 20.0x |" in table
    assert "| median over sets |  |  |  |  |  | 12.5x |" in table
    assert "20.0; never in 1 of 2" in table


def scored(arm: str, balanced: str, *, seed: str = "0", name: str = "aid150", clock: str = "10.0") -> Row:
    return row(arm, f"{clock} 0.9 {balanced}", seed=seed, name=name)


def test_the_margins_are_means_over_the_seeds_that_both_arms_have() -> None:
    table = summarise(
        [
            scored("unfreeze auto", "0.80", clock="30.0"),
            scored("unfreeze auto", "0.90", seed="1", clock="60.0"),
            scored("fastai fine_tune", "0.75", clock="60.0"),
            scored("fastai fine_tune", "0.93", seed="1", clock="60.0"),
            scored("tutorial", "0.70"),
            scored("unfreeze auto", "0.60", name="hymenoptera"),
            scored("unfreeze auto", "0.99", seed="9", name="bccd_cells"),
            scored("tutorial", "0.50", name="hymenoptera"),
        ]
    )
    margins = [line.split(" | ") for line in table.split("auto's margin")[1].splitlines()[2:]]
    header, _, hymenoptera, bccd, aid, mean = margins
    column = {name.removesuffix(" (seeds)"): place for place, name in enumerate(header)}
    assert [cells[0] for cells in (hymenoptera, bccd, aid)] == ["| hymenoptera", "| bccd_cells", "| aid150"]
    assert aid[column["fastai fine_tune"]] == "+1.0 (2)"
    assert aid[column["tutorial"]] == "+10.0 (1)"
    assert aid[column["AutoGluon"]] == "-"
    assert aid[column["best arm of each seed"]] == "-1.5 (2)"
    assert aid[-1] == "0.75 |"
    assert (hymenoptera[column["tutorial"]], hymenoptera[-1]) == ("+10.0 (1)", "- |")
    assert (mean[column["tutorial"]], mean[column["best arm of each seed"]]) == ("+10.0", "-0.5")


def test_without_auto_there_is_no_margin() -> None:
    assert "margin" not in summarise([scored("tutorial", "0.7")])


def test_every_arm_is_a_script_that_is_there() -> None:
    for arm in ARMS.values():
        assert Path("benchmarks/peers/arms", f"{arm.command[0]}.py").exists()


def test_rows_that_are_not_there_yet_are_none(tmp_path: Path) -> None:
    assert read_rows([tmp_path / "new.csv"]) == []


def test_of_two_rows_of_the_same_the_later_file_s_counts(tmp_path: Path) -> None:
    files = []
    for name, scores in (("first", ("0.70", "0.80")), ("second", ("0.90",))):
        files.append(tmp_path / f"{name}.csv")
        with files[-1].open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, FIELDS)
            writer.writeheader()
            writer.writerows(scored("unfreeze auto", score, seed=str(seed)) for seed, score in enumerate(scores))
    assert [row["balanced"] for row in read_rows(files)] == ["0.90", "0.80"]


def test_rows_without_times_count_for_their_scores_alone() -> None:
    untimed = row("unfreeze auto", "4.0 0.80 0.7", seed="1") | dict.fromkeys(("clock", "wall", "cpu"), "")
    peers = [row("fastai fine_tune", "100.0 0.75 0.6", seed=seed) for seed in "01"]
    table = summarise([*peers, row("unfreeze auto", "20.0 0.80 0.8"), untimed])
    assert "| aid150 | 0 | 75.0 | 100 | - | 5.0x | 5.0x |" in table
    assert "| aid150 | 1 |" not in table
    assert "| aid150 | - | - | - | - | +15.0 (2) | - | - | - | +0.0 (2) | 0.20 |" in table
    assert (
        "| aid150 | unfreeze auto | 0, 1 | 80.0 (80.0 to 80.0) | 75.0 (70.0 to 80.0) | 80.0 (80.0 to 80.0) | 20.0 |"
        in table
    )


def test_seconds_of_two_files_are_of_two_machines_and_not_compared() -> None:
    ours = {"file": "here.csv"} | row("unfreeze auto", "20.0 0.80 0.8")
    for peer, expected in (({"file": "there.csv"}, "- |"), ({"file": "here.csv"}, "0.20 |"), ({"clock": ""}, "- |")):
        table = summarise([ours, {"file": "here.csv"} | row("fastai fine_tune", "100.0 0.75 0.6") | peer])
        (line,) = (line for line in table.splitlines() if line.startswith("| aid150") and "+20.0 (1)" in line)
        assert line.endswith(expected)
        assert ("Times sooner" in table) == (expected == "0.20 |")


def test_rows_know_their_file(tmp_path: Path) -> None:
    place = tmp_path / "rows.csv"
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerow(scored("tutorial", "0.7"))
    assert [row["file"] for row in read_rows([place])] == [str(place)]
