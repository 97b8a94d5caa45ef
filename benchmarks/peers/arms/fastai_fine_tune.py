"""fastai's ``vision_learner(...).fine_tune``; batches of 16 where its 64 would leave hardly a step.

With the documentation's ``Resize(224)``, which cuts the borders of elongated images away, or with the whole image squeezed
into the square, or with random crops of at least half of the image; its own augmentation on top, its own learning rate.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import pandas as pd
from benchmarks.peers.protocol import ARCHITECTURE, Report, read_task, scores

SIDE = 224
FRAMINGS = ("cropped", "squeezed", "random")
MILD = 0.5  # smallest share of the image's area that a random crop shows


def framing(name: str) -> Any:
    """Return fastai's transform from a photo to a square."""
    from fastai.vision.all import RandomResizedCrop, Resize, ResizeMethod

    if name == "random":
        return RandomResizedCrop(SIDE, min_scale=MILD)
    return Resize(SIDE, method=ResizeMethod.Squish if name == "squeezed" else ResizeMethod.Crop)


def main(*, epochs_times: int, framed: str) -> None:
    """Train and score.

    Args:
        epochs_times: ``fine_tune`` has the task's epochs, times this.
        framed: One of ``FRAMINGS``.
    """
    from fastai.vision.all import ImageDataLoaders, aug_transforms, set_seed, vision_learner

    task = read_task()
    set_seed(task.seed)
    report = Report(task)
    rows = [(path, str(label), False) for path, label in task.train]
    table = pd.DataFrame([*rows, (rows[0][0], rows[0][1], True)], columns=["file", "label", "valid"])
    loaders = ImageDataLoaders.from_df(
        table, path="/", fn_col="file", label_col="label", valid_col="valid",
        item_tfms=framing(framed), batch_tfms=aug_transforms(), bs=16 if len(rows) <= 640 else 64, num_workers=2,
    )  # fmt: skip
    learner = vision_learner(loaders, ARCHITECTURE, pretrained_cfg_overlay={"file": task.weights})
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs * epochs_times)
    report.seconds = report.clock.read()
    with report.clock.stopped(), learner.no_bar():
        tested = loaders.test_dl([path for path, _ in task.test], num_workers=2)
        found = learner.get_preds(dl=tested)[0].argmax(1).numpy()
        names = np.array([int(name) for name in loaders.vocab])
        labels = np.array([label for _, label in task.test])
        report.scores = scores(labels, names[found])
    model = learner.model.eval()
    report.score_original(lambda x: model[0](x).mean(dim=(2, 3)))
    report.write()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs-times", type=int, required=True)
    parser.add_argument("--framed", choices=FRAMINGS, required=True)
    main(**vars(parser.parse_args(sys.argv[2:])))
