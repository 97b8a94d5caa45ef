"""Inference for the server: uploaded image files in, class probabilities and heatmaps out."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from unfreeze.data.decode import DecodeLimits, decode_pixels
from unfreeze.data.rendering.transforms import framed_batch
from unfreeze.errors import DecodeError, ModelError
from unfreeze.explain import as_photo, explained_framings, framing_note, overlay
from unfreeze.heatmaps import heatmaps
from unfreeze.models.saved import Classifier, load_model
from unfreeze.predict import probabilities
from unfreeze.runs.run import Run, load
from unfreeze.runtime import choose_device
from unfreeze.views import framings_of

QUALITY = 85  # JPEG quality of views and heatmaps


@dataclass(frozen=True, slots=True)
class Upload:
    """An uploaded image file.

    Attributes:
        name: File name; it is only repeated in the response.
        file: Its content.
    """

    name: str
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class ImagePrediction:
    """The prediction for one image.

    Attributes:
        name: File name.
        probabilities: One per class, in the order of the model's classes.
        view: The network's input as a base64 JPEG, where heatmaps were requested.
        heatmap: The same with the evidence for the most probable class (upright orientation) laid over it; None for a
            network without spatial features.
        note: Which of several framings ``view`` is; None where the model sees this one alone.
    """

    name: str
    probabilities: tuple[float, ...]
    view: str | None = None
    heatmap: str | None = None
    note: str | None = None


class RefusedError(Exception):
    """An image can't be decoded or isn't accepted; ``reason`` says why."""

    def __init__(self, name: str, reason: DecodeError) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Served:
    """A finished run and its model."""

    run: Run
    model: Classifier

    def predict(
        self, uploads: Sequence[Upload], accepted: DecodeLimits, *, explain: bool = False, until: float | None = None
    ) -> list[ImagePrediction]:
        """Predict images, decoded and preprocessed as in training.

        Args:
            uploads: The image files; each is read once.
            accepted: Formats and sizes that are decoded.
            explain: Whether to compute heatmaps.
            until: Deadline on the monotonic clock, in seconds; checked before each image is decoded.

        Raises:
            RefusedError: An image can't be decoded, or isn't accepted.
            TimeoutError: The deadline has passed.
        """
        framed = []
        for upload in uploads:
            if until is not None and time.monotonic() > until:
                raise TimeoutError
            framed.append(self._framed(upload, accepted))
        batch = torch.cat(framed)
        backbone, head, views = self.model.backbone, self.model.head, self.model.views
        rows = probabilities(backbone, head, [batch], views=views)
        predictions = [
            ImagePrediction(upload.name, tuple(map(float, row))) for upload, row in zip(uploads, rows, strict=True)
        ]
        if not explain:
            return predictions
        labels = torch.from_numpy(rows.argmax(axis=1))
        shown, framings = explained_framings(backbone, head, batch, labels, views)
        pictures = [as_photo(view) for view in shown]
        with_views = [
            replace(prediction, view=_jpeg(picture), note=framing_note(framing, views))
            for prediction, picture, framing in zip(predictions, pictures, framings, strict=True)
        ]
        try:
            maps = heatmaps(backbone, head, shown, labels)
        except ModelError:  # the network has no spatial features
            return with_views
        return [
            replace(prediction, heatmap=_jpeg(overlay(picture, heatmap)))
            for prediction, picture, heatmap in zip(with_views, pictures, maps, strict=True)
        ]

    def _framed(self, upload: Upload, accepted: DecodeLimits) -> Tensor:
        preprocessing = self.model.backbone.network.preprocessing
        try:
            photo = decode_pixels(upload.file, preprocessing.min_side, accepted, preprocessing.reading)
        except DecodeError as error:
            raise RefusedError(upload.name, error) from error
        return framed_batch(photo, preprocessing, framings_of(self.model.views))


def open_model(folder: Path, device: str) -> Served:
    """Open a finished run and its model.

    Raises:
        RunError: There is no finished run in ``folder``.
        ModelError: Its model is missing or damaged.
        ConfigError: The device doesn't exist.
    """
    run = load(folder, device)
    return Served(run, load_model(run.folder.model, choose_device(device), run.classes))


def _jpeg(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "JPEG", quality=QUALITY)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
