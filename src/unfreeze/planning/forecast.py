"""What a run will take, told before it starts: the work that is left, times the seconds that a piece of it takes."""

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


@dataclass(frozen=True)
class Forecast:
    """How many seconds each part of a run will take; the parts are those of ``verdict.cost``.

    Attributes:
        tries: Of each candidate of phase 2, its trainings.
    """

    features: float
    head: float
    tries: tuple[float, ...]
    evaluation: float

    def without_phase_two(self) -> Forecast:
        """Return the same for a run that ends with the head."""
        return replace(self, tries=())

    def finetune(self, tried: int) -> float:
        """Return what phase 2 takes where the first ``tried`` candidates are tried."""
        return sum(self.tries[:tried])

    def seconds(self, tried: int) -> dict[str, float]:
        """Return it part by part, where ``tried`` candidates are tried."""
        return {
            "features": self.features,
            "head": self.head,
            "finetune": self.finetune(tried),
            "evaluation": self.evaluation,
        }

    def sentence(self) -> str:
        """Return it for people: for one candidate, and for all."""
        least, most = self.seconds(1), self.seconds(len(self.tries))
        parts = zip(("features", "phase 1", "phase 2", "scoring"), least.values(), strict=True)
        listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts if seconds >= 1)
        said = f"this will take about {duration(sum(least.values()))}" + (f": {listed}" if listed else "")
        more = sum(most.values())
        return (
            said if len(self.tries) < 2 else f"{said}; up to {duration(more)} if deeper layers turn out to be worth it"
        )


@dataclass(frozen=True)
class Deadline:
    """When a run is to be done.

    Attributes:
        forecast: What its parts take.
        minutes: How long the run may take; None: as long as it likes.
        watch: Started with it.
    """

    forecast: Forecast
    minutes: float | None
    watch: Stopwatch

    def time_left(self, tried: int) -> bool:
        """Tell whether there is time for one more candidate after so many, and for scoring."""
        if self.minutes is None:
            return True
        ahead = self.forecast.tries[tried] + self.forecast.evaluation
        if not tried:
            ahead += self.forecast.features + self.forecast.head
        return self.watch.report()["total"] + ahead <= 60 * self.minutes


def forecast_run(
    store: FeatureCache,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingSet,
    recipe: Recipe,
    test: Renderer,
    reference: Renderer | None = None,
    clock: Clock | None = None,
) -> Forecast:
    """Count what a run has left to compute, and time a few batches and steps of it; the backbone stays as it is.

    Args:
        store: What it holds costs nothing; what is computed to be timed is kept there, and the run finds it.
        backbone: Pretrained.
        renderers: The training images, augmented in each way that the run may choose.
        data: The images that training may see.
        recipe: What will be done.
        test: The test images; none where every image trains.
        reference: Images of the original task.
        clock: Another one than the machine's.
    """
    likely = order_by_cache_hits(store, backbone, renderers, data, recipe)
    work = count_workload(store, backbone, likely, data, recipe, test, reference)
    takes = measure_throughput(store, backbone, likely[0], data, recipe, work, clock or SystemClock())
    candidates = zip(work.n_train_steps_images, work.n_val_images, takes.s_per_train, strict=True)
    return Forecast(
        features=(work.n_views - takes.n_timed) * takes.s_per_view + work.n_to_head * takes.s_per_forward,
        head=work.n_head_train_images * takes.s_per_head_train
        + work.n_head_val_images * takes.s_per_forward
        + takes.head_s,
        tries=tuple(n_train * s_per_train + n_val * takes.s_per_forward for n_train, n_val, s_per_train in candidates),
        evaluation=work.n_heldout_pixels * takes.s_per_heldout
        + takes.compile_s
        + work.n_heldout_forward * takes.s_per_forward,
    )


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
