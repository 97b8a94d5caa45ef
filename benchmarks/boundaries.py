"""An epoch of phase 2 from kept activations, against the same epoch with the frozen stages computed again.

    python benchmarks/boundaries.py PHOTOS [--depths blocks.4 blocks.5 blocks.6] [--count 320] [--batch-size 32] [--rounds 5]

PHOTOS is any labelled folder.  Three arms take the same steps on the same stages, an epoch each, in turn:

- kept: what crosses the boundary is read from the store;
- frozen stages computed: the photos are in memory, read and cropped, and every step runs the
  frozen stages in float32 without gradients, as they are in the network: a loop that freezes layers and keeps nothing;
- from files: the same, and every photo is read and augmented first.

Times are medians over rounds, smallest and largest beside them; ratios are of the same round.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unfreeze.acceleration.precision import choose_precision
from unfreeze.data.checks import check
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import read_photos
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.freezing import plan_from
from unfreeze.models.state import random_head
from unfreeze.runtime import prepare_process
from unfreeze.training.features.activations import Activations, PixelSource, compute_or_load
from unfreeze.training.features.cache import open_cache
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.recipes import LIGHT_AUG
from unfreeze.training.schedule import Schedule

ONE_EPOCH = Schedule(
    epochs=1, batch_size=32, n_views=1, new_views_per_epoch=0, optimizer="adamw", weight_decay=0.0,
    warmup=0.2, cosine=True, clip=1.0, smoothing=0.1,
)  # fmt: skip


@dataclass(frozen=True)
class InMemory:
    """PixelSource plain views of all photos, in one tensor."""

    renderer: Renderer
    pixels: Tensor
    boundary: int = 0

    def batches(self, photos: Sequence[int], views: Sequence[int], size: int) -> Iterator[Tensor]:
        """Yield views, shape (size, 3, height, width)."""
        for start in range(0, len(photos), size):
            yield self.pixels[torch.tensor(photos[start : start + size])]

    def features_below(self, photos: Sequence[int], views: Sequence[int]) -> Tensor | None:
        """Return None: no stage lies below the images."""
        return None


def epoch_seconds(backbone: Backbone, source: Activations, labels: Tensor, boundary: int, schedule: Schedule) -> float:
    """Train for an epoch from ``boundary`` up."""
    everything = np.arange(len(labels))
    tuned = finetune(
        backbone, random_head(backbone, int(labels.max()) + 1, 0), source, labels,
        plan_from(backbone, boundary, lr=1e-4, head_lr=1e-4), schedule,
        phase="benchmark", train=everything, val=everything[:0], seed=0,
    )  # fmt: skip
    return tuned.history[0].seconds


def rendered(renderer: Renderer, count: int) -> Tensor:
    """Return the plain views of the first ``count`` photos."""
    return torch.cat(list(PixelSource(renderer).batches(range(count), [0] * count, 64)))


def spread(values: list[float], digits: int = 2) -> str:
    middle, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} to {high})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--depths", nargs="+", default=["blocks.4", "blocks.5", "blocks.6"])
    parser.add_argument("--count", type=int, default=320, help="photos of an epoch, evenly spaced among all")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    backbone = load_backbone(arguments.model, precision=choose_precision("auto", torch.device("cpu")))
    samples = check(read_photos(arguments.photos)).samples
    chosen = np.linspace(0, len(samples) - 1, min(arguments.count, len(samples))).astype(int)
    used = [samples[place] for place in chosen]
    renderer = Renderer(
        tuple(sample.path for sample in used), backbone.network.preprocessing, LIGHT_AUG,
        digests=tuple(sample.digest for sample in used),
    )  # fmt: skip
    labels = torch.tensor([sample.label for sample in used])
    in_memory = InMemory(renderer, rendered(renderer, len(used)))
    store = open_cache(None, 0)
    schedule = replace(ONE_EPOCH, batch_size=arguments.batch_size)

    print(f"{len(used)} photos an epoch, {arguments.threads} threads; median (smallest to largest)\n")
    print(
        "| trained from | kept, s | frozen stages computed, s | from files, s | all trained, s "
        "| computed / kept | from files / kept | all trained / kept |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for depth in arguments.depths:
        boundary = backbone.boundary(depth)
        wanted = dict.fromkeys(range(len(used)), (0,))
        kept = compute_or_load(store, backbone, PixelSource(renderer), boundary, wanted, "keeping")
        drawn_anew = replace(schedule, n_views=None)
        arms: dict[str, tuple[Activations, int, Schedule]] = {
            "kept": (kept, boundary, schedule),
            "computed": (in_memory, boundary, schedule),
            "from files": (PixelSource(renderer), boundary, drawn_anew),
            "all trained": (PixelSource(renderer), 0, drawn_anew),
        }
        seconds: dict[str, list[float]] = {name: [] for name in arms}
        for number in range(arguments.rounds + 1):
            for name, (source, trained_from, own) in arms.items():
                took = epoch_seconds(backbone, source, labels, trained_from, own)
                if number:  # the first round warms up
                    seconds[name].append(took)
        ratios = [
            [own / least for own, least in zip(seconds[name], seconds["kept"], strict=True)]
            for name in ("computed", "from files", "all trained")
        ]
        cells = [*(spread(own) for own in seconds.values()), *(spread(own, 1) for own in ratios)]
        print(f"| {depth} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
