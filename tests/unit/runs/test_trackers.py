"""A finished run in TensorBoard and MLflow, read back with their own readers."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.support.commands import command

from unfreeze.errors import MissingExtraError, RunError
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import score
from unfreeze.evaluation.significance import gain
from unfreeze.files import write_table, write_text
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import load
from unfreeze.runs.trackers import TRACKERS, Name, _without_password, check_tracker, read_record, track_run
from unfreeze.verdict import Cost, Data, Model, ScoreSheet, Verdict

LABELS = np.arange(60) % 3
STATED = np.full((60, 3), 0.1)
STATED[np.arange(60), np.where(np.arange(60) < 12, 0, LABELS)] = 0.8
SCORES = score(LABELS, STATED)
PHASE = "phase 2 from blocks.5, validating 1 of 5"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run in a working folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "false")
    made = RunFolder(Path("runs", "mine"))
    write_text(made.args, 'photos = "photos"\nseed = 3\nlr = 0.0003\n')
    rows = [(PHASE, epoch, 1 / epoch, 2 / epoch, 0.5, 0.1) for epoch in (1, 2, 3)]
    rows.append(("phase 2 on all", 1, 0.25, None, None, 0.2))  # type: ignore[arg-type]
    write_table(made.history, ["phase", "epoch", "train_loss", "val_loss", "val_accuracy", "seconds"], rows)
    verdict = Verdict(
        shipped="two_phase",
        data=Data(n_train=200, n_test=60, classes=("cat", "dog", "eel"), left_out=0),
        model=Model(name="efficientnet_lite0", boundary=5, depth="blocks.5", alpha=0.75, bn="frozen"),
        scores=ScoreSheet(protocol="test", head_only=SCORES, two_phase=SCORES, shipped=SCORES),
        gain=gain(LABELS, STATED, STATED),
        forgetting=Forgetting(drop=0.02, drop_ci95=(0.01, 0.03)),
        cost=Cost(seconds={"total": 12.5}),
    )
    write_text(made.verdict, verdict.to_json())
    made.plots.mkdir()
    Image.new("RGB", (8, 6), "red").save(made.plots / "curves.png")
    return made


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """Let packages look as if they weren't installed."""
    found: Callable[..., ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr("unfreeze.runs.trackers.find_spec", lambda name: None if name in missing else found(name))


def test_every_number_of_the_verdict_is_told_by_its_place(folder: RunFolder) -> None:
    record = read_record(folder)
    assert record.name == "mine"
    assert record.settings == {"photos": "photos", "seed": "3", "lr": "0.0003"}
    expected = {
        "scores/shipped/accuracy": SCORES.accuracy,
        "scores/head_only/accuracy_ci95/low": SCORES.accuracy_ci95[0],
        "scores/two_phase/log_loss_ci95/high": SCORES.log_loss_ci95[1],
        "gain/accuracy": 0.0,
        "gain/proven": 0.0,
        "forgetting/drop": 0.02,
        "forgetting/drop_ci95/high": 0.03,
        "model/alpha": 0.75,
        "data/n_train": 200.0,
        "cost/seconds/total": 12.5,
    }
    assert {name: record.figures[name] for name in expected} == expected
    assert record.epochs[f"{PHASE}/train_loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert f"{PHASE}/val_loss" in record.epochs
    assert "phase 2 on all/val_loss" not in record.epochs  # not measured is absent, never 0
    assert "ships" in record.sentences


def test_tensorboard_reads_it(folder: RunFolder) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # tracked again, it replaces what was there
        assert track_run(folder.root, "tensorboard") == str(folder.tensorboard)
    read = EventAccumulator(str(folder.tensorboard))
    read.Reload()
    record = read_record(folder)
    for name, value in record.figures.items():
        assert [event.value for event in read.Scalars(name)] == [pytest.approx(value)]
    assert [(event.step, event.value) for event in read.Scalars(f"{PHASE}/train_loss")] == [
        (1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert read.Tags()["images"] == ["plots/curves"]
    assert len(read.Tags()["tensors"]) == 2  # texts


@pytest.fixture
def client(folder: RunFolder) -> Any:
    """MLflow's own reader, of the store that is in the working folder by default."""
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert track_run(folder.root, "mlflow").endswith("mlflow.db")
        from mlflow import MlflowClient

        return MlflowClient()


def test_mlflow_reads_it(folder: RunFolder, client: Any, tmp_path: Path) -> None:
    assert (tmp_path / "mlflow.db").is_file()
    (run,) = client.search_runs([client.get_experiment_by_name("unfreeze").experiment_id])
    record = read_record(folder)
    assert run.info.run_name == "mine"
    assert run.info.status == "FINISHED"
    assert run.data.params == record.settings
    assert run.data.tags["mlflow.note.content"] == record.sentences
    assert run.data.metrics.items() >= {name: pytest.approx(value) for name, value in record.figures.items()}.items()
    (curve,) = (name for name in run.data.metrics if name.endswith("1 of 5/train_loss"))
    points = client.get_metric_history(run.info.run_id, curve)
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "args.toml", "history.csv", "plots", "verdict.json",
    }  # fmt: skip


def test_mlflow_tells_nobody(client: Any) -> None:
    from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert MLFLOW_DISABLE_TELEMETRY.get()
    assert is_telemetry_disabled()


@pytest.mark.parametrize(
    ("name", "missing"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow"), ("mlflow", "sqlalchemy")]
)
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_trained(
    name: Name, missing: str, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, missing)
    with pytest.raises(MissingExtraError, match=rf"unfreeze\[{name}\]"):
        check_tracker(name)
    Path("photos/a").mkdir(parents=True)
    before = sorted(Path().rglob("*"))
    assert command("train", "photos", "--track", name) == 2
    assert command("track", str(folder.root), "--to", name) == 2
    said = capsys.readouterr().err
    assert said.count(f"needs the optional package {missing}") == 2
    assert sorted(Path().rglob("*")) == before


def test_a_server_needs_no_database_here(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    without(monkeypatch, "sqlalchemy", "alembic")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    check_tracker("mlflow")


@pytest.mark.parametrize("words", [["train", "photos", "--track", "paper"], ["track", "runs/mine", "--to", "paper"]])
def test_an_unknown_tracker_is_refused(words: list[str], folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(*words) == 2
    assert "tensorboard" in capsys.readouterr().err
    assert not folder.tensorboard.exists()


def broken(folder: RunFolder, record: object) -> str:
    raise OSError("the disk is full")


def test_a_tracker_that_fails_says_why(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", broken)
    with pytest.raises(RunError, match="the disk is full"):
        track_run(folder.root, "tensorboard")
    assert command("track", str(folder.root), "--to", "tensorboard") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_password_is_printed() -> None:
    assert _without_password("https://me:secret@host:5000/a@b") == "https://host:5000/a@b"
    assert _without_password("sqlite:///a@b/mlflow.db") == "sqlite:///a@b/mlflow.db"


@pytest.mark.parametrize("fails", [False, True])
def test_a_run_that_is_trained_is_tracked_and_does_not_fail_with_the_tracker(
    fails: bool, folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    finished = load(folder.root)
    monkeypatch.setattr("unfreeze.pipeline.run", lambda config: finished)
    monkeypatch.setattr("unfreeze.report.write_report", lambda folder: folder.report)
    if fails:
        monkeypatch.setitem(TRACKERS, "tensorboard", broken)
    assert command("train", "photos", "--track", "tensorboard") == 0
    told = capsys.readouterr()
    assert (f"tracked  {folder.tensorboard}" in told.out.splitlines()) is not fails
    assert ("finished, but not tracked" in told.err and "the disk is full" in told.err) is fails
    assert told.out.splitlines()[-1].startswith("next ")
