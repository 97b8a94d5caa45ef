"""Draw the picture of docs/how-it-decides.md: python docs/draw_how_it_decides.py

The example's figures are made up; the expectation is computed as the program computes it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from unfreeze.evaluation.expected_gain import OptionPrior, posterior_of

PICTURE = Path(__file__).parent / "_static" / "how-it-decides.svg"
BLUE, ORANGE, GREY = "#1464a5", "#c2500f", "#555555"
OTHER_SETS = OptionPrior(mean=0.04, spread=0.06, points=2.4, points_per_nat=30.0, points_spread=1.5)
FOLDS, FOLDS_ERROR = -0.02, 0.06  # nats
TEST, INTERVAL = 1.0, (-2.0, 4.0)  # points
RANGE = (-6.0, 12.0)  # points


def _bell(axes: Any, mean: float, sd: float, colour: str, *, shade_below_zero: bool = False) -> None:
    points = np.linspace(*RANGE, 151)
    density = np.exp(-(((points - mean) / sd) ** 2) / 2)
    axes.plot(points, density, color=colour)
    axes.fill_between(points, density, color=colour, alpha=0.15)
    if shade_below_zero:
        axes.fill_between(points, density, where=points <= 0, color=colour, alpha=0.6)
    axes.plot([mean, mean], [0, 1], color=colour, linewidth=1)


def draw() -> Figure:
    """Return the picture: three distributions that lead to the bet, and an interval that is the proof."""
    both = posterior_of(FOLDS, FOLDS_ERROR, OTHER_SETS)
    slope = OTHER_SETS.points_per_nat
    measured = OTHER_SETS.points + slope * (FOLDS - OTHER_SETS.mean)
    rows = (
        ("other data sets", OTHER_SETS.points, math.hypot(slope * OTHER_SETS.spread, OTHER_SETS.points_spread), GREY),
        ("your photos, by folds", measured, math.hypot(slope * FOLDS_ERROR, OTHER_SETS.points_spread), GREY),
        ("both: the bet", both.points, both.points_spread, BLUE),
    )
    texts = (
        f"fine-tuning gained\n{OTHER_SETS.points:+.1f} points on average",
        f"they say {measured:+.1f} points,\nbut are few",
        f"expected {both.points:+.1f} points;\nworse: {both.p_worse * 100:.0f} %  →  it ships",
        f"{TEST:+.1f} points, {INTERVAL[0]:+.1f} to {INTERVAL[1]:+.1f}:\n0 is inside  →  not proven",
    )
    figure = Figure(figsize=(7.6, 4.6), layout="constrained")
    panels = figure.subplots(4, 1, sharex=True)
    for axes, (name, mean, sd, colour) in zip(panels, rows, strict=False):
        _bell(axes, mean, sd, colour, shade_below_zero=colour == BLUE)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", color=colour)
    proof = panels[-1]
    proof.plot(INTERVAL, [0.5, 0.5], color=ORANGE, linewidth=2)
    proof.plot([TEST], [0.5], "o", color=ORANGE)
    proof.set_ylabel("photos that chose\nnothing: the proof", rotation=0, ha="right", va="center", color=ORANGE)
    for axes, text in zip(panels, texts, strict=True):
        axes.axvline(0, color="black", linewidth=1)
        axes.set_ylim(0, 1.15)
        axes.set_xlim(*RANGE)
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.text(RANGE[1], 0.95, text, ha="right", va="top", fontsize=9)
    proof.set_xlabel("gain of fine-tuning over head-only, points of accuracy")
    return figure


def main() -> None:
    """Write the picture."""
    settings = {"svg.fonttype": "none", "svg.hashsalt": "unfreeze", "font.size": 10}
    with mpl.rc_context(settings):
        figure = draw()
        FigureCanvasSVG(figure).print_svg(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
