"""Prediction: logits and class probabilities of a model for images."""

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

from unfreeze.acceleration.frozen import frozen_features
from unfreeze.acceleration.parts import Forward
from unfreeze.data.decode import Trait
from unfreeze.data.given import Photo, decode_photo, path_of
from unfreeze.data.rendering.renderer import prefetch
from unfreeze.data.rendering.transforms import framed_batch, is_rendered, normalize
from unfreeze.errors import DecodeError
from unfreeze.models.backbone import Backbone
from unfreeze.models.head import Head
from unfreeze.models.saved import Classifier
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import limit_threads
from unfreeze.views import CROP_ONLY, PLAIN_ONLY, Framing, Views, framings_of, select_views

Probabilities = NDArray[np.float32]
Logits = NDArray[np.float32]

BATCH = 32  # images in one forward pass
MIN_COMPILED_IMAGES = 128  # from which compiling the stages saves time (benchmarks/predict.py)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        path: The image file; of an image in memory, its file's name if it has one, else its place, such as ``photos[0]``.
        label: The most probable class.
        probability: The probability of ``label``.
        probabilities: The probability of every class, in the order of the model's classes.
        traits: What decoding left of the file unseen or changed.
    """

    path: Path
    label: str
    probability: float
    probabilities: tuple[float, ...]
    traits: tuple[Trait, ...] = ()

    def top(self, classes: Sequence[str], count: int) -> list[tuple[str, float]]:
        """Return the ``count`` (or all, if fewer) most probable of the model's ``classes`` with their probabilities."""
        ranked = sorted(zip(classes, self.probabilities, strict=True), key=lambda pair: -pair[1])
        return ranked[:count]


@dataclass(frozen=True, slots=True)
class Unread:
    """An image that can't be read, and the error."""

    path: Path
    error: DecodeError


def evaluation_mode(backbone: Backbone) -> None:
    """Put every layer into eval mode: no dropout, BatchNorm by its stored statistics."""
    for stage in backbone.stages:
        stage.module.eval()


def to_model_input(x: Tensor, backbone: Backbone, start: int) -> Tensor:
    """Move activations at boundary ``start`` to the backbone's device as float32; 4-d tensors become channels-last.

    Rendered views (uint8 or int32) are transferred in a part of the bytes and normalised on the device.
    """
    if is_rendered(x):
        with limit_threads(x.numel()):
            return normalize(x.to(backbone.device), backbone.network.preprocessing)
    layout = torch.channels_last if x.dim() == 4 else torch.preserve_format
    return x.to(device=backbone.device, dtype=torch.float32, memory_format=layout)


def predict_logits(
    backbone: Backbone,
    head: Head,
    batches: Iterable[Tensor],
    start: int = 0,
    views: Views = PLAIN_ONLY,
    below: Tensor | None = None,
) -> Logits:
    """Return the head's logits, shape (N, C), for batches of activations at boundary ``start`` (0: rendered images).

    The logits of rendered images are averaged over ``views``; for their shape see ``views.select_views``.  ``below`` are
    the features of stages below ``start``, shape (N, D), where the head reads any.
    """
    assert start == 0 or views == PLAIN_ONLY, "only images can be rotated"
    evaluation_mode(backbone)
    logits, done = [], 0
    with torch.inference_mode():
        for x in batches:
            rows = None if below is None else below[done : done + len(x)].to(backbone.device)
            done += len(x)
            forward = partial(backbone.features, start=start, below=rows)
            logits.append(_mean_logits(backbone, head, forward, x, start, views))
    return torch.cat(logits).numpy() if logits else np.empty((0, head.out_features), dtype=np.float32)


def _mean_logits(backbone: Backbone, head: Head, forward: Forward, x: Tensor, start: int, views: Views) -> Tensor:
    """Return one batch's logits, averaged over views; ``forward`` computes what the head reads."""
    logits = [head(forward(to_model_input(view, backbone, start))).float().cpu() for view in select_views(x, views)]
    return torch.stack(logits).mean(dim=0)


def predictions(model: Classifier, photos: Iterable[Photo]) -> Iterator[Prediction | Unread]:
    """Yield the prediction for each image, or the error if it can't be read, in order and in constant memory.

    Threads decode ahead of the network.  ``MIN_COMPILED_IMAGES`` images or more are predicted by the compiled stages of
    ``acceleration/frozen.py``, which are checked against the network on random images.  Probabilities differ by about
    1e-5, from rounding.
    """
    backbone, queue = model.backbone, iter(photos)
    first = list(islice(queue, MIN_COMPILED_IMAGES))
    forward: Forward | None = backbone.features if len(first) < MIN_COMPILED_IMAGES else None
    evaluation_mode(backbone)
    render = partial(_framed, preprocessing=backbone.network.preprocessing, framings=framings_of(model.views))
    for batch in prefetch(render, _in_batches(chain(first, queue), BATCH)):
        views = [view for _, view, _ in batch if isinstance(view, Tensor)]
        rows: Iterator[list[float]] = iter(())
        if views:
            x = torch.cat(views)
            with torch.inference_mode():
                forward = forward or frozen_features(backbone)
                logits = _mean_logits(backbone, model.head, forward, x, 0, model.views)
                rows = iter(torch.softmax(logits, dim=1).tolist())
        for path, view, traits in batch:
            if isinstance(view, DecodeError):
                yield Unread(path, view)
            else:
                yield _prediction(path, next(rows), model.classes, traits)


def _framed(
    photo: Photo, preprocessing: Preprocessing, framings: Sequence[Framing]
) -> tuple[Path, Tensor | DecodeError, tuple[Trait, ...]]:
    """Return the path, the image in ``framings``, see ``framed_batch``, or the error, and the file's traits."""
    try:
        decoded = decode_photo(photo, preprocessing.min_side, preprocessing.reading)
    except DecodeError as error:
        return path_of(photo), error, ()
    return path_of(photo), framed_batch(decoded.image, preprocessing, framings), decoded.traits


def _in_batches(photos: Iterator[Photo], size: int) -> Iterator[list[Photo]]:
    while batch := list(islice(photos, size)):
        yield batch


def probabilities(
    backbone: Backbone,
    head: Head,
    batches: Iterable[Tensor],
    start: int = 0,
    views: Views = PLAIN_ONLY,
) -> Probabilities:
    """Return class probabilities; see ``predict_logits``."""
    rows: Probabilities = torch.softmax(
        torch.from_numpy(predict_logits(backbone, head, batches, start, views)), dim=1
    ).numpy()
    return rows


def _prediction(path: Path, row: Sequence[float], classes: tuple[str, ...], traits: tuple[Trait, ...]) -> Prediction:
    best = max(range(len(row)), key=row.__getitem__)
    return Prediction(path, classes[best], row[best], tuple(row), traits)


def photo_batches(
    backbone: Backbone, photos: Sequence[Photo], size: int = BATCH, framings: Sequence[Framing] = CROP_ONLY
) -> Iterator[Tensor]:
    """Yield images in ``framings``, ``size`` at a time, as input of ``predict_logits``; see ``framed_batch``.

    The shape is (size, channels, height, width) for one framing, else (size, framings, channels, height, width).

    Raises:
        DecodeError: An image can't be read.
    """
    render = partial(_framed, preprocessing=backbone.network.preprocessing, framings=framings)
    for batch in prefetch(render, _in_batches(iter(photos), size)):
        views = []
        for _, view, _ in batch:
            if isinstance(view, DecodeError):
                raise view
            views.append(view)
        with limit_threads(sum(view.numel() for view in views)):
            joined = torch.cat(views)
        yield joined
