"""The forecast of a run's time before it starts: the remaining work times the measured seconds of each piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.planning.throughput import measure_throughput
from unfreeze.planning.timing import Clock, SystemClock
from unfreeze.planning.workload import count_workload, order_by_cache_hits
from unfreeze.runtime import Stopwatch
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipe import Recipe

WORTH_A_TIP_S = 30.0  # seconds of frozen layers from which installing a package is worth it
MOSTLY_FROZEN = 2 / 3
"""Share of the time in frozen layers, which OpenVINO makes about twice as fast (benchmarks/RESULTS.md)."""


@dataclass(frozen=True)
class Forecast:
    """Seconds of each part of a run; the parts are those of ``verdict.cost``.

    Attributes:
        features: Activations of the training images.
        head: Phase 1.
        tries: All trainings of each candidate of phase 2.
        evaluation: Predictions for test and reference images.
    """

    features: float
    head: float
    tries: tuple[float, ...]
    evaluation: float

    def without_phase_two(self) -> Forecast:
        """Return the forecast of a run without phase 2."""
        return replace(self, tries=())

    def finetune(self, n_tried: int) -> float:
        """Return the seconds of phase 2 if the first ``n_tried`` candidates are tried."""
        return sum(self.tries[:n_tried])

    def seconds(self, n_tried: int) -> dict[str, float]:
        """Return the seconds of each part if ``n_tried`` candidates are tried."""
        return {
            "features": self.features,
            "head": self.head,
            "finetune": self.finetune(n_tried),
            "evaluation": self.evaluation,
        }

    def sentence(self) -> str:
        """Return a sentence for people: the time with one candidate, and with all."""
        least, most = self.seconds(1), self.seconds(len(self.tries))
        parts = zip(("features", "phase 1", "phase 2", "scoring"), least.values(), strict=True)
        breakdown = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 1)
        text = f"this will take about {duration(sum(least.values()))}" + (f": {breakdown}" if breakdown else "")
        if len(self.tries) < 2:
            return text
        return f"{text}; up to {duration(sum(most.values()))} if deeper layers turn out to be worth it"


def openvino_tip(forecast: Forecast, device: str, is_installed: bool) -> str | None:
    """Return a sentence on the extra that would halve most of the wait; None where it is installed, or would not."""
    frozen, total = forecast.features + forecast.evaluation, sum(forecast.seconds(1).values())
    if is_installed or device != "cpu" or frozen < WORTH_A_TIP_S or frozen < MOSTLY_FROZEN * total:
        return None
    return 'tip: with `pip install "unfreeze[openvino]"` most of this would take about half as long'


@dataclass(frozen=True)
class Deadline:
    """The time limit of a run.

    Attributes:
        forecast: The forecast of the run.
        minutes: Time limit; None: no limit.
        watch: Started at the beginning of the run.
    """

    forecast: Forecast
    minutes: float | None
    watch: Stopwatch

    def time_left(self, n_tried: int) -> bool:
        """Return whether there is time for another candidate after ``n_tried``, and for the evaluation."""
        if self.minutes is None:
            return True
        remaining = self.forecast.tries[n_tried] + self.forecast.evaluation
        if not n_tried:
            remaining += self.forecast.features + self.forecast.head
        return self.watch.report()["total"] + remaining <= 60 * self.minutes


def forecast_run(
    cache: FeatureCache,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingSet,
    recipe: Recipe,
    test: Renderer,
    reference: Renderer | None = None,
    clock: Clock | None = None,
) -> Forecast:
    """Count the remaining work of a run, and time a few of its batches and steps; the backbone is not changed.

    Args:
        cache: Its content costs no time; activations that are computed for timing are stored there for the run.
        backbone: Pretrained.
        renderers: The training images, one renderer for each augmentation that the run may select.
        data: Training and validation images.
        recipe: Settings of both phases.
        test: The test images; without any if every image trains.
        reference: Images of the original task.
        clock: Source of time; the system's clocks by default.
    """
    by_hits = order_by_cache_hits(cache, backbone, renderers, data, recipe)
    work = count_workload(cache, backbone, by_hits, data, recipe, test, reference)
    speed = measure_throughput(cache, backbone, by_hits[0], data, recipe, work, clock or SystemClock())
    candidates = zip(work.n_train_steps_images, work.n_val_images, speed.s_per_train, strict=True)
    return Forecast(
        features=(work.n_views - speed.n_timed) * speed.s_per_view + work.n_to_head * speed.s_per_forward,
        head=work.n_head_train_images * speed.s_per_head_train
        + work.n_head_val_images * speed.s_per_forward
        + speed.head_s,
        tries=tuple(n_train * s_per_train + n_val * speed.s_per_forward for n_train, n_val, s_per_train in candidates),
        evaluation=work.n_heldout_pixels * speed.s_per_heldout
        + speed.compile_s
        + work.n_heldout_forward * speed.s_per_forward,
    )


def duration(seconds: float) -> str:
    """Format seconds for people, in s, min, or h and min."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
