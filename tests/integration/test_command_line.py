"""The command line end to end, with the packaged weights, on drawn photos."""

from __future__ import annotations

import csv
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.support.commands import PROGRAM, command, small

import unfreeze
from unfreeze.demo import DEFECTS, draw_photos
from unfreeze.errors import DecodeError
from unfreeze.models.backbones import load_backbone
from unfreeze.models.saved import load_model
from unfreeze.predict import photo_batches, probabilities

QUICK = ["--depth", "blocks.6", "--epochs", "2", "--views", "2", "--test-size", "0.2"]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    draw_photos(folder, a_class=14)
    return folder


@pytest.fixture(scope="session")
def reference(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Any photos will do for a before and after: here, scratches that are called fish."""
    folder = tmp_path_factory.mktemp("reference")
    for wnid, name in (("n01440764", "scratch"), ("n01443537", "stain")):
        shutil.copytree(photos / name, folder / wnid)
    return folder


@pytest.fixture(scope="session")
def run(photos: Path, reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    assert command("train", str(photos), *QUICK, "--reference", str(reference), "--out", str(folder)) == 0
    return folder


def test_the_run_folder_is_whole(run: Path) -> None:
    gain = json.loads((run / "verdict.json").read_text("utf-8"))["gain"]
    changed = min(12, gain["fixed"]) + min(12, gain["broken"])
    assert {path.name for path in run.iterdir()} - {"heatmaps"} == {
        "args.toml", "checks.csv", "history.csv", "model", "plots", "predictions.csv", "report.html", "splits.csv",
        "verdict.json",
    }  # fmt: skip
    assert len(list(run.glob("heatmaps/*.jpg"))) == changed
    assert {path.name for path in (run / "model").iterdir()} == {
        "README.md", "config.json", "model.safetensors", "modeling.py",
    }  # fmt: skip
    with (run / "splits.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 14 * len(DEFECTS)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert all((row["fold"] == "") == (row["split"] == "test") for row in rows)


def test_the_verdict_follows_its_schema(run: Path) -> None:
    verdict = json.loads((run / "verdict.json").read_text("utf-8"))
    assert verdict["schema"] == 2
    assert verdict["shipped"] in ("two_phase", "head_only")
    assert verdict["data"]["classes"] == sorted(DEFECTS)
    assert verdict["model"]["depth"] == "blocks.6"
    assert verdict["scores"]["protocol"] == "test"
    for arm in ("head_only", "two_phase", "shipped"):
        for score in ("accuracy", "balanced_accuracy", "log_loss", "ece"):
            low, high = verdict["scores"][arm][f"{score}_ci95"]
            assert low <= verdict["scores"][arm][score] <= high
    assert verdict["scores"]["shipped"] == verdict["scores"][verdict["shipped"]]
    gain = verdict["scores"]["two_phase"]["accuracy"] - verdict["scores"]["head_only"]["accuracy"]
    assert verdict["gain"]["accuracy"] == pytest.approx(gain)
    forgetting = verdict["forgetting"]
    assert forgetting["n"] == 28
    assert forgetting["drop"] == pytest.approx(forgetting["before"] - forgetting["after"])
    assert {"decode", "features", "head", "finetune", "total"} <= set(verdict["cost"]["seconds"])
    (tried,) = verdict["trials"]
    assert tried["depth"] == "blocks.6"
    points = {point["alpha"]: point["accuracy"] for point in tried["points"]}
    assert list(points) == sorted(points)
    assert {0, verdict["model"]["alpha"], 1} <= set(points)
    assert all(0 <= accuracy <= 1 for accuracy in points.values())
    assert verdict["shipped"] == "two_phase" or verdict["model"]["alpha"] == 0
    assert all(isinstance(setback, str) for setback in verdict["warnings"])


def test_the_report_is_written_by_train_and_again_from_the_folder_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "report.html").unlink()
    shutil.rmtree(copy / "plots")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert command("report", "copy") == 0
    assert capsys.readouterr().out == f"{Path('copy', 'report.html')}\n"
    again, written = ((folder / "report.html").read_text("utf-8") for folder in (copy, run))
    assert again.replace(copy.name, run.name) == written.replace(copy.name, run.name)
    assert {path.name for path in (copy / "plots").iterdir()} == {path.name for path in (run / "plots").iterdir()}
    assert all(f">{title}</h2>" in written for title in ("Verdict", "Scores", "Training", "Confusion", "Photos", "Run"))
    assert "<td>efficientnet_lite0</td>" in written
    assert f"<td>{metadata.version('torch')}</td>" in written  # not torch's own word, which names its kind, too


def test_every_photo_is_scored_by_models_that_never_saw_it(
    photos: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    words = ("train", str(photos), *QUICK[:-2], "--reference", str(reference), "--out", str(tmp_path / "run"))
    assert command(*words) == 0
    told = capsys.readouterr()
    assert "all train, and each is scored by models of the 5 folds that never saw it" in told.err
    assert "of 56 photos, each answered by a model that never saw it" in told.out
    assert len(told.out.splitlines()) < 27
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text("utf-8"))
    assert verdict["scores"]["protocol"] == "cross_fitted"
    assert (verdict["data"]["n_train"], verdict["data"]["n_test"], verdict["scores"]["shipped"]["n"]) == (56, 0, 56)
    assert verdict["scores"]["calibration"]["n"] == 56
    assert verdict["forgetting"]["agreement_n"] == 56
    assert verdict["forgetting"]["weights_drop"] == pytest.approx(verdict["forgetting"]["drop"])
    with (tmp_path / "run" / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["file_name"] for row in rows) == sorted(
        path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg")
    )
    answered = np.array([[float(row[f"two_phase:{name}"]) for name in sorted(DEFECTS)] for row in rows])
    right = np.mean([sorted(DEFECTS)[best] == row["label"] for best, row in zip(answered.argmax(1), rows, strict=True)])
    assert right == pytest.approx(verdict["scores"]["two_phase"]["accuracy"])


def test_compare_trains_every_arm_on_the_same_photos(
    photos: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.csv"
    rows = [(photo, name) for name in DEFECTS for photo in sorted((photos / name).iterdir())[:5]]
    few.write_text("file_name,label\n" + "".join(f"{photo},{name}\n" for photo, name in rows), "utf-8")
    capsys.readouterr()
    out = tmp_path / "compared"
    words = ("compare", str(few), "--seeds", "2", "--epochs", "2", "--reference", str(reference), "--out", str(out))
    with small():
        assert command(*words) == 0
    lines = capsys.readouterr().out.splitlines()
    arms = [
        "head-only", "two-phase", "auto", "classic, BatchNorm frozen", "classic, as in textbooks", "naive: all at 1e-3",
        "layer decay, one phase",
    ]  # fmt: skip
    assert [line[:27].rstrip() for line in lines[1:8]] == arms
    assert "corrected for overlapping training photos" in lines[9]
    with (out / "compare.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [(row["seed"], row["arm"]) for row in table] == [(str(seed), arm) for seed in range(2) for arm in arms]
    for row in table:
        frozen = row["arm"] not in ("classic, as in textbooks", "naive: all at 1e-3")
        assert (float(row["batch_norm_drop"]) == 0) >= frozen
        assert row["arm"] != "head-only" or float(row["drop"]) == 0
    figures = json.loads((out / "compare.json").read_text("utf-8"))
    assert [line["arm"] for line in figures["arms"]] == arms
    assert figures["n_test"] == 4
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert command(*words) == 2  # a comparison never overwrites either
    assert command("compare", str(few), "--test-size", "0") == 2


def test_the_frozen_part_ships_as_it_was_pretrained_to_the_bit(run: Path) -> None:
    shipped = load_file(run / "model" / "model.safetensors")
    pretrained = load_backbone("efficientnet_lite0").weights()
    below = [name for name in pretrained if not name.startswith(("blocks.6", "conv_head", "bn2"))]
    assert any("running_var" in name for name in below)
    assert all(torch.equal(shipped[name], pretrained[name]) for name in below)


def test_the_same_seed_gives_the_same_bits_and_training_gets_no_test_photo(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even by number: what training is given holds the paths and labels of the training photos, and no others."""
    from unfreeze.training.features.training_features import TrainingFeatures
    from unfreeze.training.phase_one import HeadOnlyResult, train_head
    from unfreeze.training.recipe import Recipe

    given: list[TrainingFeatures] = []

    def spied(features: TrainingFeatures, recipe: Recipe) -> HeadOnlyResult:
        given.append(features)
        return train_head(features, recipe)

    monkeypatch.setattr("unfreeze.pipeline.train_head", spied)
    words = ("train", "--config", str(run / "args.toml"), "--out", str(tmp_path / "again"), "--cache-gib", "0")
    assert command(*words) == 0
    (features,) = given
    data = features.data
    with (run / "splits.csv").open(encoding="utf-8") as file:
        trained = [row for row in csv.DictReader(file) if row["split"] == "train"]
    for renderer in (features.final.renderer, *(fold.renderer for fold in features.by_fold)):
        assert [path.relative_to(photos).as_posix() for path in renderer.paths] == [row["file_name"] for row in trained]
        assert len(renderer.digests) == len(data.labels) == len(data.ids) == len(trained)
    assert sorted(data.train) == list(range(len(trained)))
    first, again = (folder / "model" / "model.safetensors" for folder in (run, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()
    assert tomllib.loads((tmp_path / "again" / "args.toml").read_text("utf-8"))["depth"] == "blocks.6"


def test_a_second_run_on_the_same_photos_computes_no_frozen_layer(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("unfreeze.training.features.activations.frozen_forward", refuse)
    assert command("train", "--config", str(run / "args.toml"), "--out", str(tmp_path / "again")) == 0
    first, again = (folder / "model" / "model.safetensors" for folder in (run, tmp_path / "again"))
    assert first.read_bytes() == again.read_bytes()
    assert (run / "predictions.csv").read_bytes() == (tmp_path / "again" / "predictions.csv").read_bytes()


@pytest.mark.parametrize("sides", [[], ["--test-size", "0.2"]])
def test_without_time_for_phase_two_the_run_ends_with_the_head(
    photos: Path, reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sides: list[str]
) -> None:
    capsys.readouterr()
    words = ("train", str(photos), *QUICK[:-2], *sides, "--reference", str(reference), "--minutes", "0.001")
    assert command(*words, "--out", str(tmp_path / "run")) == 0
    told = capsys.readouterr()
    assert "there is no time for phase 2 in 0.001 minutes" in told.err
    assert "Phase 2 did not run" in told.out
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text("utf-8"))
    assert (verdict["shipped"], verdict["trials"], verdict["model"]["alpha"]) == ("head_only", [], 0)
    assert verdict["forgetting"]["drop"] == 0
    assert verdict["cost"]["forecast"]["finetune"] == 0
    assert not {"gain", "two_phase"} & (set(verdict) | set(verdict["scores"]))


def test_what_ships_forgets_no_more_than_it_may(run: Path, tmp_path: Path) -> None:
    words = ("train", "--config", str(run / "args.toml"), "--max-forgetting", "0", "--lr", "0.003")
    assert command(*words, "--out", str(tmp_path / "run")) == 0
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text("utf-8"))
    assert verdict["forgetting"]["drop"] <= 0
    assert verdict["shipped"] == "head_only" or verdict["model"]["alpha"] > 0


@pytest.mark.slow
def test_fresh_views_are_trained_on(run: Path, tmp_path: Path) -> None:
    words = ("train", "--config", str(run / "args.toml"), "--new-views", "1", "--out", str(tmp_path / "fresh"))
    assert command(*words) == 0
    losses = []
    for folder in (run, tmp_path / "fresh"):
        with (folder / "history.csv").open(newline="") as file:
            losses.append([row["train_loss"] for row in csv.DictReader(file) if "validating 1 " in row["phase"]])
    assert len(losses[0]) == len(losses[1]) == 2
    assert losses[0][0] == losses[1][0]  # the first epoch has the same views
    assert losses[0][1] != losses[1][1]


def test_the_shipped_file_answers_as_the_trained_model_did(run: Path, photos: Path) -> None:
    finished = unfreeze.load(run)
    with (run / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    answers = finished.predict([photos / row["file_name"] for row in rows])
    expected = np.array(
        [[float(row[f"{finished.verdict.shipped}:{name}"]) for name in finished.classes] for row in rows]
    )
    assert np.abs(np.array([answer.probabilities for answer in answers]) - expected).max() < 1e-4
    right = np.mean([answer.label == row["label"] for answer, row in zip(answers, rows, strict=True)])
    assert right == pytest.approx(finished.verdict.scores.shipped.accuracy)


def test_the_code_in_the_folder_computes_the_shipped_model_of_one_view_with_timm_alone(run: Path, photos: Path) -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    code = runpy.run_path(str(run / "model" / "modeling.py"))
    model, labels = code["load_classifier"](run / "model")
    assert tuple(labels) == unfreeze.load(run).classes
    backbone = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True, num_classes=0)
    transform = create_transform(**resolve_data_config(model=backbone))
    photo = photos / "scratch" / "003.jpg"
    with torch.inference_mode():
        theirs = model(transform(Image.open(photo))[None]).softmax(dim=1)[0].numpy()
    saved = load_model(run / "model", torch.device("cpu"))
    [ours] = probabilities(saved.backbone, saved.head, photo_batches(saved.backbone, [photo]))
    assert np.abs(theirs - ours).max() < 1e-5


def test_head_only_forgets_exactly_nothing(photos: Path, reference: Path, tmp_path: Path) -> None:
    finished = unfreeze.train(
        photos, recipe="head-only", views=1, test_size=0.2, reference=reference, out=tmp_path / "run"
    )
    verdict = finished.verdict
    assert verdict.shipped == "head_only"
    assert verdict.gain is None
    assert verdict.scores.two_phase is None
    assert verdict.forgetting is not None
    assert verdict.forgetting.drop == 0
    assert verdict.forgetting.agreement == 1
    pretrained = load_backbone("efficientnet_lite0").weights()
    shipped = load_file(finished.folder.weights)
    assert all(torch.equal(shipped[name], value) for name, value in pretrained.items())


@pytest.mark.parametrize(("bn", "moved"), [("frozen", False), ("train", True)])
def test_classic_moves_batch_norm_only_when_asked_to(photos: Path, tmp_path: Path, bn: str, moved: bool) -> None:
    table = tmp_path / "few.csv"
    rows = [(photo, name) for name in DEFECTS for photo in sorted((photos / name).iterdir())[:5]]
    table.write_text("file_name,label\n" + "".join(f"{photo},{name}\n" for photo, name in rows), "utf-8")
    with small():
        finished = unfreeze.train(
            table, recipe="classic", bn=bn, epochs=1, head_epochs=1, test_size=0.3, out=tmp_path / "run"
        )
        pretrained = load_backbone("efficientnet_lite0").weights()
    shipped = load_file(finished.folder.weights)
    statistics = [name for name in pretrained if "running_" in name]
    assert any(not torch.equal(shipped[name], pretrained[name]) for name in statistics) == moved


def test_predict_prints_a_line_a_photo_and_writes_a_table(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert command("predict", str(run), str(photos / "pits"), str(photos / "clean" / "000.jpg")) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 15
    assert all(label in DEFECTS and 0 < float(probability) <= 1 for _, label, probability in lines)
    assert command("predict", str(run), str(photos / "pits"), "--csv", str(tmp_path / "out.csv")) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [label for _, label, _ in lines[:14]]
    assert all(sum(float(row[name]) for name in DEFECTS) == pytest.approx(1, abs=1e-4) for row in rows)


def test_explain_draws_a_picture_a_photo_whatever_it_is_called(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("<img src=x onerror=alert(1)>.jpg", "-rf.jpg", "a..jpg", "a\nb\t.jpg", "雪" * 60 + ".jpg", "e\u0301.JPG")
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(names):
        for folder in (Path("x"), Path("y")):
            folder.mkdir(exist_ok=True)
            shutil.copy(photos / "pits" / f"{number:03}.jpg", folder / name)
    capsys.readouterr()
    assert command("explain", str(run), "x", "y", "--out", "out/pictures") == 0
    drawn = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert len(drawn) == len(set(drawn)) == 2 * len(names)
    assert set(drawn) == set(Path("out/pictures").iterdir())
    assert {path.name for path in Path().iterdir()} == {"x", "y", "out"}
    pictures = [np.asarray(Image.open(path).convert("RGB"), np.int64) for path in drawn]
    assert len({picture.shape for picture in pictures}) == 1
    for x, y in zip(pictures[: len(names)], pictures[len(names) :], strict=True):
        assert np.array_equal(x, y)
    for picture in pictures:
        photo, heat = picture[-224:, :224], picture[-224:, -224:]
        assert (np.ptp(heat, axis=2).max() - np.ptp(photo, axis=2).max()) > 50  # the drawn photos are all but grey

    assert command("explain", str(run), str(photos / "pits" / "000.jpg"), "--label", "stain", "--out", "out/one") == 0
    (other,) = Path("out/one").iterdir()
    assert not np.array_equal(np.asarray(Image.open(other)), np.asarray(Image.open(drawn[0])))


def test_explain_passes_over_what_is_no_photo_and_knows_the_classes(
    run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(photos / "pits" / "000.jpg", tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"no photo")
    capsys.readouterr()
    words = ("explain", str(run), str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg"), "--out", str(tmp_path / "out"))
    assert command(*words) == 2
    told = capsys.readouterr()
    assert "1 of 2 photos can't be read; the others were drawn" in told.err
    assert [Path(line) for line in told.out.splitlines()] == list((tmp_path / "out").iterdir())
    assert command(*words[:3], "--label", "rust", "--out", str(tmp_path / "none")) == 2
    assert "doesn't know the class 'rust'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    with pytest.raises(DecodeError):
        list(unfreeze.load(run).explain([tmp_path / "b.jpg"]))


def test_eval_scores_other_photos(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert command("eval", str(run), str(photos)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "56 photos, with 95 % intervals"
    assert [line.split()[0] for line in lines[1:]] == [
        "accuracy", "balanced", "macro", "ROC-AUC", "PR-AUC", "Cohen's", "log-loss", "calibration",
    ]  # fmt: skip


def test_the_last_lines_say_the_verdict_the_paths_and_the_next_command(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("train", str(photos), "--recipe", "head-only", "--views", "1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The head-only model ships: it is right on ")
    assert [line.split()[0] for line in lines[-5:]] == ["run", "verdict", "model", "report", "next"]
    assert len(lines) < 27
    assert lines[-2] == f"report   {Path('runs', 'train', 'report.html')}"
    assert lines[-1].endswith("unfreeze predict runs/train PHOTO...")
    assert (tmp_path / "runs" / "latest").resolve() == tmp_path / "runs" / "train"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "Which photos?"),
        (["train", "nowhere"], "no such folder"),
        (["train", "{photos}", "--model", "nonsense"], "No model is called 'nonsense'"),
        (["train", "{photos}", "--depth", "layer9"], "no stage called 'layer9'"),
        (["train", "{photos}", "--lr", "1"], "--lr"),
        (["train", "{photos}", "--recipe", "classic", "--depth", "all"], "--depth has no meaning"),
        (["train", "{photos}", "--device", "cuda:9"], "--device"),
        (["train", "{photos}", "--cache", "/dev/null/cache"], "--cache-gib 0"),
        (["train", "{photos}", "--fine"], "Unknown option"),
        (["predict", "nowhere", "{photos}"], "no such run folder"),
        (["report", "nowhere"], "no such run folder"),
        (["models", "nonsense"], "No model's name contains"),
        (["nonsense"], "nonsense"),
    ],
)
def test_mistakes_end_with_2_say_what_to_do_and_write_nothing(
    words: list[str], said: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert command(*(word.format(photos=photos) for word in words)) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_never_overwrites(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "verdict.json").read_bytes()
    assert command("train", str(photos), "--recipe", "head-only", "--out", str(run)) == 2
    assert "never overwrites" in capsys.readouterr().err
    assert (run / "verdict.json").read_bytes() == before


def test_the_demo_says_that_its_photos_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("unfreeze.cli.train._train", lambda config, next_photos: trained.append(config.photos))
    assert command("demo") == 0
    assert "drew: they are not real" in capsys.readouterr().err
    assert trained == [Path("demo/photos")]
    assert len(list(tmp_path.glob("demo/photos/*/*.jpg"))) == 160


def test_models_and_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("models", "efficientnet_lite0") == 0
    listed = capsys.readouterr().out
    assert "packaged     efficientnet_lite0" in listed
    assert "blocks.5, blocks.6, conv_head, head" in listed
    assert command("doctor") == 0
    told = capsys.readouterr().out
    assert "torchvision" in told
    assert re.search(r"^frozen layers +efficientnet_lite0: .*torch .*, in (float32|bfloat16)", told, re.MULTILINE)


def test_help_does_not_import_torch() -> None:
    code = "import sys, unfreeze.cli; sys.argv = ['unfreeze', '--help']; unfreeze.cli.main()"
    script = f"try:\n exec({code!r})\nfinally:\n print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", f"import sys\n{script}"], capture_output=True, text=True, check=False)
    assert "train" in told.stdout
    assert told.stdout.splitlines()[-1] == "False"


@pytest.mark.slow
def test_interrupted_it_says_what_is_left(photos: Path, tmp_path: Path) -> None:
    words = ["train", str(photos), "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "run")]
    listening = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job in the background isn't
    )
    with subprocess.Popen(
        [*PROGRAM[:-1], f"{listening}; {PROGRAM[-1]}", *words], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("this will take"):
                break
        process.send_signal(signal.SIGINT)
        left = process.stderr.read()
    assert process.returncode == 130
    assert left == "unfreeze: interrupted; an unfinished run has no verdict.json\n"
    assert not (tmp_path / "run" / "verdict.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["train", "x", "--light=blue"], "--color-jitter"),
        (["train", "x", "--anchor", "1000"], "--distill"),
        (["train", "--", "--light"], "where: --light"),
        (["models", "--light"], "--light"),
    ],
)
def test_former_flags_are_those_of_train_and_no_other_words(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert told in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    shown = subprocess.run([sys.executable, "-m", "unfreeze", "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == metadata.version("unfreeze")
