"""Rendering of augmented views in batches on the training device, as Pillow renders them up to rounding.

Resampling is linear and its filters are separable: a view is one matrix times the image times another matrix.  The
matrices contain the crop, the flip and the antialiasing.

Of the 8-bit values, 98.4 % (images of about 500 x 375) to 99.995 % (150 x 150) equal Pillow's.  132 wide images differ
by at most 2 steps; of 18 tall ones, 9 differ by more than 3 in places, up to 11: Pillow filters their columns first,
which clips the bicubic filter's overshoot elsewhere.

Only CUDA devices use this module: on a CPU it takes 1.8 to 3.5 times Pillow's CPU time.  Its gain on a card is not
measured; ``benchmarks/device.py`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.decode import BandImage, decode_pixels
from unfreeze.data.rendering.framings import frame, to_crop_from
from unfreeze.data.rendering.renderer import DECODED_CACHE_BYTES, Chunks, DecodedImageCache, Renderer, prefetch
from unfreeze.data.rendering.transforms import ViewParams, draw_view
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Interpolation
from unfreeze.views import PLAIN, EvaluationView, Framing

CACHE_SHARE = 0.5  # share of the card's free memory for decoded images; the rest is for training
MAX_PADDED_BYTES = 2**28  # of padded float32 images resampled together: enough work for a card, even for huge images
LUMA = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in 1/65536 (ITU-R BT.601)

Source = tuple[Tensor, ViewParams]


@dataclass(frozen=True)
class DeviceRenderer(Renderer):
    """Renderer of augmented views on a device, whose memory holds the ``image_cache``.

    Evaluation views are rendered by Pillow in every framing (centre crop, whole image and tiles), and turned on the
    device: models are evaluated on the same pixels as in use.
    """

    device: torch.device = field(kw_only=True)

    def cache_key(self, index: int, view: int) -> str:
        """Return the key as ``Renderer`` does, with a suffix for augmented views, which are rounded differently."""
        suffix = "" if view <= PLAIN else " in batches"
        return super().cache_key(index, view) + suffix

    def batches(self, chunks: Chunks) -> Iterator[Tensor]:
        """Yield the views of each chunk as ``Renderer`` does, on the device."""
        for parts in prefetch(lambda item: self.sources(*item), chunks):
            sources = [source for part in parts for source in part]
            yield resample(sources, self.preprocessing.size, self.preprocessing.interpolation)

    def sources(self, index: int, views: Sequence[int]) -> list[Source]:
        """Return each view's source, on the device, and parameters; the source is the decoded image or a framing of it.

        Raises:
            DecodeError: The image can't be read.
        """
        path, framings = self.paths[index], [_framing(view) for view in views]
        pixels = {
            framing: cached
            for framing in dict.fromkeys(framings)
            if (cached := self.image_cache.get((path, framing))) is not None
        }
        missing = [framing for framing in dict.fromkeys(framings) if framing not in pixels]
        if missing:
            image = decode_pixels(path, self.preprocessing.min_side, reading=self.preprocessing.reading)
            assert not isinstance(image, BandImage), "see ``choose_renderer``"
            for framing in missing:
                rendered = (
                    frame(image, self.preprocessing, framing)
                    if framing is not None
                    else to_crop_from(image, self.preprocessing)
                )
                pixels[framing] = torch.from_numpy(np.array(rendered)).to(self.device)
                self.image_cache.put((path, framing), pixels[framing])
        return [
            (pixels[framing], self._params(index, view, pixels[framing]))
            for view, framing in zip(views, framings, strict=True)
        ]

    def _params(self, index: int, view: int, pixels: Tensor) -> ViewParams:
        height, width, _ = pixels.shape
        if view <= PLAIN:
            orientation = EvaluationView(view).orientation
            flip = orientation is Orientation.FLIPPED
            return ViewParams((0, 0, width, height), flip=flip, rot90=orientation.quarter_turns)
        assert self.augmentation is not None, "only evaluation views need no augmentation"
        key = self.seed, view, self.content(index)
        return draw_view((width, height), self.preprocessing, self.augmentation, key)


def _framing(view: int) -> Framing | None:
    """Return the framing of an evaluation view; None for an augmented view, which is cropped from the whole image."""
    return EvaluationView(view).framing if view <= PLAIN else None


def choose_renderer(renderer: Renderer, device: torch.device, *, reused: bool) -> Renderer:
    """Return the renderer for training on ``device``: a ``DeviceRenderer`` for CUDA, else Pillow's.

    Args:
        renderer: Pillow's renderer.  Numbers in bands are rendered by it on every device.
        device: The backbone's device.
        reused: Whether every epoch renders the images anew, so that decoded images are worth caching.
    """
    if device.type != "cuda" or renderer.preprocessing.reading.channels:
        return replace(renderer, image_cache=DecodedImageCache(DECODED_CACHE_BYTES if reused else 0))
    free, _ = torch.cuda.mem_get_info(device)
    return on_device(renderer, device, round(CACHE_SHARE * free) if reused else 0)


def on_device(renderer: Renderer, device: torch.device, budget: int) -> DeviceRenderer:
    """Return a renderer of the same views on ``device``, with ``budget`` bytes there for decoded images."""
    return DeviceRenderer(
        renderer.paths, renderer.preprocessing, renderer.augmentation, renderer.seed, renderer.digests,
        DecodedImageCache(budget), renderer.traits, device=device,
    )  # fmt: skip


def resample(sources: Sequence[Source], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Return the views, uint8, shape (N, 3, *size), channels-last, on the images' device.

    Args:
        sources: Images, uint8, shape (height, width, 3), of any sizes, with the parameters of each view.
        size: Height and width of the views.
        interpolation: The filter.
    """
    cropped = [_crop(image, params, size, interpolation) for image, params in sources]
    return torch.cat([_resample(group, size, interpolation) for group in _groups(cropped)])


def _crop(image: Tensor, params: ViewParams, size: tuple[int, int], interpolation: Interpolation) -> Source:
    """Crop the image to the pixels within the filter's reach of the view's box."""
    left, top, right, bottom = (float(np.float32(edge)) for edge in params.box)  # in float32, as in Pillow
    height, width, _ = image.shape
    x, x_end = _span(left, right, width, size[1], interpolation)
    y, y_end = _span(top, bottom, height, size[0], interpolation)
    return image[y:y_end, x:x_end], replace(params, box=(left - x, top - y, right - x, bottom - y))


def _span(low: float, high: float, side: int, out: int, interpolation: Interpolation) -> tuple[int, int]:
    reach = REACH[interpolation] * max(1.0, (high - low) / out)
    return max(0, math.floor(low - reach)), min(side, math.ceil(high + reach))


def _groups(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Yield the sources in order, in groups that ``MAX_PADDED_BYTES`` lets pad to one size."""
    group: list[Source] = []
    for source in sources:
        height, width = (max(image.shape[axis] for image, _ in (*group, source)) for axis in (0, 1))
        if group and (len(group) + 1) * height * width * 3 * torch.float32.itemsize > MAX_PADDED_BYTES:
            yield group
            group = []
        group.append(source)
    if group:
        yield group


def _resample(sources: Sequence[Source], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Filter along rows, then along columns, and round after each, as Pillow does for wide images."""
    height, width = (max(image.shape[axis] for image, _ in sources) for axis in (0, 1))
    padded = torch.zeros(len(sources), height, width, 3, dtype=torch.uint8, device=sources[0][0].device)
    for canvas, (image, _) in zip(padded, sources, strict=True):
        canvas[: image.shape[0], : image.shape[1]] = image
    numbers = torch.tensor([_numbers(image, params) for image, params in sources], dtype=torch.float64)
    left, right, columns, top, bottom, rows, *gain, contrast = numbers.to(padded.device).T
    horizontal = resampling_matrices(left, right, columns, width, size[1], interpolation)  # (N, out, width)
    vertical = resampling_matrices(top, bottom, rows, height, size[0], interpolation)  # (N, out, height)
    lines = padded.permute(0, 3, 1, 2).reshape(len(sources), 3 * height, width).float()
    narrow = _round_to_8_bit(lines @ horizontal.mT).view(len(sources), 3, height, size[1])
    views = _round_to_8_bit(vertical[:, None] @ narrow)
    jittered = _jitter(views, torch.stack(gain, 1).float()[:, :, None, None], contrast.float().view(-1, 1, 1, 1))
    turned = _rotate_(jittered, [params.rot90 for _, params in sources])
    return turned.to(torch.uint8, memory_format=torch.channels_last)


def _rotate_(views: Tensor, rot90: Sequence[int]) -> Tensor:
    """Rotate each view in place, by its number of quarter turns to the left."""
    for count in set(rot90) - {0}:
        mask = torch.tensor([count == other for other in rot90], device=views.device)
        views[mask] = torch.rot90(views[mask], count, (2, 3))
    return views


def _numbers(image: Tensor, params: ViewParams) -> tuple[float, ...]:
    """Return the view's left, right, columns, top, bottom, rows, three channel gains and contrast."""
    left, top, right, bottom = params.box
    if params.flip:
        left, right = right, left
    height, width, _ = image.shape
    return left, right, width, top, bottom, height, *params.channel_gain, params.contrast


def resampling_matrices(
    low: Tensor, high: Tensor, sides: Tensor, side: int, out: int, interpolation: Interpolation
) -> Tensor:
    """Return matrices that resample lines from ``low`` to ``high`` to ``out`` pixels, float32, shape (N, out, side).

    Args:
        low: Start of each line's first output pixel, shape (N,), float64; greater than ``high`` to flip the line.
        high: End of each line's last output pixel, shape (N,).
        sides: Pixels of each line, shape (N,).
        side: Pixels that the lines are padded to.
        out: Output pixels of a line.
        interpolation: The filter; downscaling widens it, except ``nearest``.
    """
    step = (high - low) / out
    centres = low[:, None] + (torch.arange(out, device=low.device) + 0.5) * step[:, None]
    pixels = torch.arange(side, device=low.device) + 0.5
    width = torch.ones_like(step) if interpolation == "nearest" else step.abs().clamp(min=1)
    weights = FILTERS[interpolation]((pixels - centres[:, :, None]) / width[:, None, None])
    weights = weights * (pixels < sides[:, None, None])
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def _nearest(x: Tensor) -> Tensor:
    return ((x > -0.5) & (x <= 0.5)).double()


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5 (Keys 1981)."""
    x = x.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, far) * (x < 2)


def _lanczos(x: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)


FILTERS: dict[Interpolation, Callable[[Tensor], Tensor]] = {
    "nearest": _nearest,
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
}
REACH: dict[Interpolation, int] = {"nearest": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # filter radius in pixels


def _round_to_8_bit(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def _jitter(views: Tensor, gain: Tensor, contrast: Tensor) -> Tensor:
    """Apply channel gains, then contrast about the mean grey, and truncate after each, as Pillow does."""
    bright = (views * gain).clamp_(0, 255).floor_()
    red, green, blue = bright.unbind(1)
    grey = ((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15) / 2**16).floor_()
    mean = (grey.mean(dim=(1, 2), dtype=torch.float64) + 0.5).floor().float().view(-1, 1, 1, 1)
    return (mean + contrast * (bright - mean)).clamp_(0, 255).floor_()
