"""Lightning's ``BackboneFinetuning`` with its defaults, unfreezing after half of the epochs; Adam.

The learning rate is the caller's: the head's, towards which the callback doubles the backbone's with each epoch.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from benchmarks.peers.protocol import (
    Photos,
    Report,
    pooled,
    pretrained,
    read_task,
    rendering,
)
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn


class Classifier(pl.LightningModule):  # type: ignore[misc]
    def __init__(self, backbone: nn.Module, head: nn.Module, rate: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.rate = rate

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.backbone(x)), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.rate)


def main(*, rate: float, crops: float) -> None:
    """Train and score.

    Args:
        rate: Learning rate of the head.
        crops: Smallest share of the image's area that a view shows; timm's default is 0.08.
    """
    task = read_task()
    report = Report(task)
    photos = Photos(task.train, rendering(training=True, scale=(crops, 1.0)))
    loader = torch.utils.data.DataLoader(photos, task.batch_size, shuffle=True, num_workers=2, persistent_workers=True)
    backbone = pretrained(task)
    backbone.reset_classifier(0)
    model = Classifier(backbone, nn.Linear(1280, task.classes), rate)
    trainer = pl.Trainer(
        max_epochs=task.epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[BackboneFinetuning(unfreeze_backbone_at_epoch=task.epochs // 2)],
    )  # fmt: skip
    trainer.fit(model, loader)
    model.eval()
    report.score(lambda x: model.head(model.backbone(x)))
    report.score_original(pooled(backbone))
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--crops", type=float, required=True)
    main(**vars(parser.parse_args(sys.argv[2:])))
