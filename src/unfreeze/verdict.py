"""The verdict of a run: one typed value, its JSON form ``verdict.json``, and two or three sentences for people."""

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
from unfreeze.verdict_schema1 import upgrade_schema1

if TYPE_CHECKING:
    from unfreeze.acceleration.engine_report import EngineReport

Arm = Literal["two_phase", "head_only"]
SMALLEST_USEFUL_GAIN = 0.005  # a smaller gain isn't worth collecting images to prove it


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Counts of the images that were trained on and scored, and the class names."""

    n_train: int
    n_test: int
    classes: tuple[str, ...]
    left_out: int


class Model(_Section):
    """The backbone, and how phase 2 trained it.

    Attributes:
        name: Name of the backbone as the user gave it.
        boundary: Index of the first stage that phase 2 trained; the number of stages where phase 2 didn't run.
        depth: Name of that stage.
        alpha: Interpolation of the shipped weights between phase 1 (0) and phase 2 (1).
        bn: Mode of BatchNorm in phase 2.
        symmetry: Random symmetries of training views: none, horizontal flips, or flips and quarter turns.
        orientations: Orientations of an image whose logits are averaged: identity, flipped, rot90, rot180, rot270.
        head_stages: Names of the stages that the head reads, the last one's at the end; absent where it reads that alone.
    """

    name: str
    boundary: int
    depth: str
    alpha: float
    bn: Literal["frozen", "train"]
    symmetry: Literal["none", "flip", "rotate"] | None = None
    orientations: tuple[str, ...] = ("identity",)
    head_stages: tuple[str, ...] | None = None


class Point(_Section):
    """Validation scores at one alpha; slightly optimistic, as the same images select the alpha.

    Attributes:
        alpha: Interpolation from phase 1 (0) to phase 2 (1).
        accuracy: Fraction of the validation images.
        balanced_accuracy: Mean recall over the classes present.
        log_loss: Mean log-loss in nats, at the temperature where it is lowest.
        z: The number of standard errors by which the log-loss is below phase 1's, with class weights where the classes
            are clearly imbalanced; what ships is selected by it.  Absent in verdicts that don't have it.
    """

    alpha: float
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    z: float | None = None


class TrialSummary(_Section):
    """One candidate for phase 2.

    Attributes:
        depth: Name of the first stage that it trained.
        lr: Learning rate of the topmost stage.
        points: Scores at every alpha; none without validation images, or where training failed.
        seconds: Duration of its trainings.
    """

    depth: str
    lr: float
    points: tuple[Point, ...]
    seconds: float


class ScoreSheet(_Section):
    """The scores of both models on the same images, with calibrated probabilities.

    Attributes:
        protocol: ``test``: on images that were held out.  ``cross_fitted``: on every image, by models that were not
            trained on it.
        head_only: Scores of the head-only model.
        two_phase: Scores of the two-phase model; absent where phase 2 didn't run.
        shipped: Scores of the model that ships; cross-fitted, for each fold of the model that the other folds select.
        calibration: Effect of temperature scaling on the shipped model.
    """

    protocol: Literal["test", "cross_fitted"]
    head_only: Scores
    two_phase: Scores | None = None
    shipped: Scores
    calibration: Calibration | None = None


class Cost(_Section):
    """Cost of the run: seconds by part, the forecast seconds by part, and the peak memory of the process in MiB."""

    seconds: dict[str, float]
    forecast: dict[str, float] | None = None
    peak_rss_mib: float | None = None


class FrozenEngine(_Section):
    """The engine that computed the frozen stages.

    Attributes:
        computed_by: The libraries with their versions, and the method.
        precision: Precision of the computation.
        fallbacks: Faster engines that were rejected, each with the reason.
    """

    computed_by: str
    precision: str
    fallbacks: tuple[str, ...] = ()


def frozen_engine(report: EngineReport | None) -> FrozenEngine | None:
    """Return the verdict's section on the engine; None where nothing was computed."""
    if report is None:
        return None
    fallbacks = tuple(f"{engine}: {reason}" for engine, reason in report.rejected)
    return FrozenEngine(computed_by=report.computed_by, precision=report.precision, fallbacks=fallbacks)


class Verdict(_Section):
    """All figures of a run; an absent one was not measured, and is never 0.  Scores are fractions.

    Gain and forgetting are those of the two-phase model, whether or not it ships.
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
        """Return the text of ``verdict.json``."""
        return self.model_dump_json(by_alias=True, exclude_none=True, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Verdict:
        """Parse ``verdict.json``, of this schema or of schema 1.

        Raises:
            RunError: The text is damaged, or of a later version.
        """
        try:
            figures = json.loads(text)
            if isinstance(figures, dict) and figures.get("schema", 1) == 1:
                text = json.dumps(upgrade_schema1(figures))
            return cls.model_validate_json(text)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            cause = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
            raise RunError(
                f"The verdict can't be read: {cause}.",
                where=where,
                mend="If a later version of unfreeze wrote it, update; otherwise train again.",
            ) from error

    def sentences(self) -> tuple[str, ...]:
        """Return the verdict for people: the shipped model, phase 2's gain and forgetting, and the test's power."""
        scores = self.scores.shipped
        low, high = scores.accuracy_ci95
        scored = (
            f"{counted(scores.n, 'test photo')} that it never saw"
            if self.scores.protocol == "test"
            else f"{counted(scores.n, 'photo')}, each answered by a model that never saw it"
        )
        shipped = (
            f"The {'two-phase' if self.shipped == 'two_phase' else 'head-only'} model ships: it is right on "
            f"{_percent(scores.accuracy)} of {scored} (95 % interval {_percent(low)} to {_percent(high)})."
        )
        power = self._power_sentence()
        return shipped, self._gain_sentence() + self._forgetting_clause(), *([power] if power else [])

    def _gain_sentence(self) -> str:
        if self.gain is None:
            return "Phase 2 did not run, so nothing is claimed for it"
        gain, (low, high) = self.gain, self.gain.accuracy_ci95
        size = (
            f"{_points(gain.accuracy)} points (95 % interval {_points(low)} to {_points(high)}, p = {gain.p_value:.2g})"
        )
        if self.shipped == "head_only" and self.warnings and gain.fixed == gain.broken == 0:
            return "Phase 2 went wrong, so the head-only model ships"
        if self.shipped == "head_only":
            selected_on, scored_on = "the validation photos", "the test photos"
            if self.scores.protocol == "cross_fitted":
                selected_on, scored_on = "photos that it never saw", "them"
            reason = f"Phase 2 was not significantly better on {selected_on}, so the head-only model ships"
            return f"{reason}; on {scored_on} it changed accuracy by {size}"
        if gain.proven:
            return f"Phase 2 gained {size}: proven"
        if gain.fixed == gain.broken == 0:
            return "Phase 2 changed no answer on them: no gain is proven"
        return f"Phase 2 changed accuracy by {size}: a gain is not proven"

    def _power_sentence(self) -> str | None:
        """Return the smallest gain that could have been proven; None where the gain is proven, or that isn't known."""
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
        forgetting = self.forgetting
        if forgetting is None:
            return "."
        if self.shipped == "head_only" and self.model.bn == "frozen":
            return "; the pretrained backbone ships as it was, so that nothing is forgotten."
        if forgetting.drop is not None and forgetting.n is not None:
            return (
                f"; of the original task the backbone lost {forgetting.drop * 100:.1f} points "
                f"({counted(forgetting.n, 'reference photo')})."
            )
        if forgetting.agreement is not None:
            return f"; the original classifier still gives the same answer on {_percent(forgetting.agreement)} of them."
        return "."


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
