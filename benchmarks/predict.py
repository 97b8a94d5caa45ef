"""What predicting costs beside the network's own arithmetic, and from how many photos on a fast engine is worth building.

    python benchmarks/predict.py RUN PHOTOS [--count 512] [--rounds 3]

RUN is a finished run, PHOTOS any folder of photos, which are taken over and over again.  The bare forward pass has the same
photos in the same batches, decoded and normalised beforehand: nothing is left of it but the network.  The arms take turns,
and every ratio is within a round.  "As it is" builds its engine anew each time, and that counts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from unfreeze.acceleration.frozen import frozen_forward
from unfreeze.acceleration.openvino import openvino_version
from unfreeze.acceleration.parts import Forward
from unfreeze.data.places import find_photos
from unfreeze.models.saved import load_model
from unfreeze.predict import BATCH, MIN_COMPILED_IMAGES, evaluation_mode, photo_batches, to_model_input
from unfreeze.runs.run import Run, load
from unfreeze.runtime import choose_device, prepare_process

BARE = "bare forward pass, torch as it is"


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def passes(forward: Forward, batches: list[Tensor]) -> None:
    with torch.inference_mode():
        for x in batches:
            forward(x)


def opened(folder: Path, photo: Path) -> Run:
    """Return the run with its model read, as it is when the first photo's turn comes."""
    run = load(folder)
    list(run.stream([photo]))
    return run


def answer_all(run: Run, paths: list[Path], worth: int = MIN_COMPILED_IMAGES) -> None:
    with mock.patch("unfreeze.predict.MIN_COMPILED_IMAGES", worth):
        assert sum(1 for _ in run.stream(paths)) == len(paths)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=512, help="photos a pass")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    prepare_process()
    found = find_photos([arguments.photos])
    paths = list(itertools.islice(itertools.cycle(found), arguments.count // BATCH * BATCH))
    model = load_model(load(arguments.run).folder.model, choose_device("auto"))
    backbone = model.backbone
    evaluation_mode(backbone)
    batches = [to_model_input(x, backbone, 0) for x in photo_batches(backbone, paths)]
    seconds: dict[str, list[float]] = {}
    building: list[float] = []
    for _ in range(arguments.rounds):
        backbone.compiled.clear()
        with torch.inference_mode():
            building.append(timed(lambda: frozen_forward(backbone, 0, backbone.head_boundary)))
            built = frozen_forward(backbone, 0, backbone.head_boundary)
        run = opened(arguments.run, paths[0])
        arms: dict[str, Callable[[], object]] = {
            BARE: lambda: passes(lambda x: model.head(backbone.run(x)), batches),
            "Run.stream, no engine": lambda run=run: answer_all(run, paths, len(paths) + 1),  # type: ignore[misc]
            "bare forward pass of the engine": lambda built=built: passes(lambda x: model.head(built(x)), batches),  # type: ignore[misc]
            "Run.stream as it is": lambda run=run: answer_all(run, paths),  # type: ignore[misc]
            "Run.stream, its engine built before": lambda run=run: answer_all(run, paths),  # type: ignore[misc]
        }
        for name, work in arms.items():
            seconds.setdefault(name, []).append(timed(work))
    engine = f"OpenVINO {openvino_version()}" if openvino_version() else "no OpenVINO"
    print(
        f"{backbone.name}, {len(paths)} photos, {torch.get_num_threads()} threads, {engine}, views {len(model.views)}\n"
    )
    print("| | images per second | of the bare pass | of the engine's bare pass |\n| --- | --- | --- | --- |")
    for name, taken in seconds.items():
        rates = [len(paths) / each for each in taken]
        shares = [
            spread([bare / each for bare, each in zip(seconds[arm], taken, strict=True)])
            for arm in (BARE, "bare forward pass of the engine")
        ]
        print(f"| {name} | {spread(rates)} | {shares[0]} | {shares[1]} |")
    slow, fast = seconds["Run.stream, no engine"], seconds["Run.stream, its engine built before"]
    even = [b * len(paths) / (s - f) for b, s, f in zip(building, slow, fast, strict=True) if s > f]
    print(f"\nThe engine is built in {spread(building)} s" + (f", which {spread(even)} photos save." if even else "."))


if __name__ == "__main__":
    main()
