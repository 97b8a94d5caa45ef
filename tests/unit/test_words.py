"""Names that the glossary replaced stay out of the code, of the documentation and of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from unfreeze.cli import app

ROOT = Path(__file__).parents[2]
REPLACED = {
    "anchored": "distilled",
    "--anchor": "--distill",
    "--forget-at-most": "--max-forgetting",
    "--fresh-views": "--new-views",
    "--light": "--color-jitter",
    "Bench": "SearchContext",
    "Book": "CacheFile",
    "Contender": "Arm",
    "exam": "held-out evaluation",
    "Exam": "TestSet",
    "heard": "validation_scores, val_logits",
    "InTurn": "Pipeline",
    "judge": "validate, select",
    "judged": "validated, selected",
    "judged_by_all": "cross_fit_all",
    "judges": "validation images, folds",
    "kept_from": "cache_boundary",
    "likeliest_first": "order_by_cache_hits",
    "not_worse": "accepted",
    "own_looks": "original_outputs",
    "Panel": "ModelSelector",
    "papers": "held-out images",
    "Pose": "Orientation",
    "poses": "orientations",
    "round_finals": "fold_states",
    "set_exam": "prepare_evaluation",
    "setback": "warning",
    "setbacks": "warnings",
    "Sheet": "EvaluationSet",
    "Shelf": "CacheNamespace",
    "suited": "select_augmentation",
    "truth_of": "fold_labels",
    "try_out": "run_trial",
    "twins": "replicas",
    "wants_more": "should_continue",
}
READ_FROM_OLD_FILES = {  # lines that turn the names in files of earlier versions into today's
    "src/unfreeze/views.py": {"poses"},
    "src/unfreeze/verdict_schema1.py": {"exam", "poses", "setbacks"},
}
# A name, also as a part of a longer one that underscores join (`fold_judges`), but not of another word (`ScoreSheet`).
NAME = re.compile(
    rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, sorted(REPLACED, key=len, reverse=True)))})(?![A-Za-z0-9])"
)


def former_names(text: str, where: str) -> Iterator[str]:
    """Yield the file, the line and today's name for each former name in a text."""
    allowed = READ_FROM_OLD_FILES.get(where, set())
    for number, line in enumerate(text.splitlines(), start=1):
        for found in NAME.findall(line):
            if found not in allowed:
                yield f"{where}:{number}: {found} is now {REPLACED[found]}: {line.strip()}"


def searched() -> Iterator[Path]:
    """Yield the files that people and programmers read today; the results pages are history."""
    code = (path for path in (ROOT / "src").rglob("*") if path.suffix in {".py", ".html", ".css", ".js"})
    pages = (path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
    yield from (*sorted(code), *sorted(pages), ROOT / "README.md", ROOT / "CONTRIBUTING.md")


@pytest.mark.parametrize("line", ["selector.heard(x)", "class Panel:", "n_judges = 3", "run with `--anchor 2`"])
def test_a_former_name_is_found(line: str) -> None:
    assert next(former_names(f"\n{line}", "a.py")).startswith("a.py:2: ")


@pytest.mark.parametrize("line", ["ScoreSheet", "prejudge", 'text(anchor="lm")', "--lightning", "Exams", "purposes"])
def test_a_former_name_within_another_word_is_left_alone(line: str) -> None:
    assert not list(former_names(line, "a.py"))


@pytest.mark.parametrize("part", ["src", "docs", "README.md", "CONTRIBUTING.md"])
def test_no_former_name_is_in_the_code_or_the_documentation(part: str) -> None:
    paths = [path for path in searched() if path.relative_to(ROOT).parts[0] == part]
    assert paths
    found = [
        line for path in paths for line in former_names(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("where", sorted(READ_FROM_OLD_FILES))
def test_what_reads_old_files_is_still_there(where: str) -> None:
    assert READ_FROM_OLD_FILES[where] <= set(NAME.findall((ROOT / where).read_text("utf-8")))


@pytest.mark.parametrize("command", sorted(name for name in app if not name.startswith("-")))
def test_no_former_name_is_in_the_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    app([command, "--help"], exit_on_error=False, result_action="return_value")
    printed = capsys.readouterr().out
    assert "Usage" in printed
    found = list(former_names(printed, f"unfreeze {command} --help"))
    assert not found, "\n".join(found)
