"""The speed of this machine at the work of a run, measured on a few real batches and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from unfreeze.acceleration.frozen import uses_reduced_precision
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan
from unfreeze.models.head import new_head
from unfreeze.models.state import random_head
from unfreeze.planning.timed_activations import Lapped, random_activations, random_features
from unfreeze.planning.timing import Clock, Lap, Timer
from unfreeze.planning.workload import Workload
from unfreeze.predict import predict_logits
from unfreeze.runtime import limit_threads
from unfreeze.training.features.activations import BATCH, group_by_image
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.demand import CacheMisses, compute
from unfreeze.training.finetune.loop import Indices, finetune
from unfreeze.training.finetune.parallel import n_parallel, parallel_slowdown
from unfreeze.training.folds import Folds, TrainingSet
from unfreeze.training.recipe import ByGradient, Candidate, Recipe
from unfreeze.training.schedule import Schedule
from unfreeze.views import PLAIN

N_TIMED = 2  # timed batches or steps, after one warm-up
WORTH_TIMING = 10 * (1 + N_TIMED) * BATCH  # images; for fewer, timing takes a considerable part of the run
FEW = 10 * BATCH  # images; for fewer, a single step is timed, its warm-up included
FIT_ROWS = 4096  # most rows of the features whose reading is timed
BASIS_ROWS = 256  # most rows whose orthonormal basis is timed
FIT_ITERATIONS = 320  # median L-BFGS iterations for the whole L2 path on the benchmarks' sets


@dataclass(frozen=True)
class Throughput:
    """Measured or estimated seconds of each kind of work.

    Attributes:
        s_per_view: One training view, from its file through the frozen stages.
        n_timed: Number of training views that were computed for timing.
        s_per_heldout: One view of a test or reference image; ``s_per_view`` if both are in float32 or there are few.
        compile_s: Compiling the frozen stages for test and reference images, if they are not compiled yet.
        s_per_forward: One image through the stages above the cache.
        s_per_train: One image of a training step of phase 2, for each candidate; less if its trainings run in parallel.
        s_per_head_train: One image of a training step of phase 1, if its head is not solved.
        head_s: Solving the head of phase 1; 0 if it is cached.
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
class Trainings:
    """Times training steps; holds their common inputs."""

    timer: Timer
    backbone: Backbone
    renderer: Renderer
    data: TrainingSet

    def s_per_image(self, boundary: int, plan: StagePlan, schedule: Schedule, n_images: int) -> float:
        """Return the seconds per image of a training step; 0 if ``n_images`` is 0."""
        if not n_images:
            return 0.0
        backbone, data = self.backbone, self.data
        source = random_activations(backbone, self.renderer, boundary)
        pretrained_features = random_features(backbone, self.renderer) if schedule.distill else None
        batch_size = min(schedule.batch_size, len(data.train))
        train = _resized(data.train, _n_steps(n_images) * batch_size)

        def steps(lap: Lap) -> None:
            finetune(
                backbone, random_head(backbone, data.n_classes, seed=0), Lapped(source, lap), data.labels, plan,
                replace(schedule, epochs=1), phase="timing a few steps", train=train, val=data.train[:0], seed=0,
                pretrained_features=pretrained_features,
            )  # fmt: skip

        return self.timer.seconds_per_step(steps) / batch_size

    def s_per_image_of(self, candidate: Candidate, recipe: Recipe, n_images: int) -> float:
        """Return the seconds per image of a candidate's training steps, whose trainings may run in parallel."""
        count, boundary = len(Folds.of(self.data, recipe.min_validation_images).trainings), candidate.plan.boundary
        source = random_activations(self.backbone, self.renderer, boundary)
        n_workers = n_parallel(self.backbone, source, candidate.plan, candidate.schedule.batch_size, count)
        seconds = self.s_per_image(boundary, candidate.plan, candidate.schedule, n_images)
        return seconds * parallel_slowdown(count, n_workers, torch.get_num_threads())


def measure_throughput(
    cache: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    recipe: Recipe,
    work: Workload,
    clock: Clock,
) -> Throughput:
    """Time a few batches and steps of this run on this machine; the backbone is not changed.

    The views that are timed are some that the run needs, and it finds them in the cache.
    """
    timer = Timer(backbone.device, clock)
    trainings = Trainings(timer, backbone, renderer, data)
    head_boundary = backbone.head_boundary if recipe.head_uses_features else recipe.boundary
    with torch.random.fork_rng(devices=[]):
        s_per_view, compile_s, n_timed = _time_views(timer, cache, backbone, work.training)
        s_per_heldout = s_per_view
        if work.n_heldout_pixels and (
            not s_per_view or (work.n_heldout_pixels >= WORTH_TIMING and uses_reduced_precision(backbone))
        ):
            s_per_heldout, compile_s, _ = _time_views(timer, cache, backbone, work.held_out)
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


def _time_views(
    timer: Timer, cache: FeatureCache, backbone: Backbone, misses: Sequence[CacheMisses]
) -> tuple[float, float, int]:
    """Compute a few missing views; return seconds per view, seconds of compilation, and the number of views."""
    groups: dict[tuple[int, int], list[CacheMisses]] = {}  # by renderer and boundary
    for miss in misses:
        if miss.start == 0:
            groups.setdefault((id(miss.request.renderer), miss.request.boundary), []).append(miss)
    if not groups:
        return 0.0, 0.0, 0
    largest = max(groups.values(), key=lambda group: sum(len(miss.pairs) for miss in group))
    by_image = sorted((pair for miss in largest for pair in miss.pairs), key=lambda pair: pair[0])  # decodes files once
    pairs = by_image[: (1 + N_TIMED) * BATCH]

    def seconds(pairs: list[tuple[int, int]]) -> float:
        request = replace(largest[0].request, views=group_by_image(pairs), description="timing a few views", source=0)
        return timer.seconds_once(lambda: compute(cache, backbone, [request]))

    warm_up, timed = seconds(pairs[:BATCH]), pairs[BATCH:]
    if not timed:
        return warm_up / len(pairs), 0.0, len(pairs)
    s_per_view = seconds(timed) / len(timed)
    return s_per_view, max(0.0, warm_up - s_per_view * BATCH), len(pairs)


def _s_per_forward(
    timer: Timer, backbone: Backbone, renderer: Renderer, data: TrainingSet, boundary: int, n_images: int
) -> float:
    """Return the seconds per image from ``boundary`` through the head."""
    if not n_images:
        return 0.0
    head, source = new_head(backbone, data.n_classes, seed=0), random_activations(backbone, renderer, boundary)
    images = _resized(data.train, _n_steps(n_images) * BATCH).tolist()

    def forward(lap: Lap) -> None:
        views = [PLAIN] * len(images)
        batches, below = Lapped(source, lap).batches(images, views, BATCH), source.features_below(images, views)
        predict_logits(backbone, head, batches, boundary, below=below)

    return timer.seconds_per_step(forward) / BATCH


def _head_s(timer: Timer, backbone: Backbone, data: TrainingSet, n_views: int) -> float:
    """Estimate the seconds of solving the head: each iteration reads the features twice, for all folds at once.

    With fewer rows than dimensions, the problem has as many dimensions as rows, after a basis of the rows has been found,
    whose time grows with the square of their number.
    """
    rows = len(data.train) * n_views
    rank = min(rows, backbone.feature_dim)
    device = backbone.device
    features = torch.randn(min(rows, FIT_ROWS), rank, device=device)
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
        basis_s = 0.0
        if rows < backbone.feature_dim:
            few = torch.randn(backbone.feature_dim, min(rows, BASIS_ROWS), dtype=torch.float64, device=device)
            basis_s = seconds(lambda: torch.linalg.qr(few)) * (rows / few.shape[1]) ** 2
        read_s = seconds(lambda: features.T @ (features @ weight)) * rows / len(features)
        return basis_s + FIT_ITERATIONS * (read_s + seconds(lambda: torch.cholesky_solve(weight, factor)))


def _n_steps(n_images: int) -> int:
    """Return the number of steps to time for ``n_images`` of remaining work, the warm-up included."""
    if n_images < FEW:
        return 1
    return 1 + (N_TIMED if n_images >= WORTH_TIMING else 1)


def _resized(images: Indices, count: int) -> Indices:
    """Return ``count`` indices, repeated if there are fewer."""
    return np.resize(images, count)
