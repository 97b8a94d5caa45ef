"""A step of phase 2: the stages as they are, folded, and in bf16, above each of the topmost boundaries.

    python benchmarks/step.py [--model efficientnet_lite0] [--rounds 5] [--batch 16] [--threads 2]

Random activations; the arms take turns, and every figure is a ratio within this run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from unfreeze.acceleration.precision import choose_precision
from unfreeze.acceleration.trainable import trainable_forward
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.freezing import apply, parameter_groups, plan_from
from unfreeze.models.head import new_head
from unfreeze.runtime import prepare_process

CLASSES = 10
STEPS = 3


def stepping(backbone: Backbone, boundary: int, batch: int, *, plain: bool) -> Callable[[], None]:
    """Return a function that takes one step, as ``finetune`` does."""
    plan = plan_from(backbone, boundary, lr=1e-6, head_lr=1e-6)
    head = new_head(backbone, CLASSES, seed=0)
    groups = parameter_groups(plan, backbone, head, 1e-4)
    optimizer = torch.optim.AdamW(groups, fused=not plain)
    parameters = [parameter for group in groups for parameter in group["params"]]
    images = torch.randn(batch, 3, *backbone.network.preprocessing.size).to(memory_format=torch.channels_last)
    with torch.no_grad():
        x = backbone.run(images, 0, boundary)
    labels = torch.randint(0, CLASSES, (batch,))
    apply(plan, backbone)

    def as_it_is(x: Tensor) -> Tensor:
        return backbone.run(x, boundary)

    forward = as_it_is if plain else trainable_forward(backbone, boundary, x)

    def step() -> None:
        loss = functional.cross_entropy(head(forward(x)), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.model}, batches of {arguments.batch}, {arguments.threads} threads\n")
    print("| trains from | arm | images per second | ratio |\n| --- | --- | --- | --- |")
    backbone = load_backbone(arguments.model)
    for boundary in (*range(backbone.head_boundary - 5, backbone.head_boundary), 0):
        arms = {
            "as it is": stepping(backbone, boundary, arguments.batch, plain=True),
            "folded": stepping(backbone, boundary, arguments.batch, plain=False),
        }
        fastest = choose_precision("auto", backbone.device)
        if fastest != torch.float32:
            lowered = replace(backbone, precision=fastest)
            arms["folded, bf16"] = stepping(lowered, boundary, arguments.batch, plain=False)
        rates: dict[str, list[float]] = {name: [] for name in arms}
        for round_number in range(1 + arguments.rounds):
            for name, step in arms.items():
                started = time.process_time() if arguments.threads == 1 else time.perf_counter()
                for _ in range(STEPS):
                    step()
                ended = time.process_time() if arguments.threads == 1 else time.perf_counter()
                if round_number:
                    rates[name].append(STEPS * arguments.batch / (ended - started))
        for name, found in rates.items():
            ratios = [rate / plain for rate, plain in zip(found, rates["as it is"], strict=True)]
            print(f"| {backbone.depths()[boundary]} | {name} | {spread(found)} | {spread(ratios)} |", flush=True)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
