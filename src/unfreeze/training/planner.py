"""What a run will take, told before it starts: the work that is left, at the speed that was measured."""

from __future__ import annotations

from dataclasses import dataclass, replace

from unfreeze.runtime import Stopwatch
from unfreeze.training.speed import Speed
from unfreeze.training.work import Work


@dataclass(frozen=True)
class Forecast:
    """How many seconds each part of a run will take; the parts are those of ``verdict.cost``.

    Attributes:
        tries: Of each candidate of phase 2, its trainings.
    """

    features: float
    head: float
    tries: tuple[float, ...]
    exam: float

    def without_phase_two(self) -> Forecast:
        """Return the same for a run that ends with the head."""
        return replace(self, tries=())

    def finetune(self, tried: int) -> float:
        """Return what phase 2 takes where the first ``tried`` candidates are tried."""
        return sum(self.tries[:tried])

    def seconds(self, tried: int) -> dict[str, float]:
        """Return it part by part, where ``tried`` candidates are tried."""
        return {"features": self.features, "head": self.head, "finetune": self.finetune(tried), "exam": self.exam}

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
        ahead = self.forecast.tries[tried] + self.forecast.exam
        if not tried:
            ahead += self.forecast.features + self.forecast.head
        return self.watch.report()["total"] + ahead <= 60 * self.minutes


def count_up(work: Work, speed: Speed) -> Forecast:
    """Return what the work takes at that speed."""
    return Forecast(
        features=max(0, work.views - speed.timed) * speed.view + work.onward * speed.photo,
        head=work.head_learned * speed.head_learned + speed.solved,
        tries=tuple(
            tried * learned + validated * speed.photo
            for tried, validated, learned in zip(work.tried, work.validated, speed.learned, strict=True)
        ),
        exam=work.unread * speed.read + bool(work.unread) * speed.building + work.asked * speed.photo,
    )


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
