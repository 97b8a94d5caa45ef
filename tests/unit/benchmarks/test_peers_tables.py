from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.peers.rivals import ARMS, AUTOGLUON, FAMILIES, WITHDRAWN
from benchmarks.peers.tables import FIELDS, RIVALS, Row, best_variant, read_rows, seconds_to, summarise

FROZEN = "tutorial with BatchNorm frozen"
VARIANTS = list(FAMILIES[FROZEN])
(AUTOGLUON_ARM,) = FAMILIES[AUTOGLUON]


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


def margins(rows: list[Row]) -> dict[str, dict[str, str]]:
    """Return the cells of the table of margins by set and column."""
    lines = [
        line.strip("| ").split(" | ")
        for line in summarise(rows).split("auto's margin")[1].split("###")[0].splitlines()[2:]
        if line
    ]
    header, _, *body = lines
    return {
        cells[0]: dict(zip((name.removesuffix(" (seeds)") for name in header), cells, strict=True)) for cells in body
    }


def test_the_margins_are_means_over_the_seeds_that_both_arms_have() -> None:
    found = margins(
        [
            scored("unfreeze auto", "0.80", clock="30.0"),
            scored("unfreeze auto", "0.90", seed="1", clock="60.0"),
            scored("fastai fine_tune", "0.75", clock="60.0"),
            scored("fastai fine_tune", "0.93", seed="1", clock="60.0"),
            scored(AUTOGLUON_ARM, "0.70"),
            scored("unfreeze auto", "0.60", name="hymenoptera"),
            scored("unfreeze auto", "0.99", seed="9", name="bccd_cells"),
            scored(AUTOGLUON_ARM, "0.50", name="hymenoptera"),
        ]
    )
    assert list(found) == ["hymenoptera", "bccd_cells", "aid150", "mean over sets"]
    assert found["aid150"]["fastai"] == "+1.0 (2)"
    assert found["aid150"][AUTOGLUON] == "+10.0 (1)"
    assert found["aid150"]["Lightning"] == "-"
    assert found["aid150"]["time / fastai's"] == "0.75"
    assert (found["hymenoptera"][AUTOGLUON], found["hymenoptera"]["time / fastai's"]) == ("+10.0 (1)", "-")
    assert found["mean over sets"][AUTOGLUON] == "+10.0"


def test_the_best_variant_is_the_one_with_the_highest_mean_of_the_seeds_that_all_have() -> None:
    first, second, third, _ = VARIANTS
    rows = [
        scored(first, "0.80"), scored(first, "0.80", seed="1"),
        scored(second, "0.70"), scored(second, "0.92", seed="1"),
        scored(third, "0.99", seed="1"), scored(third, "0.10"), scored(third, "0.99", seed="7"),
        scored("fastai fine_tune", "1.00"),
    ]  # fmt: skip
    best = best_variant(FROZEN, rows)
    assert best is not None
    assert (best.variant, list(best.rows), best.tried, best.complete) == (second, ["0", "1"], 3, False)
    of_one = best_variant(FROZEN, rows, {"1"})
    assert of_one is not None
    assert of_one.variant == third
    assert best_variant("Lightning", rows) is None
    assert best_variant(FROZEN, [scored(first, "0.8"), scored(second, "0.8", seed="1")]) is None


@pytest.mark.parametrize("best", VARIANTS)
def test_the_margin_is_the_one_over_the_best_variant_of_each_set(best: str) -> None:
    other = next(name for name in VARIANTS if name != best)
    rows = [scored("unfreeze auto", "0.80"), scored("unfreeze auto", "0.80", name="hymenoptera")]
    rows += [scored(name, "0.78" if name == best else "0.30") for name in VARIANTS]
    rows += [scored(name, "0.84" if name == other else "0.30", name="hymenoptera") for name in VARIANTS]
    found = margins(rows)
    assert found["aid150"][FROZEN] == "+2.0 (1)"
    assert found["hymenoptera"][FROZEN] == "-4.0 (1)"
    assert found["mean over sets"][FROZEN] == "-1.0"
    table = summarise(rows)
    assert f"| aid150 | {FROZEN} | {best} | 78.0 | 0 | 4 of 4 |" in table
    assert f"| hymenoptera | {FROZEN} | {other} | 84.0 | 0 | 4 of 4 |" in table


def test_a_rival_of_which_variants_lack_gives_a_bound_and_no_margin() -> None:
    rows = [scored("unfreeze auto", "0.80")] + [scored(name, "0.50") for name in VARIANTS[:3]]
    found = margins(rows)
    assert found["aid150"][FROZEN] == "at most +30.0 (1), 3 of 4 variants"
    assert found["mean over sets"][FROZEN] == "-"


def test_the_best_arm_of_a_seed_needs_every_variant_of_every_rival() -> None:
    rows = [scored("unfreeze auto", "0.80")] + [
        scored(name, "0.83" if name == VARIANTS[0] else "0.5") for name in RIVALS
    ]
    assert margins(rows)["aid150"]["best arm of each seed"] == "-3.0 (1)"
    lacking = [row for row in rows if row["arm"] != VARIANTS[1]]
    assert margins(lacking)["aid150"]["best arm of each seed"] == "at most -3.0 (1)"
    assert margins(lacking)["mean over sets"]["best arm of each seed"] == "-"


@pytest.mark.parametrize("arm", WITHDRAWN)
def test_withdrawn_rows_give_no_margin_and_no_time(arm: str) -> None:
    rows = [scored("unfreeze auto", "0.80"), scored("unfreeze head-only", "0.70")]
    found = margins([*rows, scored(arm, "0.10", clock="900.0")])
    assert found == margins(rows)
    table = summarise([*rows, scored(arm, "0.10", clock="900.0"), scored(arm, "0.85", seed="3")])
    used, withdrawn = table.split("### Withdrawn")
    assert f"| {arm} |" not in used
    assert "Times sooner" not in used
    assert f"| {arm} | 2 | {WITHDRAWN[arm]} | 0 of 1 |" in withdrawn
    ahead = summarise([*rows, scored(arm, "0.85")]).split("### Withdrawn")[1]
    assert f"| {arm} | 1 | {WITHDRAWN[arm]} | 1 of 1 |" in ahead


def test_no_table_speaks_of_withdrawn_rows_where_there_are_none() -> None:
    assert "Withdrawn" not in summarise([scored(arm, "0.7") for arm in ARMS])


def test_without_auto_there_is_no_margin() -> None:
    assert "margin" not in summarise([scored(VARIANTS[0], "0.7")])


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
    assert "| aid150 | - | - | - | - | +15.0 (2) | - | - | - | - | at most +0.0 (2) | 0.20 |" in table
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
        writer.writerow(scored(VARIANTS[0], "0.7"))
    assert [row["file"] for row in read_rows([place])] == [str(place)]
