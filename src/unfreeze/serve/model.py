"""The served model: open photo files in, probabilities and heatmaps out."""

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

from unfreeze.data.decode import Accepted, decode
from unfreeze.data.transforms import plain, stack
from unfreeze.errors import DecodeError, ModelError
from unfreeze.explain import heatmaps, overlay
from unfreeze.models.saved import Classifier, load_model
from unfreeze.predict import probabilities
from unfreeze.run import Run, load
from unfreeze.runtime import choose_device

QUALITY = 85  # of the JPEGs on the page


@dataclass(frozen=True, slots=True)
class Upload:
    """A photo as it was sent.

    Attributes:
        name: Of the file; it decides nothing.
        file: Its content.
    """

    name: str
    file: BinaryIO


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one photo.

    Attributes:
        name: Of the file.
        probabilities: Of every class, in the order of the model's classes.
        view: What the network sees of the photo, as a JPEG in base64, where it was asked for.
        heatmap: The same with what speaks for the most probable class laid over it, as the plain pose has it; some networks
            have none.
    """

    name: str
    probabilities: tuple[float, ...]
    view: str | None = None
    heatmap: str | None = None


class RefusedError(Exception):
    """One of the photos can't be answered; ``reason`` says why."""

    def __init__(self, name: str, reason: DecodeError) -> None:
        super().__init__(name, reason)
        self.name = name
        self.reason = reason


@dataclass(frozen=True)
class Served:
    """A finished run and its model."""

    run: Run
    model: Classifier

    def answer(
        self, uploads: Sequence[Upload], accepted: Accepted, *, explain: bool = False, until: float | None = None
    ) -> list[Answer]:
        """Answer photos, decoded and rendered as training did.

        Args:
            uploads: Read once.
            accepted: What of them is decoded.
            explain: Whether heatmaps are wanted.
            until: When nobody waits any longer, on the monotonic clock.

        Raises:
            RefusedError: A photo can't be decoded, or isn't accepted.
            TimeoutError: Nobody waits any longer.
        """
        views = []
        for upload in uploads:
            if until is not None and time.monotonic() > until:
                raise TimeoutError
            views.append(self._view(upload, accepted))
        batch = stack(views)
        backbone, head = self.model.backbone, self.model.head
        rows = probabilities(backbone, head, [batch], poses=self.model.poses)
        answers = [Answer(upload.name, tuple(map(float, row))) for upload, row in zip(uploads, rows, strict=True)]
        if not explain:
            return answers
        shown = [replace(answer, view=_jpeg(view)) for answer, view in zip(answers, views, strict=True)]
        try:
            maps = heatmaps(backbone, head, batch, torch.from_numpy(rows.argmax(axis=1)))
        except ModelError:  # no features of this network have a place in the photo
            return shown
        return [
            replace(answer, heatmap=_jpeg(overlay(view, heatmap)))
            for answer, view, heatmap in zip(shown, views, maps, strict=True)
        ]

    def _view(self, upload: Upload, accepted: Accepted) -> Image.Image:
        preprocessing = self.model.backbone.network.preprocessing
        try:
            photo = decode(upload.file, preprocessing.enough, accepted)
        except DecodeError as error:
            raise RefusedError(upload.name, error) from error
        return plain(photo, preprocessing)


def open_model(folder: Path, device: str) -> Served:
    """Open a finished run and its model.

    Raises:
        RunError: There is no finished run in ``folder``.
        ModelError: Its model is missing or damaged.
        ConfigError: The device doesn't exist.
    """
    run = load(folder, device)
    return Served(run, load_model(run.folder.model, choose_device(device)))


def _jpeg(picture: Image.Image) -> str:
    packed = io.BytesIO()
    picture.convert("RGB").save(packed, "JPEG", quality=QUALITY)
    return base64.b64encode(packed.getvalue()).decode("ascii")
