"""The verdict of a run: its figures as one typed value, ``verdict.json``, and in two sentences."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unfreeze.errors import RunError
from unfreeze.evaluation.calibration import Calibration
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.significance import Gain
from unfreeze.verdict_schema1 import upgraded

if TYPE_CHECKING:
    from unfreeze.acceleration.engine_report import EngineReport

Arm = Literal["two_phase", "head_only"]
SMALLEST_USEFUL_GAIN = 0.005  # gain below which nobody would gather photos to prove it


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Part):
    """What was trained on and scored."""

    n_train: int
    n_test: int
    classes: tuple[str, ...]
    left_out: int


class Model(_Part):
    """Which backbone, and how phase 2 treated it.

    Attributes:
        name: The backbone, as the user called it.
        boundary: Index of the first stage that trained in phase 2; the number of stages where none did.
        depth: The same by name.
        alpha: Where the weights stand between phase 1 (0) and phase 2 (1).
        bn: BatchNorm's mode.
        symmetry: How views were turned: not at all, mirrored, or every way.
        orientations: Of a photo, whose logits are averaged: identity, flipped, or turned by rot90, rot180, rot270.
    """

    name: str
    boundary: int
    depth: str
    alpha: float
    bn: Literal["frozen", "train"]
    symmetry: Literal["none", "flip", "rotate"] | None = None
    orientations: tuple[str, ...] = ("identity",)


class Point(_Part):
    """One point between the phases, scored on the validation images, which choose among the points: slightly optimistic.

    Attributes:
        alpha: From phase 1 (0) to phase 2 (1).
        accuracy: On them.
        balanced_accuracy: Likewise.
        log_loss: Likewise, at its best temperature.
        z: By how many standard errors the log-loss is below phase 1's, every class weighing the same where they are clearly
            imbalanced; it decides what ships.  Absent where it wasn't written.
    """

    alpha: float
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    z: float | None = None


class TrialSummary(_Part):
    """One candidate for phase 2.

    Attributes:
        depth: From which stage on it trained.
        lr: The topmost stage's learning rate.
        points: Every point between the phases; none where nothing validates, or training failed.
        seconds: What it took.
    """

    depth: str
    lr: float
    points: tuple[Point, ...]
    seconds: float


class ScoreSheet(_Part):
    """The scores of both arms on the same photos, with calibrated probabilities.

    Attributes:
        protocol: ``test``: on photos that were held out.  ``cross_fitted``: on every photo, by models that never saw it.
        head_only: Of phase 1's model.
        two_phase: Of phase 2's; absent where it didn't run.
        shipped: Of the one that ships; cross-fitted, of whichever the other folds' photos would have shipped.
        calibration: What temperature scaling did to it.
    """

    protocol: Literal["test", "cross_fitted"]
    head_only: Scores
    two_phase: Scores | None = None
    shipped: Scores
    calibration: Calibration | None = None


class Cost(_Part):
    """What the run took: seconds by part, those that were forecast, and the peak memory of its process."""

    seconds: dict[str, float]
    forecast: dict[str, float] | None = None
    peak_rss_mib: float | None = None


class FrozenEngine(_Part):
    """What computed the frozen stages.

    Attributes:
        computed_by: The libraries with their versions, and how.
        precision: Of the stages.
        fallbacks: Faster ways that were not taken, each with the reason.
    """

    computed_by: str
    precision: str
    fallbacks: tuple[str, ...] = ()


def frozen_engine(report: EngineReport | None) -> FrozenEngine | None:
    """Return what a verdict says of the engine; None where nothing was computed."""
    if report is None:
        return None
    fallbacks = tuple(f"{way}: {reason}" for way, reason in report.rejected)
    return FrozenEngine(computed_by=report.computed_by, precision=report.precision, fallbacks=fallbacks)


class Verdict(_Part):
    """Everything that a run found out; absent means not measured, never 0.  Scores are fractions.

    Gain and forgetting are those of the two-phase model, whether or not it is the one that ships.
    """

    schema_version: Literal[2] = Field(default=2, alias="schema")
    shipped: Arm
    data: Data
    model: Model
    scores: ScoreSheet
    gain: Gain | None = None
    forgetting: Forgetting | None = None
    trials: tuple[TrialSummary, ...] = ()
    warnings: tuple[str, ...] = ()
    cost: Cost
    versions: dict[str, str] = Field(default_factory=dict)
    frozen_engine: FrozenEngine | None = None

    def to_json(self) -> str:
        """Return ``verdict.json``'s text."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Verdict:
        """Read ``verdict.json``, of this schema or of the first.

        Raises:
            RunError: Damaged, or written by a later version.
        """
        try:
            figures = json.loads(text)
            if isinstance(figures, dict) and figures.get("schema", 1) == 1:
                text = json.dumps(upgraded(figures))
            return cls.model_validate_json(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise RunError(
                f"The verdict can't be read: {cause}.",
                where=where,
                mend="If a later version of unfreeze wrote it, update; otherwise train again.",
            ) from error

    def sentences(self) -> tuple[str, ...]:
        """Return the verdict for people: what ships and how good it is, what phase 2 gained and forgot, what is open."""
        scores = self.scores.shipped
        low, high = scores.accuracy_ci95
        seen = (
            f"{counted(scores.n, 'test photo')} that it never saw"
            if self.scores.protocol == "test"
            else f"{counted(scores.n, 'photo')}, each answered by a model that never saw it"
        )
        first = (
            f"The {'two-phase' if self.shipped == 'two_phase' else 'head-only'} model ships: it is right on "
            f"{_percent(scores.accuracy)} of {seen} (95 % interval {_percent(low)} to {_percent(high)})."
        )
        power = self._power_sentence()
        return first, self._gain_sentence() + self._forgetting_clause(), *([power] if power else [])

    def _gain_sentence(self) -> str:
        if self.gain is None:
            return "Phase 2 did not run, so nothing is claimed for it"
        gain, (low, high) = self.gain, self.gain.accuracy_ci95
        size = (
            f"{_points(gain.accuracy)} points (95 % interval {_points(low)} to {_points(high)}, p = {gain.p_value:.2g})"
        )
        if self.shipped == "head_only" and self.warnings and gain.fixed == gain.broken == 0:
            return "Phase 2 went wrong and is thrown away"
        if self.shipped == "head_only":
            judges, scored = ("validation photos", "the test photos")
            if self.scores.protocol == "cross_fitted":
                judges, scored = ("photos that it never saw", "them")
            fate = f"Phase 2 was not better for certain on {judges} and is thrown away"
            return f"{fate}; on {scored} it changed accuracy by {size}"
        if gain.proven:
            return f"Phase 2 gained {size}: proven"
        if gain.fixed == gain.broken == 0:
            return "Phase 2 changed no answer on them: no gain is proven"
        return f"Phase 2 changed accuracy by {size}: a gain is not proven"

    def _power_sentence(self) -> str | None:
        """Return what gain the photos could have shown, where they showed none."""
        gain = self.gain
        if gain is None or gain.proven or gain.detectable is None:
            return None
        power = (
            f"With {counted(gain.n, 'photo')}, a gain under {gain.detectable * 100:.0f} points can't be told from luck"
        )
        if gain.needed_n is None or gain.needed_n <= gain.n or gain.accuracy < SMALLEST_USEFUL_GAIN:
            return power + "."
        return f"{power}; for the {gain.accuracy * 100:.1f} points seen here, {_about(gain.needed_n)} would do."

    def _forgetting_clause(self) -> str:
        forgotten = self.forgetting
        if forgotten is None:
            return "."
        if self.shipped == "head_only" and self.model.bn == "frozen":
            return "; the pretrained backbone ships as it was, so that nothing is forgotten."
        if forgotten.drop is not None and forgotten.n is not None:
            return (
                f"; of the original task the backbone lost {forgotten.drop * 100:.1f} points "
                f"({counted(forgotten.n, 'reference photo')})."
            )
        if forgotten.agreement is not None:
            return f"; the original classifier still gives the same answer on {_percent(forgotten.agreement)} of them."
        return "."


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f} %"


def _points(fraction: float) -> str:
    return f"{fraction * 100:+.1f}"


def counted(number: int, noun: str) -> str:
    """Return a number of things as people write it."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _about(number: int) -> str:
    """Return a count of photos that is no more certain than two digits."""
    digits = max(0, len(str(number)) - 2)
    return str(math.ceil(number / 10**digits) * 10**digits)
