"""The report's plots: numbers to PNG.  All stand on white, so that they can be read on a dark page and on paper."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval
from unfreeze.runtime import suppress_warnings

WIDTH = 5.2  # inches: at the width of a phone, letters of 9 points are still letters
DPI = 150
FIRST, SECOND, THIRD = "#1464a5", "#c2500f", "#555555"  # told apart by the colour-blind, and by their marks
MARKS = (("o", FIRST), ("s", SECOND), ("D", THIRD))
LONGEST = 18  # letters of a name beside an axis
WRITTEN = 15  # classes up to which a matrix has its counts written in

Row = tuple[str, Mapping[str, tuple[float, Interval]]]


@dataclass(frozen=True)
class Curve:
    """One training: what is drawn against its epochs."""

    epochs: Sequence[int]
    train: Sequence[float | None]
    val: Sequence[float | None]


def intervals(better_high: Sequence[Row], better_low: Sequence[Row]) -> bytes:
    """Draw scores with their intervals: a row a score, a mark for each model in it."""
    groups = [
        (rows, title) for rows, title in ((better_high, "higher is better"), (better_low, "lower is better")) if rows
    ]
    arms = list(dict.fromkeys(arm for rows, _ in groups for _, of in rows for arm in of))
    heights = [0.36 * len(rows) + 0.5 for rows, _ in groups]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (rows, title) in zip(panels, groups, strict=True):
        for place, (_, of) in enumerate(rows):
            for number, arm in enumerate(arms):
                if arm not in of:
                    continue
                value, (low, high) = of[arm]
                mark, colour = MARKS[number % len(MARKS)]
                height = place + 0.22 * (number - (len(arms) - 1) / 2)
                axes.plot([low, high], [height, height], "-", color=colour, linewidth=1.4)
                axes.plot([value], [height], mark, color=colour, markersize=5, label=arm if place == 0 else None)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(title, fontsize=9, loc="left")
        _plain(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(arms), frameon=False)
    return _png(figure)


def alphas(paths: Mapping[str, Sequence[tuple[float, float, float]]], chosen: tuple[str, float] | None) -> bytes:
    """Draw accuracy and log-loss against alpha, a line for each way that was tried; the chosen point has a ring."""
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    panels = figure.subplots(2, 1, sharex=True)
    for number, (name, path) in enumerate(paths.items()):
        mark, colour = "osDv^P*X"[number % 8], (FIRST, SECOND, THIRD, "#7b3294", "#1b7837")[number % 5]
        for column, axes in enumerate(panels, start=1):
            axes.plot(
                [p[0] for p in path], [p[column] for p in path], f"-{mark}", color=colour, label=name, markersize=5
            )
            for point in path:
                if (name, point[0]) == chosen:
                    axes.plot([point[0]], [point[column]], "o", markersize=14, markerfacecolor="none", color="black")
    panels[0].set_ylabel("accuracy")
    panels[1].set_ylabel("log-loss")
    panels[1].set_xlabel("alpha: 0 is phase 1, 1 is phase 2")
    for axes in panels:
        _plain(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return _png(figure)


def bars(values: Mapping[str, float], label: str) -> bytes:
    """Draw a bar for each value, which is a fraction."""
    figure = Figure(figsize=(WIDTH, 0.3 * len(values) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), color=FIRST, height=0.6)
    for place, value in enumerate(values.values()):
        axes.text(min(value, 0.99) - 0.01, place, f"{value:.3f}", ha="right", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(values)), [short(name) for name in values], parse_math=False)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    _plain(axes)
    return _png(figure)


def curves(panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """Draw training and validation loss against the epoch, a panel a phase, a thin line for each of its rounds."""
    figure = Figure(figsize=(WIDTH, 2.2 * len(panels) + 0.4), layout="constrained")
    for axes, (title, drawn) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        thin = 1.6 if len(drawn) == 1 else 0.9
        for number, curve in enumerate(drawn):
            for losses, mark, colour, name in (
                (curve.train, "-o", FIRST, "training"),
                (curve.val, "--s", SECOND, "validation"),
            ):
                known = [(epoch, loss) for epoch, loss in zip(curve.epochs, losses, strict=True) if loss is not None]
                if known:
                    label = name if number == 0 else None
                    axes.plot(
                        *zip(*known, strict=True), mark, color=colour, linewidth=thin, markersize=2.5, label=label
                    )
        axes.set_title(title, fontsize=9, loc="left", parse_math=False)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _plain(axes)
    shown = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([*shown.values()], [*shown], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def heatmap(rates: FloatArray, counts: IntArray, classes: Sequence[str]) -> bytes:
    """Draw a confusion matrix, coloured by the share of each row."""
    size = len(classes)
    side = max(WIDTH, 0.22 * size + 1.8)
    figure = Figure(figsize=(side, side * 0.92), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    if size <= WRITTEN:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if rates[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9 if size < 9 else 7)
    names = [short(name) for name in classes]
    axes.set_xticks(range(size), names, rotation=90 if size > 3 else 0, fontsize=8, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=8, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    figure.colorbar(image, ax=axes, label="share of the label's photos", shrink=0.7)
    return _png(figure)


def reliability(confidence: FloatArray, accuracy: FloatArray, counts: FloatArray) -> bytes:
    """Draw how often answers are right against how sure they are, and how many there are, by bins of equal width."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.arange(len(counts)) / len(counts)
    filled = counts > 0
    upper.plot([0, 1], [0, 1], "--", color=THIRD, linewidth=1, label="as sure as it is right")
    upper.bar(edges[filled], accuracy[filled], 1 / len(counts), align="edge", color=FIRST, alpha=0.35, edgecolor=FIRST)
    upper.plot(confidence[filled], accuracy[filled], "o", color=FIRST, markersize=5, label="the model")
    upper.set_ylabel("share that is right")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    lower.bar(edges, counts, 1 / len(counts), align="edge", color=THIRD, edgecolor="white")
    lower.set_ylabel("photos")
    lower.set_xlabel("how sure it is: the answer's probability")
    for axes in (upper, lower):
        _plain(axes)
    return _png(figure)


def short(name: str) -> str:
    """Return a name that fits beside an axis, on one line."""
    flat = " ".join(name.split())
    return flat if len(flat) <= LONGEST else flat[: LONGEST - 1] + "…"


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    # A name in a script that the font lacks is drawn as boxes; every plot stands beside a table that spells it.
    with (
        suppress_warnings(message="Glyph .* missing from font"),
        suppress_warnings(message="constrained_layout not applied"),
    ):
        FigureCanvasAgg(figure)
        figure.savefig(drawn, format="png", dpi=DPI)
    return drawn.getvalue()
