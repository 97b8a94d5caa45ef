"""How fast this machine is at what a run does: a few real batches and steps, timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.acceleration.frozen import uses_reduced_precision
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone, new_head
from unfreeze.models.freezing import StagePlan
from unfreeze.models.state import random_head
from unfreeze.orientations import Orientation
from unfreeze.planning.timing import Clock, Lap, Timer
from unfreeze.planning.workload import Workload
from unfreeze.predict import predict_logits
from unfreeze.runtime import limit_threads
from unfreeze.training.features.activations import BATCH, Activations, PixelSource, group_by_image
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import CacheMisses, compute
from unfreeze.training.finetune.loop import Indices, finetune
from unfreeze.training.finetune.parallel import n_parallel, parallel_slowdown
from unfreeze.training.folds import Folds, TrainingSet
from unfreeze.training.recipe import ByGradient, Candidate, Recipe
from unfreeze.training.schedule import Schedule

N_TIMED = 2  # batches or steps, after one that warms up
WORTH_TIMING = 10 * (1 + N_TIMED) * BATCH  # images: of fewer, timing a few is no small part
FEW = 10 * BATCH  # images: of fewer, a single step is timed, and what comes with it
FIT_ROWS = 4096  # at most, of the features whose reading is timed
FIT_ITERATIONS = 320  # median L-BFGS iterations for the whole L2 path on the benchmarks' sets


@dataclass(frozen=True)
class Throughput:
    """How many seconds things take.

    Attributes:
        s_per_view: One training view, from its file through the frozen stages.
        n_timed: How many training views were computed to be timed.
        s_per_heldout: A view of test and reference images; the same number where both are in float32, or there are few.
        compile_s: What computes the frozen stages for these, where it isn't built yet.
        s_per_forward: One image through the stages above the cache.
        s_per_train: One image of a step of phase 2, for each candidate; less where its trainings run beside each other.
        s_per_head_train: One image of a step of phase 1, where its head isn't solved.
        head_s: Solving it; 0 where the cache holds it.
    """

    s_per_view: float
    n_timed: int
    s_per_heldout: float
    compile_s: float
    s_per_forward: float
    s_per_train: tuple[float, ...]
    s_per_head_train: float
    head_s: float


@dataclass(frozen=True)
class RandomActivations:
    """Random tensors in place of activations: what a step takes doesn't depend on their values."""

    renderer: Renderer
    boundary: int
    shape: tuple[int, ...]

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield tensors of the shape that crosses the boundary, ``size`` at a time."""
        for start in range(0, len(photos), size):
            yield torch.randn(len(photos[start : start + size]), *self.shape)


@dataclass(frozen=True)
class Lapped:
    """Activations that tell the timer whenever a step asks for its batch."""

    source: Activations
    lap: Lap

    @property
    def boundary(self) -> int:
        """Where they were taken."""
        return self.source.boundary

    @property
    def renderer(self) -> Renderer:
        """The images they come from."""
        return self.source.renderer

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield what ``source`` does."""
        batches = self.source.batches(photos, views, size)
        while len(photos):
            self.lap()
            batch = next(batches, None)
            if batch is None:
                return
            yield batch


@dataclass(frozen=True)
class Trainings:
    """What the timed trainings share."""

    timer: Timer
    backbone: Backbone
    renderer: Renderer
    data: TrainingSet

    def s_per_image(self, boundary: int, plan: StagePlan, schedule: Schedule, n_images: int) -> float:
        """Return the seconds of an image in a step."""
        if not n_images:
            return 0.0
        backbone, data = self.backbone, self.data
        source = random_activations(backbone, self.renderer, boundary)
        features = _features(backbone, self.renderer) if schedule.distill else None
        batch = min(schedule.batch_size, len(data.train))
        train = _some(data.train, _n_steps(n_images) * batch)

        def steps(lap: Lap) -> None:
            finetune(
                backbone, random_head(backbone, data.n_classes, seed=0), Lapped(source, lap), data.labels, plan,
                replace(schedule, epochs=1), phase="timing a few steps", train=train, val=data.train[:0], seed=0,
                pretrained_features=features,
            )  # fmt: skip

        return self.timer.seconds_per_step(steps) / batch

    def s_per_image_of(self, candidate: Candidate, recipe: Recipe, n_images: int) -> float:
        """Return the same for a candidate, several of whose trainings may run beside each other."""
        count, boundary = len(Folds.of(self.data, recipe.min_validation_images).trainings), candidate.plan.boundary
        source = random_activations(self.backbone, self.renderer, boundary)
        together = n_parallel(self.backbone, source, candidate.plan, candidate.schedule.batch_size, count)
        seconds = self.s_per_image(boundary, candidate.plan, candidate.schedule, n_images)
        return seconds * parallel_slowdown(count, together, torch.get_num_threads())


def measure_throughput(
    store: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    recipe: Recipe,
    work: Workload,
    clock: Clock,
) -> Throughput:
    """Time a few batches and steps of this run on this machine; the backbone stays as it is.

    Views that are computed to be timed are some that the run asks for, and it finds them kept.
    """
    timer = Timer(backbone.device, clock)
    trainings = Trainings(timer, backbone, renderer, data)
    head_boundary = backbone.head_boundary if recipe.head_uses_features else recipe.boundary
    with torch.random.fork_rng(devices=[]):
        s_per_view, compile_s, n_timed = _time_views(timer, store, backbone, work.training)
        s_per_heldout = s_per_view
        if work.n_heldout_pixels and (
            not s_per_view or (work.n_heldout_pixels >= WORTH_TIMING and uses_reduced_precision(backbone))
        ):
            s_per_heldout, compile_s, _ = _time_views(timer, store, backbone, work.held_out)
        return Throughput(
            s_per_view=s_per_view,
            n_timed=n_timed,
            s_per_heldout=s_per_heldout,
            compile_s=compile_s if work.n_heldout_pixels else 0.0,
            s_per_forward=_s_per_forward(timer, backbone, renderer, data, recipe.boundary, work.n_forward),
            s_per_train=tuple(
                trainings.s_per_image_of(candidate, recipe, n_images)
                for candidate, n_images in zip(recipe.candidates, work.n_train_steps_images, strict=True)
            ),
            s_per_head_train=(
                trainings.s_per_image(head_boundary, recipe.head.plan, recipe.head.schedule, work.n_head_train_images)
                if isinstance(recipe.head, ByGradient)
                else 0.0
            ),
            head_s=_head_s(timer, backbone, data, len(recipe.head_views(renderer))) if work.needs_head_fit else 0.0,
        )


def random_activations(backbone: Backbone, renderer: Renderer, boundary: int) -> Activations:
    """Return random tensors of the shape that crosses ``boundary``; at 0 the images themselves."""
    if not boundary:
        return PixelSource(renderer)
    if boundary == backbone.head_boundary:
        return _features(backbone, renderer)
    blank = torch.zeros(1, 3, *backbone.network.preprocessing.size, device=backbone.device)
    with torch.inference_mode():
        return RandomActivations(renderer, boundary, tuple(backbone.run(blank, 0, boundary).shape[1:]))


def _features(backbone: Backbone, renderer: Renderer) -> RandomActivations:
    return RandomActivations(renderer, backbone.head_boundary, (backbone.feature_dim,))


def _time_views(
    timer: Timer, store: FeatureCache, backbone: Backbone, misses: Sequence[CacheMisses]
) -> tuple[float, float, int]:
    """Compute a few of the missing views: seconds of one and of building what computes them, and how many they were."""
    alike: dict[tuple[int, int], list[CacheMisses]] = {}
    for each in misses:
        if each.start == 0:
            alike.setdefault((id(each.request.renderer), each.request.boundary), []).append(each)
    if not alike:
        return 0.0, 0.0, 0
    most = max(alike.values(), key=lambda group: sum(len(each.pairs) for each in group))
    every = sorted((pair for each in most for pair in each.pairs), key=lambda pair: pair[0])  # a file is decoded once
    pairs = every[: (1 + N_TIMED) * BATCH]

    def seconds(some: list[tuple[int, int]]) -> float:
        request = replace(most[0].request, views=group_by_image(some), description="timing a few views", source=0)
        return timer.seconds_once(lambda: compute(store, backbone, [request]))

    first, others = seconds(pairs[:BATCH]), pairs[BATCH:]
    if not others:
        return first / len(pairs), 0.0, len(pairs)
    each_takes = seconds(others) / len(others)
    return each_takes, max(0.0, first - each_takes * BATCH), len(pairs)


def _s_per_forward(
    timer: Timer, backbone: Backbone, renderer: Renderer, data: TrainingSet, boundary: int, n_images: int
) -> float:
    """Return the seconds of an image from ``boundary`` through the head."""
    if not n_images:
        return 0.0
    head, source = new_head(backbone, data.n_classes, seed=0), random_activations(backbone, renderer, boundary)
    photos = _some(data.train, _n_steps(n_images) * BATCH).tolist()

    def forward(lap: Lap) -> None:
        predict_logits(
            backbone, head, Lapped(source, lap).batches(photos, [Orientation.IDENTITY] * len(photos), BATCH), boundary
        )

    return timer.seconds_per_step(forward) / BATCH


def _head_s(timer: Timer, backbone: Backbone, data: TrainingSet, n_views: int) -> float:
    """Estimate what solving the head takes: so many iterations read the features twice, for all folds at once.

    Where the images are fewer than the features are long, they are solved in as many dimensions as there are images.
    """
    rows = len(data.train) * n_views
    rank = min(rows, backbone.feature_dim)
    device = backbone.device
    some = torch.randn(min(rows, FIT_ROWS), rank, device=device)
    weight = torch.randn(rank, data.n_classes * (int(data.fold.max()) + 1), device=device)
    factor = torch.eye(rank, device=device)

    def seconds(work: Callable[[], object]) -> float:
        def steps(lap: Lap) -> None:
            for _ in range(1 + N_TIMED):
                lap()
                work()
            lap()

        return timer.seconds_per_step(steps)

    with limit_threads(rows * rank * weight.shape[1]):
        read = seconds(lambda: some.T @ (some @ weight)) * rows / len(some)
        return FIT_ITERATIONS * (read + seconds(lambda: torch.cholesky_solve(weight, factor)))


def _n_steps(n_images: int) -> int:
    """Return how many steps are timed where so many images are ahead, the one that warms up included."""
    if n_images < FEW:
        return 1
    return 1 + (N_TIMED if n_images >= WORTH_TIMING else 1)


def _some(photos: Indices, count: int) -> Indices:
    """Return ``count`` images, over and over the same where there are fewer."""
    return np.resize(photos, count)
