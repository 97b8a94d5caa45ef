"""The command line, in this process or in one of its own, and the folder in which the commands of the documentation run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unfreeze.cli import main
from unfreeze.config import TrainConfig
from unfreeze.demo import DEFECTS, draw_photos
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.preprocessing import Preprocessing

PROGRAM = [sys.executable, "-c", "from unfreeze.cli import main; main()"]
A_CLASS = 5  # photos


def command(*words: str | Path) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def start_server(
    words: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a command that serves, and wait until it listens or has ended; return it with what it has said on stderr."""
    process = subprocess.Popen([*PROGRAM, *words], cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "Ctrl-C" in line:
            break
    return process, said


@contextmanager
def small() -> Iterator[None]:
    """Let timm's smallest network stand in for the packaged one, at 64 pixels, and epochs and views be two.

    The packaged weights themselves are what ``test_command_line.py`` trains.
    """
    from unfreeze.compare import arms
    from unfreeze.models import backbones, networks
    from unfreeze.training import recipes

    usual, contenders = networks.timm_preprocessing, arms.all_arms

    def tiny(cfg: dict[str, Any]) -> Preprocessing:
        return replace(usual(cfg), size=(64, 64), resize=72)

    def stand_in(_: str, device: torch.device) -> Backbone:
        architecture = Architecture("timm", "test_efficientnet")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return assemble("efficientnet_lite0", architecture, networks.build(architecture), device)

    def quick(config: TrainConfig, _: int, *rest: Any) -> tuple[arms.Arm, ...]:
        return contenders(config, 2, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "timm_preprocessing", tiny)
        patch.setitem(backbones.FAMILIES, "efficientnet_lite0", stand_in)
        patch.setattr(arms, "all_arms", quick)
        patch.setattr(recipes, "EPOCHS", (2, 2))
        patch.setattr(recipes, "CLASSIC_EPOCHS", 1)
        patch.setattr(recipes, "CACHED_VIEWS", 2)
        yield


def lay_out(desk: Path) -> Path:
    """Draw the photos that the pages speak of, as a folder and as a table, and train the run that they look at."""
    draw_photos(desk / "photos", a_class=A_CLASS)
    draw_photos(desk / "photos_of_another_camera", a_class=2, seed=1)
    (desk / "more_photos").mkdir()
    for name in DEFECTS:
        shutil.copy(desk / "photos_of_another_camera" / name / "000.jpg", desk / "more_photos" / f"{name}.jpg")
    for copy in ("a.jpg", "photo.jpg"):
        shutil.copy(desk / "more_photos" / "scratch.jpg", desk / copy)
    for wnid, name in (("n01440764", "scratch"), ("n01443537", "stain")):  # any photos will do for a before and after
        shutil.copytree(desk / "photos_of_another_camera" / name, desk / "imagenet_photos" / wnid)
    rows = [f"photos/{name}/{n:03}.jpg,{name},{name}-{n // 2}\n" for name in DEFECTS for n in range(A_CLASS)]
    (desk / "photos.csv").write_text("file_name,label,group\n" + "".join(rows), "utf-8")
    with small():
        run_command(desk, "unfreeze train photos --depth head --out runs/train")
    return desk


def run_command(folder: Path, line: str) -> None:
    """Run a command of ours in this process, in a folder, and expect that it ends well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = command(*shlex.split(line, comments=True)[1:])
    if code:
        pytest.fail(f"{line} ended with {code}")
