"""Trainings in parallel on a CPU, in threads: torch releases the global interpreter lock while it computes.

A step on 16 photos keeps no two cores busy all the time, and eight even less; two trainings do (benchmarks/RESULTS.md).
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
from unfreeze.predict import to_model_input
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import Activations

MEMORY = 2**30  # bytes for what each of the parallel trainings allocates, activations not counted
MAX_IMAGES_PER_THREAD = 8  # images of a step for each thread; with 16, parallel trainings take 0.93 of the time and a training's memory more
Worker = TypeVar("Worker")
Item = TypeVar("Item")
Result = TypeVar("Result")
ProgressFn = Callable[[Iterable[int], str, int], Generator[int]]
"""What a training hands its steps to, as to ``runtime.progress_bar``, and takes them from."""


class TrainingCancelledError(Exception):
    """Another training failed, or the run was interrupted."""


def n_parallel(backbone: Backbone, source: Activations, plan: StagePlan, batch_size: int, trainings: int) -> int:
    """Return how many trainings should run side by side.

    It is 1 on a card, which one training fills, where steps are on photos enough, and where they draw from torch's one
    random generator.

    Args:
        backbone: Before or after any training; its layers' modes are changed.
        source: What trainings start from.
        plan: What learns.
        batch_size: Photos of a step.
        trainings: How many there are.
    """
    threads = torch.get_num_threads()
    pairs = list(zip(backbone.stages, plan.rows, strict=True))
    learned = sum(value.nbytes for stage, row in pairs for value in trainable_parameters(stage.module, row))
    most = min(trainings, threads, MEMORY // (4 * learned + 1))  # weights, gradients and two moments
    busy = backbone.device.type != "cpu" or batch_size > MAX_IMAGES_PER_THREAD * threads
    if most < 2 or busy or _uses_random_numbers(backbone, source, plan):
        return 1
    return most


def _uses_random_numbers(backbone: Backbone, source: Activations, plan: StagePlan) -> bool:
    """Tell whether a training draws random numbers, for dropout or the like, or moves statistics that others read."""
    if any(row.bn == "train" or (row.trainable and row.subset == "lora") for row in plan.rows):
        return True
    (x,) = source.batches([0], [0], 1)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        apply(plan, backbone)
        backbone.run(to_model_input(x, backbone, source.boundary), source.boundary)
        return not torch.equal(torch.get_rng_state(), before)


def parallel_slowdown(count: int, together: int, threads: int) -> float:
    """Estimate what ``count`` trainings take, so many of them together, as a share of what they take one after the other.

    On n threads a step takes 1 / sqrt(n) of what it takes on one: 0.68 to 0.75 on two, where it was measured.
    """
    groups = [together] * (count // together) + [count % together] * bool(count % together)
    return sum(math.sqrt(threads / (threads // size)) for size in groups) / max(1, count)


def run_parallel(
    workers: Sequence[Worker], items: Sequence[Item], work: Callable[[Worker, Item, ProgressFn], Result]
) -> Iterator[Result]:
    """Yield ``work(worker, item, progress)`` for every item, in order; as many at once as there are workers.

    They share torch's threads evenly; the last ones, where they are fewer, have more each.  Progress is that of the first.
    What they compute depends on the number of threads and of workers alone, as long as none draws from torch's generator.
    """
    threads = torch.get_num_threads()
    for begin in range(0, len(items), len(workers)):
        group = items[begin : begin + len(workers)]
        if len(group) == 1:
            yield work(workers[0], group[0], progress_bar)
        else:
            yield from _together(workers, group, work, threads)


def _together(
    workers: Sequence[Worker], group: Sequence[Item], work: Callable[[Worker, Item, ProgressFn], Result], threads: int
) -> list[Result]:
    stop = threading.Event()

    def quietly(steps: Iterable[int], _description: str, _total: int) -> Generator[int]:
        for step in steps:
            if stop.is_set():
                raise TrainingCancelledError
            yield step

    def shown(steps: Iterable[int], description: str, total: int) -> Generator[int]:
        yield from progress_bar(quietly(steps, description, total), description, total)

    def on_its_share(worker: Worker, item: Item, progress: ProgressFn) -> Result:
        torch.set_num_threads(max(1, threads // len(group)))
        torch.set_flush_denormal(True)  # holds for a thread, as ``prepare_process`` has it for the first
        return work(worker, item, progress)

    # Trial forwards reseed the global generator; fork_rng restores it.
    with torch.random.fork_rng(devices=[]), ThreadPoolExecutor(len(group), thread_name_prefix="train") as pool:
        try:
            running = [
                pool.submit(on_its_share, worker, item, quietly if place else shown)
                for place, (worker, item) in enumerate(zip(workers, group, strict=False))
            ]
            return [each.result() for each in running]
        finally:
            stop.set()  # nobody waits longer than a step for the others
            pool.shutdown()
            torch.set_num_threads(threads)
