"""Does training wait for its photos?  An epoch that draws new views of every photo, against the same steps on a ready batch.

    python benchmarks/device.py PHOTOS [--device cuda] [--model efficientnet_lite0] [--photos 2048] [--rounds 3]
    python benchmarks/device.py PHOTOS --views [--device cpu] [--photos 256] [--rounds 5]

PHOTOS is any labelled folder.  The ceiling is a bare loop in plain PyTorch over one batch that is already on the device: no
photo is read, no loss is asked for.  The baseline is the usual one: PyTorch's DataLoader, a process a core, torchvision's
transforms.  All arms train every stage, and take turns; every figure is a ratio within this run.

--views trains nothing: it compares the views of both renderers pixel by pixel, and times them on held photos, by the wall
clock and in CPU seconds of the process.  Any device will do: on a CPU the tensor code runs there, which no run ever does.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from unfreeze.acceleration.precision import choose_precision
from unfreeze.data.checks import check
from unfreeze.data.decode import decode
from unfreeze.data.rendering.device_renderer import CACHE_SHARE, on_device
from unfreeze.data.rendering.renderer import DECODED_CACHE_BYTES, DecodedImageCache, Renderer
from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.freezing import apply, plan_from
from unfreeze.models.head import new_head
from unfreeze.models.state import random_head
from unfreeze.predict import to_model_input
from unfreeze.runtime import choose_device, prepare_process
from unfreeze.torchvision_shim import ensure_torchvision
from unfreeze.training.features.activations import PixelSource
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.recipes import LIGHT_AUG
from unfreeze.training.schedule import Schedule

RATE = 1e-5


@dataclass(frozen=True)
class Photos(Dataset[tuple[Tensor, int]]):
    """What a DataLoader reads: a photo a time, decoded and augmented in its worker."""

    photos: PhotoSet
    transform: Callable[[Any], Tensor]

    def __len__(self) -> int:
        return len(self.photos.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        sample = self.photos.samples[number]
        return self.transform(decode(sample.path)), sample.label


def usual_loader(photos: PhotoSet, backbone: Backbone, batch: int) -> DataLoader[tuple[Tensor, int]]:
    ensure_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    wanted = backbone.network.preprocessing
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(
                wanted.size, LIGHT_AUG.area, LIGHT_AUG.aspect, InterpolationMode(wanted.interpolation)
            ),
            v2.RandomHorizontalFlip(LIGHT_AUG.flip),
            v2.ColorJitter(LIGHT_AUG.jitter, LIGHT_AUG.jitter),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(wanted.mean, wanted.std),
        ]
    )
    workers = os.cpu_count() or 1
    pinned = backbone.device.type == "cuda"
    return DataLoader(
        Photos(photos, transform), batch, shuffle=True, num_workers=workers, pin_memory=pinned, persistent_workers=True
    )


def bare_loop(backbone: Backbone, classes: int, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Train on ready batches; return photos per second, the first batch left out."""
    device = backbone.device
    apply(plan_from(backbone, 0, lr=RATE, head_lr=RATE), backbone)
    head = new_head(backbone, classes, seed=0)
    parameters = [p for p in (*backbone.network.module.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    lowered = backbone.precision == torch.bfloat16
    seen, started = 0, 0.0
    for x, y in batches:
        x, y = x.to(device, memory_format=torch.channels_last, non_blocking=True), y.to(device, non_blocking=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=lowered):
            loss = nn.functional.cross_entropy(head(backbone.run(x)), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if not started:
            _wait(device)
            started = time.perf_counter()
        else:
            seen += len(x)
    _wait(device)
    return seen / (time.perf_counter() - started)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def epoch(backbone: Backbone, renderer: Renderer, labels: Tensor, batch: int) -> float:
    """Train two epochs as a run does; return photos per second of the second, when photos are held."""
    schedule = Schedule(
        epochs=2, batch_size=batch, n_views=None, new_views_per_epoch=0, optimizer="adamw", weight_decay=0.0,
        warmup=0.0, cosine=False, clip=1.0, smoothing=0.0,
    )  # fmt: skip
    everyone = np.arange(len(labels))
    classes = int(labels.max()) + 1
    tuned = finetune(
        backbone, random_head(backbone, classes, seed=0), PixelSource(renderer), labels,
        plan_from(backbone, 0, lr=RATE, head_lr=RATE), schedule,
        phase="training", train=everyone, val=everyone[:0], seed=0,
    )  # fmt: skip
    return len(labels) / tuned.history[-1].seconds


def render_only(backbone: Backbone, renderer: Renderer, batch: int) -> float:
    """Render an epoch and place it on the device; return views per second."""
    numbers = range(len(renderer.paths))
    started = time.perf_counter()
    for views in renderer.batches([[(n, (9,)) for n in numbers[s : s + batch]] for s in numbers[::batch]]):
        to_model_input(views, backbone, 0)
    _wait(backbone.device)
    return len(numbers) / (time.perf_counter() - started)


def compare_views(backbone: Backbone, by_pillow: Renderer, on_it: Renderer, batch: int, rounds: int) -> None:
    """Print how far the two renderers' views are apart, and the time that each needs for one."""
    numbers = range(len(by_pillow.paths))
    chunks = [[(n, (9,)) for n in numbers[s : s + batch]] for s in numbers[::batch]]
    apart = torch.cat(
        [
            (ours.cpu().int() - theirs.int()).abs().flatten(1)
            for ours, theirs in zip(on_it.batches(chunks), by_pillow.batches(chunks), strict=True)
        ]
    )
    shares = ", ".join(f"{100 * float((apart == step).float().mean()):.3g} % by {step}" for step in range(4))
    print(f"8-bit steps between the views of {len(apart)} photos: {shares}; at most {int(apart.max())}\n")
    wall: dict[str, list[float]] = {"by Pillow": [], "by matrices on the device": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    for _ in range(rounds):
        for name, renderer in zip(wall, (by_pillow, on_it), strict=True):
            started = time.process_time()
            wall[name].append(1000 / render_only(backbone, renderer, batch))
            cpu[name].append(1000 * (time.process_time() - started) / len(numbers))
    print("| views of held photos | ms a view | CPU ms a view | CPU, of Pillow's |\n| --- | --- | --- | --- |")
    for name in wall:
        ratios = [one / other for one, other in zip(cpu[name], cpu["by Pillow"], strict=True)]
        print(f"| {name} | {spread(wall[name])} | {spread(cpu[name])} | {spread(ratios)} |")


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--photos", dest="count", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--views", action="store_true", help="compare the renderers alone")
    arguments = parser.parse_args()
    prepare_process()
    device = choose_device(arguments.device)
    backbone = load_backbone(arguments.model, device=device, precision=choose_precision("auto", device))
    found = check(read_photos(arguments.photos))
    picked = np.random.default_rng(0).permutation(len(found.samples))[: arguments.count]
    photos = replace(found, samples=tuple(found.samples[number] for number in picked))
    labels = torch.tensor([sample.label for sample in photos.samples])
    paths, digests = zip(*((sample.path, sample.digest) for sample in photos.samples), strict=True)
    by_pillow = Renderer(
        paths, backbone.network.preprocessing, LIGHT_AUG, 0, digests, DecodedImageCache(DECODED_CACHE_BYTES)
    )
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * DECODED_CACHE_BYTES
    resident = on_device(by_pillow, device, round(CACHE_SHARE * free))
    batch, classes = arguments.batch, len(photos.classes)
    if arguments.views:
        print(f"{device}, {torch.get_num_threads()} threads, {photos.root.name}, batches of {batch}\n")
        compare_views(backbone, by_pillow, resident, batch, arguments.rounds)
        return
    ready = torch.randn(batch, 3, *backbone.network.preprocessing.size, device=device), labels[:batch].to(device)
    loader = usual_loader(photos, backbone, batch)

    pretrained = backbone.snapshot()
    arms: dict[str, Callable[[], float]] = {
        "bare loop on a ready batch": lambda: bare_loop(
            backbone, classes, itertools.repeat(ready, 1 + len(labels) // batch)
        ),
        "epoch, views made on the device": lambda: epoch(backbone, resident, labels, batch),
        "epoch, views made by Pillow": lambda: epoch(backbone, by_pillow, labels, batch),
        "bare loop on a DataLoader": lambda: bare_loop(backbone, classes, loader),
        "views alone, on the device": lambda: render_only(backbone, resident, batch),
        "views alone, by Pillow": lambda: render_only(backbone, by_pillow, batch),
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for number, (name, arm) in itertools.product(range(arguments.rounds), arms.items()):
        backbone.restore(pretrained)
        rates[name].append(arm())
        print(f"round {number + 1}, {name}: {rates[name][-1]:.1f} photos/s", file=sys.stderr, flush=True)
    ceiling = rates["bare loop on a ready batch"]
    print(f"{arguments.model} on {device}, {len(labels)} photos of {photos.root.name}, batches of {batch}\n")
    print("| | photos per second | of the bare loop |\n| --- | --- | --- |")
    for name, values in rates.items():
        shares = [value / most for value, most in zip(values, ceiling, strict=True)]
        print(f"| {name} | {spread(values)} | {spread(shares)} |")


if __name__ == "__main__":
    main()
