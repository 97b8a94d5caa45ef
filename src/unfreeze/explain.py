"""Pictures of heatmaps, and explanations of a model's predictions for images."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unfreeze.data.folders import display_name
from unfreeze.data.given import Photo, path_of
from unfreeze.heatmaps import Heatmaps, heatmaps
from unfreeze.models.backbone import Backbone
from unfreeze.models.head import Head
from unfreeze.predict import photo_batches, predict_logits, probabilities
from unfreeze.views import CROP, PLAIN_ONLY, Framing, Views, describe_framing, framings_of

MAX_OPACITY = 0.8  # of the strongest heat: the image still shows below it
DIMMING = 0.45  # factor of the image's grey values: even a white image is darker than the heat
COLORMAP_START = 0.45  # of the colour map's range
GAP, TEXT_HEIGHT, FONT_SIZE = 6, 26, 14  # pixels; GAP is between pictures
MAX_NAME_LENGTH = 40  # characters of an image's name in its picture's file name, which may take 255 bytes


def overlay(view: Image.Image, heatmap: Heatmaps) -> Image.Image:
    """Return an image in dark grey overlaid by its heatmap, from red over orange to yellow, of the same size.

    The colours are the upper part of inferno, whose lightness rises evenly, and which colour-blind people read alike
    (van der Walt and Smith 2015).  Opacity rises with the heat, from 0.

    Args:
        view: The view that the heatmap belongs to.
        heatmap: Values from 0 to 1, shape (height, width) of the view.

    Raises:
        ValueError: The sizes differ: a heatmap belongs to the network's view, not to the whole image.
    """
    from matplotlib import colormaps

    if view.size != heatmap.shape[::-1]:
        raise ValueError(f"a heatmap of {heatmap.shape[1]} x {heatmap.shape[0]} belongs to no photo of {view.size}")
    grey = DIMMING * np.asarray(view.convert("L"), np.float32)[..., None]
    levels = COLORMAP_START + (1 - COLORMAP_START) * heatmap
    colours = colormaps["inferno"](levels, bytes=True)[..., :3].astype(np.float32)
    opacity = MAX_OPACITY * heatmap[..., None]
    return Image.fromarray((grey * (1 - opacity) + colours * opacity + 0.5).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Explanation:
    """A heatmap of the evidence for a class in an image.

    Attributes:
        path: The image file; of an image in memory, see ``Prediction``.
        label: The explained class.
        probability: The model's probability of the class.
        view: The network's input view, upright.
        heatmap: See ``heatmaps``; shape (height, width) of the view.
        note: Which of several framings the view is, for the picture; None where the model sees this one alone.
    """

    path: Path
    label: str
    probability: float
    view: Image.Image
    heatmap: Heatmaps
    note: str | None = None

    @property
    def file_name(self) -> str:
        """A file name for the picture, unique to image and class and without folders."""
        identity = f"{os.path.abspath(self.path)}\0{self.label}".encode("utf-8", "surrogateescape")  # noqa: PTH100
        readable = re.sub(r"[^\w-]+", "_", display_name(self.path.stem))[:MAX_NAME_LENGTH]
        return f"{readable}-{hashlib.sha256(identity).hexdigest()[:12]}.png"

    def picture(self) -> Image.Image:
        """Return the view and its overlay side by side, below the class, its probability and the note."""
        pictures = side_by_side([self.view, overlay(self.view, self.heatmap)])
        lines = [f"{self.probability:.3f}  {' '.join(self.label.split())}", *([self.note] if self.note else [])]
        canvas = Image.new("RGB", (pictures.width, pictures.height + TEXT_HEIGHT * len(lines)), "white")
        canvas.paste(pictures, (0, TEXT_HEIGHT * len(lines)))
        for number, line in enumerate(lines):
            middle = TEXT_HEIGHT * number + TEXT_HEIGHT // 2
            ImageDraw.Draw(canvas).text((GAP, middle), line, fill="black", font=_font(), anchor="lm")
        return canvas


def explanations(
    backbone: Backbone,
    head: Head,
    photos: Sequence[Photo],
    classes: Sequence[str],
    label: str | None = None,
    views: Views = PLAIN_ONLY,
) -> Iterator[Explanation]:
    """Yield an ``Explanation`` for each image, in order: of the class ``label``, or of the most probable class.

    The probability is from logits averaged over ``views``, the heatmap from the framing of ``explained_framings``.

    Raises:
        DecodeError: An image can't be read.
        ModelError: See ``heatmaps``.
    """
    done = 0
    for images in photo_batches(backbone, photos, framings=framings_of(views)):
        rows = probabilities(backbone, head, [images], views=views)
        labels = rows.argmax(axis=1) if label is None else np.full(len(images), classes.index(label))
        shown, framings = explained_framings(backbone, head, images, torch.from_numpy(labels), views)
        maps = heatmaps(backbone, head, shown, torch.from_numpy(labels))
        for view, framing, row, index, heatmap in zip(shown, framings, rows, labels, maps, strict=True):
            probability, note = float(row[index]), framing_note(framing, views)
            yield Explanation(path_of(photos[done]), classes[index], probability, as_photo(view), heatmap, note)
            done += 1


def explained_framings(
    backbone: Backbone, head: Head, images: Tensor, classes: Tensor, views: Views
) -> tuple[Tensor, tuple[Framing, ...]]:
    """Return the framing of each image in which its heatmap is drawn, shape (N, channels, height, width), and its name.

    It is the centre crop; if the model doesn't look at that, the framing with the highest logit of the class.

    Args:
        backbone: The backbone.
        head: The new classifier.
        images: The images in the framings of ``views``, for their shape see ``views.select_views``.
        classes: The class to explain of each image, int64, shape (N,).
        views: The views that the model averages over.
    """
    framings = framings_of(views)
    if len(framings) == 1:
        return images, framings * len(images)
    if CROP in framings:
        chosen = torch.full((len(images),), framings.index(CROP))
    else:
        upright = [torch.from_numpy(predict_logits(backbone, head, [images[:, i]])) for i in range(len(framings))]
        chosen = torch.stack([logits.gather(1, classes[:, None])[:, 0] for logits in upright]).argmax(dim=0)
    return images[torch.arange(len(images)), chosen], tuple(framings[i] for i in chosen.tolist())


def framing_note(framing: Framing, views: Views) -> str | None:
    """Return a note on the framing that a heatmap is drawn in; None where the model looks at no other."""
    if len(framings_of(views)) == 1:
        return None
    return f"heatmap: {describe_framing(framing)}; probability: {len(views)} views"


def as_photo(view: Tensor) -> Image.Image:
    """Return a rendered view, shape (channels, height, width), as a Pillow image of the first three channels."""
    shown = view[:3].permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(shown if shown.dtype == np.uint8 else (shown >> 8).astype(np.uint8))


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size in one row, with white gaps."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (width + GAP), 0))
    return row


def encoded(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    """Return a picture encoded as a file's bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's font, which covers most alphabets; Pillow's covers English."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", FONT_SIZE)
