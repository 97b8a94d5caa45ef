"""A model and batches of photos in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.loaders import Renderer
from unfreeze.data.transforms import PLAIN_VIEW, normalised
from unfreeze.models.backbone import Backbone, Head
from unfreeze.poses import UPRIGHT, Pose

Probabilities = NDArray[np.float32]
Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one photo.

    Attributes:
        path: The photo.
        label: The most probable class.
        probability: Its probability.
        probabilities: Of every class, in the order of the model's classes.
    """

    path: Path
    label: str
    probability: float
    probabilities: tuple[float, ...]


def evaluation_mode(backbone: Backbone) -> None:
    """Put every layer into eval mode: dropout off, BatchNorm by its stored statistics."""
    for stage in backbone.stages:
        stage.module.eval()


def place(x: Tensor, backbone: Backbone, start: int) -> Tensor:
    """Move what crosses boundary ``start`` to the backbone's device, as float32; images and maps go channels-last.

    Rendered views travel as bytes, a quarter of the way's traffic, and are normalised where they arrive.
    """
    if x.dtype == torch.uint8:
        return normalised(x.to(backbone.device), backbone.network.preprocessing)
    layout = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device=backbone.device, dtype=torch.float32, memory_format=layout)


def logits(
    backbone: Backbone, head: Head, batches: Iterable[Tensor], start: int = 0, poses: Sequence[Pose] = UPRIGHT
) -> Logits:
    """Return the head's logits, shape (N, C), for batches of what crosses boundary ``start`` (0: rendered photos).

    Rendered photos may be shown in several ``poses``: their logits are averaged.
    """
    assert start == 0 or poses == UPRIGHT, "only photos can be turned"
    evaluation_mode(backbone)

    def said(x: Tensor) -> Tensor:
        found: Tensor = head(backbone.run(place(x, backbone, start), start))
        return found.float().cpu()

    with torch.inference_mode():
        pieces = [torch.stack([said(pose.of(x)) for pose in poses]).mean(dim=0) for x in batches]
    return torch.cat(pieces).numpy() if pieces else np.empty((0, head.out_features), dtype=np.float32)


def probabilities(
    backbone: Backbone, head: Head, batches: Iterable[Tensor], start: int = 0, poses: Sequence[Pose] = UPRIGHT
) -> Probabilities:
    """Return class probabilities; see ``logits``."""
    found: Probabilities = torch.softmax(torch.from_numpy(logits(backbone, head, batches, start, poses)), dim=1).numpy()
    return found


def named(paths: Iterable[Path], rows: Probabilities, classes: tuple[str, ...]) -> Iterator[Prediction]:
    """Yield one ``Prediction`` a photo."""
    for path, row in zip(paths, rows, strict=True):
        best = int(row.argmax())
        yield Prediction(path, classes[best], float(row[best]), tuple(float(value) for value in row))


def photo_batches(backbone: Backbone, paths: Sequence[Path], size: int = 32) -> Iterator[Tensor]:
    """Yield plain views of photo files, uint8, shape (size, 3, height, width), for ``place`` to normalise."""
    renderer = Renderer(tuple(paths), backbone.network.preprocessing)
    starts = range(0, len(paths), size)
    return renderer.batches(
        [(photo, (PLAIN_VIEW,)) for photo in range(start, min(start + size, len(paths)))] for start in starts
    )
