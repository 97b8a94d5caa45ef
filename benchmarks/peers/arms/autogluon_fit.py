"""AutoGluon MultiModal with the packaged weights, its defaults otherwise; the epochs are those of the benchmark."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pandas as pd
import torch
from benchmarks.peers.protocol import ARCHITECTURE, Report, pooled, pretrained, read_task, score_timm_original, scores


def main() -> None:
    from autogluon.multimodal import MultiModalPredictor

    task = read_task()
    report = Report(task)
    with tempfile.TemporaryDirectory() as work:
        backbone = Path(work, "backbone")
        backbone.mkdir()
        network = pretrained(task)
        state = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier.")}
        torch.save(state, backbone / "pytorch_model.bin")
        cfg = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 224, 224], "interpolation": "bicubic"}
        about = {"architecture": ARCHITECTURE, "num_features": 1280, "pretrained_cfg": cfg}
        (backbone / "config.json").write_text(json.dumps(about), "utf-8")
        table = pd.DataFrame(task.train, columns=["image", "label"])
        predictor = MultiModalPredictor(
            label="label", problem_type="classification", path=str(Path(work, "run")), verbosity=0
        )
        predictor.fit(
            table, seed=task.seed, column_types={"image": "image_path"},
            hyperparameters={
                "model.names": ["timm_image"], "model.timm_image.checkpoint_name": str(backbone),
                "optim.max_epochs": task.epochs, "env.num_gpus": 0,
            },
        )  # fmt: skip
        seconds = report.clock.read()
        with report.clock.stopped():
            tested = pd.DataFrame(task.test, columns=["image", "label"])
            found = predictor.predict(tested.drop(columns="label"), as_pandas=True)
            report.points.append((seconds, *scores(tested["label"].to_numpy(), found.to_numpy().astype(int))))
        model = predictor._learner._model
        score_timm_original(report, pooled(getattr(model, "model", model)))
    report.write()


if __name__ == "__main__":
    main()
