"""What a run stands on: device, precision, seeds, progress, cost.  Nothing here knows about photos or models."""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from unfreeze.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import torch

WORTH_SHARING = 2**24  # multiplications: about 2 ms of one core, and many times what threads take to find together
T = TypeVar("T")


def choose_device(name: str) -> torch.device:
    """Return the device that ``name`` asks for; ``auto`` takes a CUDA card, then Apple's, then the CPU.

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
    """Return random numbers that depend on ``key`` alone, so that no worker, order or earlier draw can change them."""
    import numpy as np

    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def prepare_process() -> None:
    """Spare this process two costs that have nothing to do with learning; call it before torch starts its threads.

    glibc maps every block over a few MiB anew, and the kernel fills it with zeros page by page: that took 40 % of a forward
    pass's time where it was measured (benchmarks/process.py).  Freed blocks are kept instead, for the next layer's
    activations; other systems' allocators are left alone.  And where a loss has all but vanished, gradients and the
    optimizer's moments can be too small for normal floating point numbers, with which a CPU is slow: they are taken as 0.
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
    """Seed torch (dropout, initial weights) and ask for deterministic kernels; put everything back on leaving."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    cards = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=cards):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            torch.backends.cudnn.benchmark = benchmark


@contextmanager
def limit_threads(operations: float) -> Iterator[None]:
    """Compute on one thread where a step has so few multiplications that threads would mostly wait for each other.

    OpenMP's threads wait by turning round and round, which takes a core from what decodes photos or computes frozen layers.
    """
    import torch

    before = torch.get_num_threads()
    if operations < WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Quiet:
    """Silence some warnings while a block runs, whatever other threads silence meanwhile.

    ``warnings.catch_warnings`` alone swaps one list for the whole process: of two blocks that overlap, the first to end
    would take the other's silence away, and the second leave the first's behind.  Here the first one in swaps the list and
    the last one out puts it back; so long everything stays silent that any of them asked for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._catcher = warnings.catch_warnings()

    @contextmanager
    def __call__(self, *, message: str = "", category: type[Warning] = Warning, module: str = "") -> Iterator[None]:
        """Silence what ``message`` and ``module``, regular expressions, and ``category`` all fit."""
        with self._lock:
            if self._inside == 0:
                self._catcher = warnings.catch_warnings()
                self._catcher.__enter__()
            warnings.filterwarnings("ignore", message, category, module)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._catcher.__exit__(None, None, None)


suppress_warnings = _Quiet()


def progress_bar(items: Iterable[T], description: str, total: int | None = None) -> Generator[T]:
    """Yield ``items`` behind a progress bar with an ETA; a terminal shows it, a log file stays clean."""
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
    """Tell the user what happens now: on stderr, so that stdout holds results alone."""
    print(message, file=sys.stderr, flush=True)


@dataclass
class Stopwatch:
    """Seconds spent in each named part of a run."""

    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the time of the enclosed block to ``part``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - start

    def report(self) -> dict[str, float]:
        """Return the parts and the total since the watch was made, in seconds."""
        return {**self.seconds, "total": time.perf_counter() - self.started}


def peak_rss_mib() -> float | None:
    """Return this process's peak resident memory in MiB, or None where the system doesn't tell (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
