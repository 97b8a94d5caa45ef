"""The process of a run: device, threads, random numbers, warnings, progress and time; no images or models."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from unfreeze.errors import ConfigError
from unfreeze.progress import PlainProgress, notebook_bar
from unfreeze.screen import echo as echo
from unfreeze.screen import is_terminal

if TYPE_CHECKING:
    import numpy as np
    import torch

MIN_PARALLEL_OPERATIONS = 2**24  # multiply-adds, 2 ms on a core; below, synchronising threads costs more than it saves
T = TypeVar("T")


def choose_device(name: str | int | torch.device) -> torch.device:
    """Return the device called ``name``, in any case; ``auto`` is a CUDA GPU, else Apple's GPU, else the CPU.

    ``gpu`` is CUDA's or Apple's; a number, such as ``1``, is that CUDA GPU's.

    Raises:
        ConfigError: The device doesn't exist on this machine, or torch can't use it.
    """
    import torch

    with suppress_warnings(module="torch"):  # of a driver too old for torch; what can be used is said below
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    gpu = "mps" if has_mps and not gpus else "cuda"
    asked = str(name).strip().lower()
    if asked == "auto":
        return torch.device(gpu if gpus or has_mps else "cpu")
    kind, _, number = (f"cuda:{asked}" if asked.isdecimal() else asked).partition(":")
    kind = gpu if kind == "gpu" else kind
    try:
        device = torch.device(f"{kind}:{number}" if number else kind)
        usable = {"cpu": True, "mps": has_mps, "cuda": (device.index or 0) < gpus}
        if usable.get(kind, kind == "xpu"):
            torch.empty(0, device=device)
            return device
    except (RuntimeError, AssertionError, ValueError):  # no such kind of device, or none of it
        pass
    raise _no_device(str(name), kind, [f"cuda:{index}" for index in range(gpus)] + ["mps"] * has_mps)


def _no_device(name: str, kind: str, others: Sequence[str]) -> ConfigError:
    """Return the error for a device that can't be used, on a machine that has ``others`` and its CPU."""
    import torch

    there = ", ".join(("cpu", *others))
    if kind == "cuda" and not others and torch.version.cuda is None and torch.version.hip is None:
        what = f"There is no device {name!r} here: this build of torch ({torch.__version__}) can't use graphics cards."
        mend = "Install torch for CUDA (pytorch.org/get-started), or leave --device out."
    elif kind in ("cuda", "mps", "xpu") and not others:
        what = f"There is no device {name!r} here: this machine has no graphics card that torch can use."
        mend = "Leave --device out; `unfreeze doctor` says what torch found."
    else:
        what = f"There is no device {name!r} here."
        mend = "Leave --device out, or take one that is here."
    return ConfigError(f"{what} Here: {there}.", where="--device", mend=mend)


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


_plain_progress = PlainProgress()


def progress_bar(
    items: Iterable[T], description: str, total: int | None = None, *, announce: bool = True
) -> Generator[T]:
    """Yield ``items`` and show a progress bar with the time left, on a terminal and in a notebook; elsewhere plain lines.

    Args:
        items: The items.
        description: What is done with them.
        total: Their number, if known.
        announce: Whether a plain line says when it begins, too.
    """
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
    if console.is_jupyter:
        yield from notebook_bar(items, description, total)
        return
    if not is_terminal():
        yield from _plain_progress.track(items, description, total, announce=announce)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        yield from bar.track(items, description=description, total=total)


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
