"""The exported module, from uint8 images to probabilities, and the metadata of its file."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from unfreeze.data.decode.band_image import WHITE
from unfreeze.models.saved import Classifier
from unfreeze.predict import evaluation_mode
from unfreeze.preprocessing import Preprocessing
from unfreeze.version import __version__
from unfreeze.views import CROP, SQUEEZE, Framing, framings_of, select_views

INPUT, OUTPUT = "images", "probabilities"


class ExportModule(nn.Module):
    """Orientations, normalisation, backbone, head, mean over views and softmax in one module.

    Framings (resizing and cropping) stay outside; ``metadata`` describes them.
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
        self.views = model.views
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(-1, 1, 1))
        self.white = _rendered_as(preprocessing)[1]
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities, shape (N, classes), for framed images; for type and shape see ``select_views``."""
        views = torch.cat(select_views(images, self.views))
        logits = self.head(self.features((views.float() / self.white - self.mean) / self.std))
        mean_logits: Tensor = logits.view(len(self.views), -1, logits.shape[1]).mean(dim=0)
        return mean_logits.softmax(dim=1)


def example(model: Classifier) -> Tensor:
    """Return two random images in the model's framings, rendered, for tracing; for the shape see ``select_views``."""
    framings, preprocessing = len(framings_of(model.views)), model.backbone.network.preprocessing
    shape = (2, *([framings] if framings > 1 else []), preprocessing.n_channels, *preprocessing.size)
    of_type, white = _rendered_as(preprocessing)
    return torch.randint(0, white + 1, shape, dtype=of_type, generator=torch.Generator().manual_seed(0))


def _rendered_as(preprocessing: Preprocessing) -> tuple[torch.dtype, int]:
    """Return the type of rendered views, and the number in them that is white; see ``to_batch``."""
    return (torch.int32, WHITE) if preprocessing.reading.channels else (torch.uint8, 255)


def metadata(model: Classifier, sha256: str) -> dict[str, str]:
    """Return an exported file's metadata: labels, preprocessing and origin; structured values as JSON.

    Args:
        model: The run's model.
        sha256: Digest of the run's weights.
    """
    preprocessing = model.backbone.network.preprocessing
    height, width = preprocessing.size
    framings = framings_of(model.views)
    inner = f"{preprocessing.n_channels} x height x width"
    shape = f"N x {inner}" if len(framings) == 1 else f"N x {len(framings)} x {inner}"
    reading = preprocessing.reading
    steps = {
        "color": _CHANNELS_RULE if reading.channels else "RGB, upright",
        **asdict(preprocessing),
        "crop": f"centre, {height} high and {width} wide" if preprocessing.fit == "crop" else "none",
        "framings": [_describe(framing, preprocessing) for framing in framings],
        "input": f"{'int32' if reading.channels else 'uint8'}, {shape}, in the order of framings; mean and std are "
        "subtracted and divided by inside the graph",
        "views": [view.to_dict() for view in model.views],
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


def _describe(framing: Framing, preprocessing: Preprocessing) -> dict[str, Any]:
    """Return how to render a framing in any language: the part of the image, and its size after resizing."""
    height, width = preprocessing.size
    if framing == CROP and preprocessing.fit == "squash":
        framing = SQUEEZE
    steps: dict[str, Any] = {"framing": framing.name, "interpolation": preprocessing.interpolation}
    if framing == CROP and preprocessing.fit == "pad":
        border = [round(255 * mean) for mean in preprocessing.mean]
        return {
            **steps,
            "framing": "pad",
            "resize": _PAD_RULE,
            "crop": "none",
            "input": preprocessing.size,
            "border": border,
        }
    if framing == CROP:
        return {**steps, "resize": preprocessing.resize, "crop": f"then the centre, {height} high and {width} wide"}
    if framing.kind == "squeeze":
        return {**steps, "resize": preprocessing.size, "crop": "none"}
    return {
        **steps,
        "resize": preprocessing.size,
        "crop": f"before: {_TILE_RULE}",
        "grid": framing.grid,
        "index": framing.index,
        "input": preprocessing.size,
        "scaled": preprocessing.resize,
    }


_CHANNELS_RULE = (
    "the file's own numbers, upright: channel i of the input is band reading.channels[i].band, counted from 1 (of DICOM: "
    "after slope and intercept; if reading.scaling is decibel: 10 log10 of it). Unknown numbers are low; then "
    "round(65535 * (clip(number, low, high) - low) / (high - low)), after resizing"
)
_PAD_RULE = (
    "the image has W x H pixels and input is [h, w]: r = max(W/w, H/h); resize to max(1, round(W/r)) x max(1, round(H/r)) "
    "= sw x sh; put it on w x h pixels of the border's red, green and blue, (w-sw)//2 from the left, (h-sh)//2 from the top"
)
_TILE_RULE = (
    "the image has W x H pixels, input is [h, w], and the image resized for a centre crop (scaled: its short side, or "
    "height and width; rounded down) has sw x sh. If W*h >= H*w, [down, across] = grid, else [across, down] = grid. "
    "up(a/b) rounds up, a//b down. tw = min(W, max(up(W/across), up(H*w/(down*h)), min(w, up(W*w/sw), up(H*w/sh)))); "
    "th = min(H, max(up(H/down), up(W*h/(across*w)), min(h, up(W*h/sw), up(H*h/sh)))); row = index//across; "
    "column = index - row*across; left = (W-tw)*column//max(1, across-1); top = (H-th)*row//max(1, down-1); crop "
    "tw x th pixels from there"
)
