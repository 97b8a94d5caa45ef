"""What comes before training costs: frozen layers in every engine, phase 1 in all, a large photo, a second run.

    python benchmarks/frozen.py PHOTOS [--model efficientnet_lite0] [--arch ...] [--rounds 3] [--only forward]

PHOTOS is any labelled folder; ONNX Runtime (with onnx) and OpenVINO take part where they are installed.  Every figure is a
ratio within this run; the parts take turns.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from unfreeze.acceleration.folding import fuse_batchnorm
from unfreeze.acceleration.frozen import frozen_forward
from unfreeze.acceleration.openvino import convert_stages, openvino_version
from unfreeze.acceleration.parts import Part, Pipeline
from unfreeze.acceleration.precision import choose_precision
from unfreeze.acceleration.tolerance import MIN_COSINE
from unfreeze.data.checks import check
from unfreeze.data.decode import decode
from unfreeze.data.rendering.framings import plain
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import read_photos
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.predict import photo_batches, to_model_input
from unfreeze.runtime import prepare_process
from unfreeze.training.features.activations import BATCH, PixelSource, compute_or_load, pooled_features
from unfreeze.training.features.cache import open_cache
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.views import PLAIN

BATCHES = 6
ROUNDED = 4  # batches of photos whose features are compared
Forward = Callable[[Tensor], object]


def rate(forward: Forward, x: Tensor) -> float:
    started = time.perf_counter()
    for _ in range(BATCHES):
        forward(x)
    return BATCHES * len(x) / (time.perf_counter() - started)


def onnx_runtime(stages: nn.Module, x: Tensor) -> Forward | None:
    """Return the stages in ONNX Runtime, in float32; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = f"{work}/stages.onnx"
        torch.onnx.export(stages, (x,), exported, input_names=["x"], dynamo=False)
        session = onnxruntime.InferenceSession(exported, options, providers=["CPUExecutionProvider"])
    photos = x.contiguous().numpy()
    return lambda _: session.run(None, {"x": photos})


def bare_openvino(stages: nn.Module, x: Tensor) -> dict[str, Forward]:
    """Return the stages in OpenVINO as its own hints have it, a batch in one request; empty where it is not installed."""
    if openvino_version() is None:
        return {}
    convert_stages(stages, x)  # imports it without its telemetry
    import openvino

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(stages, x, check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(traced, example_input=x)
    model.reshape(list(x.shape))
    photos = x.contiguous().numpy()

    def arm(precision: str) -> Forward:
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = openvino.Core().compile_model(model, "CPU", options).create_infer_request()
        return lambda _: request.infer([photos], share_inputs=True)

    return {f"OpenVINO bare, {precision}": arm(precision) for precision in ("f32", "bf16")}


def engine_arms(backbone: Backbone, x: Tensor) -> dict[str, Forward]:
    """Return every way to compute all stages of a backbone, plain torch first."""
    stages = nn.Sequential(*(stage.module for stage in backbone.stages))
    precisions = dict.fromkeys((torch.float32, choose_precision("auto", backbone.device)))
    arms: dict[str, Forward] = {"torch as it is": backbone.run}
    for precision in precisions:
        lowered = replace(backbone, precision=precision, compiled={})
        arms[f"unfreeze, {precision}"] = frozen_forward(lowered, 0, backbone.head_boundary)
        with mock.patch("unfreeze.acceleration.frozen.openvino_version", return_value=None):
            alone = replace(lowered, compiled={})
            arms[f"unfreeze without OpenVINO, {precision}"] = frozen_forward(alone, 0, backbone.head_boundary)
    if (runtime := onnx_runtime(stages, x)) is not None:
        arms["ONNX Runtime, float32"] = runtime
    return arms | bare_openvino(stages, x)


def forward_rates(model: str, arch: str | None, photos: Path, rounds: int) -> None:
    backbone = load_backbone(model, arch=arch)
    paths = [sample.path for sample in check(read_photos(photos)).samples][:BATCH]
    with torch.inference_mode():
        x = to_model_input(next(photo_batches(backbone, paths, BATCH)), backbone, 0)
        arms = engine_arms(backbone, x)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for forward in arms.values():
            forward(x)
        for _ in range(rounds):
            for name, forward in arms.items():
                rates[name].append(rate(forward, x))
    print("| frozen forward of " + model + " | images per second | ratio |\n| --- | --- | --- |")
    for name, found in rates.items():
        ratios = [after / before for before, after in zip(rates["torch as it is"], found, strict=True)]
        print(f"| {name} | {spread(found)} | {spread(ratios)} |")
    for name, package in (("ONNX Runtime, float32", "onnxruntime and onnx"), ("OpenVINO bare, f32", "openvino")):
        if name not in rates:
            print(f"{name} is left out: {package} is not installed.")


def reading_times(model: str, arch: str | None, rounds: int) -> None:
    """Time a drawn photo of 12 megapixels, read and rendered as the model wants it."""
    preprocessing = load_backbone(model, arch=arch).network.preprocessing
    noise = np.random.default_rng(0).integers(0, 255, (378, 504, 3), np.uint8)
    whole: list[float] = []
    reduced: list[float] = []
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "photo.jpg"
        Image.fromarray(noise).resize((4032, 3024), Image.Resampling.BICUBIC).save(path, quality=90)
        for _ in range(4 * rounds):
            for enough, seconds in ((None, whole), (preprocessing.min_side, reduced)):
                started = time.perf_counter()
                plain(decode(path, enough), preprocessing)
                seconds.append(time.perf_counter() - started)
    ratios = [before / after for before, after in zip(whole, reduced, strict=True)]
    print("\n| a JPEG of 12 megapixels, seconds | read whole | as large as needed | ratio |\n| --- | --- | --- | --- |")
    print(f"| drawn | {spread(whole)} | {spread(reduced)} | {spread(ratios)} |")


def rounding(model: str, arch: str | None, photos: Path, rounds: int) -> None:
    """Compare features whose lower stages alone are computed in float32 with those of float32 throughout, in OpenVINO."""
    backbone = load_backbone(model, arch=arch)
    paths = [sample.path for sample in check(read_photos(photos)).samples]
    some = paths[:: max(1, len(paths) // (ROUNDED * BATCH))][: ROUNDED * BATCH]
    with torch.inference_mode():
        batches = [to_model_input(batch, backbone, 0) for batch in photo_batches(backbone, some, BATCH)]
        exact: list[Tensor] = []
        print(f"\n| {photos.name}, bf16 from | photos per second | cosine, worst photo | photos above 0.999 |")
        print("| --- | --- | --- | --- |")
        for boundary in range(backbone.head_boundary, -1, -1):
            crossing, parts = batches[0], []
            for start, stop, precision in (
                (0, boundary, torch.float32), (boundary, backbone.head_boundary, torch.bfloat16)
            ):  # fmt: skip
                if start < stop:
                    stages = nn.Sequential(*(fuse_batchnorm(stage.module) for stage in backbone.stages[start:stop]))
                    parts.append(Part(convert_stages(stages, crossing)(precision), precision))
                    crossing = parts[-1](crossing)
            forward = Pipeline(tuple(parts))
            found = [forward(x) for x in batches]
            exact = exact or found
            alike = nn.functional.cosine_similarity(torch.cat(found), torch.cat(exact))
            speed = spread([rate(forward, batches[0]) for _ in range(rounds)])
            name = "nowhere" if boundary == backbone.head_boundary else backbone.depths()[boundary]
            print(f"| {name} | {speed} | {alike.min():.4f} | {(alike > MIN_COSINE).float().mean():.0%} |")


def whole_phase_one(photos: Path, model: str, arch: str | None, rounds: int) -> None:
    """Time phase 1 in all (checks, one view of each photo, the head) against bare forward passes over the same photos."""
    backbone = load_backbone(model, arch=arch)
    precision = choose_precision("auto", backbone.device)
    seconds: dict[str, list[float]] = {"phase 1 in all": []}
    for _ in range(rounds):
        started = time.perf_counter()
        samples = check(read_photos(photos))
        renderer = Renderer(
            tuple(sample.path for sample in samples.samples),
            backbone.network.preprocessing,
            digests=tuple(sample.digest for sample in samples.samples),
        )
        everything = np.arange(len(samples.samples))
        wanted = dict.fromkeys(everything.tolist(), (PLAIN,))
        lowered, store = replace(backbone, precision=precision, compiled={}), open_cache(None, 0)
        kept = compute_or_load(store, lowered, PixelSource(renderer), backbone.head_boundary, wanted, "features")
        labels = torch.tensor([sample.label for sample in samples.samples])
        fit_head(pooled_features(kept, everything.tolist(), (PLAIN,)), labels, everything % 5, len(samples.classes))
        seconds["phase 1 in all"].append(time.perf_counter() - started)
        with torch.inference_mode():
            decoded = [
                to_model_input(batch, backbone, 0)
                for batch in photo_batches(backbone, renderer.paths[: len(everything) // BATCH * BATCH], BATCH)
            ]
            stages = nn.Sequential(*(stage.module for stage in backbone.stages))
            low = copy.deepcopy(stages).to(precision)
            arms: dict[str, Forward] = {f"torch bare, {precision}": lambda x, low=low: low(x.to(precision))}  # type: ignore[misc]
            if openvino_version() is not None:
                arms[f"OpenVINO, a photo a thread, {precision}"] = convert_stages(stages, decoded[0])(precision)
            for name, forward in arms.items():
                forward(decoded[0])
                started = time.perf_counter()
                for x in decoded:
                    forward(x)
                each = (time.perf_counter() - started) / (len(decoded) * BATCH)
                seconds.setdefault(name, []).append(each * len(everything))
    print(f"\n| {photos.name}, one view of each photo | seconds | phase 1 in all, in these |\n| --- | --- | --- |")
    for name, found in seconds.items():
        ratios = [whole / part for whole, part in zip(seconds["phase 1 in all"], found, strict=True)]
        print(f"| {name} | {spread(found)} | {spread(ratios)} |")


def run_times(photos: Path, model: str, arch: str | None, rounds: int) -> None:
    """Time whole commands: a first run with an empty cache, and a second one that finds everything."""
    cold: list[float] = []
    warm: list[float] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as work:
            for number, seconds in enumerate((cold, warm)):
                command = [
                    str(Path(sys.executable).with_name("unfreeze")), "train", str(photos),
                    "--model", model, "--recipe", "head-only", *(("--arch", arch) if arch else ()),
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
    parser.add_argument("--arch", help="for a checkpoint file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("forward", "rounding", "phase1", "reading", "run"))
    arguments = parser.parse_args()
    prepare_process()
    parts: dict[str, Callable[[], None]] = {
        "forward": lambda: forward_rates(arguments.model, arguments.arch, arguments.photos, arguments.rounds),
        "rounding": lambda: rounding(arguments.model, arguments.arch, arguments.photos, arguments.rounds),
        "phase1": lambda: whole_phase_one(arguments.photos, arguments.model, arguments.arch, arguments.rounds),
        "reading": lambda: reading_times(arguments.model, arguments.arch, arguments.rounds),
        "run": lambda: run_times(arguments.photos, arguments.model, arguments.arch, arguments.rounds),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


if __name__ == "__main__":
    main()
