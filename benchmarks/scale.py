"""How training holds up as photos grow in number: peak memory, the frozen pass, and a second run on what was kept.

    python benchmarks/scale.py [--parts memory speed second] [--tiny] [--memory 10000] [--sizes 1000 10000 50000]
                               [--second 2000] [--rounds 3] [--work FOLDER]

Draws its own photos (160 px JPEGs, which cost little to read) and runs whole ``unfreeze train`` commands, each in a process
of its own.  --tiny takes a small network of random weights instead of the packaged one: what is left is what the
program itself costs, and the sizes take minutes instead of an hour.  The speed is that of `verdict.json`'s "features".
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 4
SIDE = 160
DRAWN_AT_ONCE = 500
MIB = 2**20
TINY = "timm/test_efficientnet"


@dataclass(frozen=True)
class Command:
    """What one command took: wall seconds, peak memory in MiB, and the parts that its verdict lists."""

    seconds: float
    peak: float
    parts: dict[str, float]
    trained_on: int


def draw(root: Path, first: int, count: int) -> None:
    """Draw soft blobs; a tint that each class has more of is all that tells them apart."""
    for number in range(first, first + count):
        blobs = np.random.default_rng(number).integers(0, 180, (8, 8, 3), np.uint8)
        blobs[..., number % CLASSES % 3] += 25 + 25 * (number % CLASSES // 3)
        folder = root / f"class{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        drawn = Image.fromarray(blobs).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        drawn.save(folder / f"{number}.jpg", quality=85)


def photos(work: Path, count: int) -> Path:
    """Return a folder of ``count`` drawn photos."""
    root = work / f"photos{count}"
    if not root.exists():
        starts = range(0, count, DRAWN_AT_ONCE)
        counts = [min(DRAWN_AT_ONCE, count - start) for start in starts]
        with ProcessPoolExecutor() as pool:
            list(pool.map(draw, repeat(root), starts, counts))
    return root


def train(folder: Path, work: Path, cache: Path, model: list[str], *flags: str) -> Command:
    """Run ``unfreeze train`` on a folder of photos."""
    out = Path(tempfile.mkdtemp(prefix="run", dir=work))
    program = "from unfreeze.cli import main; main()"
    command = [sys.executable, "-c", program, "train", str(folder), "--cache", str(cache), "--out", str(out)]
    command += [*model, *flags]
    with (out.parent / f"{out.name}.log").open("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            sys.exit(log.read())
    verdict = json.loads((out / "verdict.json").read_text("utf-8"))
    peak = usage.ru_maxrss / (MIB if sys.platform == "darwin" else 1024)
    return Command(seconds, peak, verdict["cost"]["seconds"], verdict["data"]["n_train"])


def memory(work: Path, count: int, model: list[str], deep: str) -> None:
    """Print the peak memory of both recipes on ``count`` photos."""
    print(
        f"| {count} photos, empty cache | peak memory, MiB | kept on disk, MiB | command, s |\n| --- | --- | --- | --- |"
    )
    for name, flags in (
        ("head-only", ("--recipe", "head-only")),
        (f"auto from {deep}, 1 epoch", ("--depth", deep, "--epochs", "1")),
    ):
        cache = work / "memory"
        found = train(photos(work, count), work, cache, model, *flags)
        kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        print(f"| {name} | {found.peak:.0f} | {kept / MIB:.0f} | {found.seconds:.0f} |", flush=True)
        shutil.rmtree(cache)


def speed(work: Path, sizes: list[int], model: list[str], rounds: int) -> None:
    """Print how many photos a second go from files through the frozen stages, as they are and mirrored, by their number."""
    rates: dict[int, list[float]] = {size: [] for size in sizes}
    checked: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            cache = work / "speed"
            found = train(
                photos(work, size), work, cache, model, "--recipe", "head-only", "--views", "1", "--symmetry", "flip"
            )
            rates[size].append(found.trained_on / found.parts["features"])
            checked[size].append(size / found.parts["decode"])
            shutil.rmtree(cache)
    print(
        "\n| photos | frozen pass, photos/s | against the first row | checking, photos/s |\n| --- | --- | --- | --- |"
    )
    for size in sizes:
        ratios = [own / first for own, first in zip(rates[size], rates[sizes[0]], strict=True)]
        print(f"| {size} | {spread(rates[size], 0)} | {spread(ratios, 2)} | {spread(checked[size], 0)} |")


def second(work: Path, count: int, model: list[str], rounds: int) -> None:
    """Print what a head-only verdict takes where everything has been kept, part by part."""
    cache = work / "second"
    first = train(photos(work, count), work, cache, model, "--recipe", "head-only")
    again = [train(photos(work, count), work, cache, model, "--recipe", "head-only") for _ in range(rounds)]
    print(f"\n| {count} photos, head-only, seconds | first run | second run |\n| --- | --- | --- |")
    print(f"| whole command | {first.seconds:.2f} | {spread([each.seconds for each in again], 2)} |")
    for part, seconds in first.parts.items():
        print(f"| {part} | {seconds:.2f} | {spread([each.parts[part] for each in again], 2)} |")


def spread(values: list[float], digits: int) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def tiny_model(work: Path) -> list[str]:
    """Write random weights for a tiny network; return the flags that name it."""
    from unfreeze.torchvision_shim import ensure_torchvision

    ensure_torchvision()
    import timm
    from safetensors.torch import save_file

    place = work / "tiny.safetensors"
    save_file(timm.create_model(TINY.removeprefix("timm/"), pretrained=False).state_dict(), place)
    return ["--model", str(place), "--arch", TINY]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", default=["memory", "speed", "second"], choices=["memory", "speed", "second"]
    )
    parser.add_argument("--tiny", action="store_true", help="a small network of random weights")
    parser.add_argument("--memory", type=int, default=10_000, help="photos whose peak memory is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 50_000], help="of the speed's table")
    parser.add_argument("--second", type=int, default=2_000, help="photos of the second run")
    parser.add_argument("--deep", default="blocks.6", help="where auto's boundary is for the peak memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep the drawn photos here; by default they go")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        model = tiny_model(work) if arguments.tiny else []
        if "memory" in arguments.parts:
            memory(work, arguments.memory, model, arguments.deep)
        if "speed" in arguments.parts:
            speed(work, arguments.sizes, model, arguments.rounds)
        if "second" in arguments.parts:
            second(work, arguments.second, model, arguments.rounds)


if __name__ == "__main__":
    main()
