"""The examples run as they are, on drawn photos and with few epochs."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
from tests.support.commands import lay_out, small

EXAMPLES = Path(__file__).parents[2] / "examples"
ARGUMENTS = {
    "two_phase_by_hand.py": (["photos", "--epochs", "1"], "textbook, BatchNorm frozen"),
    "compare_recipes.py": (["photos", "--seeds", "2", "--epochs", "2"], "can't be told from head-only"),
    "what_to_label_next.py": (["runs/train", "more_photos", "--count", "2"], "pictures in to_label"),
}


@pytest.fixture(scope="module")
def desk(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("examples") / "desk")


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_script_runs(
    name: str, desk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, said = ARGUMENTS[name]
    monkeypatch.chdir(shutil.copytree(desk, tmp_path / "desk"))
    monkeypatch.setattr(sys, "argv", [name, *words])
    with small():
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert said in capsys.readouterr().out


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGUMENTS)
    assert {path.name for path in EXAMPLES.glob("*.ipynb")} == {"two_phases.ipynb"}


def test_the_notebook_runs(
    one_thread: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = json.loads((EXAMPLES / "two_phases.ipynb").read_text("utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: None)
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            with small():
                exec(compile("".join(cell["source"]), f"two_phases.ipynb, cell {number}", "exec"), names)
    assert "naive" in capsys.readouterr().out
