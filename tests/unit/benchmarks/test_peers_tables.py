from __future__ import annotations

import csv
from pathlib import Path

import pytest
from benchmarks.peers.rivals import AUTO, AUTOGLUON, FAMILIES, FAMILY_OF, FASTAI, FROZEN_TUTORIAL, HEAD_ONLY
from benchmarks.peers.rows import FIELDS, Row, best_variant, counts_for_means, read_rows
from benchmarks.peers.tables import summarise

VARIANTS = list(FAMILIES[FROZEN_TUTORIAL])
FASTAI_VARIANTS = list(FAMILIES[FASTAI])
(AUTOGLUON_ARM,) = FAMILIES[AUTOGLUON]


def scored(variant: str, balanced: str, *, seed: str = "0", name: str = "aid150", **cells: str) -> Row:
    row = {
        "set": name, "a_class": "20", "seed": seed, "arm": FAMILY_OF[variant], "variant": variant, "n_train": "600",
        "n_test": "1500", "left_over": "1952", "accuracy": "0.9", "balanced_accuracy": balanced, "original": "",
        "train_seconds": "10", "command_seconds": "20", "cpu_seconds": "15", "peak_mib": "900", "shared": "no",
        "shipped": "", "options": "",
    }  # fmt: skip
    return row | cells


def table(rows: list[Row], title: str) -> dict[str, dict[str, str]]:
    """Return a table's cells by the first cell of a row and the column; of rows of one name the last."""
    part = next(part for part in summarise(rows).split("### ") if part.startswith(title))
    header, _, *body = (line[2:-2].split(" | ") for line in part.splitlines()[2:] if line)
    return {cells[0]: dict(zip(header, cells, strict=True)) for cells in body}


def margins(rows: list[Row]) -> dict[str, dict[str, str]]:
    return table(rows, "auto minus")


def test_the_margins_are_means_over_the_seeds_that_both_arms_have() -> None:
    found = margins(
        [
            scored(AUTO, "0.80"),
            scored(AUTO, "0.90", seed="1"),
            scored(HEAD_ONLY, "0.75"),
            scored(HEAD_ONLY, "0.93", seed="1"),
            scored(HEAD_ONLY, "0.10", seed="2"),
            scored(AUTOGLUON_ARM, "0.70"),
            scored(AUTO, "0.60", name="dermoscopy"),
            scored(AUTOGLUON_ARM, "0.55", name="dermoscopy"),
            scored(AUTO, "0.60", seed="9", name="xsdd7"),
        ]
    )
    assert list(found) == ["aid150", "dermoscopy", "xsdd7", "mean"]
    assert found["aid150"] == {"set": "aid150", HEAD_ONLY: "+1.0 (2)", AUTOGLUON: "+10.0 (1)"}
    assert found["xsdd7"][AUTOGLUON] == "-"
    assert found["mean"] == {"set": "mean", HEAD_ONLY: "+1.0 of 1 sets", AUTOGLUON: "+7.5 of 2 sets"}


def test_ceilings_and_another_camera_enter_no_mean() -> None:
    rows = [scored(AUTO, "0.80"), scored(HEAD_ONLY, "0.75")]
    for name, seed, score in (
        ("hymenoptera", "0", "0.90"),
        ("wbc5_other_camera", "0", "0.30"),
        ("xsdd7", "0", "0.98"),
        ("xsdd7", "1", "0.9601"),
    ):
        rows += [scored(AUTO, "0.50", name=name, seed=seed), scored(HEAD_ONLY, score, name=name, seed=seed)]
    found = margins(rows)
    assert found["mean"][HEAD_ONLY] == "+5.0 of 1 sets"
    assert found["hymenoptera (ceiling, in no mean)"][HEAD_ONLY] == "-40.0 (1)"
    assert found["wbc5_other_camera (another camera, in no mean)"][HEAD_ONLY] == "+20.0 (1)"
    assert "xsdd7 (ceiling, in no mean)" in found
    own = [row for row in rows if row["set"] == "xsdd7"]
    assert not counts_for_means("xsdd7", own)
    assert counts_for_means("xsdd7", own[2:])


def test_the_best_variant_is_the_one_with_the_highest_mean_of_the_seeds_that_all_have() -> None:
    first, second, third, _ = VARIANTS
    rows = [
        scored(first, "0.80"), scored(first, "0.80", seed="1"),
        scored(second, "0.70"), scored(second, "0.92", seed="1"),
        scored(third, "0.99", seed="1"), scored(third, "0.10"), scored(third, "0.99", seed="7"),
        scored(FASTAI_VARIANTS[0], "1.00"),
    ]  # fmt: skip
    best = best_variant(FROZEN_TUTORIAL, rows)
    assert best is not None
    assert (best.variant, list(best.rows), best.tried, best.complete) == (second, ["0", "1"], 3, False)
    of_one = best_variant(FROZEN_TUTORIAL, rows, {"1"})
    assert of_one is not None
    assert of_one.variant == third
    assert best_variant("Lightning", rows) is None
    assert best_variant(FROZEN_TUTORIAL, [scored(first, "0.8"), scored(second, "0.8", seed="1")]) is None


@pytest.mark.parametrize("best", VARIANTS)
def test_the_margin_is_the_one_over_the_best_variant_of_each_set(best: str) -> None:
    other = next(name for name in VARIANTS if name != best)
    rows = [scored(AUTO, "0.80"), scored(AUTO, "0.80", name="dermoscopy")]
    rows += [scored(name, "0.78" if name == best else "0.30") for name in VARIANTS]
    rows += [scored(name, "0.84" if name == other else "0.30", name="dermoscopy") for name in VARIANTS]
    found = margins(rows)
    assert found["aid150"][FROZEN_TUTORIAL] == "+2.0 (1)"
    assert found["dermoscopy"][FROZEN_TUTORIAL] == "-4.0 (1)"
    assert found["mean"][FROZEN_TUTORIAL] == "-1.0 of 2 sets"
    text = summarise(rows)
    assert f"| aid150 | {FROZEN_TUTORIAL} | {best} | 78.0 | 0 | 4 of 4 |" in text
    assert f"| dermoscopy | {FROZEN_TUTORIAL} | {other} | 84.0 | 0 | 4 of 4 |" in text


def test_a_rival_of_which_variants_lack_gives_a_bound() -> None:
    rows = [scored(AUTO, "0.80")] + [scored(name, "0.50") for name in VARIANTS[:3]]
    found = margins(rows)
    assert found["aid150"][FROZEN_TUTORIAL] == "at most +30.0 (1)"
    assert found["mean"][FROZEN_TUTORIAL] == "at most +30.0 of 1 sets"


def test_what_ships_is_compared_with_both_models_of_the_run() -> None:
    rows = [
        scored(AUTO, "0.70", shipped="head_only", options="head_only 0.7000;two_phase 0.7600;shipped 0.7000"),
        scored(AUTO, "0.80", seed="1", shipped="two_phase", options="head_only 0.7000;two_phase 0.8000;shipped 0.8000"),
        scored(AUTO, "0.60", name="dermoscopy", shipped="two_phase", options="head_only 0.64;two_phase 0.60"),
        scored(AUTO, "0.90", name="xsdd7", shipped="head_only", options="head_only 0.9000;shipped 0.9000"),
    ]
    found = table(rows, "What auto ships")
    assert list(found) == ["aid150", "dermoscopy", "mean"]
    assert list(found["aid150"].values()) == ["aid150", "+8.0", "+5.0", "-3.0", "1 of 2"]
    assert list(found["mean"].values())[2:4] == ["+0.5", "-3.5"]


def test_wall_seconds_are_compared_where_nothing_else_ran_and_all_within_a_file() -> None:
    theirs = scored(FASTAI_VARIANTS[0], "0.7", train_seconds="40", command_seconds="50", cpu_seconds="60")
    title = f"Time as a part of {FASTAI_VARIANTS[0]}'s"
    ours = scored(AUTO, "0.8")
    assert list(table([ours, theirs], title)["aid150"].values()) == ["aid150", AUTO, "0.25 (1)", "0.40 (1)", "0.25 (1)"]
    shared = table([ours, theirs | {"shared": "yes"}], title)["aid150"]
    assert list(shared.values())[2:] == ["-", "-", "0.25 (1)"]
    with pytest.raises(StopIteration):
        table([ours | {"file": "here.csv"}, theirs | {"file": "there.csv"}], title)


def test_all_rows_are_shown_with_their_counts() -> None:
    text = summarise([scored(AUTO, "0.7"), scored(AUTO, "0.8", seed="1", n_test="1400", left_over="1400")])
    assert "| aid150 | unfreeze auto | 0, 1 | 600 | 1400 to 1500 (1400 to 1952) | 90.0 (90.0 to 90.0) | 75.0 (" in text


def test_without_auto_there_is_no_margin() -> None:
    assert "minus" not in summarise([scored(VARIANTS[0], "0.7")])


def write(place: Path, rows: list[Row], fields: tuple[str, ...] = FIELDS) -> Path:
    with place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    return place


def test_rows_that_are_not_there_yet_are_none(tmp_path: Path) -> None:
    assert read_rows([tmp_path / "new.csv"]) == []


def test_of_two_rows_of_the_same_the_later_file_s_counts(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "first.csv", [scored(AUTO, "0.70"), scored(AUTO, "0.80", seed="1")]),
        write(tmp_path / "second.csv", [scored(AUTO, "0.90")]),
    ]
    rows = read_rows(files)
    assert [row["balanced_accuracy"] for row in rows] == ["0.90", "0.80"]
    assert [row["file"] for row in rows] == [str(place) for place in reversed(files)]


def test_rows_of_an_arm_that_is_no_more_are_left_out(tmp_path: Path) -> None:
    place = write(tmp_path / "rows.csv", [scored(AUTO, "0.70"), scored(AUTO, "0.1") | {"variant": "some former one"}])
    assert [row["variant"] for row in read_rows([place])] == [AUTO]


def test_rows_of_an_earlier_protocol_are_refused(tmp_path: Path) -> None:
    place = write(tmp_path / "old.csv", [], ("set", "a_class", "seed", "arm", "accuracy", "balanced"))
    with pytest.raises(ValueError, match=r"old\.csv was measured by an earlier protocol"):
        read_rows([place])
