"""Stacks, whose classes differ in the middle alone: a run with ``--frame middle``, and what its model does afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.commands import command

import unfreeze


def draw_stacks(root: Path) -> Path:
    for kind in range(2):
        for number in range(8):
            volume = np.random.default_rng(50 * kind + number).integers(60, 90, (5, 72, 72)).astype(np.uint8)
            volume[2, 20:50, 20:50] += 100 * kind
            pages = [Image.fromarray(page) for page in volume]
            path = root / ("plain", "lesion")[kind] / f"{number}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            pages[0].save(path, save_all=True, append_images=pages[1:])
    return root


def test_a_model_of_middle_frames_looks_at_middle_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stacks = draw_stacks(tmp_path / "stacks")
    run = unfreeze.train(stacks, recipe="head-only", views=1, frame="middle", cache_gib=0, out=tmp_path / "run")
    assert "note: Files that hold several pages or frames: 16; the middle one" in capsys.readouterr().err
    assert run.reading.frame == "middle"
    assert run.evaluate(stacks).accuracy == 1
    again = unfreeze.load(tmp_path / "run")
    with Image.open(stacks / "lesion" / "0.tif") as stack:
        stack.seek(2)
        stack.save(tmp_path / "middle.png")
    of_stack, of_page = again.predict([stacks / "lesion" / "0.tif", tmp_path / "middle.png"])
    assert of_stack.probabilities == pytest.approx(of_page.probabilities, abs=1e-4)
    (shown,) = again.explain([stacks / "lesion" / "0.tif"])
    assert np.asarray(shown.view).max() > 150
    capsys.readouterr()
    assert command("predict", tmp_path / "run", stacks / "lesion", "--device", "cpu") == 0
    assert "note: Files that hold several pages or frames: 8; the middle one" in capsys.readouterr().err
