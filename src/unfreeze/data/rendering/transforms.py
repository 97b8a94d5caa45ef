"""From an upright RGB photo to what a backbone wants to see: the plain view, and augmented ones.

View 0 is the plain one: the evaluation rendering that the backbone's source prescribes.  View v > 0 is drawn from
(seed, v, content) alone, so that it is the same in whichever order, thread, epoch or run it is rendered.  View v < 0 is a
orientation: the plain view, mirrored or turned to the pixel.

torchvision's random transforms are not used: they draw from one generator that all threads share, by which a view
would depend on those rendered before it and could not be cached.  Pillow does the work in both, in 1.6 ms a view here
and 1.8 ms there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image, ImageEnhance

from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import generator

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 64  # no crop reaches further from the middle than half the short side
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}
PLAIN_VIEW = Orientation.IDENTITY
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How an augmented view differs from the plain one.

    Attributes:
        area: Smallest and largest share of the photo's area that a random crop keeps.
        aspect: Smallest and largest ratio by which a crop's width over height differs from the input's.
        flip: Probability of a left-right flip.
        jitter: Brightness and contrast are each multiplied by a factor within 1 - jitter and 1 + jitter.
        turns: Whether the view is turned by any number of quarter turns, for photos that have no upright; views that aren't
            square by half turns alone.
        color_jitter: Red, green and blue are each multiplied by a factor between exp(-tint) and exp(tint).
    """

    area: tuple[float, float]
    aspect: tuple[float, float]
    flip: float
    jitter: float
    turns: bool = False
    color_jitter: float = 0.0

    @property
    def symmetry(self) -> Literal["none", "flip", "rotate"]:
        """How photos are turned."""
        return "rotate" if self.turns else "flip" if self.flip else "none"

    def tta_orientations(self, size: tuple[int, int]) -> tuple[Orientation, ...]:
        """Return in which orientations views of ``size`` mean the same, the plain one first."""
        if self.turns:
            return (
                (Orientation.IDENTITY, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)
                if size[0] == size[1]
                else (Orientation.IDENTITY, Orientation.ROT180)
            )
        return (Orientation.IDENTITY, Orientation.FLIPPED) if self.flip else IDENTITY_ONLY


def render(
    photo: Image.Image,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None,
    seed: int,
    views: Sequence[int],
    content: int,
) -> list[Image.Image]:
    """Return views of a photo, in RGB, as large as the backbone's input; orientations are turned from one plain view.

    Args:
        photo: An upright RGB photo.
        preprocessing: The backbone's own.
        augmentation: What views other than the plain one and its orientations may change.
        seed: Decides, with the view and the content, how.
        views: Which ones.
        content: The photo's content as a number.
    """
    upright = plain(photo, preprocessing) if any(view <= PLAIN_VIEW for view in views) else photo

    def rendered(view: int) -> Image.Image:
        if view <= PLAIN_VIEW:
            return _in_pose(upright, Orientation(view))
        assert augmentation is not None, "only the plain view needs no augmentation"
        return augment(photo, preprocessing, augmentation, (seed, view, content))

    return [rendered(view) for view in views]


def plain(photo: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize the short side and crop the centre, rounding as torchvision and timm do."""
    if isinstance(preprocessing.resize, int):
        photo = _middle(photo)
    width, height = photo.size
    if isinstance(preprocessing.resize, int):
        short = min(width, height)
        scaled = tuple(int(preprocessing.resize * side / short) for side in (width, height))
    else:
        scaled = preprocessing.resize[::-1]
    crop_height, crop_width = preprocessing.size
    canvas = photo if scaled == photo.size else photo.resize(scaled, RESAMPLING[preprocessing.interpolation])  # type: ignore[arg-type]
    left, top = _margin(scaled[0], crop_width), _margin(scaled[1], crop_height)
    return canvas.crop((left, top, left + crop_width, top + crop_height))


def _in_pose(view: Image.Image, orientation: Orientation) -> Image.Image:
    if orientation is Orientation.FLIPPED:
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return view.transpose(TURNS[orientation.turns]) if orientation.turns else view


def _middle(photo: Image.Image) -> Image.Image:
    """Cut the ends off a strip longer than ``LONGEST`` times its width, which would fill the memory when it is enlarged."""
    width, height = photo.size
    span = LONGEST * min(width, height)
    if max(width, height) <= span:
        return photo
    left, top = max(0, (width - span) // 2), max(0, (height - span) // 2)
    return photo.crop((left, top, left + min(width, span), top + min(height, span)))


def _margin(side: int, crop: int) -> int:
    """Return where a centred crop begins; where the crop is longer, the smaller half of the padding comes first."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)


@dataclass(frozen=True, slots=True)
class ViewParams:
    """What an augmented view shows of a photo, and in which light.

    Attributes:
        box: Left, top, right and bottom, in pixels of the photo.
        flip: Whether left and right change places.
        channel_gain: Factors on every pixel's red, green and blue.
        contrast: Factor on every pixel's distance from the view's mean grey.
        rot90: Quarter turns to the left, of the finished view.
    """

    box: tuple[float, float, float, float]
    flip: bool = False
    channel_gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    rot90: int = 0


def draw_view(
    size: tuple[int, int], preprocessing: Preprocessing, augmentation: Augmentation, key: tuple[int, ...]
) -> ViewParams:
    """Draw a view of a photo of ``size``, width and height, as (seed, view, content) decides."""
    random = generator(*key)
    width, height = size
    area = width * height * random.uniform(*augmentation.area)
    low, high = (math.log(bound) for bound in augmentation.aspect)
    aspect = preprocessing.size[1] / preprocessing.size[0] * math.exp(random.uniform(low, high))
    crop_width = min(width, math.sqrt(area * aspect))
    crop_height = min(height, math.sqrt(area / aspect))
    left = random.uniform(0, width - crop_width)
    top = random.uniform(0, height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    flip = bool(random.random() < augmentation.flip)
    brightness, contrast = random.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, size=2)
    turns = 0
    if augmentation.turns:
        square = preprocessing.size[0] == preprocessing.size[1]
        turns = int(random.integers(4)) if square else 2 * int(random.integers(2))
    tints = (
        np.exp(random.uniform(-augmentation.color_jitter, augmentation.color_jitter, size=3))
        if augmentation.color_jitter
        else np.ones(3)
    )
    red, green, blue = (brightness * tints).tolist()
    return ViewParams(box, flip, (red, green, blue), float(contrast), turns)


def augment(
    photo: Image.Image, preprocessing: Preprocessing, augmentation: Augmentation, key: tuple[int, ...]
) -> Image.Image:
    """Crop, flip, jitter and turn a photo as (seed, view, content) decides."""
    frame = draw_view(photo.size, preprocessing, augmentation, key)
    view = photo.resize(preprocessing.size[::-1], RESAMPLING[preprocessing.interpolation], box=frame.box)
    if frame.flip:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augmentation.jitter or augmentation.color_jitter:
        view = ImageEnhance.Contrast(_lit(view, frame.channel_gain)).enhance(frame.contrast)
    return view if not frame.rot90 else view.transpose(TURNS[frame.rot90])


def _lit(view: Image.Image, light: tuple[float, float, float]) -> Image.Image:
    """Multiply red, green and blue; decimals are cut off, as ``ImageEnhance.Brightness`` does where all are equal."""
    levels = np.outer(np.array(light, np.float32), np.arange(256, dtype=np.float32))
    return view.point(np.minimum(levels, 255).astype(int).ravel().tolist())


def to_batch(views: Sequence[Image.Image]) -> Tensor:
    """Return views of one size as bytes, shape (N, 3, height, width), channels-last: what travels to the device."""
    import torch

    return torch.from_numpy(np.stack([np.asarray(view) for view in views])).permute(0, 3, 1, 2)


def normalize(views: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Return views, uint8, shape (N, 3, height, width), minus the backbone's mean and divided by its standard deviation.

    They come in float32, channels-last, on the device that they are on.
    """
    count, _, height, width = views.shape
    rows = views.permute(0, 2, 3, 1).reshape(count * height, width * 3).float()  # long ones, not of 3: 5 times as fast
    mean, std = (rows.new_tensor(value).repeat(width) for value in (preprocessing.mean, preprocessing.std))
    return rows.div_(255).sub_(mean).div_(std).view(count, height, width, 3).permute(0, 3, 1, 2)
