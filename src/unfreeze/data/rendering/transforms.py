"""Rendering of evaluation views and augmented views of an upright image, RGB or of numbers in bands.

View 0 is the plain view: the evaluation preprocessing of the backbone's source.  View v > 0 is an augmented view, a
function of (seed, v, content) alone: order, thread, epoch and run don't change it.  View v < 0 is another
``EvaluationView``: a framing of the image, flipped or rotated exactly.

torchvision's random transforms are not used: all threads share one generator, by which a view would depend on the ones
rendered before it and could not be cached.  Both use Pillow, for 1.6 ms a view here and 1.8 ms there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageEnhance

from unfreeze.data.decode import BandImage, Pixels
from unfreeze.data.decode.band_image import WHITE, P
from unfreeze.data.rendering.framings import RESAMPLING, frame, to_crop_from
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import generator
from unfreeze.views import PLAIN, EvaluationView, Framing

if TYPE_CHECKING:
    from torch import Tensor

ROTATIONS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Distribution of augmented views.

    Attributes:
        area: Smallest and largest area of a random crop, as a share of the image.
        aspect: Smallest and largest factor between the aspect ratios (width / height) of a crop and of the input.
        flip: Probability of a left-right flip.
        jitter: Brightness and contrast are each multiplied by a factor from 1 - jitter to 1 + jitter.
        rotate: Whether views are rotated by random quarter turns (views that aren't square: half turns), for images
            without an upright orientation.
        color_jitter: Red, green and blue are each multiplied by a factor from exp(-color_jitter) to exp(color_jitter).
    """

    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: float
    jitter: float
    rotate: bool = False
    color_jitter: float = 0.0

    @property
    def symmetry(self) -> Literal["none", "flip", "rotate"]:
        """The symmetry that the augmentation assumes."""
        return "rotate" if self.rotate else "flip" if self.flip else "none"

    def tta_orientations(self, size: tuple[int, int]) -> tuple[Orientation, ...]:
        """Return the orientations of views of ``size`` that preserve the label, the identity first."""
        if self.rotate:
            return (
                (Orientation.IDENTITY, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)
                if size[0] == size[1]
                else (Orientation.IDENTITY, Orientation.ROT180)
            )
        return (Orientation.IDENTITY, Orientation.FLIPPED) if self.flip else (Orientation.IDENTITY,)


def render(
    image: P,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    seed: int,
    views: Sequence[int],
    content: int,
) -> list[P]:
    """Return views of an image, of the backbone's input size; all orientations of a framing share its pixels.

    Args:
        image: An upright image.
        preprocessing: The backbone's preprocessing.
        augmentation: Parameters of augmented views; None if there are none.
        seed: Determines augmented views, together with the view and the content.
        views: Numbers of the views.
        content: The image's content as a number.
    """
    upright: dict[Framing, P] = {}

    def rendered(view: int) -> P:
        if view <= PLAIN:
            shown = EvaluationView(view)
            if shown.framing not in upright:
                upright[shown.framing] = frame(image, preprocessing, shown.framing)
            return _orient(upright[shown.framing], shown.orientation)
        assert augmentation is not None, "only evaluation views need no augmentation"
        return augment(image, preprocessing, augmentation, (seed, view, content))

    return [rendered(view) for view in views]


def _orient(view: P, orientation: Orientation) -> P:
    if orientation is Orientation.FLIPPED:
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turns = orientation.quarter_turns
    return view.transpose(ROTATIONS[turns]) if turns else view


@dataclass(frozen=True, slots=True)
class ViewParams:
    """Parameters of one augmented view.

    Attributes:
        box: Left, top, right and bottom of the crop, in pixels of the image.
        flip: Whether the view is flipped left-right.
        channel_gain: Factors of red, green and blue.
        contrast: Factor of every pixel's distance from the view's mean grey.
        rot90: Quarter turns to the left, applied last.
    """

    box: tuple[float, float, float, float]
    flip: bool = False
    channel_gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    rot90: int = 0


def draw_view(
    size: tuple[int, int], preprocessing: Preprocessing, augmentation: Augmentation, key: tuple[int, ...]
) -> ViewParams:
    """Return random parameters for an image of ``size`` (width, height); ``key`` (seed, view, content) seeds them.

    ``size`` is that of ``to_crop_from``.  A crop has about the aspect ratio of the input; of an image that is squashed, it
    has about the aspect ratio of the image, and is squashed as the whole image is.
    """
    random = generator(*key)
    width, height = size
    area = width * height * random.uniform(*augmentation.area)
    low, high = (math.log(bound) for bound in augmentation.aspect)
    full = width / height if preprocessing.fit == "squash" else preprocessing.size[1] / preprocessing.size[0]
    aspect = full * math.exp(random.uniform(low, high))
    crop_width = min(width, math.sqrt(area * aspect))
    crop_height = min(height, math.sqrt(area / aspect))
    left = random.uniform(0, width - crop_width)
    top = random.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    flip = bool(random.random() < augmentation.flip)
    brightness, contrast = random.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, size=2)
    rot90 = 0
    if augmentation.rotate:
        square = preprocessing.size[0] == preprocessing.size[1]
        rot90 = int(random.integers(4)) if square else 2 * int(random.integers(2))
    color_gain = (
        np.exp(random.uniform(-augmentation.color_jitter, augmentation.color_jitter, size=3))
        if augmentation.color_jitter
        else np.ones(3)
    )
    red, green, blue = (brightness * color_gain).tolist()
    return ViewParams(box, flip, (red, green, blue), float(contrast), rot90)


def augment(image: P, preprocessing: Preprocessing, augmentation: Augmentation, key: tuple[int, ...]) -> P:
    """Crop, flip, jitter and rotate an image at random; ``key`` (seed, view, content) seeds the parameters.

    Numbers in bands keep their values: how bright they are may be what tells the classes.
    """
    image = to_crop_from(image, preprocessing)
    params = draw_view(image.size, preprocessing, augmentation, key)
    view = image.resize(preprocessing.size[::-1], RESAMPLING[preprocessing.interpolation], box=params.box)
    if params.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if isinstance(view, Image.Image) and (augmentation.jitter or augmentation.color_jitter):
        view = ImageEnhance.Contrast(_apply_gain(view, params.channel_gain)).enhance(params.contrast)
    return view if not params.rot90 else view.transpose(ROTATIONS[params.rot90])


def _apply_gain(view: Image.Image, gain: tuple[float, float, float]) -> Image.Image:
    """Multiply red, green and blue and truncate; three equal gains give the result of ``ImageEnhance.Brightness``."""
    levels = np.outer(np.array(gain, np.float32), np.arange(256, dtype=np.float32))
    return view.point(np.minimum(levels, 255).astype(int).ravel().tolist())


def framed_batch(image: Pixels, preprocessing: Preprocessing, framings: Sequence[Framing]) -> Tensor:
    """Return an upright image in ``framings`` as a batch of one image for ``views.select_views``; see ``to_batch``.

    The shape is (1, channels, height, width) for one framing, else (1, framings, channels, height, width).
    """
    framed = to_batch([frame(image, preprocessing, framing) for framing in framings])
    return framed if len(framings) == 1 else framed[None]


def to_batch(views: Sequence[Pixels]) -> Tensor:
    """Return views of one size as one tensor, shape (N, channels, height, width), channels-last.

    RGB views are uint8, of three channels; views of numbers in bands are int32, 65535 being white.
    """
    import torch

    arrays = [view.to_array() if isinstance(view, BandImage) else np.asarray(view) for view in views]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def is_rendered(views: Tensor) -> bool:
    """Return whether a tensor holds rendered views, which aren't normalised yet."""
    import torch

    return views.dtype in (torch.uint8, torch.int32)


def white_of(views: Tensor) -> int:
    """Return the number that stands for 1 in rendered views."""
    import torch

    return 255 if views.dtype == torch.uint8 else WHITE


def normalize(views: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Scale views to 0-1, subtract the backbone's mean and divide by its standard deviation, per channel.

    Args:
        views: uint8 or int32, shape (N, channels, height, width).
        preprocessing: The backbone's preprocessing.

    Returns:
        float32, shape (N, channels, height, width), channels-last, on the views' device.
    """
    count, channels, height, width = views.shape
    white = white_of(views)
    rows = views.permute(0, 2, 3, 1).reshape(count * height, width * channels).float()  # 5 times as fast as rows of 3
    mean, std = (rows.new_tensor(value).repeat(width) for value in (preprocessing.mean, preprocessing.std))
    return rows.div_(white).sub_(mean).div_(std).view(count, height, width, channels).permute(0, 3, 1, 2)
