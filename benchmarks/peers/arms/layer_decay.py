"""Single phase, nothing frozen: AdamW with layer decay 0.7, timm's strongest recipe, through timm's own factories.

The learning rate is the caller's: 1e-4 alone was far from done after ten epochs of few images.
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
    rendering,
    score_timm,
)
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

BATCH = 16


def main(*, rate: float, crops: float) -> None:
    """Train and score.

    Args:
        rate: Learning rate of the head.
        crops: Smallest share of the image's area that a view shows; timm's default is 0.08.
    """
    task = read_task()
    report = Report(task)
    photos = Photos(task.train, rendering(training=True, scale=(crops, 1.0)))
    loader = torch.utils.data.DataLoader(photos, BATCH, shuffle=True, num_workers=2, persistent_workers=True)
    model = pretrained(task)
    model.reset_classifier(task.classes)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=rate, weight_decay=0.05, layer_decay=0.7)
    schedule = CosineLRScheduler(optimizer, t_initial=task.epochs * len(loader), t_in_epochs=False)
    loss = LabelSmoothingCrossEntropy(0.1)
    step = 0
    model.train()
    for _ in range(task.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
            step += 1
            schedule.step_update(step)
    score_timm(report, model)
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--crops", type=float, required=True)
    main(**vars(parser.parse_args(sys.argv[2:])))
