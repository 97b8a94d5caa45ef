"""The transfer-learning tutorial's two phases, as people write them: Adam 1e-3 on the head, then Adam 1e-5 on everything.

Four variants with BatchNorm live, four with it frozen: views that show at least 8 % of the image (torchvision's default) or
at least half of it; half of the task's epochs in each phase, or all of them.
"""

from __future__ import annotations

import argparse
import sys

import torch
from benchmarks.peers.protocol import (
    Photos,
    Report,
    pooled,
    pretrained,
    read_task,
    score_timm,
    score_timm_original,
)
from torch import nn
from torchvision import transforms


def main(*, batch_norm: str, crops: float, epochs_times: int) -> None:
    """Train and score.

    Args:
        batch_norm: ``live`` (train mode in both phases, as the tutorial has it) or ``frozen``.
        crops: Smallest share of the image's area that a view shows.
        epochs_times: Each phase has half of the task's epochs, times this.
    """
    task = read_task()
    report = Report(task)
    mean = std = (0.5, 0.5, 0.5)
    augmented = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(crops, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )
    photos = Photos(task.train, augmented)
    loader = torch.utils.data.DataLoader(photos, task.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    model = pretrained(task)
    model.reset_classifier(task.classes)
    head = model.get_submodule("classifier")
    for parameters, rate in ((head.parameters(), 1e-3), (model.parameters(), 1e-5)):
        model.requires_grad_(False)
        chosen = list(parameters)
        for parameter in chosen:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(chosen, lr=rate)
        for _ in range(task.epochs // 2 * epochs_times):
            model.train()
            if batch_norm == "frozen":
                for layer in model.modules():
                    if isinstance(layer, nn.BatchNorm2d):
                        layer.eval()
            for x, y in loader:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        score_timm(report, model)
    score_timm_original(report, pooled(model))
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-norm", choices=["live", "frozen"], required=True)
    parser.add_argument("--crops", type=float, required=True)
    parser.add_argument("--epochs-times", type=int, required=True)
    main(**vars(parser.parse_args(sys.argv[2:])))
