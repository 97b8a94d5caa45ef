"""``unfreeze export`` end to end, with the packaged weights, on drawn photos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.support.commands import command

import unfreeze
from unfreeze.demo import DEFECTS, draw_photos
from unfreeze.predict import photo_batches
from unfreeze.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("exported")
    draw_photos(folder / "photos", a_class=6)
    return unfreeze.train(
        folder / "photos", recipe="head-only", views=1, test_size=0.35, out=folder / "run", device="cpu"
    )


def test_every_format_from_the_command_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, root = tmp_path / "out", str(run.folder.root)
    flags = ("--onnx", "--torchscript", "--safetensors", "--int8")
    assert command("export", root, *flags, "--out", str(out)) == 0
    told = capsys.readouterr()
    assert told.err == ""
    lines = told.out.splitlines()
    assert [line.split()[0] for line in lines] == ["onnx", "torchscript", "safetensors", "modeling.py", "int8", "int8"]
    assert f"{out / 'model.onnx'}  12." in lines[0]
    assert "MiB  largest difference" in lines[0]
    assert "int8 changes accuracy from" in lines[-1]

    table = json.loads((out / "export.json").read_text("utf-8"))["files"]
    assert all(table[kind]["difference"] <= 1e-4 for kind in ("onnx", "torchscript", "safetensors"))
    assert table["int8"]["size"] < table["onnx"]["size"] / 3

    photos = sorted((run.folder.root.parent / "photos").rglob("*.jpg"))[:5]
    images = torch.cat(list(photo_batches(run._model.backbone, photos))).numpy()
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"images": images})
    expected = [each.probabilities for each in run.predict(photos)]
    np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["labels"]) == sorted(DEFECTS)
    card = (out / "model" / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: pytorch\n")
    assert all(name in card for name in DEFECTS)


def test_onnx_is_the_default_and_flags_add_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(run: Run, formats: Sequence[str], **rest: Any) -> list[Any]:
        asked.append((formats, rest))
        return []

    monkeypatch.setattr("unfreeze.export.export", record)
    root = str(run.folder.root)
    assert command("export", root) == 0
    assert command("export", root, "--int8", "--safetensors", "--photos", "there", "--out", "here") == 0
    assert asked == [
        (["onnx"], {"photos": None, "out": None}),
        (["safetensors", "int8"], {"photos": Path("there"), "out": Path("here")}),
    ]


def test_a_users_mistake_is_told_in_a_line(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = str(run.folder.root)
    assert command("export", str(tmp_path)) == 2
    assert "never finished" in capsys.readouterr().err
    assert command("export", root, "--out", root, "--safetensors") == 2
    assert "no export wrote it" in capsys.readouterr().err
    assert command("export", root, "--photos", str(tmp_path / "nowhere")) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not run.folder.export.exists()
