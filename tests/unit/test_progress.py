from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from unfreeze import progress
from unfreeze.progress import PlainProgress, notebook_bar
from unfreeze.runtime import progress_bar


class Clock:
    """A clock that goes on by a number of seconds for every item."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_a_log_gets_a_line_a_phase_and_one_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    plain = PlainProgress(clock)
    for _ in plain.track(range(10), "fine-tuning", 10):
        clock.now += 25
    assert lines(capsys) == [
        "fine-tuning", "fine-tuning: 3 of 10, about 3 min left", "fine-tuning: 6 of 10, about 2 min left",
        "fine-tuning: 9 of 10, about 25 s left",
    ]  # fmt: skip


def test_a_minute_passes_over_many_short_phases(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    plain = PlainProgress(clock)
    for _ in range(5):
        for _ in plain.track(iter("ab"), "solving", 2):
            clock.now += 20
    assert lines(capsys) == ["solving", *["solving: 1 of 2, about 20 s left"] * 2]


def test_an_unknown_number_and_a_quiet_beginning(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    for _ in PlainProgress(clock).track(range(3), "predicting", None, announce=False):
        clock.now += 61
    assert lines(capsys) == ["predicting: 1 done", "predicting: 2 done"]


def test_where_stderr_is_no_terminal_there_are_plain_lines_whatever_forces_colour(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(progress_bar(range(3), "a phase that no other test has", total=3)) == [0, 1, 2]
    assert lines(capsys) == ["a phase that no other test has"]


def test_a_notebook_gets_a_bar_that_disappears(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def show(data: dict[str, str], **_: Any) -> Any:
        shown.append(data["text/plain"])
        return SimpleNamespace(update=show)

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=show))
    monkeypatch.setattr(progress, "REFRESH_SECONDS", 0.0)
    assert list(notebook_bar(iter("abc"), "training", 3)) == ["a", "b", "c"]
    assert shown[0] == "training"
    assert "█" in shown[1]
    assert "1 of 3" in shown[1]
    assert shown[-1] == ""
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert list(progress_bar(iter("ab"), "in a notebook")) == ["a", "b"]
    assert "in a notebook" in shown
