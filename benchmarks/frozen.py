"""What comes before training costs: frozen layers folded and in bf16 or not, a large photo read whole or not, a second run.

    python benchmarks/frozen.py PHOTOS [--model efficientnet_lite0] [--rounds 3]

PHOTOS is any labelled folder.  Every figure is a ratio within this run; the parts take turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unfreeze.data.decode import decode
from unfreeze.data.transforms import plain
from unfreeze.models.backbones import load_backbone
from unfreeze.models.engine import choose_precision, frozen_forward
from unfreeze.runtime import prepare_process
from unfreeze.training.activations import BATCH

BATCHES = 6


def rate(forward: Callable[[Tensor], Tensor], x: Tensor) -> float:
    started = time.perf_counter()
    for _ in range(BATCHES):
        forward(x)
    return BATCHES * len(x) / (time.perf_counter() - started)


def forward_rates(model: str, rounds: int) -> None:
    prepare_process()
    backbone = load_backbone(model)
    x = torch.randn(BATCH, 3, *backbone.network.preprocessing.size).contiguous(memory_format=torch.channels_last)
    fastest = choose_precision("auto", backbone.device)
    with torch.inference_mode():
        arms: dict[str, Callable[[Tensor], Tensor]] = {
            "as it is": backbone.run,
            "folded": frozen_forward(backbone, 0, backbone.head_boundary, x),
        }
        if fastest != torch.float32:
            lowered = replace(backbone, precision=fastest)
            arms["folded, bf16"] = frozen_forward(lowered, 0, backbone.head_boundary, x)
        backbone.run(x)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(rounds):
            for name, forward in arms.items():
                rates[name].append(rate(forward, x))
    print("| frozen forward of " + model + " | images per second | ratio |\n| --- | --- | --- |")
    for name, found in rates.items():
        ratios = [after / before for before, after in zip(rates["as it is"], found, strict=True)]
        print(f"| {name} | {spread(found)} | {spread(ratios)} |")


def reading_times(model: str, rounds: int) -> None:
    """Time a drawn photo of 12 megapixels, read and rendered as the model wants it."""
    preprocessing = load_backbone(model).network.preprocessing
    noise = np.random.default_rng(0).integers(0, 255, (378, 504, 3), np.uint8)
    whole: list[float] = []
    reduced: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "photo.jpg"
        Image.fromarray(noise).resize((4032, 3024), Image.Resampling.BICUBIC).save(path, quality=90)
        for _ in range(4 * rounds):
            for enough, seconds in ((None, whole), (preprocessing.enough, reduced)):
                started = time.perf_counter()
                plain(decode(path, enough), preprocessing)
                seconds.append(time.perf_counter() - started)
    ratios = [before / after for before, after in zip(whole, reduced, strict=True)]
    print("\n| a JPEG of 12 megapixels, seconds | read whole | as large as needed | ratio |\n| --- | --- | --- | --- |")
    print(f"| drawn | {spread(whole)} | {spread(reduced)} | {spread(ratios)} |")


def run_times(photos: Path, model: str, rounds: int) -> None:
    """Time whole commands: a first run with an empty cache, and a second one that finds everything."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            for number, seconds in enumerate((cold, warm)):
                command = [
                    str(Path(sys.executable).with_name("unfreeze")), "train", str(photos),
                    "--model", model, "--recipe", "head-only",
                    "--cache", f"{work}/cache", "--out", f"{work}/run{number}",
                ]  # fmt: skip
                started = time.perf_counter()
                subprocess.run(command, check=True, capture_output=True)
                seconds.append(time.perf_counter() - started)
    print("\n| head-only, whole command, seconds | first run | second run | ratio |\n| --- | --- | --- | --- |")
    ratios = [before / after for before, after in zip(cold, warm, strict=True)]
    print(f"| {photos.name} | {spread(cold)} | {spread(warm)} | {spread(ratios)} |")


def spread(values: list[float] | tuple[float, ...]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    forward_rates(arguments.model, arguments.rounds)
    reading_times(arguments.model, arguments.rounds)
    run_times(arguments.photos, arguments.model, arguments.rounds)


if __name__ == "__main__":
    main()
