"""What a finished run does with photos that training would refuse."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.commands import command

import unfreeze
from unfreeze.errors import ArgumentError, ConfigError, DecodeError, ModelError, PhotosError
from unfreeze.runs.run import Run


@pytest.fixture
def mixed(drawn: Path, tmp_path: Path) -> Path:
    """Two good photos and one that was cut short."""
    for name in ("000.jpg", "001.jpg"):
        shutil.copy(drawn / "pits" / name, tmp_path / name)
    whole = (drawn / "pits" / "002.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def test_python_refuses_a_damaged_photo(run: Run, mixed: Path) -> None:
    with pytest.raises(DecodeError):
        run.predict([mixed])


def test_the_command_line_passes_over_it_says_so_and_keeps_the_rest(
    run: Run, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("predict", run.folder.root, mixed, "--csv", tmp_path / "out.csv") == 2
    told = capsys.readouterr()
    assert "2 predictions" in told.out
    assert "cut.jpg" in told.err
    assert "1 of 3 photos can't be read" in told.err
    assert len((tmp_path / "out.csv").read_text("utf-8").splitlines()) == 3


def test_photos_to_score_may_be_of_one_class(run: Run, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "stain", tmp_path / "one" / "stain")
    assert run.evaluate(tmp_path / "one").n == 6


def test_photos_to_score_may_all_be_test_photos(run: Run, drawn: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{drawn / name / '000.jpg'},{name},test" for name in run.classes]
    table.write_text("file_name,label,split\n" + "\n".join(rows) + "\n", "utf-8")
    assert run.evaluate(table).n == len(run.classes)


def test_a_class_that_the_model_does_not_know_is_refused(run: Run, drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn / "stain", tmp_path / "set" / "rust")
    with pytest.raises(PhotosError, match="rust"):
        run.evaluate(tmp_path / "set")


def test_a_damaged_reference_photo_is_left_out(drawn: Path, mixed: Path, tmp_path: Path) -> None:
    shutil.copytree(mixed, tmp_path / "reference" / "n01440764", ignore=shutil.ignore_patterns("reference"))
    finished = unfreeze.train(
        drawn,
        recipe="head-only",
        views=1,
        test_size=0.35,
        reference=tmp_path / "reference",
        out=tmp_path / "run",
    )
    assert finished.verdict.forgetting is not None
    assert finished.verdict.forgetting.n == 2


def test_a_run_is_repeated_from_its_arguments_in_another_place(run: Run, tmp_path: Path) -> None:
    assert command("train", "--config", run.folder.args, "--out", tmp_path / "again") == 0
    assert unfreeze.load(tmp_path / "again").verdict.scores == run.verdict.scores


def test_cross_fitted_and_head_only_without_reference_photos_nothing_is_said_of_forgetting(
    drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    unfreeze.train(drawn, recipe="head-only", views=1, tta=False, test_size=0, out=out)
    verdict = json.loads((out / "verdict.json").read_text("utf-8"))
    assert verdict["scores"]["protocol"] == "cross_fitted"
    assert "forgetting" not in verdict


@pytest.mark.parametrize("cross_fitted", [False, True])
def test_predictions_name_their_photos(run: Run, drawn: Path, tmp_path: Path, cross_fitted: bool) -> None:
    """Training numbers the photos to train on and to choose by from 0: not so the folder's photos, whose order is mixed."""
    sides = ["test", "train", "val", "train", "train", "train"]
    if cross_fitted:
        sides = ["train"] * len(sides)
    rows = [
        (drawn / name / f"{number:03}.jpg", name, side)
        for number, side in enumerate(sides)
        for name in reversed(run.classes)
    ]
    table = tmp_path / "table.csv"
    lines = [f"{path},{name},{side}" for path, name, side in rows]
    table.write_text("\n".join(["file_name,label,split", *lines]) + "\n", "utf-8")
    trained = unfreeze.train(table, recipe="head-only", views=1, tta=False, test_size=0, out=tmp_path / "run")
    with trained.folder.predictions.open(encoding="utf-8", newline="") as file:
        written = list(csv.DictReader(file))
    scored = [(path, name) for path, name, side in rows if side == "test" or cross_fitted]
    found = {Path(row["file_name"]).parts[-2:]: row["label"] for row in written}
    assert found == {path.parts[-2:]: name for path, name in scored}
    if cross_fitted:
        return
    for path, _ in scored:
        (row,) = (row for row in written if Path(row["file_name"]).parts[-2:] == path.parts[-2:])
        (predicted,) = trained.predict([path])
        for name, probability in zip(trained.classes, predicted.probabilities, strict=True):
            assert float(row[f"head_only:{name}"]) == pytest.approx(probability, abs=1e-4)


def opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
    return picture


GIVEN: dict[str, Callable[[Path], Any]] = {
    "text": str,
    "path": Path,
    "bytes": Path.read_bytes,
    "Pillow": opened,
    "array": lambda path: np.asarray(opened(path)),
    "tensor": lambda path: torch.from_numpy(np.array(opened(path))).permute(2, 0, 1),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_one_photo_of_every_kind_is_predicted_explained_and_scored(run: Run, drawn: Path, kind: str) -> None:
    photo = drawn / "pits" / "000.jpg"
    (expected,) = run.predict([photo])
    given = GIVEN[kind](photo)
    (named,) = run.predict(given)
    (streamed,) = run.stream([given], skip_damaged=True)
    (explained,) = run.explain(given, skip_damaged=True)
    assert named.label == streamed.label == explained.label == expected.label
    for answer in (named, streamed):
        assert answer.probabilities == pytest.approx(expected.probabilities, abs=1e-3)
    assert explained.probability == pytest.approx(expected.probability, abs=1e-3)
    assert run.evaluate(given, labels=[expected.label]).accuracy == 1
    if kind in ("text", "path"):
        assert named.path == explained.path == photo


@pytest.mark.parametrize("asked", ["predict", "stream", "explain", "evaluate"])
@pytest.mark.parametrize("given", [None, 7, [None]], ids=repr)
def test_what_is_no_photo_is_refused_by_name(run: Run, asked: str, given: Any) -> None:
    with pytest.raises(TypeError, match="photos"):
        list(getattr(run, asked)(given))


def test_photos_to_score_need_their_classes(run: Run, drawn: Path) -> None:
    photo = drawn / "pits" / "000.jpg"
    with pytest.raises(TypeError, match="labels"):
        run.evaluate([photo])
    with pytest.raises(TypeError, match="1 photos and 2 labels"):
        run.evaluate([photo], labels=["pits", "pits"])
    with pytest.raises(PhotosError, match=r"rust(?s:.*)labels"):
        run.evaluate([photo], labels=["rust"])
    with pytest.raises(PhotosError, match="No photo"):
        run.evaluate([], labels=[])


def test_a_class_to_explain_that_is_no_name_is_refused(run: Run, drawn: Path) -> None:
    with pytest.raises(ConfigError, match="class 5"):
        run.explain(drawn, label=5)  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [("stain", "scratch", "pits"), ("pits", "scratch"), ("pits", "scratch", "dent")])
def test_a_model_whose_classes_are_not_the_verdicts_is_refused(
    run: Run, drawn: Path, tmp_path: Path, classes: tuple[str, ...]
) -> None:
    assert run.classes != classes
    mixed_up = tmp_path / "run"
    shutil.copytree(run.folder.root, mixed_up)
    verdict = json.loads((mixed_up / "verdict.json").read_text("utf-8"))
    verdict["data"]["classes"] = classes
    (mixed_up / "verdict.json").write_text(json.dumps(verdict), "utf-8")
    with pytest.raises(ModelError, match=r"classes"):
        unfreeze.load(mixed_up).predict(drawn)
    for words in (("predict", mixed_up, drawn), ("eval", mixed_up, drawn), ("export", mixed_up), ("serve", mixed_up)):
        assert command(*words) == 2


def test_python_predicts_a_photo_as_often_as_it_is_named(run: Run, drawn: Path) -> None:
    named: list[Path | str] = [drawn / "pits" / "000.jpg", str(drawn / "stain" / "000.jpg"), drawn / "pits" / "000.jpg"]
    assert [prediction.path for prediction in run.predict(named)] == [Path(path) for path in named]


def test_labels_that_are_no_list_are_refused(run: Run, drawn: Path) -> None:
    with pytest.raises(ArgumentError, match=r"where: labels"):
        run.evaluate([drawn / "pits" / "000.jpg"], 5)  # type: ignore[arg-type]
