from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tests.support.backbones import tiny_cnn
from tests.support.runs import verdict
from tests.support.training import recipe

from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.data.splits import Splits
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.models.backbone import Architecture
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.model_card import plain, write_card
from unfreeze.verdict import Verdict

HOSTILE = (
    "| a | b |\n# heading",
    "<script>alert(1)</script>",
    "[link](http://x) `code`",
    "---\nlicense: mit",
    "plain_name",
)
TIMM = Architecture("timm", "tiny_cnn")


def card(tmp_path: Path, about: Verdict, architecture: Architecture = TIMM, *, tested: bool = True) -> str:
    classes = about.data.classes
    samples = tuple(Sample(Path(f"{n}.png"), f"{n}.png", n % len(classes)) for n in range(42))
    train, test = (np.arange(30), np.arange(30, 42)) if tested else (np.arange(42), np.arange(0))
    splits = Splits(train, np.arange(0), test, np.where(np.arange(42) < len(train), 0, -1))
    folder = RunFolder(tmp_path)
    write_card(folder, about, recipe(tiny_cnn()), architecture, PhotoSet(Path(), classes, samples), splits)
    return folder.model_card.read_text("utf-8")


def test_a_card_says_what_the_model_is_for_and_what_it_is_worth(tmp_path: Path) -> None:
    about = verdict(("ant", "bee", "wasp"))
    text = card(tmp_path, about)
    front, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert front.splitlines()[:2] == ["library_name: timm", "pipeline_tag: image-classification"]
    titles = re.findall(r"^## (.+)$", body, re.MULTILINE)
    assert titles == [
        "Intended use", "Data", "Scores", "Forgetting", "Limits", "How to use it", "How it was trained",
    ]  # fmt: skip
    assert about.sentences()[0] in body
    assert "| ant | 10 | 4 |" in body
    assert "| all | 30 | 12 |" in body
    for name, value, (low, high) in about.scores.shipped.rows():
        assert f"| {name} | {value:.4f} | {low:.4f} to {high:.4f} |" in body
    assert "ant (4), bee (4), wasp (4)" in body  # scored photos of each: few
    assert "Nothing is forgotten" in body
    assert 'timm.create_model("local-dir:' in body


@pytest.mark.parametrize("tested", [True, False])
def test_names_do_not_break_the_page(tmp_path: Path, tested: bool) -> None:
    text = card(tmp_path, verdict(HOSTILE), tested=tested)
    assert "<script" not in text.replace(r"\<script", "")
    assert text.count("\n---\n") == 1  # the end of the front matter
    assert not re.search(r"^# heading|^license", text, re.MULTILINE)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", line)) for line in tables}
    assert cells == ({4} if tested else {3, 4})
    assert r"plain\_name" in text


def test_a_name_is_shown_as_it_is() -> None:
    assert plain("Übergröße 3") == "Übergröße 3"
    assert plain("a\r\n\t b\x00c") == "a b c"
    assert plain("www`x`\\") == r"www\`x\`" + "\\\\"


def test_only_timms_networks_are_for_timm(tmp_path: Path) -> None:
    text = card(tmp_path, verdict(("a", "b")), Architecture("torchvision", "resnet18"))
    assert "library_name: torchvision" in text
    assert "local-dir" not in text


def test_a_head_on_several_stages_is_for_its_own_code(tmp_path: Path) -> None:
    about = verdict(("a", "b"))
    several = about.model_copy(update={"model": about.model.model_copy(update={"head_stages": ("layer2", "layer4")})})
    text = card(tmp_path, several)
    assert "library_name: pytorch" in text
    assert "which reads 2 stages (`layer2`, `layer4`)" in text
    assert "local-dir" not in text
    assert "load_classifier" not in text  # no such file is there
    RunFolder(tmp_path).model_code.write_text("")
    assert 'load_classifier("FOLDER_OF_THIS_FILE")' in card(tmp_path, several)


def test_what_was_forgotten_stands_in_the_card(tmp_path: Path) -> None:
    lost = Forgetting(n=50, before=0.9, after=0.8, drop=0.1, drop_ci95=(0.02, 0.18), agreement=0.75, agreement_n=12)
    about = verdict(("a", "b")).model_copy(update={"shipped": "two_phase", "forgetting": lost})
    text = card(tmp_path, about)
    assert "lost 10.0 points (95 % interval 2.0 to 18.0) of 90.0 % accuracy on 50 photos" in text
    assert "75.0 % of cases" in text
    about = about.model_copy(update={"forgetting": None})
    assert "was not measured" in card(tmp_path, about)


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    text = card(tmp_path, verdict(tuple(f"class {n}" for n in range(150))))
    assert "The other 50 classes" not in text
    assert "the other 50 classes are not listed" in text
    assert text.count("\n| class ") == 100
