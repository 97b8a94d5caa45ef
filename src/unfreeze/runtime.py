"""The process of a run: device, threads, random numbers, warnings, progress and time; no images or models."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from unfreeze.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch

MIN_PARALLEL_OPERATIONS = 2**24  # multiply-adds, 2 ms on a core; below, synchronising threads costs more than it saves
T = TypeVar("T")


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; ``auto`` is a CUDA GPU, else Apple's GPU, else the CPU.

    Raises:
        ConfigError: The device doesn't exist on this machine.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or ["no such device"])[0]
        raise ConfigError(
            f"The device {name!r} can't be used: {reason}", where="--device", mend="Leave --device out, or take cpu."
        ) from error
    return device


def generator(*key: int) -> np.random.Generator:
    """Return a generator that depends on ``key`` alone, not on workers, order or earlier random numbers."""
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def prepare_process() -> None:
    """Set up memory reuse and flushing of denormal numbers for this process; call it before torch starts its threads.

    glibc maps every block over a few MiB anew, and the kernel zeroes it page by page: 40 % of a forward pass's time
    when measured (benchmarks/process.py).  Freed blocks are reused for the next layer's activations instead; other
    systems' allocators are not changed.  When a loss is nearly 0, gradients and the optimizer's moments can be
    denormal numbers, which are slow on a CPU: they are flushed to 0.
    """
    import ctypes
    import platform

    import torch

    torch.set_flush_denormal(True)

    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Seed torch (dropout, initial weights) and select deterministic kernels; restore both on exit."""
    import torch

    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark


@contextmanager
def limit_threads(operations: float) -> Iterator[None]:
    """Compute on one thread if a step has fewer than ``MIN_PARALLEL_OPERATIONS`` multiply-adds.

    OpenMP's threads busy-wait, which takes cores from the decoding of images and the frozen layers.
    """
    import torch

    threads = torch.get_num_threads()
    if operations < MIN_PARALLEL_OPERATIONS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _SuppressWarnings:
    """Suppress some warnings in a block, whatever other threads suppress at the same time.

    ``warnings.catch_warnings`` alone replaces the filters of the whole process: if two blocks overlap, the first to
    end restores the other's filters, and the second leaves the first's.  Here the first block to begin replaces the
    filters, and the last to end restores them; until then, warnings that any of them suppresses are suppressed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_blocks = 0
        self._catcher = warnings.catch_warnings()

    @contextmanager
    def __call__(self, *, message: str = "", category: type[Warning] = Warning, module: str = "") -> Iterator[None]:
        """Suppress warnings that match the regular expressions ``message`` and ``module``, and ``category``."""
        with self._lock:
            if self._n_blocks == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
            warnings.filterwarnings("ignore", message, category, module)
            self._n_blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_blocks -= 1
                if self._n_blocks == 0:
                    self._catcher.__exit__(None, None, None)


suppress_warnings = _SuppressWarnings()


def progress_bar(items: Iterable[T], description: str, total: int | None = None) -> Generator[T]:
    """Yield ``items`` and show a progress bar with the time left, if stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        yield from items
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=description, total=total)


def echo(message: str) -> None:
    """Print a message for the user to stderr; stdout is for results.

    A reader that has seen enough, such as ``head``, ends no training.
    """
    with suppress(BrokenPipeError):
        print(message, file=sys.stderr, flush=True)


@dataclass
class Stopwatch:
    """Measures the seconds of each named part of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of the enclosed block to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """Return the seconds of each part, and in total since the stopwatch was created."""
        return {**self.seconds, "total": time.perf_counter() - self.started}


def peak_rss_mib() -> float | None:
    """Return this process's peak resident memory in MiB, or None on Windows."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
