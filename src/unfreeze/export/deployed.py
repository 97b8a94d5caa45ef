"""The exported module, from uint8 images to probabilities, and the metadata of its file."""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from torch import Tensor, nn

from unfreeze.models.saved import Classifier
from unfreeze.predict import evaluation_mode
from unfreeze.version import __version__

INPUT, OUTPUT = "images", "probabilities"


class ExportModule(nn.Module):
    """Orientations, normalisation, backbone, head, mean over orientations and softmax in one module.

    Resizing and cropping stay outside; ``metadata`` describes them.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        evaluation_mode(model.backbone)
        preprocessing = model.backbone.network.preprocessing
        self.stages = nn.ModuleList(stage.module for stage in model.backbone.stages)
        self.features = model.backbone.features  # of the same modules
        self.head = model.head
        self.orientations = model.orientations
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, shape (N, classes), for plain views, uint8, shape (N, 3, height, width)."""
        views = torch.cat([orientation.apply(images) for orientation in self.orientations])
        logits = self.head(self.features((views.float() / 255 - self.mean) / self.std))
        mean_logits: Tensor = logits.view(len(self.orientations), -1, logits.shape[1]).mean(dim=0)
        return mean_logits.softmax(dim=1)


def example(model: Classifier) -> Tensor:
    """Return two random views, uint8, shape (2, 3, height, width), for tracing."""
    height, width = model.backbone.network.preprocessing.size
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)


def metadata(model: Classifier, sha256: str) -> dict[str, str]:
    """Return an exported file's metadata: labels, preprocessing and origin; structured values as JSON.

    Args:
        model: The run's model.
        sha256: Digest of the run's weights.
    """
    preprocessing = model.backbone.network.preprocessing
    height, width = preprocessing.size
    steps = {
        "color": "RGB, upright",
        **asdict(preprocessing),
        "crop": f"centre, {height} high and {width} wide",
        "input": "uint8, N x 3 x height x width; mean and std are subtracted and divided by inside the graph",
        "orientations": [orientation.name.lower() for orientation in model.orientations],
    }
    head_stages = model.backbone.head_stage_names
    return {
        "labels": json.dumps(list(model.classes), ensure_ascii=False),
        "preprocessing": json.dumps(steps),
        "unfreeze_version": __version__,
        "unfreeze_model": model.backbone.name,
        "unfreeze_run_sha256": sha256,
        **({"unfreeze_head_stages": json.dumps(head_stages)} if head_stages else {}),
    }
