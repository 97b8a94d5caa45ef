"""The report's sections on how phase 2 was trained: its trials, and the training curves."""

from __future__ import annotations

import itertools
import math

from unfreeze.evaluation.selection import IMBALANCE_RATIO
from unfreeze.report import plots
from unfreeze.report.elements import ABSENT, Part, Plot, Section, Table, Text
from unfreeze.report.run_data import Epoch, RunData
from unfreeze.verdict import Point, TrialSummary

MAX_PANELS = 6  # of training curves
RULE = (
    "Standard errors: how far the log-loss is below phase 1's, paired photo by photo; where one class has over "
    f"{IMBALANCE_RATIO:g} times the photos of another, all classes weigh the same."
)
EXPECTED = (
    "What ships is the point with the highest expected gain, or head-only if none is expected to gain anything: what these "
    "photos show, weighed against what other data sets have taught. It is a bet and proves nothing."
)


def trials(run: RunData) -> Section | None:
    """Return the validation scores of every trial of phase 2 at every alpha."""
    trials = run.verdict.trials
    if not trials:
        return None
    model = run.verdict.model
    ships = run.verdict.shipped == "two_phase"
    last = max((index for index, trial in enumerate(trials) if trial.depth == model.depth), default=None)

    def is_shipped(index: int, alpha: float) -> bool:
        return ships and index == last and alpha == model.alpha

    rows: list[tuple[str, ...]] = []
    marked = set()
    for index, trial in enumerate(trials):
        settings = (trial.depth, f"{trial.lr:g}", f"{trial.seconds:.0f}")
        for point in trial.points:
            if is_shipped(index, point.alpha):
                marked.add(len(rows))
            z = ABSENT if point.z is None or not point.alpha else f"{point.z:+.1f}"
            scores = point.accuracy, point.balanced_accuracy, point.log_loss
            rows.append((*settings, f"{point.alpha:.3g}", *(f"{score:.3f}" for score in scores), z, *_expected(point)))
        if not trial.points:
            rows.append((*settings, *[ABSENT] * 7))
    validated = [(index, trial) for index, trial in enumerate(trials) if trial.points]
    parts: list[Part] = [
        Text(f"{_outcome(run)} Alpha says where the weights stand between phase 1 (0) and phase 2 (1).")
    ]
    if validated:
        parts.append(
            Text(
                "These scores are on the validation photos that chose among the candidates, so they are slightly "
                "optimistic. The log-losses differ from those of the scores above: each is at the temperature (the number "
                "that logits are divided by) where it is lowest, so that alphas can be compared; above, it is that of the "
                "model's own temperature, on the photos that it is scored on."
            )
        )
    if any(point.z is not None for trial in trials for point in trial.points):
        parts.append(Text(RULE))
    if any(point.expected is not None for trial in trials for point in trial.points):
        parts.append(Text(EXPECTED))
    parts.append(
        Table(
            caption="From the head downwards; the model that ships is marked, and has a ring in the plot below"
            if marked
            else "From the head downwards",
            header=(
                "depth",
                "learning rate",
                "seconds",
                "alpha",
                "accuracy",
                "balanced accuracy",
                "log-loss",
                "standard errors",
                "expected gain, points",
                "worse",
            ),
            rows=tuple(rows),
            marked=frozenset(marked),
        )
    )
    if validated:
        curves = {_trial_name(trial, index): trial.points for index, trial in validated}
        shipped = next(
            ((_trial_name(trial, index), model.alpha) for index, trial in validated if is_shipped(index, model.alpha)),
            None,
        )
        ring = " A ring marks the model that ships." if marked else ""
        alt = f"Gain, accuracy and log-loss against alpha, a line for each trial.{ring} Numbers in the table above."
        parts.append(Plot("tried", alt, plots.alphas(curves, shipped)))
    return Section("What was tried", tuple(parts))


def _expected(point: Point) -> tuple[str, str]:
    if point.expected is None or point.expected_spread is None or point.p_worse is None:
        return ABSENT, ABSENT
    return f"{point.expected * 100:+.1f} ± {point.expected_spread * 100:.1f}", f"{point.p_worse * 100:.0f} %"


def _trial_name(trial: TrialSummary, index: int) -> str:
    return f"{index + 1}: {plots.short(trial.depth)} at {trial.lr:g}"


def _outcome(run: RunData) -> str:
    if run.verdict.shipped == "head_only":
        return "Phase 2 does not ship."
    return f"Phase 2 ships from {run.verdict.model.depth} up, at alpha {run.verdict.model.alpha:g}."


def training(run: RunData) -> Section | None:
    """Return the losses by epoch; None for a head that was fitted without epochs."""
    panels: dict[str, list[plots.Curve]] = {}
    for name, epochs in itertools.groupby(run.history, key=lambda row: row.phase):
        phase, _, _ = name.partition(", validating")
        for fit in _split_repeats(list(epochs)):
            validated = any(row.val_loss is not None for row in fit)
            title = f"{phase}, {'some photos held out' if validated else 'on all training photos'}"
            panels.setdefault(title, []).append(
                plots.Curve(
                    [row.epoch for row in fit],
                    [_finite(row.train_loss) for row in fit],
                    [_finite(row.val_loss) for row in fit],
                )
            )
    if not panels:
        return None
    shown = dict(list(panels.items())[-MAX_PANELS:])
    alt = "Training and validation loss against the epoch, for " + "; ".join(shown) + "."
    parts: list[Part] = [
        Plot("training", alt, plots.curves(shown)),
        Text(
            "Training photos are augmented and their labels may be smoothed, validation photos are not: the lines need "
            "not meet."
        ),
    ]
    if any(len(fits) > 1 for fits in shown.values()):
        parts.append(Text("One line per fold: each model trains on the other folds."))
    if len(shown) < len(panels):
        parts.append(Text(f"The last {len(shown)} of {len(panels)} trainings; history.csv has all."))
    return Section("Training", tuple(parts))


def _split_repeats(epochs: list[Epoch]) -> list[list[Epoch]]:
    """Split where the epoch number starts again: a failed training is repeated under the same name."""
    parts: list[list[Epoch]] = []
    for row in epochs:
        if not parts or row.epoch <= parts[-1][-1].epoch:
            parts.append([])
        parts[-1].append(row)
    return parts


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
