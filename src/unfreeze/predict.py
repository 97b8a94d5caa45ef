"""A model and photos in, class probabilities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.acceleration.frozen import Forward, frozen_forward
from unfreeze.data.decode import decode
from unfreeze.data.rendering.renderer import Renderer, prefetch
from unfreeze.data.rendering.transforms import PLAIN_VIEW, normalize, plain, to_batch
from unfreeze.errors import DecodeError
from unfreeze.models.backbone import Backbone, Head
from unfreeze.models.saved import Classifier
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import limit_threads

Probabilities = NDArray[np.float32]
Logits = NDArray[np.float32]

BATCH = 32  # photos that the network is shown at once
WORTH_BUILDING = 128  # photos, of which a fast engine saves as much time as it takes to build (benchmarks/predict.py)


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

    def top(self, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return the most probable of the model's classes with their probabilities: ``count``, or all if there are fewer."""
        ranked = sorted(zip(classes, self.probabilities, strict=True), key=lambda pair: -pair[1])
        return ranked[:count]


@dataclass(frozen=True, slots=True)
class Unread:
    """A photo that can't be read, and why."""

    path: Path
    error: DecodeError


def evaluation_mode(backbone: Backbone) -> None:
    """Put every layer into eval mode: dropout off, BatchNorm by its stored statistics."""
    for stage in backbone.stages:
        stage.module.eval()


def to_model_input(x: Tensor, backbone: Backbone, start: int) -> Tensor:
    """Move what crosses boundary ``start`` to the backbone's device, as float32; images and maps go channels-last.

    PixelSource views travel as bytes, a quarter of the way's traffic, and are normalised where they arrive.
    """
    if x.dtype == torch.uint8:
        with limit_threads(x.numel()):
            return normalize(x.to(backbone.device), backbone.network.preprocessing)
    layout = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device=backbone.device, dtype=torch.float32, memory_format=layout)


def predict_logits(
    backbone: Backbone,
    head: Head,
    batches: Iterable[Tensor],
    start: int = 0,
    orientations: Sequence[Orientation] = IDENTITY_ONLY,
) -> Logits:
    """Return the head's logits, shape (N, C), for batches of what crosses boundary ``start`` (0: rendered photos).

    PixelSource photos may be shown in several ``orientations``: their logits are averaged.
    """
    assert start == 0 or orientations == IDENTITY_ONLY, "only photos can be turned"
    evaluation_mode(backbone)
    forward = partial(backbone.run, start=start)
    with torch.inference_mode():
        pieces = [_averaged(backbone, head, forward, x, start, orientations) for x in batches]
    return torch.cat(pieces).numpy() if pieces else np.empty((0, head.out_features), dtype=np.float32)


def _averaged(
    backbone: Backbone, head: Head, forward: Forward, x: Tensor, start: int, orientations: Sequence[Orientation]
) -> Tensor:
    """Return the logits of one batch, averaged over the orientations; ``forward`` computes the stages from ``start`` on."""
    said = [
        head(forward(to_model_input(orientation.apply(x), backbone, start))).float().cpu()
        for orientation in orientations
    ]
    return torch.stack(said).mean(dim=0)


def predictions(model: Classifier, paths: Iterable[Path]) -> Iterator[Prediction | Unread]:
    """Yield what the model says of each photo file, or why it can't be read: in order, in constant memory, without a halt.

    Threads decode ahead of the network.  ``WORTH_BUILDING`` photos or more are computed by the engine that computes frozen
    layers in training (``acceleration/frozen.py``): it is checked against the plain network on drawn images, and differs from it
    by rounding alone, 1e-5 of a probability or so.
    """
    backbone, queue = model.backbone, iter(paths)
    first = list(islice(queue, WORTH_BUILDING))
    forward: Forward | None = backbone.run if len(first) < WORTH_BUILDING else None
    evaluation_mode(backbone)
    look = partial(_plain_view, preprocessing=backbone.network.preprocessing)
    for seen in prefetch(look, _in_batches(chain(first, queue))):
        views = [view for _, view in seen if isinstance(view, Tensor)]
        rows: Iterator[list[float]] = iter(())
        if views:
            x = torch.cat(views)
            with torch.inference_mode():
                forward = forward or frozen_forward(backbone, 0, backbone.head_boundary)
                logits = _averaged(backbone, model.head, forward, x, 0, model.orientations)
                rows = iter(torch.softmax(logits, dim=1).tolist())
        for path, view in seen:
            yield Unread(path, view) if isinstance(view, DecodeError) else _named(path, next(rows), model.classes)


def _plain_view(path: Path, preprocessing: Preprocessing) -> tuple[Path, Tensor | DecodeError]:
    """Return a photo's plain view, uint8, shape (1, 3, height, width), or why there is none."""
    try:
        return path, to_batch([plain(decode(path, preprocessing.min_side), preprocessing)])
    except DecodeError as error:
        return path, error


def _in_batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    while batch := list(islice(paths, BATCH)):
        yield batch


def probabilities(
    backbone: Backbone,
    head: Head,
    batches: Iterable[Tensor],
    start: int = 0,
    orientations: Sequence[Orientation] = IDENTITY_ONLY,
) -> Probabilities:
    """Return class probabilities; see ``predict_logits``."""
    found: Probabilities = torch.softmax(
        torch.from_numpy(predict_logits(backbone, head, batches, start, orientations)), dim=1
    ).numpy()
    return found


def _named(path: Path, row: Sequence[float], classes: tuple[str, ...]) -> Prediction:
    best = max(range(len(row)), key=row.__getitem__)
    return Prediction(path, classes[best], row[best], tuple(row))


def photo_batches(backbone: Backbone, paths: Sequence[Path], size: int = BATCH) -> Iterator[Tensor]:
    """Yield plain views of photo files, uint8, shape (size, 3, height, width), for ``to_model_input`` to normalise."""
    renderer = Renderer(tuple(paths), backbone.network.preprocessing)
    starts = range(0, len(paths), size)
    return renderer.batches(
        [(photo, (PLAIN_VIEW,)) for photo in range(start, min(start + size, len(paths)))] for start in starts
    )
