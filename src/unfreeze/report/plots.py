"""The report's plots as PNG files, on white so that they are readable on a dark page and on paper."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unfreeze.evaluation.resampling import FloatArray, IntArray, Interval
from unfreeze.runtime import suppress_warnings
from unfreeze.verdict import Point

WIDTH = 5.2  # inches: text of 9 points is still readable when the plot shrinks to the width of a phone
DPI = 150
BLUE, ORANGE, GREY = "#1464a5", "#c2500f", "#555555"  # distinct for the colour-blind, and by their markers
MARKERS = (("o", BLUE), ("s", ORANGE), ("D", GREY))
MAX_NAME_LENGTH = 18  # characters of a name beside an axis
LABEL_LENGTH, LABEL_LINES = 24, 2  # of a class beside a confusion matrix, where no table need be at hand
MAX_WRITTEN_COUNTS = 15  # classes of a matrix whose counts are written into its cells

Row = tuple[str, Mapping[str, tuple[float, Interval]]]


@dataclass(frozen=True)
class Curve:
    """The losses of one training by epoch; None where a loss was not measured."""

    epochs: Sequence[int]
    train: Sequence[float | None]
    val: Sequence[float | None]


def intervals(better_high: Sequence[Row], better_low: Sequence[Row]) -> bytes:
    """Plot scores with their intervals: a row per score, a marker per model."""
    groups = [
        (rows, title) for rows, title in ((better_high, "higher is better"), (better_low, "lower is better")) if rows
    ]
    arms = list(dict.fromkeys(arm for rows, _ in groups for _, by_arm in rows for arm in by_arm))
    heights = [0.36 * len(rows) + 0.5 for rows, _ in groups]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.8), layout="constrained")
    panels = figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for axes, (rows, title) in zip(panels, groups, strict=True):
        for row, (_, by_arm) in enumerate(rows):
            for i, arm in enumerate(arms):
                if arm not in by_arm:
                    continue
                value, (low, high) = by_arm[arm]
                marker, colour = MARKERS[i % len(MARKERS)]
                y = row + 0.22 * (i - (len(arms) - 1) / 2)
                axes.plot([low, high], [y, y], "-", color=colour, linewidth=1.4)
                axes.plot([value], [y], marker, color=colour, markersize=5, label=arm if row == 0 else None)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_title(title, fontsize=9, loc="left")
        _style(axes)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(arms), frameon=False)
    return _png(figure)


def alphas(trials: Mapping[str, Sequence[Point]], shipped: tuple[str, float] | None) -> bytes:
    """Plot trials against alpha; for the arguments see ``draw_alphas``."""
    return _png(draw_alphas(trials, shipped))


def draw_alphas(trials: Mapping[str, Sequence[Point]], shipped: tuple[str, float] | None) -> Figure:
    """Draw the expected gain, accuracy and log-loss against alpha, a line per trial.

    Expected gains have a bar of one standard deviation to either side; the gain on the validation images is drawn lighter.

    Args:
        trials: The points of each trial, by its name, that of phase 1 first; without expected gains, two panels are drawn.
        shipped: Trial and alpha of the shipped model, which gets a ring.
    """
    expected = any(point.expected is not None for points in trials.values() for point in points)
    figure = Figure(figsize=(WIDTH, 7.2 if expected else 4.6), layout="constrained")
    panels = figure.subplots(2 + expected, 1, sharex=True)
    for i, (name, points) in enumerate(trials.items()):
        style, colour = "-" + "osDv^P*X"[i % 8], (BLUE, ORANGE, GREY, "#7b3294", "#1b7837")[i % 5]
        if expected:
            _gains(panels[0], points, style, colour, shift=0.012 * (i - (len(trials) - 1) / 2))
        for values, axes in zip(_scores(points), panels[-2:], strict=True):
            axes.plot(
                [point.alpha for point in points], values, style,
                color=colour, label=name, markersize=5, clip_on=False,
            )  # fmt: skip
            for point, value in zip(points, values, strict=True):
                if (name, point.alpha) == shipped:
                    axes.plot(
                        [point.alpha], [value], "o",
                        markersize=14, markerfacecolor="none", color="black", clip_on=False,
                    )  # fmt: skip
    if expected:
        panels[0].axhline(0, color=GREY, linewidth=1)
        panels[0].set_ylabel("gain, points")
        panels[0].set_title("expected gain in accuracy; lighter: that on the validation photos", fontsize=9, loc="left")
    panels[-2].set_ylabel("accuracy")
    panels[-2].set_ylim(top=min(1.0, panels[-2].get_ylim()[1]))
    panels[-1].set_ylabel("log-loss")
    panels[-1].set_xlabel("alpha: 0 is phase 1, 1 is phase 2")
    for axes in panels:
        _style(axes)
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _scores(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.accuracy for point in points], [point.log_loss for point in points]


def _gains(axes: Any, points: Sequence[Point], style: str, colour: str, shift: float) -> None:
    """Plot expected gains with their spread, and those on the validation images, in points; trials stand side by side."""
    known = [point for point in points if point.expected is not None and point.expected_spread is not None]
    axes.errorbar(
        [point.alpha + shift for point in known],
        [(point.expected or 0) * 100 for point in known],
        [(point.expected_spread or 0) * 100 for point in known],
        fmt=style, color=colour, markersize=5, capsize=3, linewidth=1.4,
    )  # fmt: skip
    axes.plot(
        [point.alpha + shift for point in points],
        [(point.accuracy - points[0].accuracy) * 100 for point in points],
        style, color=colour, alpha=0.3, markersize=4, linewidth=1,
    )  # fmt: skip


def bars(values: Mapping[str, float], label: str) -> bytes:
    """Plot a horizontal bar per value (0 to 1)."""
    figure = Figure(figsize=(WIDTH, 0.3 * len(values) + 0.8), layout="constrained")
    axes = figure.subplots()
    axes.barh(range(len(values)), list(values.values()), color=BLUE, height=0.6)
    for row, value in enumerate(values.values()):
        axes.text(min(value, 0.99) - 0.01, row, f"{value:.3f}", ha="right", va="center", color="white", fontsize=8)
    axes.set_yticks(range(len(values)), [short(name) for name in values], parse_math=False)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(label)
    _style(axes)
    return _png(figure)


def curves(panels: Mapping[str, Sequence[Curve]]) -> bytes:
    """Plot training and validation loss against the epoch, a panel per phase, thin lines for its folds."""
    figure = Figure(figsize=(WIDTH, 2.2 * len(panels) + 0.4), layout="constrained")
    for axes, (title, fits) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True):
        linewidth = 1.6 if len(fits) == 1 else 0.9
        for i, curve in enumerate(fits):
            for losses, style, colour, name in (
                (curve.train, "-o", BLUE, "training"),
                (curve.val, "--s", ORANGE, "validation"),
            ):
                known = [(epoch, loss) for epoch, loss in zip(curve.epochs, losses, strict=True) if loss is not None]
                if known:
                    label = name if i == 0 else None
                    axes.plot(
                        *zip(*known, strict=True), style, color=colour, linewidth=linewidth, markersize=2.5, label=label
                    )
        axes.set_title(title, fontsize=9, loc="left", parse_math=False)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _style(axes)
    legend = {name: line for axes in figure.axes for line, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend([*legend.values()], [*legend], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return _png(figure)


def heatmap(rates: FloatArray, counts: IntArray, classes: Sequence[str]) -> bytes:
    """Plot a confusion matrix (C, C), coloured by each cell's share of its row."""
    size = len(classes)
    side = max(WIDTH, 0.22 * size + 1.8)
    figure = Figure(figsize=(side, side * 0.92), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(rates, cmap="Blues", vmin=0, vmax=1)
    if size <= MAX_WRITTEN_COUNTS:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if rates[row, column] > 0.55 else "black"
            axes.text(column, row, f"{count:g}", ha="center", va="center", color=colour, fontsize=9 if size < 9 else 7)
    names = [wrapped(name) for name in classes]
    upright = size > 3 or max(map(len, names)) > MAX_NAME_LENGTH
    axes.set_xticks(range(size), names, rotation=90 if upright else 0, fontsize=8, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=8, parse_math=False)
    axes.set_xlabel("prediction")
    axes.set_ylabel("label")
    figure.colorbar(image, ax=axes, label="share of the label's photos", shrink=0.7)
    return _png(figure)


def reliability(confidence: FloatArray, accuracy: FloatArray, counts: FloatArray) -> bytes:
    """Plot accuracy against confidence, and the number of predictions, in bins of equal width; arrays (B,)."""
    figure = Figure(figsize=(WIDTH, 5.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges = np.arange(len(counts)) / len(counts)
    filled = counts > 0
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="perfect calibration")
    upper.bar(edges[filled], accuracy[filled], 1 / len(counts), align="edge", color=BLUE, alpha=0.35, edgecolor=BLUE)
    upper.plot(confidence[filled], accuracy[filled], "o", color=BLUE, markersize=5, label="the model", clip_on=False)
    upper.set_ylabel("accuracy")
    upper.set_xlim(0, 1)
    upper.set_ylim(0, 1.02)
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    lower.bar(edges, counts, 1 / len(counts), align="edge", color=GREY, edgecolor="white")
    lower.set_ylabel("photos")
    lower.set_xlabel("probability of the prediction")
    for axes in (upper, lower):
        _style(axes)
    return _png(figure)


def short(name: str) -> str:
    """Return a name on one line, cut to fit beside an axis."""
    flat = " ".join(name.split())
    return flat if len(flat) <= MAX_NAME_LENGTH else flat[: MAX_NAME_LENGTH - 1] + "…"


def wrapped(name: str) -> str:
    """Return a name on ``LABEL_LINES`` lines at most, whole where they hold it."""
    return "\n".join(textwrap.wrap(name, LABEL_LENGTH, max_lines=LABEL_LINES, placeholder="…"))


def _style(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Characters that the font lacks are drawn as boxes; the table beside every plot has the names.
    with (
        suppress_warnings(message="Glyph .* missing from font"),
        suppress_warnings(message="constrained_layout not applied"),
    ):
        FigureCanvasAgg(figure)
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
