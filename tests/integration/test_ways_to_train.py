"""Every way to train, end to end, on tiny backbones from disk: what each flag and each kind of input changes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.support.commands import PROGRAM, command, small

import unfreeze
from unfreeze.models.backbone import Architecture
from unfreeze.models.networks import build
from unfreeze.models.stage_head import NAME
from unfreeze.runs.run import Run

CLASSES, A_CLASS, SIDE = 3, 8, 32
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "cnn": ("test_efficientnet", {}),
    "vit": ("vit_tiny_patch16_224", {"img_size": SIDE, "embed_dim": 32, "depth": 4, "num_heads": 2}),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw photos in folders, the same in tables with groups of two, and backbones in timm's hub format."""
    root = tmp_path_factory.mktemp("ways")
    rows = []
    for number in range(CLASSES * A_CLASS):
        random, label = np.random.default_rng(number), number % CLASSES
        y, x = np.mgrid[:40, :44]
        lying, standing = np.sin(y * 0.9), np.sin(x * 0.9)
        wave = (lying, standing, lying * standing * 1.4)[label]
        pixels = 128 + 40 * wave[..., None] + random.normal(0, 25, (40, 44, 3))
        place = root / "photos" / f"class {label}" / f"{number:02}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(place)
        rows.append((place.relative_to(root).as_posix(), f"class {label}", f"g{label}-{number // CLASSES // 2}"))
    (root / "photos.csv").write_text("file_name,label,group\n" + "".join(",".join(row) + "\n" for row in rows), "utf-8")
    for name, (architecture, arguments) in TINY.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = build(Architecture("timm", architecture, {"num_classes": 6, **arguments})).module
        (root / name).mkdir()
        weights = {key: value.contiguous() for key, value in network.state_dict().items()}
        weights["classifier.weight" if name == "cnn" else "head.weight"] *= 300  # so that what it says differs
        save_file(weights, root / name / "model.safetensors")
        own = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.25] * 3}
        config = {"architecture": architecture, "num_classes": 6, "model_args": arguments, "pretrained_cfg": own}
        (root / name / "config.json").write_text(json.dumps(config), "utf-8")
    return root


def train(home: Path, out: Path, photos: str = "photos", **settings: Any) -> Run:
    """Train a tiny backbone for two epochs, and whatever ``settings`` say."""
    quick = {"model": str(home / "cnn"), "test_size": 0.25, "views": 2}
    if settings.get("recipe") != "head-only":
        quick["epochs"] = 2
    return unfreeze.train(home / photos, **quick | settings, out=out)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def changed(run: Run, pretrained: Path) -> set[str]:
    """Return the names of the weights that ship other than they were, the classifier apart."""
    before, after = load_file(pretrained / "model.safetensors"), load_file(run.folder.weights)
    return {
        name
        for name, value in before.items()
        if not name.startswith(("classifier", "head.")) and not torch.equal(value, after[name])
    }


def places_of_groups(run: Run) -> dict[str, set[tuple[str, str]]]:
    """Return where each group's photos are: split and fold."""
    places = defaultdict(set)
    for row in rows_of(run.folder.splits):
        places[row["group"]].add((row["split"], row["fold"]))
    return places


@pytest.mark.slow
@pytest.mark.parametrize("test_size", [0.25, 0])
def test_a_group_is_on_one_side_and_in_one_fold(home: Path, tmp_path: Path, test_size: float) -> None:
    run = train(home, tmp_path / "run", "photos.csv", recipe="head-only", test_size=test_size)
    places = places_of_groups(run)
    assert len(places) == CLASSES * A_CLASS // 2
    assert all(len(own) == 1 for own in places.values())
    assert {split for own in places.values() for split, _ in own} == ({"train", "test"} if test_size else {"train"})
    folds = {fold for own in places.values() for split, fold in own if split == "train"}
    assert len(folds) > 2
    scored = {row["file_name"] for row in rows_of(run.folder.predictions)}
    tested = {row["file_name"] for row in rows_of(run.folder.splits) if row["split"] == "test" or not test_size}
    assert scored == tested


@pytest.mark.slow
def test_without_groups_photos_of_a_would_be_group_are_parted(home: Path, tmp_path: Path) -> None:
    """What the test above would say if groups were not heeded."""
    table = home / "ungrouped.csv"
    lines = (home / "photos.csv").read_text("utf-8").splitlines()
    table.write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n", "utf-8")
    run = train(home, tmp_path / "run", table.name, recipe="head-only", test_size=0)
    fold = {row["file_name"]: row["fold"] for row in rows_of(run.folder.splits)}
    groups = defaultdict(set)
    for line in lines[1:]:
        name, _, group = line.split(",")
        groups[group].add(fold[name])
    assert any(len(folds) > 1 for folds in groups.values())


def test_csv_and_parquet_with_groups_give_the_same_run(home: Path, tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = rows_of(home / "photos.csv")
    table = {column: [row[column] for row in rows] for column in rows[0]}
    parquet.write_table(pyarrow.table(table), home / "photos.parquet")
    first, second = (train(home, tmp_path / kind, f"photos.{kind}", recipe="head-only") for kind in ("csv", "parquet"))
    assert first.folder.splits.read_bytes() == second.folder.splits.read_bytes()
    assert first.folder.weights.read_bytes() == second.folder.weights.read_bytes()
    assert {row["group"] for row in rows_of(second.folder.splits)} == set(table["group"])
    assert first.verdict.scores == second.verdict.scores


@pytest.mark.slow
def test_a_val_folder_chooses_and_a_test_folder_scores(home: Path, tmp_path: Path) -> None:
    sides = {}
    for number, photo in enumerate(sorted((home / "photos").rglob("*.png"))):
        side = ("train", "train", "train", "val", "test", "test")[number % 6]
        place = tmp_path / "photos" / side / photo.parent.name / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
        sides[place.relative_to(tmp_path / "photos").as_posix()] = side
    run = train(tmp_path, tmp_path / "run", model=str(home / "cnn"), test_size=None)
    assert {row["file_name"]: row["split"] for row in rows_of(run.folder.splits)} == sides
    assert all((row["fold"] != "") == (row["split"] == "train") for row in rows_of(run.folder.splits))
    assert (run.verdict.data.n_train, run.verdict.data.n_test, run.verdict.scores.shipped.n) == (12, 8, 8)
    assert run.verdict.scores.protocol == "test"
    assert {row["file_name"] for row in rows_of(run.folder.predictions)} == {
        name for name, side in sides.items() if side == "test"
    }
    (tried,) = run.verdict.trials
    assert all(
        round(accuracy * 4, 9).is_integer() for accuracy in (point.accuracy for point in tried.points)
    )  # of the 4 val photos


@pytest.fixture
def phase_two_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let phase 2 ship whatever is expected of it: few photos tell little."""
    monkeypatch.setattr("unfreeze.evaluation.selection.ModelSelector.accepts", lambda *_: True)


@pytest.mark.usefixtures("phase_two_ships")
@pytest.mark.parametrize(
    ("net", "subset", "learns"),
    [
        ("vit", "all", ("blocks.2.", "blocks.3.", "norm.")),
        ("vit", "lora", ("blocks.2.attn.", "blocks.3.attn.")),
        ("cnn", "norms", ("blocks.4.", "bn2.")),
    ],
)
def test_only_the_weights_that_are_asked_for_learn(
    home: Path, tmp_path: Path, net: str, subset: str, learns: tuple[str, ...]
) -> None:
    depth = {"vit": "blocks.2", "cnn": "blocks.4"}[net]
    run = train(home, tmp_path / "run", model=str(home / net), depth=depth, subset=subset, lr=0.003, epochs=3)
    assert (run.verdict.shipped, run.verdict.model.depth) == ("two_phase", depth)
    assert run.verdict.model.alpha > 0
    moved = changed(run, home / net)
    assert moved
    assert all(name.startswith(learns) for name in moved)
    if subset == "norms":
        assert all("bn" in name and name.endswith(("weight", "bias")) for name in moved)
    answers = unfreeze.load(run.folder.root).predict([home / "photos" / "class 0"])
    told = {row["file_name"]: row for row in rows_of(run.folder.predictions)}
    for answer in answers:
        if (row := told.get(f"class 0/{answer.path.name}")) is not None:
            ours = [float(row[f"two_phase:{name}"]) for name in run.classes]
            assert np.abs(np.array(answer.probabilities) - ours).max() < 1e-4


@pytest.fixture(scope="module")
def usual(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without any of the flags below."""
    return train(home, tmp_path_factory.mktemp("usual") / "run", test_size=0, lr=0.001)


def test_an_anchor_pulls_at_phase_two_and_leaves_phase_one_alone(home: Path, tmp_path: Path, usual: Run) -> None:
    run = train(home, tmp_path / "run", test_size=0, lr=0.001, distill=0.5)
    (free,), (held,) = usual.verdict.trials, run.verdict.trials
    assert free.points[0] == held.points[0]
    assert free.points[1:] != held.points[1:]
    assert usual.verdict.scores.head_only == run.verdict.scores.head_only
    assert usual.verdict.scores.two_phase != run.verdict.scores.two_phase


def test_varied_light_changes_the_views_that_train_and_none_that_scores(home: Path, tmp_path: Path, usual: Run) -> None:
    run = train(home, tmp_path / "run", test_size=0, lr=0.001, color_jitter="varied")
    assert run.folder.splits.read_bytes() == usual.folder.splits.read_bytes()
    steady, varied = (load_file(each.folder.weights)[f"{NAME}.weight"] for each in (usual, run))
    assert not torch.equal(steady, varied)
    assert run.verdict.trials[0].points[0] != usual.verdict.trials[0].points[0]


@pytest.mark.parametrize(
    ("symmetry", "orientations"),
    [
        ("none", {"identity"}),
        ("flip", {"identity", "flipped"}),
        ("rotate", {"identity", "rot90", "rot180", "rot270", "flipped"}),
    ],
)
def test_a_photo_is_turned_as_its_symmetry_allows(
    home: Path, tmp_path: Path, symmetry: str, orientations: set[str]
) -> None:
    run = train(home, tmp_path / "run", recipe="head-only", test_size=0, symmetry=symmetry)
    assert run.verdict.model.symmetry == symmetry
    assert {view.orientation for view in run.verdict.model.views} <= orientations


def test_without_tta_the_plain_view_answers_alone(home: Path, tmp_path: Path) -> None:
    usual, plain = (
        train(home, tmp_path / str(tta), recipe="head-only", head="last", test_size=0, symmetry="flip", tta=tta)
        for tta in (True, False)
    )
    assert usual.verdict.model.n_views == len(usual.verdict.model.views) > 1
    assert [view.model_dump() for view in plain.verdict.model.views] == [{"framing": "crop", "orientation": "identity"}]
    assert usual.verdict.scores.head_only != plain.verdict.scores.head_only
    photo = home / "photos" / "class 0" / "00.png"
    told = [run.predict([photo])[0].probabilities for run in (usual, plain)]
    assert told[0] != told[1]


def test_a_torchvision_network_from_a_checkpoint_is_frozen_below_its_depth(
    home: Path, tmp_path: Path, phase_two_ships: None
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build(Architecture("torchvision", "shufflenet_v2_x0_5", {})).module
    checkpoint = tmp_path / "mine.pth"
    torch.save(network.state_dict(), checkpoint)
    run = train(
        home,
        tmp_path / "run",
        model=str(checkpoint),
        arch="torchvision/shufflenet_v2_x0_5",
        depth="conv5",
        lr=0.003,
        epochs=1,
        views=1,
        symmetry="none",
        tta=False,
    )
    shipped, before = load_file(run.folder.weights), network.state_dict()
    below = [name for name in before if not name.startswith(("conv5", "fc"))]
    assert any("running_var" in name for name in below)
    assert all(torch.equal(shipped[name], before[name]) for name in below)
    assert shipped[f"{NAME}.weight"].shape[0] == CLASSES
    own = json.loads(run.folder.model_config.read_text("utf-8"))["unfreeze"]
    assert (own["library"], own["name"]) == ("torchvision", "shufflenet_v2_x0_5")
    (row, *_) = rows_of(run.folder.predictions)
    (answer,) = unfreeze.load(run.folder.root).predict([home / "photos" / row["file_name"]])
    ours = [float(row[f"{run.verdict.shipped}:{name}"]) for name in run.classes]
    assert np.abs(np.array(answer.probabilities) - ours).max() < 1e-4


@pytest.mark.slow
def test_compare_scores_what_train_ships(home: Path, tmp_path: Path, phase_two_ships: None) -> None:
    few = home / "few.csv"
    few.write_text("\n".join((home / "photos.csv").read_text("utf-8").splitlines()[:16]) + "\n", "utf-8")
    words = ["--test-size", "0.4", "--out"]
    with small():
        assert command("compare", few, "--seeds", "1", "--epochs", "2", *words, tmp_path / "compared") == 0
        run = unfreeze.train(few, test_size=0.4, seed=0, out=tmp_path / "run")
    compared = {row["arm"]: row for row in rows_of(tmp_path / "compared" / "compare.csv")}
    scores = run.verdict.scores
    assert scores.two_phase is not None
    for arm, own in (("head-only", scores.head_only), ("two-phase", scores.two_phase), ("auto", scores.shipped)):
        assert float(compared[arm]["accuracy"]) == pytest.approx(own.accuracy)
        assert float(compared[arm]["balanced_accuracy"]) == pytest.approx(own.balanced_accuracy)
    assert run.verdict.forgetting is not None
    assert float(compared["two-phase"]["agreement"]) == pytest.approx(run.verdict.forgetting.agreement)


@pytest.mark.slow
def test_two_that_start_at_once_get_a_whole_folder_each(home: Path, tmp_path: Path) -> None:
    words = ["train", str(home / "photos"), "--model", str(home / "cnn"), "--recipe", "head-only", "--views", "1"]
    started = [
        subprocess.Popen([*PROGRAM, *words, "--cache", "cache"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    runs = [tmp_path / "runs" / name for name in ("train", "train2")]
    assert set((tmp_path / "runs").iterdir()) == {*runs, tmp_path / "runs" / "latest"}
    assert (tmp_path / "runs" / "latest").resolve() in runs
    files = [{path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()} for run in runs]
    assert files[0] == files[1]
    assert {"args.toml", "splits.csv", "verdict.json", "report.html", "model/model.safetensors"} <= files[0]
    first, second = (unfreeze.load(run) for run in runs)
    assert first.folder.weights.read_bytes() == second.folder.weights.read_bytes()
    assert first.verdict.scores == second.verdict.scores
