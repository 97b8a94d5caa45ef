"""What BatchNorm statistics that are estimated anew on the user's photos are worth to phase 1, before anything is trained.

    python -m benchmarks.reestimated DATA [--sets hymenoptera ...] [--a-class 20] [--seeds 0 1]

DATA and the drawing of photos are those of peers/sets.py.  A pass over the training photos gives new statistics (AdaBN: Li
et al. 2017); tau blends them with the pretrained ones, from 0 (pretrained) to 1.  A head is solved on the plain views: the
log-loss is that of the folds, the balanced accuracy that of the test photos.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from benchmarks.peers.sets import SETS, draw, read_set
from torch import Tensor

from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import FOLDS
from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.models.backbone import Backbone, BatchNorm
from unfreeze.models.backbones import load_backbone
from unfreeze.predict import photo_batches, to_model_input
from unfreeze.runtime import choose_device, generator, prepare_process
from unfreeze.training.head.regularisation_path import fit_head

BLENDS = (0.0, 0.1, 0.3, 1.0)
AT_ONCE = 40  # photos whose mean is a batch's statistics
Statistics = list[tuple[Tensor, Tensor]]


def statistics(layers: Sequence[BatchNorm]) -> Statistics:
    found = []
    for layer in layers:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        found.append((layer.running_mean.clone(), layer.running_var.clone()))
    return found


def install(layers: Sequence[BatchNorm], wanted: Statistics) -> None:
    for layer, (mean, variance) in zip(layers, wanted, strict=True):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def estimate(backbone: Backbone, layers: Sequence[BatchNorm], images: Tensor) -> Statistics:
    """Return the means of the batches' statistics, in a pass in which every layer normalises by its batch."""
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for batch in torch.split(images, AT_ONCE):
            backbone.run(batch, 0, backbone.head_boundary)
    for layer in layers:
        layer.eval()
    return statistics(layers)


def measure(backbone: Backbone, photos: PhotoSet, a_class: int, seed: int) -> list[str]:
    """Return a cell for each blend."""
    layers = [layer for stage in backbone.stages for layer in stage.module.modules() if isinstance(layer, BatchNorm)]
    drawn = draw(photos, a_class, seed)
    random = generator(seed, 2029)
    train, test = [drawn.train[place] for place in random.permutation(len(drawn.train))], drawn.test
    images, papers = (
        torch.cat(
            [to_model_input(batch, backbone, 0) for batch in photo_batches(backbone, [each.path for each in side])]
        )
        for side in (train, test)
    )
    labels, truth = (np.array([each.label for each in side]) for side in (train, test))
    fold = np.empty(len(labels), np.int64)
    for label in range(len(photos.classes)):
        fold[labels == label] = np.arange((labels == label).sum()) % FOLDS

    def features(x: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [backbone.run(batch, 0, backbone.head_boundary).flatten(1) for batch in torch.split(x, 32)]
            )

    before = statistics(layers)
    after = estimate(backbone, layers, images)
    cells = []
    for tau in BLENDS:
        blended = [
            ((1 - tau) * mean + tau * new_mean, (1 - tau) * variance + tau * new_variance)
            for (mean, variance), (new_mean, new_variance) in zip(before, after, strict=True)
        ]
        install(layers, blended)
        fit = fit_head(features(images)[:, None], torch.from_numpy(labels), fold, len(photos.classes), 0.0)
        right = fit.head.logits(features(papers)).numpy().argmax(1) == truth
        loss = calibrated_nll(fit.out_of_fold.astype(np.float32), labels).mean()
        cells.append(f"{loss:.2f}, {balanced_accuracy(truth, right.astype(float)) * 100:.1f}")
    install(layers, before)
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    arguments = parser.parse_args()
    prepare_process()
    backbone = load_backbone("efficientnet_lite0", device=choose_device("auto"))
    for stage in backbone.stages:
        stage.module.eval()
    print("Log-loss of the folds, balanced accuracy on the test photos.\n")
    print("| set | seed | " + " | ".join(f"tau {tau:g}" for tau in BLENDS) + " |")
    print("| --- " * (2 + len(BLENDS)) + "|")
    for name in arguments.sets:
        photos = read_set(name, arguments.data)
        for seed in arguments.seeds:
            cells = measure(backbone, photos, arguments.a_class, seed)
            print("| " + " | ".join((name, str(seed), *cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
