"""The verdict of a run: one typed value, and its JSON form ``verdict.json``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from unfreeze.errors import RunError
from unfreeze.evaluation.calibration import Calibration
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.significance import Gain
from unfreeze.reading import Channel, Frame, Reading, ScalingKind
from unfreeze.verdict_schema1 import upgrade_schema1
from unfreeze.verdict_sentences import sentences
from unfreeze.views import EvaluationView, Views, describe_views, views_from

if TYPE_CHECKING:
    from unfreeze.acceleration.engine_report import EngineReport

Arm = Literal["two_phase", "head_only"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Section):
    """Counts of the images that were trained on and scored, and the class names.

    Attributes:
        no_score: Why no score is honest, where none is: nothing may be read from the run's scores then.
    """

    n_train: int
    n_test: int
    classes: tuple[str, ...]
    left_out: int
    no_score: str | None = None


class View(_Section):
    """A view over which logits are averaged.

    Attributes:
        framing: The part of the image: crop (the centre), squeeze (the whole image), or a tile.
        orientation: identity, flipped, rot90, rot180 or rot270.
    """

    framing: str
    orientation: str

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        try:
            self.value  # noqa: B018
        except KeyError as error:
            raise ValueError(f"there is no view called {error.args[0]!r}") from error
        return self

    @property
    def value(self) -> EvaluationView:
        """The view as a value."""
        return EvaluationView.from_dict({"framing": self.framing, "orientation": self.orientation})


class InputChannel(_Section):
    """A channel of the network's input: a band of the files, counted from 1, and its numbers that become black and white.

    Without numbers, each photo's own became black and white.
    """

    band: int
    low: float | None = None
    high: float | None = None
    name: str = ""


class Model(_Section):
    """The backbone, and how phase 2 trained it.

    Attributes:
        name: Name of the backbone as the user gave it.
        boundary: Index of the first stage that phase 2 trained; the number of stages where phase 2 didn't run.
        depth: Name of that stage.
        alpha: Interpolation of the shipped weights between phase 1 (0) and phase 2 (1).
        bn: Mode of BatchNorm in phase 2.
        symmetry: Random symmetries of training views: none, horizontal flips, or flips and quarter turns.
        views: The views of an image whose logits are averaged.
        fit: How photos fill the view that is called crop, where it isn't the centre crop.
        unseen: The share of the training photos' area that no view shows; absent where it is at most a tenth.
        n_views: Their number: predicting takes so many times the time of one view.
        head_stages: Names of the stages that the head reads, the last one's at the end; absent where it reads that alone.
        scaling: Where the numbers that become black and white come from; absent where files are read as 8-bit RGB.
        channels: The network's input, in order; absent where it is 8-bit RGB.
    """

    name: str
    boundary: int
    depth: str
    alpha: float
    bn: Literal["frozen", "train"]
    symmetry: Literal["none", "flip", "rotate"] | None = None
    views: tuple[View, ...] = (View(framing="crop", orientation="identity"),)
    fit: Literal["squash", "pad"] | None = None
    unseen: float | None = None
    n_views: int = 1
    head_stages: tuple[str, ...] | None = None
    scaling: ScalingKind | None = None
    channels: tuple[InputChannel, ...] | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_orientations(cls, figures: Any) -> Any:
        """Accept the field that earlier versions wrote, orientations of the centre crop."""
        if not isinstance(figures, dict) or "orientations" not in figures:
            return figures
        described = [view.to_dict() for view in views_from(figures)]
        others = {name: value for name, value in figures.items() if name != "orientations"}
        return {**others, "views": described, "n_views": len(described)}

    @property
    def evaluation_views(self) -> Views:
        """The views, as values."""
        return tuple(view.value for view in self.views)

    def reading(self, frame: Frame = "first") -> Reading:
        """Return how the model reads files; the frame is a setting of the run."""
        channels = tuple(Channel(**channel.model_dump()) for channel in self.channels or ())
        return Reading(frame, channels, self.scaling or "none")

    def describe_views(self) -> str:
        """Return the views and what they cost, for people."""
        described = describe_views(self.evaluation_views, self.fit or "crop")
        if self.n_views == 1:
            return f"each photo is looked at once: {described}"
        return (
            f"each photo is looked at {self.n_views} times: {described}; predicting takes "
            f"about {self.n_views} times the time of one view"
        )


class Point(_Section):
    """Validation scores at one alpha; slightly optimistic, as the same images select the alpha.

    Attributes:
        alpha: Interpolation from phase 1 (0) to phase 2 (1).
        accuracy: Fraction of the validation images.
        balanced_accuracy: Mean recall over the classes present.
        log_loss: Mean log-loss in nats, at the temperature where it is lowest.
        z: The number of standard errors by which the log-loss is below phase 1's, with class weights where the classes
            are clearly imbalanced.  Absent in verdicts that don't have it.
        expected: Expected gain in accuracy over head-only, a fraction: what ships is selected by it.
        expected_spread: Standard deviation of that gain.
        p_worse: Probability that the accuracy is lower than head-only's.
    """

    alpha: float
    accuracy: float
    balanced_accuracy: float
    log_loss: float
    z: float | None = None
    expected: float | None = None
    expected_spread: float | None = None
    p_worse: float | None = None


class ExpectedGain(_Section):
    """The gain of phase 2 over head-only that is expected on new photos of this kind: which model ships follows from it.

    It rests on the folds of these photos and on what was measured on other data sets, and proves nothing.

    Attributes:
        accuracy: Expected gain in accuracy, a fraction, at the depth and alpha where it is highest.
        spread: Standard deviation of that gain.
        p_worse: Probability that the accuracy is lower than head-only's.
    """

    accuracy: float
    spread: float
    p_worse: float


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
    expected: ExpectedGain | None = None
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
        """Return the verdict for people; see ``verdict_sentences.py``."""
        return sentences(self)
