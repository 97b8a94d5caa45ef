"""Parallel trainings on a CPU, in threads: torch releases the global interpreter lock while it computes.

A step on 16 images does not use two cores fully, and a step on 8 even less; two trainings do (benchmarks/RESULTS.md).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, apply, trainable_parameters
from unfreeze.models.state import PRETRAINED, loaded
from unfreeze.predict import to_model_input
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import Activations

MAX_STATE_BYTES = 2**30  # weights, gradients and moments of all parallel trainings, without activations
MAX_IMAGES_PER_THREAD = 8  # of a step; with 16, parallel trainings take 0.93 of the time but a training's memory more
Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")
ProgressFn = Callable[[Iterable[int], str, int], Generator[int]]
"""Yields a training's steps and shows progress; takes steps, description and total, like ``runtime.progress_bar``."""


class TrainingCancelledError(Exception):
    """Raised in the other trainings when one fails or the run is interrupted."""


def n_parallel(backbone: Backbone, source: Activations, plan: StagePlan, batch_size: int, n_trainings: int) -> int:
    """Return how many trainings should run in parallel.

    It is 1 on a GPU, which one training fills, for steps of enough images, and for trainings that draw from torch's
    global random generator.

    Args:
        backbone: Before or after any training; the modes of its layers are changed.
        source: Activations that are trained on.
        plan: The trainable stages.
        batch_size: Images of a step.
        n_trainings: Number of trainings.
    """
    threads = torch.get_num_threads()
    pairs = list(zip(backbone.stages, plan.rows, strict=True))
    n_bytes = sum(p.nbytes for stage, row in pairs for p in trainable_parameters(stage.module, row))
    n_most = min(n_trainings, threads, MAX_STATE_BYTES // (4 * n_bytes + 1))  # weights, gradients and two moments
    fills_device = backbone.device.type != "cpu" or batch_size > MAX_IMAGES_PER_THREAD * threads
    if n_most < 2 or fills_device or _uses_random_numbers(backbone, source, plan):
        return 1
    return n_most


def _uses_random_numbers(backbone: Backbone, source: Activations, plan: StagePlan) -> bool:
    """Return whether a training draws random numbers, as for dropout, or updates BatchNorm statistics."""
    if any(row.bn == "train" or (row.trainable and row.subset == "lora") for row in plan.rows):
        return True
    (x,) = source.batches([0], [0], 1)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), loaded(backbone, PRETRAINED):
        rng_state = torch.get_rng_state()
        apply(plan, backbone)
        backbone.run(to_model_input(x, backbone, source.boundary), source.boundary)
        return not torch.equal(torch.get_rng_state(), rng_state)


def parallel_slowdown(n_trainings: int, n_workers: int, threads: int) -> float:
    """Estimate the time of ``n_trainings``, ``n_workers`` of them at once, relative to one after the other.

    On n threads a step takes 1 / sqrt(n) of its time on one: 0.68 to 0.75 on two threads, measured.
    """
    groups = [n_workers] * (n_trainings // n_workers) + [n_trainings % n_workers] * bool(n_trainings % n_workers)
    return sum(math.sqrt(threads / (threads // size)) for size in groups) / max(1, n_trainings)


def run_parallel(
    workers: Sequence[Worker], items: Sequence[Item], work: Callable[[Worker, Item, ProgressFn], Result]
) -> Iterator[Result]:
    """Yield ``work(worker, item, progress)`` for every item, in order, as many at once as there are workers.

    Torch's threads are shared evenly; a smaller last group has more threads each.  Progress of the first item of a
    group is shown.  Results depend on the numbers of threads and workers only, unless ``work`` draws from torch's
    generator.
    """
    threads = torch.get_num_threads()
    for begin in range(0, len(items), len(workers)):
        group = items[begin : begin + len(workers)]
        if len(group) == 1:
            yield work(workers[0], group[0], progress_bar)
        else:
            yield from _run_group(workers, group, work, threads)


def _run_group(
    workers: Sequence[Worker], group: Sequence[Item], work: Callable[[Worker, Item, ProgressFn], Result], threads: int
) -> list[Result]:
    cancelled = threading.Event()

    def cancellable(steps: Iterable[int], _description: str, _total: int) -> Generator[int]:
        for step in steps:
            if cancelled.is_set():
                raise TrainingCancelledError
            yield step

    def with_progress_bar(steps: Iterable[int], description: str, total: int) -> Generator[int]:
        yield from progress_bar(cancellable(steps, description, total), description, total)

    def in_thread(worker: Worker, item: Item, progress: ProgressFn) -> Result:
        torch.set_num_threads(max(1, threads // len(group)))
        torch.set_flush_denormal(True)  # set for each thread; ``prepare_process`` sets it for the main one
        return work(worker, item, progress)

    # Trial forwards reseed the global generator; fork_rng restores it.
    with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(len(group), thread_name_prefix="train") as pool:
        try:
            futures = [
                pool.submit(in_thread, worker, item, cancellable if index else with_progress_bar)
                for index, (worker, item) in enumerate(zip(workers, group, strict=False))
            ]
            return [future.result() for future in futures]
        finally:
            cancelled.set()  # the other trainings end after their current step
            pool.shutdown()
            torch.set_num_threads(threads)
