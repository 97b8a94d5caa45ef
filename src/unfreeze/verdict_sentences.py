"""The verdict in two or three sentences for people: what ships and why, what is proven, what was forgotten."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unfreeze.evaluation.significance import Gain
    from unfreeze.verdict import ExpectedGain, Verdict

SMALLEST_USEFUL_GAIN = 0.005  # a smaller gain isn't worth collecting images to prove it
N_UNTESTED = 5  # classes that are named where they were never tested
SMALLEST_SHOWN = 0.0005  # a smaller expected gain would be shown as 0.0 points


def sentences(verdict: Verdict) -> tuple[str, ...]:
    """Return the verdict for people: the shipped model, phase 2's gain and forgetting, and the test's power.

    What makes a score worthless comes first: that none is honest, or that it is no better than chance.
    """
    if verdict.data.no_score is not None:
        return verdict.data.no_score, f"The {_shipped(verdict)} model ships, and nothing is scored."
    scores = verdict.scores.shipped
    low, high = scores.accuracy_ci95
    scored = (
        f"{counted(scores.n, 'test photo')} that it never saw"
        if _is_test(verdict)
        else f"{counted(scores.n, 'photo')}, each answered by a model that never saw it"
    )
    shipped = (
        f"The {_shipped(verdict)} model ships: it is right on "
        f"{_percent(scores.accuracy)} of {scored} (95 % interval {_percent(low)} to {_percent(high)})"
        f"{_untested_clause(verdict)}."
    )
    power = _power(verdict.gain)
    chance = _chance(verdict)
    return (
        *([chance] if chance else []),
        shipped,
        _gain(verdict) + _forgetting_clause(verdict),
        *([power] if power else []),
    )


def _shipped(verdict: Verdict) -> str:
    return "two-phase" if verdict.shipped == "two_phase" else "head-only"


def _chance(verdict: Verdict) -> str | None:
    """Return what is not shown where a score's interval holds what guessing gives; None where it is above chance."""
    scores = verdict.scores.shipped
    rows = [(row.n, name) for row, name in zip(scores.per_class, verdict.data.classes, strict=False) if row.n]
    if len(rows) < 2:
        return None
    low, high = scores.balanced_accuracy_ci95
    if low <= 1 / len(rows):
        return (
            f"No better than guessing, as far as these photos show: the balanced accuracy of "
            f"{_percent(scores.balanced_accuracy)} (95 % interval {_percent(low)} to {_percent(high)}) can't be told from "
            f"the {_percent(1 / len(rows))} of guessing one of {len(rows)} classes."
        )
    n_majority, majority = max(rows)
    if scores.accuracy_ci95[0] > n_majority / scores.n:
        return None
    return (
        f"Not shown to be right more often than always answering {majority!r}, which is right on "
        f"{_percent(n_majority / scores.n)} of these photos; but the balanced accuracy of "
        f"{_percent(scores.balanced_accuracy)} is above the {_percent(1 / len(rows))} of guessing."
    )


def untested(verdict: Verdict) -> list[str]:
    """Return the classes of which no image was scored."""
    rows = zip(verdict.data.classes, verdict.scores.shipped.per_class, strict=False)
    return [name for name, row in rows if row.n == 0]


def _untested_clause(verdict: Verdict) -> str:
    names = untested(verdict)
    if not names:
        return ""
    listed = ", ".join(f"'{name}'" for name in names[:N_UNTESTED])
    more = f" and {len(names) - N_UNTESTED} more" if len(names) > N_UNTESTED else ""
    return f"; never tested, as no test photo is of it: {listed}{more}"


def _is_test(verdict: Verdict) -> bool:
    """Tell whether the scored images were held out, rather than cross-fitted."""
    return verdict.scores.protocol == "test"


def _gain(verdict: Verdict) -> str:
    gain = verdict.gain
    if gain is None:
        return "Phase 2 did not run, so nothing is claimed for it"
    if verdict.shipped == "head_only":
        return _head_only(verdict, gain)
    if gain.proven:
        return f"Phase 2 gained {_size(gain)}: proven"
    unchanged = gain.fixed == gain.broken == 0
    if verdict.expected is None:  # a verdict of a version that shipped what was significant
        return (
            "Phase 2 changed no answer on them: no gain is proven"
            if unchanged
            else f"Phase 2 changed accuracy by {_size(gain)}: a gain is not proven"
        )
    if unchanged:
        evidence = "phase 2 changed no answer on these photos"
    elif gain.accuracy_ci95[1] < 0:
        evidence = f"on these photos it was worse ({_measured(gain)})"
    else:
        evidence = f"these photos can't tell ({_measured(gain)})"
    return f"It ships because it is expected to be better by {_amount(verdict.expected)}; not proven: {evidence}"


def _head_only(verdict: Verdict, gain: Gain) -> str:
    if verdict.warnings and gain.fixed == gain.broken == 0:
        return "Phase 2 went wrong, so the head-only model ships"
    of_test = _is_test(verdict)
    measured = f"on {'the test photos' if of_test else 'these photos'} it changed accuracy by {_size(gain)}"
    if verdict.expected is not None:
        by = (
            f"expected: worse by {_amount(verdict.expected)}"
            if verdict.expected.accuracy < 0
            else "expected: no change"
        )
        return f"It ships because fine-tuning is not expected to help ({by}); {measured}"
    selected_on = "the validation photos" if of_test else "photos that it never saw"
    return f"Phase 2 was not significantly better on {selected_on}, so the head-only model ships; {measured}"


def _power(gain: Gain | None) -> str | None:
    """Return the smallest gain that could have been proven; None where the gain is proven, or that isn't known."""
    if gain is None or gain.proven or gain.detectable is None:
        return None
    power = f"With {counted(gain.n, 'photo')}, a gain under {gain.detectable * 100:.0f} points can't be told from luck"
    if gain.needed_n is None or gain.needed_n <= gain.n or gain.accuracy < SMALLEST_USEFUL_GAIN:
        return power + "."
    return f"{power}; for the {gain.accuracy * 100:.1f} points seen here, {_about(gain.needed_n)} would do."


def _forgetting_clause(verdict: Verdict) -> str:
    forgetting = verdict.forgetting
    if forgetting is None:
        return "."
    if verdict.shipped == "head_only" and verdict.model.bn == "frozen":
        return "; the pretrained backbone ships as it was, so that nothing is forgotten."
    if forgetting.drop is not None and forgetting.n is not None:
        return (
            f"; of the original task the backbone lost {forgetting.drop * 100:.1f} points "
            f"({counted(forgetting.n, 'reference photo')})."
        )
    if forgetting.agreement is not None:
        return f"; the original classifier still gives the same answer on {_percent(forgetting.agreement)} of them."
    return "."


def _size(gain: Gain) -> str:
    low, high = gain.accuracy_ci95
    return f"{_points(gain.accuracy)} points (95 % interval {_points(low)} to {_points(high)}, p = {gain.p_value:.2g})"


def _measured(gain: Gain) -> str:
    low, high = gain.accuracy_ci95
    interval = f"95 % interval {_points(low)} to {_points(high)}, p = {gain.p_value:.2g}"
    return f"accuracy changed by {_points(gain.accuracy)} points, {interval}"


def _amount(expected: ExpectedGain) -> str:
    """Return the size of the expected gain or loss in accuracy."""
    size = abs(expected.accuracy)
    return "less than 0.1 points" if size < SMALLEST_SHOWN else f"{size * 100:.1f} points"


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f} %"


def _points(fraction: float) -> str:
    return f"{fraction * 100:+.1f}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _about(number: int) -> str:
    """Return a count rounded up to two significant digits."""
    digits = max(0, len(str(number)) - 2)
    return str(math.ceil(number / 10**digits) * 10**digits)
