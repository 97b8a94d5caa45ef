from __future__ import annotations

import csv
import json
import resource
from pathlib import Path

import pytest
from benchmarks.peers import bench
from benchmarks.peers.bench import command, figures, own_figures
from benchmarks.peers.rivals import AUTO, FAMILIES, FAMILY_OF, FIRST_HEAD_ONLY, OURS, VARIANTS, Arm, variants_named
from benchmarks.peers.rows import FIELDS, read_rows
from benchmarks.peers.sets import Drawn

from unfreeze.data.sources import Sample

USED = resource.getrusage(resource.RUSAGE_SELF)


def test_every_peer_is_a_script_that_is_there() -> None:
    for arm in VARIANTS.values():
        if arm.environment != "own":
            assert Path("benchmarks/peers/arms", f"{arm.command[0]}.py").exists()


def test_a_rival_s_name_means_all_of_its_variants() -> None:
    first = next(iter(FAMILIES["fastai"]))
    assert variants_named([AUTO, "fastai"]) == [AUTO, *FAMILIES["fastai"]]
    assert variants_named(["layer decay", first]) == [first, *FAMILIES["layer decay"]]


def test_no_variant_has_two_rivals() -> None:
    assert len(VARIANTS) == sum(len(variants) for variants in FAMILIES.values()) == len(FAMILY_OF)


def test_ours_is_the_command_of_a_user(tmp_path: Path) -> None:
    words = command(OURS[FIRST_HEAD_ONLY], "python", 3, tmp_path)
    assert words[:2] == ["python", "-c"]
    assert words[3:7] == ["train", str(tmp_path / "photos.csv"), "--seed", "3"]
    assert words[-len(OURS[FIRST_HEAD_ONLY].command) :] == list(OURS[FIRST_HEAD_ONLY].command)
    assert "--reference" not in words
    (tmp_path / "reference").mkdir()
    assert "--reference" in command(OURS[AUTO], "python", 3, tmp_path)


def test_an_arm_without_an_extra_can_not_import_it(tmp_path: Path) -> None:
    start = command(OURS["unfreeze auto without OpenVINO"], "python", 0, tmp_path)[2]
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.modules", found)
        exec(start.split(";")[0] + ";" + start.split(";")[1])
    assert found == {"openvino": None}


def test_scoring_the_reference_counts_for_no_command() -> None:
    found = {"scores": [0.9, 0.8], "original": 0.7, "seconds": 5.0, "beside": [3.0, 2.0]}
    row = figures(found, 20.0, USED)
    assert (row["accuracy"], row["balanced_accuracy"], row["original"]) == ("0.9000", "0.8000", "0.7000")
    assert (row["train_seconds"], row["command_seconds"]) == ("5.0000", "17.0000")
    assert float(row["cpu_seconds"]) == pytest.approx(USED.ru_utime + USED.ru_stime - 2.0, abs=1e-3)


def verdict(shipped: str) -> dict[str, object]:
    scores = {
        name: {"accuracy": value, "balanced_accuracy": value}
        for name, value in (("head_only", 0.6), ("two_phase", 0.5), ("shipped", 0.6 if shipped == "head_only" else 0.5))
    }
    return {
        "shipped": shipped, "scores": scores | {"protocol": "test"},
        "cost": {"seconds": {"total": 30.0, "evaluation": 4.0}}, "forgetting": {"before": 0.9, "after": 0.8},
    }  # fmt: skip


def test_what_ships_counts_unless_the_arm_is_a_fixed_recipe() -> None:
    row = own_figures(verdict("head_only"), "shipped", 50.0, USED)
    assert (row["balanced_accuracy"], row["original"], row["shipped"]) == ("0.6000", "0.9000", "head_only")
    assert (row["train_seconds"], row["command_seconds"]) == ("26.0000", "50.0000")
    assert row["options"] == "head_only 0.6000;two_phase 0.5000;shipped 0.6000"
    fixed = own_figures(verdict("head_only"), "two_phase", 50.0, USED)
    assert (fixed["balanced_accuracy"], fixed["original"]) == ("0.5000", "0.8000")


def test_photos_are_handed_out_with_their_groups(tmp_path: Path) -> None:
    samples = [Sample(Path(f"{name}.png"), f"{name}.png", label, group) for name, label, group in
               (("a", 0, "x"), ("b", 1, "x"), ("c", 0, "y"))]  # fmt: skip
    drawn = Drawn(("no", "yes"), samples[:2], samples[2:], 1)
    bench.prepare(drawn, tmp_path, 4, 10, reference=False, work=tmp_path)
    with (tmp_path / "photos.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], row["split"], row["group"]) for row in rows] == [
        ("no", "train", "x"), ("yes", "train", "x"), ("no", "test", "y")
    ]  # fmt: skip
    task = json.loads((tmp_path / "task.json").read_text("utf-8"))
    assert (task["train"], task["test"], task["reference"]) == ([["a.png", 0], ["b.png", 1]], [["c.png", 0]], [])


def test_rows_come_once_and_a_failure_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Arm] = []

    def run_arm(arm: Arm, python: str, seed: int, work: Path) -> dict[str, str]:
        ran.append(arm)
        if arm is OURS[AUTO]:
            raise RuntimeError("it failed")
        return {"balanced_accuracy": "0.8"}

    monkeypatch.setattr(bench, "run_arm", run_arm)
    monkeypatch.setattr(bench, "prepare", lambda *args, **options: None)
    monkeypatch.setattr(bench, "read_set", lambda *args: None)
    monkeypatch.setattr(bench, "draw", lambda *args: Drawn((), [], [], 7))
    words = ["bench", str(tmp_path), "--csv", str(tmp_path / "rows.csv"), "--sets", "kolektor28", "hymenoptera",
             "--a-class", "20", "100", "--seeds", "5", "--shared", "--arms", AUTO, "unfreeze head-only"]  # fmt: skip
    monkeypatch.setattr("sys.argv", words)
    monkeypatch.setattr(bench, "summarise", lambda rows: "")
    for n_ran in (6, 9):  # kolektor28 has no 100 a class; what failed is tried again
        with pytest.raises(SystemExit, match="1"):
            bench.main()
        assert len(ran) == n_ran
    rows = read_rows([tmp_path / "rows.csv"])
    assert [(row["set"], row["a_class"], row["arm"], row["left_over"], row["shared"]) for row in rows] == [
        (name, a_class, "unfreeze head-only", "7", "yes")
        for name, a_class in (("kolektor28", "20"), ("hymenoptera", "20"), ("hymenoptera", "100"))
    ]
    assert set(rows[0]) == {*FIELDS, "file"}
