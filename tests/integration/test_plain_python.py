"""What the pages and the model card say about timm works in a Python that has imported nothing of ours before.

In this process the tests' other imports have prepared torchvision already, so that each block runs in one of its own.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.support.backbones import CPU

from unfreeze.models.backbone import Architecture, assemble
from unfreeze.models.head import new_head
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, save_model
from unfreeze.runs.model_card import BY_CODE, BY_TIMM
from unfreeze.runs.run import Run

ROOT = Path(__file__).parents[2]


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def in_a_new_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_howto_loads_a_run_with_timm(run: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "train").symlink_to(run.folder.root, target_is_directory=True)
    (block,) = [each for each in blocks((ROOT / "docs/howto/python.md").read_text("utf-8")) if "timm" in each]
    assert "local-dir:" in block
    labels = in_a_new_python(f"{block}\nimport json; print(json.dumps(labels))", tmp_path)
    assert json.loads(labels) == list(run.classes)


def test_the_model_card_of_timms_whole_classifier(tmp_path: Path) -> None:
    architecture = Architecture("timm", "test_efficientnet")
    backbone = assemble("timm/test_efficientnet", architecture, build(architecture), CPU)
    save_model(tmp_path / "model", Classifier(backbone, new_head(backbone, 3, 0), ("ant", "bee", "wasp")))
    Image.new("RGB", (200, 160), "red").save(tmp_path / "photo.jpg")
    (block,) = blocks(BY_TIMM)
    assert in_a_new_python(block.replace("FOLDER_OF_THIS_FILE", "model"), tmp_path).strip() in ("ant", "bee", "wasp")


@pytest.mark.parametrize("beside", ["", "import torch\n"])
def test_the_model_card_of_a_head_on_several_stages(run: Run, beside: str) -> None:
    (block,) = blocks(BY_CODE.format(library="timm"))
    images = "import torch\nimages = torch.zeros(1, 3, 224, 224)\n"
    code = beside + block.replace("FOLDER_OF_THIS_FILE", ".").replace("logits =", f"{images}logits =", 1)
    assert in_a_new_python(code, run.folder.model).strip() in run.classes
