"""Class-activation heatmaps: where in an image the evidence for a class is, and pictures of it.

Grad-CAM (Selvaraju et al. 2017) at the deepest spatial features: each channel is weighted by the gradient of the
class's logit, averaged over positions, and the positive part of the weighted sum is taken.  Where the head directly
follows average pooling, this is the position's contribution to the logit (CAM, Zhou et al. 2016).

A head that reads several stages is linear in the mean of each lower stage's maps, so that a position's contribution is
exact: the head's weights times the position's features, less the features' mean over training images.  The maps of all
stages are added before the positive part is taken.
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
from unfreeze.models.backbone import Backbone, Head, channels_last, pool
from unfreeze.models.stage_head import fold_standardisation
from unfreeze.models.stages import run_with_intermediates
from unfreeze.predict import evaluation_mode, photo_batches, predict_logits, probabilities, to_model_input
from unfreeze.views import CROP, PLAIN_ONLY, Framing, Views, describe_framing, framings_of

Heatmaps = NDArray[np.float32]

MAX_OPACITY = 0.8  # of the strongest heat: the image still shows below it
DIMMING = 0.45  # factor of the image's grey values: even a white image is darker than the heat
COLORMAP_START = 0.45  # of the colour map's range
GAP, TEXT_HEIGHT, FONT_SIZE = 6, 26, 14  # pixels; GAP is between pictures
MAX_NAME_LENGTH = 40  # characters of an image's name in its picture's file name, which may take 255 bytes


def heatmaps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> Heatmaps:
    """Return heatmaps of the evidence for a class: 0 is no evidence or evidence against it, 1 the map's maximum.

    A map shows from where in the image the class's logit comes, to first order in these features.  It does not show

    - how confident the model is or how strong the evidence is: each map is scaled to its own maximum, so that only the
      shapes of two maps can be compared, and weak evidence is as bright as strong evidence;
    - evidence against the class (set to 0), or that the model would be wrong without the marked part;
    - details finer than a cell of the features, 32 pixels in most CNNs and 16 in most transformers (of a head on several
      stages, from 8 pixels on): the map is interpolated between cells.  Its features also depend on its neighbourhood,
      in a transformer on the whole image;
    - what a head on several stages reads from lower stages' class tokens, which have no place;
    - that the marked object causes the label: a model may be correct because of the background.

    Weights, gradients and ``requires_grad`` don't change.

    Args:
        backbone: Is put into eval mode, as by every prediction.
        head: The new classifier.
        images: Rendered views, uint8, or normalised ones, float32, shape (N, 3, H, W).
        classes: The class to explain of each image, int64, shape (N,).

    Returns:
        Values from 0 to 1, float32, shape (N, H, W).

    Raises:
        ModelError: The network has no spatial features.
    """
    size = images.shape[2], images.shape[3]
    maps = contributions(backbone, head, images, classes)
    finest = max((each.shape[1], each.shape[2]) for each in maps)
    heat = _resized(torch.stack([_resized(each, finest) for each in maps]).sum(dim=0).relu(), size)
    maximum = heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    scaled: Heatmaps = (heat / maximum).cpu().numpy()
    return scaled


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of shape (N, h, w) interpolated to ``size``; unchanged if they have it."""
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def contributions(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> list[Tensor]:
    """Return each stage's contribution to the class's logit by position, each (N, h, w): lower stages', then the last's.

    The mean of a lower stage's map is the logit's part from the stage's features, relative to the mean training image (if
    the head knows that: ``Head.center``); a channel's maximum counts where it is.  The last stage's map is Grad-CAM times
    the number of positions: its mean is the logit's part from the last stage, without the bias, where the head directly
    follows average pooling.

    Raises:
        ModelError: The network has no spatial features.
    """
    folded, blocks = fold_standardisation(head), backbone.stage_columns
    weights = folded["weight"][classes.to(head.weight.device)]
    center = folded.get("center", torch.zeros_like(weights[0]))
    evaluation_mode(backbone)
    maps, x = [], to_model_input(images, backbone, 0)
    with torch.no_grad():
        for index, stage in enumerate(backbone.stages[: max(backbone.head_stages, default=-1) + 1]):
            x = stage.module(x)
            if index not in backbone.head_stages:
                continue
            block = blocks[backbone.head_stages.index(index)]
            spatial = _as_maps(x, (images.shape[2], images.shape[3]))
            if spatial is None:
                continue
            channels = spatial.shape[1]
            # Of maps the means stand first and the maxima behind them; of tokens the patches' mean stands last.
            first = block.start if x.dim() == 4 else block.stop - channels
            means = slice(first, first + channels)
            heat = torch.einsum("nc,nchw->nhw", weights[:, means], spatial - center[means, None, None])
            if x.dim() == 4:
                maxima = slice(first + channels, block.stop)
                heat += _at_maximum(spatial, weights[:, maxima] * (spatial.amax(dim=(2, 3)) - center[maxima]))
            maps.append(heat)
    deepest = _deepest_maps(backbone, weights[:, blocks[-1]], images)
    if deepest is None:
        if not maps:
            raise ModelError(f"{backbone.name} has no features with a place in the photo: no heatmap can be drawn.")
        return maps
    features, gradients = deepest
    cam = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)
    return [*maps, cam * (cam.shape[1] * cam.shape[2])]


def _at_maximum(maps: Tensor, values: Tensor) -> Tensor:
    """Return maps (N, h, w) of mean ``values.sum(1)``: each channel's value (N, C) at the position of its maximum."""
    is_maximum = (maps == maps.amax(dim=(2, 3), keepdim=True)).to(maps)
    shares = is_maximum / is_maximum.sum(dim=(2, 3), keepdim=True)
    return torch.einsum("nc,nchw->nhw", values, shares) * (maps.shape[2] * maps.shape[3])


def _deepest_maps(backbone: Backbone, weights: Tensor, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the deepest maps with nonzero gradients, and the logits' gradients, each (N, channels, h, w); or None.

    The logits are those of the last stage's features alone: ``weights`` (N, D) are the head's, of each image's class.
    After a transformer's last block, the logit may depend on the class token alone: then the block's input is used.
    """
    size = images.shape[2], images.shape[3]
    for start in reversed(range(len(backbone.stages))):
        with torch.no_grad():
            below: object = backbone.run(to_model_input(images, backbone, 0), 0, start)
        if not isinstance(below, Tensor):  # several tensors: a lower start records what they are computed from
            continue
        with torch.enable_grad():
            below = below.detach().requires_grad_()
            recorded = [below] if start else []  # the image is no feature
            x = below.clone()  # a block may modify its input
            for stage in backbone.stages[start:]:
                steps = run_with_intermediates(stage, x)
                recorded += _tensors_in(steps)
                x = steps[-1]
            logits = (pool(x) * weights).sum(dim=1)
            gradients = torch.autograd.grad(logits.sum(), recorded, allow_unused=True)
        for features, gradient in zip(reversed(recorded), reversed(gradients), strict=True):
            maps = _as_maps(features.detach(), size)
            gradient_maps = _as_maps(gradient, size) if gradient is not None else None
            if maps is not None and gradient_maps is not None and gradient_maps.any():
                return maps, gradient_maps
    return None


def _tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors_in(part)]
    return [value] if isinstance(value, Tensor) else []


def _as_maps(x: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Return features as maps (N, channels, h, w), or None if they aren't spatial.

    Features are maps, maps with channels last, or tokens after class tokens; the image's aspect ratio decides which.
    """
    height, width = size
    if x.dim() == 4:
        if channels_last((x.shape[1], x.shape[2], x.shape[3]), size):
            x = x.permute(0, 3, 1, 2)
    elif x.dim() == 3:
        tokens = x.shape[1]
        rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
        x = x[:, tokens - rows * columns :].transpose(1, 2)
        x = x.reshape(*x.shape[:2], rows, columns)
    else:
        return None
    return x if x.shape[2] * x.shape[3] > 1 else None


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
        path: The image file.
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
    paths: Sequence[Path],
    classes: Sequence[str],
    label: str | None = None,
    views: Views = PLAIN_ONLY,
) -> Iterator[Explanation]:
    """Yield an ``Explanation`` for each image file, in order: of the class ``label``, or of the most probable class.

    The probability is from logits averaged over ``views``, the heatmap from the framing of ``explained_framings``.

    Raises:
        DecodeError: An image can't be read.
        ModelError: See ``heatmaps``.
    """
    done = 0
    for images in photo_batches(backbone, paths, framings=framings_of(views)):
        rows = probabilities(backbone, head, [images], views=views)
        labels = rows.argmax(axis=1) if label is None else np.full(len(images), classes.index(label))
        shown, framings = explained_framings(backbone, head, images, torch.from_numpy(labels), views)
        maps = heatmaps(backbone, head, shown, torch.from_numpy(labels))
        for view, framing, row, index, heatmap in zip(shown, framings, rows, labels, maps, strict=True):
            probability, note = float(row[index]), framing_note(framing, views)
            yield Explanation(paths[done], classes[index], probability, as_photo(view), heatmap, note)
            done += 1


def explained_framings(
    backbone: Backbone, head: Head, images: Tensor, classes: Tensor, views: Views
) -> tuple[Tensor, tuple[Framing, ...]]:
    """Return the framing of each image in which its heatmap is drawn, uint8, shape (N, 3, height, width), and its name.

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
    """Return a rendered view, uint8, shape (3, height, width), as a Pillow image."""
    return Image.fromarray(view.permute(1, 2, 0).contiguous().numpy())


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
