"""What a run will take, told before it starts: the work is counted, and a few real batches and steps are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.loaders import Renderer
from unfreeze.data.transforms import PLAIN_VIEW
from unfreeze.models.backbone import Backbone, exact
from unfreeze.models.engine import is_lowered
from unfreeze.models.freezing import StagePlan
from unfreeze.poses import UPRIGHT
from unfreeze.runtime import Stopwatch, threads_for
from unfreeze.training.activations import BATCH, Activations, Rendered, answers_from, crossings, missing_views, nearest
from unfreeze.training.finetune import Indices, Schedule, finetune
from unfreeze.training.phase_one import new_head, tried_views
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData, validation_rounds
from unfreeze.training.store import Store

TIMED = 2  # batches or steps, after one that warms up
WORTH_TIMING = 10 * (1 + TIMED) * BATCH  # photos: of fewer, timing a few is no small part
SOLVED_ROWS = 4096  # at most, of the features whose reading is timed
ITERATIONS = 320  # until a path of strengths is solved; the middle of the benchmarks' sets


@dataclass(frozen=True)
class Work:
    """What is left to compute, in photos or views; what the store holds doesn't count.

    Attributes:
        views: Training views that go from pixels through the frozen stages.
        onward: Kept views that go on to the head.
        tried: Of each candidate, photos times epochs that it trains on in its rounds.
        learned: The same of its training on all photos.
        head_learned: The same of phase 1, where it isn't solved.
        validated: Of each candidate, photos times epochs that it is judged on.
        unread: Test and reference photos that go from pixels through the frozen stages.
        asked: Test and reference photos times the questions they are asked.
    """

    views: int
    onward: int
    tried: tuple[int, ...]
    learned: tuple[int, ...]
    head_learned: int
    validated: tuple[int, ...]
    unread: int
    asked: int


@dataclass(frozen=True)
class Speed:
    """How many seconds things take.

    Attributes:
        view: One training view, from its file through the frozen stages.
        read: The same for a photo of the exam; the same number where both are in float32, or there are few photos.
        building: What computes the exam's frozen stages, where it isn't built yet.
        photo: One photo through the stages above, forwards only.
        learned: One photo of a step of phase 2, for each candidate.
        head_learned: One photo of a step of phase 1, where it isn't solved.
        solved: Solving it.
    """

    view: float
    read: float
    building: float
    photo: float
    learned: tuple[float, ...]
    head_learned: float
    solved: float


@dataclass(frozen=True)
class Drawn:
    """Random tensors in place of activations: what a step takes doesn't depend on their values."""

    renderer: Renderer
    boundary: int
    shape: tuple[int, ...]

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield tensors of the shape that crosses the boundary, ``size`` at a time."""
        for start in range(0, len(photos), size):
            yield torch.randn(len(photos[start : start + size]), *self.shape)


@dataclass(frozen=True)
class Forecast:
    """How many seconds each part of a run will take; the parts are those of ``verdict.cost``.

    Attributes:
        tries: Of each candidate of phase 2, its rounds.
        finals: Of each, its training on all photos.
    """

    features: float
    head: float
    tries: tuple[float, ...]
    finals: tuple[float, ...]
    exam: float

    def without_phase_two(self) -> Forecast:
        """Return the same for a run that ends with the head."""
        return replace(self, tries=(), finals=())

    def finetune(self, tried: int) -> float:
        """Return what phase 2 takes where the first ``tried`` candidates are tried, and the slowest of them is best."""
        return sum(self.tries[:tried]) + max(self.finals[:tried], default=0.0)

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
        """Tell whether there is time for one more candidate after so many, for training the best on all, and for scoring."""
        if self.minutes is None:
            return True
        ahead = self.forecast.tries[tried] + max(self.forecast.finals[: tried + 1]) + self.forecast.exam
        if not tried:
            ahead += self.forecast.features + self.forecast.head
        return self.watch.report()["total"] + ahead <= 60 * self.minutes


def count_up(work: Work, speed: Speed) -> Forecast:
    """Return what the work takes at that speed."""
    return Forecast(
        features=work.views * speed.view + work.onward * speed.photo,
        head=work.head_learned * speed.head_learned + speed.solved,
        tries=tuple(
            tried * learned + validated * speed.photo
            for tried, validated, learned in zip(work.tried, work.validated, speed.learned, strict=True)
        ),
        finals=tuple(photos * learned for photos, learned in zip(work.learned, speed.learned, strict=True)),
        exam=work.unread * speed.read + bool(work.unread) * speed.building + work.asked * speed.photo,
    )


def count_work(
    store: Store,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingData,
    recipe: Recipe,
    test: Renderer,
    reference: int,
) -> Work:
    """Count what a run has to compute.

    Args:
        store: What it holds costs nothing.
        backbone: Pretrained.
        renderers: The photos; of several, the one that will be chosen is taken to be the first.
        data: The photos that training may see.
        recipe: What will be done.
        test: The test photos.
        reference: How many photos of the original task there are; the store is taken to hold them if it holds the test
            photos.

    Photos are taken to be shown in all the poses that phase 1 may choose.
    """
    head, (renderer, *others) = backbone.head_boundary, renderers
    poses = recipe.poses(renderer)
    views = data.views(recipe.views, poses)
    rounds = validation_rounds(data, recipe.judges)
    final = 0 if len(data.val) and rounds else len(data.train)
    tried = sum(len(each.train) for each in rounds)
    judged = sum(len(each.val) for each in rounds)
    epochs = [each.schedule.epochs for each in recipe.candidates]
    head_epochs = recipe.head_schedule.epochs if recipe.head_schedule is not None else 0
    onward = missing_views(store, backbone, renderer, head, views) if recipe.head_on_features else 0
    pixels = 0
    if recipe.kept_from:
        kept = data.views(recipe.kept_views, poses)
        pixels = missing_views(store, backbone, renderer, recipe.kept_from, kept)
        if nearest(store, backbone, renderer, recipe.kept_from, kept):
            pixels, onward = 0, onward + pixels
    elif not nearest(store, backbone, renderer, head, views):
        pixels, onward = onward, 0
    turned = sum(_tried(store, backbone, other, data, recipe) for other in others)
    scored = len(test.paths) + reference
    plain = dict.fromkeys(range(len(test.paths)), UPRIGHT)
    unread = bool(recipe.boundary and missing_views(store, exact(backbone), test, recipe.boundary, plain))
    return Work(
        views=pixels + turned,
        onward=onward + (turned if recipe.kept_from else 0),
        tried=tuple(each * tried for each in epochs),
        learned=tuple(each * final for each in epochs),
        head_learned=head_epochs * (tried + final),
        validated=tuple((each + len(recipe.alphas) * len(poses) - 1) * judged for each in epochs),
        unread=(scored + len(test.paths) * (len(poses) - 1)) * unread,
        asked=len(test.paths) * len(poses) * (1 + bool(recipe.candidates))
        + 2 * scored * (backbone.network.outputs > 0),
    )


def _tried(store: Store, backbone: Backbone, other: Renderer, data: TrainingData, recipe: Recipe) -> int:
    """Count the views that trying another renderer adds; all have the plain one in common."""
    added = {photo: views[1:] for photo, views in tried_views(other, data, recipe).items()}
    return missing_views(store, backbone, other, recipe.kept_from or backbone.head_boundary, added)


def measure_speed(backbone: Backbone, renderer: Renderer, data: TrainingData, recipe: Recipe, work: Work) -> Speed:
    """Time a few batches and steps of this run on this machine; the backbone stays as it is."""
    pretrained = backbone.snapshot()
    at_head = Drawn(renderer, backbone.head_boundary, (backbone.feature_dim,))
    source = _drawn(backbone, renderer, recipe.boundary)
    with torch.random.fork_rng(devices=[]):
        view, read, building = 0.0, 0.0, 0.0
        if work.views:
            view, building = _a_view(backbone, renderer, data.train, recipe.kept_from or backbone.head_boundary)
            read = view
        if work.unread and (not view or (work.unread >= WORTH_TIMING and is_lowered(backbone))):
            (read, _), building = _a_view(exact(backbone), renderer, data.train, recipe.boundary), 0.0
        speed = Speed(
            view=view,
            read=read,
            building=building,
            photo=_a_photo(backbone, source, data),
            learned=tuple(
                _a_learned_photo(
                    backbone,
                    _drawn(backbone, renderer, each.plan.boundary),
                    data,
                    each.plan,
                    each.schedule,
                    tried + learned,
                )
                for each, tried, learned in zip(recipe.candidates, work.tried, work.learned, strict=True)
            ),
            head_learned=_a_learned_photo(
                backbone,
                at_head if recipe.head_on_features else source,
                data,
                recipe.head_plan,
                recipe.head_schedule,
                work.head_learned,
            ),
            solved=_solving(backbone, data, recipe) if recipe.head_plan is None else 0.0,
        )
    backbone.restore(pretrained)
    return speed


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _drawn(backbone: Backbone, renderer: Renderer, boundary: int) -> Activations:
    if not boundary:
        return Rendered(renderer)
    blank = torch.zeros(1, 3, *backbone.network.preprocessing.size, device=backbone.device)
    with torch.inference_mode():
        return Drawn(renderer, boundary, tuple(backbone.run(blank, 0, boundary).shape[1:]))


def _a_view(backbone: Backbone, renderer: Renderer, photos: Indices, boundary: int) -> tuple[float, float]:
    """Return the seconds of a view, and of building what computes it, which the run then finds built."""
    some = _some(photos, (1 + TIMED) * BATCH)
    batches = crossings(backbone, Rendered(renderer), boundary, some.tolist(), [PLAIN_VIEW] * len(some))
    begun = time.perf_counter()
    next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    ended = time.perf_counter()
    return (ended - started) / (TIMED * BATCH), max(0.0, started - begun - (ended - started) / TIMED)


def _a_photo(backbone: Backbone, source: Activations, data: TrainingData) -> float:
    head = new_head(backbone, data.classes, seed=0)
    return _slope(lambda batches: answers_from(backbone, head, source, _some(data.train, batches * BATCH))) / BATCH


def _a_learned_photo(
    backbone: Backbone,
    source: Activations,
    data: TrainingData,
    plan: StagePlan | None,
    schedule: Schedule | None,
    ahead: int,
) -> float:
    """Return the seconds of a photo in a step; where few photos are ahead, of a single step and what comes with it."""
    if plan is None or schedule is None or not ahead:
        return 0.0
    batch = min(schedule.batch_size, len(data.train))

    def steps(count: int) -> None:
        finetune(
            backbone, new_head(backbone, data.classes, seed=0), source, data.labels, plan, replace(schedule, epochs=1),
            phase="timing a few steps", train=_some(data.train, count * batch), val=data.train[:0], seed=0,
        )  # fmt: skip

    return (_slope if ahead >= WORTH_TIMING else _second)(steps) / batch


def _solving(backbone: Backbone, data: TrainingData, recipe: Recipe) -> float:
    """Estimate what solving the head takes: so many iterations read the features twice, for all folds at once.

    Where the photos are fewer than the features are long, they are solved in as many dimensions as there are photos.
    """
    rows = len(data.train) * recipe.views
    rank = min(rows, backbone.feature_dim)
    device = backbone.device
    some = torch.randn(min(rows, SOLVED_ROWS), rank, device=device)
    weight = torch.randn(rank, data.classes * (int(data.fold.max()) + 1), device=device)
    factor = torch.eye(rank, device=device)

    def seconds(work: Callable[[], object]) -> float:
        work()
        started = time.perf_counter()
        for _ in range(TIMED):
            work()
        return (time.perf_counter() - started) / TIMED

    with threads_for(rows * rank * weight.shape[1]):
        read = seconds(lambda: some.T @ (some @ weight)) * rows / len(some)
        return ITERATIONS * (read + seconds(lambda: torch.cholesky_solve(weight, factor)))


def _slope(work: Callable[[int], object]) -> float:
    """Return how many seconds one more batch takes: what every call costs once drops out."""
    once = _second(work)
    started = time.perf_counter()
    work(1 + TIMED)
    return max(0.0, time.perf_counter() - started - once) / TIMED


def _second(work: Callable[[int], object]) -> float:
    """Return the seconds of a batch by itself, after one that warms up."""
    work(1)
    started = time.perf_counter()
    work(1)
    return time.perf_counter() - started


def _some(photos: Indices, count: int) -> Indices:
    """Return ``count`` photos, over and over the same where there are fewer."""
    return np.resize(photos, count)
