"""Output formats of predictions: lines for other programs, a table for people, CSV and JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from unfreeze.data.folders import display_name
from unfreeze.files import rows_into
from unfreeze.predict import Prediction, Unread
from unfreeze.screen import inert_json, inert_name

MIN_NAME_WIDTH, MIN_BEST_WIDTH = 16, 28  # characters of a table: its first column, and each class with its probability
PAGE = 500  # predictions that a terminal shows as one table, which is printed when it is full

Write = Callable[[Prediction | Unread], None]


def lines(classes: Sequence[str], top: int) -> Callable[[TextIO], Write]:
    """Return a writer of tab-separated lines: an image's name and its most probable classes."""

    def into(file: TextIO) -> Write:
        def write(prediction: Prediction | Unread) -> None:
            if isinstance(prediction, Prediction):
                print(*_cells(prediction, classes, top), sep="\t", file=file, flush=True)

        return write

    return into


def table(classes: Sequence[str]) -> Callable[[TextIO], Write]:
    """Return a writer of CSV rows: an image's name, its class, and every class's probability."""

    def into(file: TextIO) -> Write:
        row = rows_into(file)
        shown = inert_name if file.isatty() else str  # a table for other programs has the names as they are
        row(["file_name", "label", *map(shown, classes)])

        def write(prediction: Prediction | Unread) -> None:
            if isinstance(prediction, Prediction):
                probabilities = (round(value, 6) for value in prediction.probabilities)
                row([shown(display_name(str(prediction.path))), shown(prediction.label), *probabilities])
                file.flush()

        return write

    return into


def objects(classes: Sequence[str], top: int) -> Callable[[TextIO], Write]:
    """Return a writer of JSON objects: an image's name and its most probable classes, or the reading error."""

    def into(file: TextIO) -> Write:
        def write(prediction: Prediction | Unread) -> None:
            record: dict[str, object] = {"file_name": display_name(str(prediction.path))}
            if isinstance(prediction, Prediction):
                best = [
                    {"label": label, "probability": round(value, 6)} for label, value in prediction.top(classes, top)
                ]
                record |= {**best[0], "top": best}
            else:
                record["error"] = prediction.error.what
            line = inert_json(json.dumps(record, ensure_ascii=False), getattr(file, "encoding", None))
            print(line, file=file, flush=True)

        return write

    return into


@contextmanager
def pages(file: TextIO, classes: Sequence[str], top: int) -> Iterator[Write]:
    """Yield a writer of tables for a terminal, of up to ``PAGE`` predictions each."""
    rows: list[list[str]] = []

    def write(prediction: Prediction | Unread) -> None:
        if isinstance(prediction, Prediction):
            rows.append(_cells(prediction, classes, top))
            if len(rows) == PAGE:
                _show(file, rows)
                rows.clear()

    yield write
    if rows:
        _show(file, rows)


def _show(file: TextIO, rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file)
    n_best = len(rows[0]) // 2
    if console.width < MIN_NAME_WIDTH + n_best * MIN_BEST_WIDTH:  # a table would break its headers and cut its numbers
        for name, *best in rows:
            pairs = zip(best[::2], best[1::2], strict=True)
            print(name, *(f"  {probability}  {label}" for label, probability in pairs), sep="\n", file=file)
        return
    table = Table(box=SIMPLE_HEAD)
    table.add_column("photo", overflow="fold", min_width=len("photo"))
    for _ in range(n_best):
        table.add_column("class", style="bold", overflow="fold", min_width=len("class"))
        table.add_column("probability", justify="right", no_wrap=True, min_width=len("probability"))
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))  # Text: brackets in a name are not markup
    console.print(table)


def _cells(prediction: Prediction, classes: Sequence[str], top: int) -> list[str]:
    best = [text for label, value in prediction.top(classes, top) for text in (inert_name(label), f"{value:.3f}")]
    return [inert_name(display_name(str(prediction.path))), *best]  # nothing ends a line or a cell
