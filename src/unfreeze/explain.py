"""Where in a photo the evidence for a class is: class-activation heatmaps, and how they are drawn.

Grad-CAM (Selvaraju et al. 2017) at the deepest features that have a place in the photo: each channel is weighted by how much
the class's logit rises with it, averaged over all places, and what speaks for the class is summed up.  Where averaged maps
go straight into the head, that is the class's own share of the logit at every place (CAM, Zhou et al. 2016).
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional

from unfreeze.data.folders import display_name
from unfreeze.errors import ModelError
from unfreeze.models.backbone import Backbone, Head
from unfreeze.models.stages import run_watched
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import evaluation_mode, photo_batches, probabilities, to_model_input

Heatmaps = NDArray[np.float32]

STRONGEST = 0.8  # of a blend that is heat where there is most of it: the photo still shows
DIMMED, DARKEST = 0.45, 0.45  # of a photo, and of the colours' range: so heat is lighter than a white photo, too
GAP, LINE, LETTERS = 6, 26, 14  # pixels between pictures, of a line of text, and of its letters
LONGEST = 40  # letters of a photo's name in the name of its picture: a file system takes 255 bytes


def heatmaps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> Heatmaps:
    """Return where in each photo the features speak for a class: 0 is not at all or against it, 1 is where they do most.

    What a map says: with these features, this is where the logit of this class comes from, to first order.  What it doesn't:

    - how sure the model is, or how strong the evidence is: each map is scaled to its own maximum, so that two of them can be
      compared in their shapes alone, and a map of weak evidence is as bright as one of strong evidence;
    - what speaks against the class (that is cut off), or that the model would be wrong without what is marked;
    - anything finer than a cell of the features: 32 pixels in most CNNs and 16 in most transformers; between the middles of
      cells it is interpolated.  A cell also sees its neighbourhood, in a transformer the whole photo;
    - that the marked thing is the cause in the world: a model may be right by the background.

    The backbone and the head stay as they are, frozen or not; nothing is left behind.

    Args:
        backbone: Put into evaluation mode, as every prediction does.
        head: The new classifier.
        images: PixelSource views, uint8, or normalised ones, float32, shape (N, 3, H, W).
        classes: Of each photo, the class to explain, int64, shape (N,).

    Returns:
        Values from 0 to 1, float32, shape (N, H, W).

    Raises:
        ModelError: No features of this network have a place in the photo.
    """
    features, slopes = _deepest_maps(backbone, head, images, classes)
    heat = (slopes.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True).relu()
    heat = functional.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    found: Heatmaps = (heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)).cpu().numpy()
    return found


def _deepest_maps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the deepest maps whose places count for the logits, and the logits' slopes there, each (N, channels, h, w).

    Behind the last block of a transformer with a class token, no other token counts any more: it is the block's input then.
    """
    evaluation_mode(backbone)
    size = images.shape[2], images.shape[3]
    for start in reversed(range(len(backbone.stages))):
        with torch.no_grad():
            below: object = backbone.run(to_model_input(images, backbone, 0), 0, start)
        if not isinstance(below, Tensor):  # several: further down, where they are made, they are looked into
            continue
        with torch.enable_grad():
            below = below.detach().requires_grad_()
            passed = [below] if start else []  # the photo itself is no feature
            x = below.clone()  # a block may work in place
            for stage in backbone.stages[start:]:
                steps = run_watched(stage, x)
                passed += _tensors_in(steps)
                x = steps[-1]
            logits = head(x).gather(1, classes.to(x.device)[:, None])
            slopes = torch.autograd.grad(logits.sum(), passed, allow_unused=True)
        for features, slope in zip(reversed(passed), reversed(slopes), strict=True):
            maps = _as_maps(features.detach(), size)
            own = _as_maps(slope, size) if slope is not None else None
            if maps is not None and own is not None and own.any():
                return maps, own
    raise ModelError(f"{backbone.name} has no features with a place in the photo: no heatmap can be drawn.")


def _tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors_in(part)]
    return [value] if isinstance(value, Tensor) else []


def _as_maps(x: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Return features as maps (N, channels, h, w): maps, maps with the channels last, or tokens, class token and such first.

    The photo's own height and width tell which it is; None where there are no places.
    """
    height, width = size
    if x.dim() == 4:

        def distortion(rows: int, columns: int) -> float:
            return abs(math.log(rows * width / (columns * height)))

        if distortion(x.shape[1], x.shape[2]) < distortion(x.shape[2], x.shape[3]):
            x = x.permute(0, 3, 1, 2)
    elif x.dim() == 3:
        tokens = x.shape[1]
        rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
        x = x[:, tokens - rows * columns :].transpose(1, 2)
        x = x.reshape(*x.shape[:2], rows, columns)
    else:
        return None
    return x if x.shape[2] * x.shape[3] > 1 else None


def overlay(photo: Image.Image, heatmap: Heatmaps) -> Image.Image:
    """Return a photo in dark grey with the heat upon it, from red over orange to yellow, of the same size.

    The colours are the upper part of inferno, whose lightness rises evenly with the heat, and which the colour-blind read
    alike (van der Walt and Smith 2015); where there is no heat, the photo shows alone.

    Args:
        photo: The view that the heatmap belongs to.
        heatmap: Values from 0 to 1, shape (height, width) of the view.

    Raises:
        ValueError: They differ in size: a heatmap belongs to what the network saw, and not to the whole photo.
    """
    from matplotlib import colormaps

    if photo.size != heatmap.shape[::-1]:
        raise ValueError(f"a heatmap of {heatmap.shape[1]} x {heatmap.shape[0]} belongs to no photo of {photo.size}")
    grey = DIMMED * np.asarray(photo.convert("L"), np.float32)[..., None]
    colours = colormaps["inferno"](DARKEST + (1 - DARKEST) * heatmap, bytes=True)[..., :3].astype(np.float32)
    share = STRONGEST * heatmap[..., None]
    return Image.fromarray((grey * (1 - share) + colours * share + 0.5).astype(np.uint8))


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where in a photo the evidence for a class is.

    Attributes:
        path: The photo.
        label: The class.
        probability: What the model gives it.
        view: What the network sees of the photo.
        heatmap: See ``heatmaps``, shape (height, width) of the view.
    """

    path: Path
    label: str
    probability: float
    view: Image.Image
    heatmap: Heatmaps

    @property
    def file_name(self) -> str:
        """A name for its picture that no other photo or class has, and that stays in its folder."""
        told_by = f"{os.path.abspath(self.path)}\0{self.label}".encode("utf-8", "surrogateescape")  # noqa: PTH100
        readable = re.sub(r"[^\w-]+", "_", display_name(self.path.stem))[:LONGEST]
        return f"{readable}-{hashlib.sha256(told_by).hexdigest()[:12]}.png"

    def picture(self) -> Image.Image:
        """Return the view and the heat upon it side by side, under the class and its probability."""
        pictures = side_by_side([self.view, overlay(self.view, self.heatmap)])
        canvas = Image.new("RGB", (pictures.width, pictures.height + LINE), "white")
        canvas.paste(pictures, (0, LINE))
        said = f"{self.probability:.3f}  {' '.join(self.label.split())}"
        ImageDraw.Draw(canvas).text((GAP, LINE // 2), said, fill="black", font=_font(), anchor="lm")
        return canvas


def explanations(
    backbone: Backbone,
    head: Head,
    paths: Sequence[Path],
    classes: Sequence[str],
    label: str | None = None,
    orientations: Sequence[Orientation] = IDENTITY_ONLY,
) -> Iterator[Explanation]:
    """Yield one ``Explanation`` a photo file, in order: of the class ``label``, or of the most probable one.

    The probability is of all ``orientations`` together, the heatmap of the plain one.

    Raises:
        DecodeError: A photo can't be read.
        ModelError: See ``heatmaps``.
    """
    done = 0
    for views in photo_batches(backbone, paths):
        answers = probabilities(backbone, head, [views], orientations=orientations)
        chosen = answers.argmax(axis=1) if label is None else np.full(len(views), classes.index(label))
        maps = heatmaps(backbone, head, views, torch.from_numpy(chosen))
        for view, answer, number, heat in zip(views, answers, chosen, maps, strict=True):
            yield Explanation(paths[done], classes[number], float(answer[number]), as_photo(view), heat)
            done += 1


def as_photo(view: Tensor) -> Image.Image:
    """Return a rendered view, uint8, shape (3, height, width), as a picture."""
    return Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size in a row, on white."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), "white")
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (width + GAP), 0))
    return row


def encoded(picture: Image.Image, kind: Literal["JPEG", "PNG"]) -> bytes:
    """Return a picture as a file's content."""
    packed = io.BytesIO()
    picture.save(packed, kind)
    return packed.getvalue()


def _font() -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which has the letters of most alphabets; Pillow's has those of English."""
    from matplotlib import get_data_path

    return ImageFont.truetype(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", LETTERS)
