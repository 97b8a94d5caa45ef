"""fastai's ``vision_learner(...).fine_tune(10)`` with its defaults; batches of 16 where 64 would leave hardly a step."""

from __future__ import annotations

import numpy as np
import pandas as pd
from benchmarks.peers.protocol import ARCHITECTURE, Report, read_task, score_timm_original, scores


def main() -> None:
    from fastai.vision.all import ImageDataLoaders, Resize, aug_transforms, set_seed, vision_learner

    task = read_task()
    set_seed(task.seed)
    report = Report(task)
    rows = [(path, str(label), False) for path, label in task.train]
    table = pd.DataFrame([*rows, (rows[0][0], rows[0][1], True)], columns=["file", "label", "valid"])
    loaders = ImageDataLoaders.from_df(
        table, path="/", fn_col="file", label_col="label", valid_col="valid",
        item_tfms=Resize(224), batch_tfms=aug_transforms(), bs=16 if len(rows) <= 640 else 64, num_workers=2,
    )  # fmt: skip
    learner = vision_learner(loaders, ARCHITECTURE, pretrained_cfg_overlay={"file": task.weights})
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(task.epochs)
    seconds = report.clock.read()
    with report.clock.stopped(), learner.no_bar():
        tested = loaders.test_dl([path for path, _ in task.test], num_workers=2)
        found = learner.get_preds(dl=tested)[0].argmax(1).numpy()
        names = np.array([int(name) for name in loaders.vocab])
        labels = np.array([label for _, label in task.test])
        report.points.append((seconds, *scores(labels, names[found])))
    model = learner.model.eval()
    score_timm_original(report, lambda x: model[0](x).mean(dim=(2, 3)))
    report.write()


if __name__ == "__main__":
    main()
