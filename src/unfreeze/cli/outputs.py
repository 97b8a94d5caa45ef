"""Predictions as they are printed: lines for other programs, a table for people, CSV, JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from unfreeze.data.folders import display_name
from unfreeze.files import rows_into
from unfreeze.predict import Prediction, Unread

PAGE = 500  # photos whose answers are lined up together, and so held back, on a terminal
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}

Write = Callable[[Prediction | Unread], None]


def lines(classes: Sequence[str], top: int) -> Callable[[TextIO], Write]:
    """Return what writes a photo's name and its most probable classes, with tabs between."""

    def into(file: TextIO) -> Write:
        def write(answer: Prediction | Unread) -> None:
            if isinstance(answer, Prediction):
                print(*_cells(answer, classes, top), sep="\t", file=file, flush=True)

        return write

    return into


def table(classes: Sequence[str]) -> Callable[[TextIO], Write]:
    """Return what writes a row of CSV: a photo's name, its class, and every class's probability."""

    def into(file: TextIO) -> Write:
        row = rows_into(file)
        row(["file_name", "label", *classes])

        def write(answer: Prediction | Unread) -> None:
            if isinstance(answer, Prediction):
                probabilities = (round(value, 6) for value in answer.probabilities)
                row([display_name(str(answer.path)), answer.label, *probabilities])
                file.flush()

        return write

    return into


def objects(classes: Sequence[str], top: int) -> Callable[[TextIO], Write]:
    """Return what writes a JSON object: a photo's name with its most probable classes, or with why it can't be read."""

    def into(file: TextIO) -> Write:
        def write(answer: Prediction | Unread) -> None:
            told: dict[str, object] = {"file_name": display_name(str(answer.path))}
            if isinstance(answer, Prediction):
                best = [{"label": label, "probability": round(value, 6)} for label, value in answer.top(classes, top)]
                told |= {**best[0], "top": best}
            else:
                told["error"] = answer.error.what
            print(json.dumps(told, ensure_ascii=False), file=file, flush=True)

        return write

    return into


@contextmanager
def pages(file: TextIO, classes: Sequence[str], top: int) -> Iterator[Write]:
    """Give what shows answers on a terminal, in columns, ``PAGE`` of them at a time."""
    held: list[list[str]] = []

    def write(answer: Prediction | Unread) -> None:
        if isinstance(answer, Prediction):
            held.append(_cells(answer, classes, top))
            if len(held) == PAGE:
                _show(file, held)
                held.clear()

    yield write
    if held:
        _show(file, held)


def _show(file: TextIO, rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = Table(box=SIMPLE_HEAD)
    columns.add_column("photo", overflow="fold")
    for _ in rows[0][1::2]:
        columns.add_column("class", style="bold", overflow="fold")
        columns.add_column("probability", justify="right")
    for row in rows:
        columns.add_row(*(Text(cell) for cell in row))  # brackets in a name are no markup
    Console(file=file).print(columns)


def _cells(answer: Prediction, classes: Sequence[str], top: int) -> list[str]:
    best = [text for label, value in answer.top(classes, top) for text in (_on_a_line(label), f"{value:.3f}")]
    return [_on_a_line(display_name(str(answer.path))), *best]


def _on_a_line(name: str) -> str:
    """Return a name without the characters that would end the line or the cell, or command the terminal."""
    return name.translate(_CONTROL)
