"""How fast this machine is at what a run does: a few real batches and steps, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone, in_float32, new_head
from unfreeze.models.engine import uses_reduced_precision
from unfreeze.models.freezing import StagePlan
from unfreeze.poses import UPRIGHT
from unfreeze.runtime import threads_for
from unfreeze.training.activations import BATCH, Activations, Rendered, answers_from, by_photo, keep, missing
from unfreeze.training.finetune import Indices, Schedule, finetune
from unfreeze.training.recipes import Candidate, Recipe
from unfreeze.training.rounds import TrainingData, trainings_of
from unfreeze.training.side_by_side import how_many, pace
from unfreeze.training.store import Store
from unfreeze.training.work import Work, only_tried

TIMED = 2  # batches or steps, after one that warms up
WORTH_TIMING = 10 * (1 + TIMED) * BATCH  # photos: of fewer, timing a few is no small part
SOLVED_ROWS = 4096  # at most, of the features whose reading is timed
ITERATIONS = 320  # until a path of strengths is solved; the middle of the benchmarks' sets


@dataclass(frozen=True)
class Speed:
    """How many seconds things take.

    Attributes:
        view: One training view, from its file through the frozen stages.
        read: The same for a photo of the exam; the same number where both are in float32, or there are few photos.
        building: What computes the exam's frozen stages, where it isn't built yet.
        timed: How many training views were computed to be timed.
        photo: One photo through the stages above, forwards only.
        learned: One photo of a step of phase 2, for each candidate; less where its trainings run side by side.
        head_learned: One photo of a step of phase 1, where it isn't solved.
        solved: Solving it; 0 where that was done before, too.
    """

    view: float
    read: float
    building: float
    timed: int
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


def measure_speed(
    store: Store,
    backbone: Backbone,
    renderers: Sequence[Renderer],
    data: TrainingData,
    recipe: Recipe,
    work: Work,
) -> Speed:
    """Time a few batches and steps of this run on this machine; the backbone stays as it is.

    Views that are computed to be timed are some that the run asks for, and it finds them kept.
    """
    renderer = renderers[0]
    pretrained = backbone.snapshot()
    at_head = _features(backbone, renderer)
    source = drawn(backbone, renderer, recipe.boundary)
    with torch.random.fork_rng(devices=[]):
        view, building, timed = 0.0, 0.0, 0
        if work.views:
            boundary, added = recipe.kept_from or backbone.head_boundary, only_tried(renderers, data, recipe)
            wanted = data.views(recipe.kept_views, recipe.poses(renderer))
            wanted |= {photo: (*wanted[photo], *views) for photo, views in added.items()}
            view, building, timed = _a_view(store, backbone, renderer, boundary, wanted)
        speed = Speed(
            view=view,
            read=view,
            building=building,
            timed=timed,
            photo=_a_photo(backbone, source, data),
            learned=tuple(
                _in_phase_two(backbone, drawn(backbone, renderer, each.plan.boundary), data, each, recipe, ahead)
                for each, ahead in zip(recipe.candidates, work.tried, strict=True)
            ),
            head_learned=_a_learned_photo(
                backbone,
                at_head if recipe.head_on_features else source,
                data,
                recipe.head_plan,
                recipe.head_schedule,
                work.head_learned,
            ),
            solved=_solving(backbone, data, len(recipe.learned(renderer))) if work.unsolved else 0.0,
        )
    backbone.restore(pretrained)
    return speed


def measure_reading(
    store: Store, backbone: Backbone, test: Renderer, recipe: Recipe, work: Work, speed: Speed
) -> Speed:
    """Time a few photos of the exam, too, where they are computed otherwise and are many; the exam finds them kept."""
    if not work.unread or (speed.view and not (work.unread >= WORTH_TIMING and uses_reduced_precision(backbone))):
        return speed
    plain = dict.fromkeys(range(len(test.paths)), UPRIGHT)
    read, building, _ = _a_view(store, in_float32(backbone), test, recipe.boundary, plain)
    return replace(speed, read=read, building=building)


def drawn(backbone: Backbone, renderer: Renderer, boundary: int) -> Activations:
    """Return random tensors of the shape that crosses ``boundary``; at 0 the photos themselves."""
    if not boundary:
        return Rendered(renderer)
    blank = torch.zeros(1, 3, *backbone.network.preprocessing.size, device=backbone.device)
    with torch.inference_mode():
        return Drawn(renderer, boundary, tuple(backbone.run(blank, 0, boundary).shape[1:]))


def _features(backbone: Backbone, renderer: Renderer) -> Drawn:
    return Drawn(renderer, backbone.head_boundary, (backbone.feature_dim,))


def _a_view(
    store: Store, backbone: Backbone, renderer: Renderer, boundary: int, wanted: Mapping[int, Sequence[int]]
) -> tuple[float, float, int]:
    """Compute a few of the wanted views: seconds of one and of building what computes them, and how many they were."""
    pairs = missing(store, backbone, renderer, boundary, wanted)[: (1 + TIMED) * BATCH]

    def seconds(some: list[tuple[int, int]]) -> float:
        started = time.perf_counter()
        keep(store, backbone, Rendered(renderer), boundary, by_photo(some), "timing a few views")
        return time.perf_counter() - started

    first, others = seconds(pairs[:BATCH]), pairs[BATCH:]
    if not others:
        return first / max(1, len(pairs)), 0.0, len(pairs)
    each = seconds(others) / len(others)
    return each, max(0.0, first - each * BATCH), len(pairs)


def _a_photo(backbone: Backbone, source: Activations, data: TrainingData) -> float:
    head = new_head(backbone, data.classes, seed=0)
    return _slope(lambda batches: answers_from(backbone, head, source, _some(data.train, batches * BATCH))) / BATCH


def _in_phase_two(
    backbone: Backbone, source: Activations, data: TrainingData, candidate: Candidate, recipe: Recipe, ahead: int
) -> float:
    """Return the seconds of a photo in a step of a candidate, of which several may train side by side."""
    trainings = len(trainings_of(data, recipe.judges))
    together = how_many(backbone, source, candidate.plan, candidate.schedule.batch_size, trainings)
    seconds = _a_learned_photo(backbone, source, data, candidate.plan, candidate.schedule, ahead)
    return seconds * pace(trainings, together, torch.get_num_threads())


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
    features = _features(backbone, source.renderer) if schedule.anchor else None

    def steps(count: int) -> None:
        finetune(
            backbone, new_head(backbone, data.classes, seed=0), source, data.labels, plan, replace(schedule, epochs=1),
            phase="timing a few steps", train=_some(data.train, count * batch), val=data.train[:0], seed=0,
            features=features,
        )  # fmt: skip

    return (_slope if ahead >= WORTH_TIMING else _second)(steps) / batch


def _solving(backbone: Backbone, data: TrainingData, views: int) -> float:
    """Estimate what solving the head takes: so many iterations read the features twice, for all folds at once.

    Where the photos are fewer than the features are long, they are solved in as many dimensions as there are photos.
    """
    rows = len(data.train) * views
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
