"""The transfer-learning tutorial's two phases, as people write them: Adam 1e-3 on the head, then Adam 1e-5 on everything.

BatchNorm live, as the tutorial has it, or frozen; views of at least 8 % of the image (torchvision's default) or of at least
half of it; a multiple of half of the task's epochs in each phase; a second phase at a higher rate, too.
"""

from __future__ import annotations

import argparse
import sys

import torch
from benchmarks.peers.protocol import (
    Photos,
    Report,
    pretrained,
    read_task,
    score_timm,
)
from torch import nn
from torchvision import transforms


def main(*, batch_norm: str, crops: float, epochs_times: int, rate: float) -> None:
    """Train and score.

    Args:
        batch_norm: ``live`` (train mode in both phases, as the tutorial has it) or ``frozen``.
        crops: Smallest share of the image's area that a view shows.
        epochs_times: Each phase has half of the task's epochs, times this.
        rate: Adam's learning rate in the second phase.
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
    for parameters, phase_rate in ((head.parameters(), 1e-3), (model.parameters(), rate)):
        model.requires_grad_(False)
        chosen = list(parameters)
        for parameter in chosen:
            parameter.requires_grad_(True)
        optimizer = torch.optim.Adam(chosen, lr=phase_rate)
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
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-norm", choices=["live", "frozen"], required=True)
    parser.add_argument("--crops", type=float, required=True)
    parser.add_argument("--epochs-times", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    main(**vars(parser.parse_args(sys.argv[2:])))
