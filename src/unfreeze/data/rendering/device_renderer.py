"""Augmented views of a whole batch at once, resampled on the device that trains on them: Pillow's views, up to rounding.

Resampling is linear, and the filters are separable: a view is a small matrix times the photo times another small matrix.
Box, flip and antialiasing are all in the matrices, and the products are what a GPU is best at.

Only a CUDA device uses this: on a CPU the products take 1.8 to 3.5 times Pillow's CPU time.  The gain on a card is
not measured yet; ``benchmarks/device.py`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.decode import decode
from unfreeze.data.rendering.renderer import DECODED_CACHE_BYTES, Chunks, DecodedImageCache, Renderer, prefetch
from unfreeze.data.rendering.transforms import PLAIN_VIEW, ViewParams, draw_view, plain
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Interpolation

SHARE = 0.5  # of the card's free memory that photos may take: the rest is for training on them
AT_ONCE = 2**28  # bytes of padded photos in float32: a card is busy with that, and a batch of huge photos takes turns
LUMA = (19595, 38470, 7471)  # of 65536: how Pillow weighs red, green and blue (ITU-R BT.601)

Source = tuple[Tensor, ViewParams]


@dataclass(frozen=True)
class DeviceRenderer(Renderer):
    """Renders augmented views on the device; ``memory`` is the device's.

    Plain views are Pillow's: what scores a model is rendered as it will be rendered when the model is used.
    """

    device: torch.device = field(kw_only=True)

    def identity(self, photo: int, view: int) -> str:
        """Return what decides the pixels of a view, apart from ``preprocessing``: rounding is among it."""
        own = "" if view <= PLAIN_VIEW else " in batches"
        return super().identity(photo, view) + own

    def batches(self, chunks: Chunks) -> Iterator[Tensor]:
        """Yield the views of each chunk as ``Renderer`` does, on the device."""
        for parts in prefetch(lambda wanted: self.sources(*wanted), chunks):
            sources = [source for part in parts for source in part]
            yield resample(sources, self.preprocessing.size, self.preprocessing.interpolation)

    def sources(self, photo: int, views: Sequence[int]) -> list[Source]:
        """Return what the views are made of: the decoded photo, or the finished plain view, on the device, and the frame.

        Raises:
            DecodeError: The photo can't be read.
        """
        path, kinds = self.paths[photo], sorted({view <= PLAIN_VIEW for view in views})
        found = {finished: held for finished in kinds if (held := self.memory.find((path, finished))) is not None}
        if len(found) < len(kinds):
            image = decode(path, self.preprocessing.min_side)
            for finished in (kind for kind in kinds if kind not in found):
                shown = plain(image, self.preprocessing) if finished else image
                found[finished] = torch.from_numpy(np.array(shown)).to(self.device)
                self.memory.keep((path, finished), found[finished])
        return [(found[view <= PLAIN_VIEW], self._frame(photo, view, found[view <= PLAIN_VIEW])) for view in views]

    def _frame(self, photo: int, view: int, pixels: Tensor) -> ViewParams:
        height, width, _ = pixels.shape
        if view <= PLAIN_VIEW:
            return ViewParams((0, 0, width, height), flip=view == Orientation.FLIPPED, rot90=Orientation(view).turns)
        assert self.augmentation is not None, "only the plain view needs no augmentation"
        key = self.seed, view, self.content(photo)
        return draw_view((width, height), self.preprocessing, self.augmentation, key)


def choose_renderer(renderer: Renderer, device: torch.device, *, again: bool) -> Renderer:
    """Return the renderer for training on ``device``: its own on a CUDA card, Pillow elsewhere.

    Args:
        renderer: Pillow's.
        device: Where the backbone is.
        again: Whether every epoch asks for the photos, so that they are worth holding on to.
    """
    if device.type != "cuda":
        return replace(renderer, memory=DecodedImageCache(DECODED_CACHE_BYTES if again else 0))
    free, _ = torch.cuda.mem_get_info(device)
    return on_device(renderer, device, round(SHARE * free) if again else 0)


def on_device(renderer: Renderer, device: torch.device, budget: int) -> DeviceRenderer:
    """Return what renders the same views on ``device``, with ``budget`` bytes there for photos."""
    return DeviceRenderer(
        renderer.paths, renderer.preprocessing, renderer.augmentation, renderer.seed, renderer.digests, DecodedImageCache(budget),
        device=device,
    )  # fmt: skip


def resample(sources: Sequence[Source], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Return each photo in its frame, uint8, shape (N, 3, *size), channels-last, on the photos' device.

    Args:
        sources: Photos, uint8, shape (height, width, 3), of any sizes, and what to show of them.
        size: Height and width of the views.
        interpolation: The filter.
    """
    cut = [_cut(photo, frame, size, interpolation) for photo, frame in sources]
    return torch.cat([_resample(group, size, interpolation) for group in _groups(cut)])


def _cut(photo: Tensor, frame: ViewParams, size: tuple[int, int], interpolation: Interpolation) -> Source:
    """Cut away what the filter doesn't reach from the frame's box."""
    left, top, right, bottom = (float(np.float32(edge)) for edge in frame.box)  # as Pillow takes it
    height, width, _ = photo.shape
    x, x_end = _reach(left, right, width, size[1], interpolation)
    y, y_end = _reach(top, bottom, height, size[0], interpolation)
    return photo[y:y_end, x:x_end], replace(frame, box=(left - x, top - y, right - x, bottom - y))


def _reach(low: float, high: float, side: int, out: int, interpolation: Interpolation) -> tuple[int, int]:
    reach = REACH[interpolation] * max(1.0, (high - low) / out)
    return max(0, math.floor(low - reach)), min(side, math.ceil(high + reach))


def _groups(sources: Sequence[Source]) -> Iterator[list[Source]]:
    """Yield the sources in order, as many at a time as may be padded to one size."""
    group: list[Source] = []
    for source in sources:
        height, width = (max(photo.shape[side] for photo, _ in (*group, source)) for side in (0, 1))
        if group and (len(group) + 1) * height * width * 3 * torch.float32.itemsize > AT_ONCE:
            yield group
            group = []
        group.append(source)
    if group:
        yield group


def _resample(sources: Sequence[Source], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """Filter along rows, then along columns, and round after each, as Pillow does."""
    height, width = (max(photo.shape[side] for photo, _ in sources) for side in (0, 1))
    padded = torch.zeros(len(sources), height, width, 3, dtype=torch.uint8, device=sources[0][0].device)
    for place, (photo, _) in zip(padded, sources, strict=True):
        place[: photo.shape[0], : photo.shape[1]] = photo
    numbers = torch.tensor([_numbers(photo, frame) for photo, frame in sources], dtype=torch.float64)
    left, right, columns, top, bottom, rows, *light, contrast = numbers.to(padded.device).T
    across = resampling_matrices(left, right, columns, width, size[1], interpolation)  # (N, out, width)
    down = resampling_matrices(top, bottom, rows, height, size[0], interpolation)
    lines = padded.permute(0, 3, 1, 2).reshape(len(sources), 3 * height, width).float()
    narrow = _rounded(lines @ across.mT).view(len(sources), 3, height, size[1])
    views = _rounded(down[:, None] @ narrow)
    lit = _lit(views, torch.stack(light, 1).float()[:, :, None, None], contrast.float().view(-1, 1, 1, 1))
    return _turned(lit, [frame.rot90 for _, frame in sources]).to(torch.uint8, memory_format=torch.channels_last)


def _turned(views: Tensor, turns: Sequence[int]) -> Tensor:
    """Turn each view to the left by so many quarter turns, in place."""
    for count in set(turns) - {0}:
        chosen = torch.tensor([count == own for own in turns], device=views.device)
        views[chosen] = torch.rot90(views[chosen], count, (2, 3))
    return views


def _numbers(photo: Tensor, frame: ViewParams) -> tuple[float, ...]:
    left, top, right, bottom = frame.box
    if frame.flip:
        left, right = right, left
    height, width, _ = photo.shape
    return left, right, width, top, bottom, height, *frame.channel_gain, frame.contrast


def resampling_matrices(
    low: Tensor, high: Tensor, sides: Tensor, side: int, out: int, interpolation: Interpolation
) -> Tensor:
    """Return what resamples lines of ``sides`` pixels from ``low`` to ``high`` to ``out`` pixels, shape (N, out, side).

    Args:
        low: Where each line's first new pixel begins, shape (N,), float64; where it is greater than ``high``, the line is
            turned round.
        high: Where the last one ends.
        sides: How many pixels each line has.
        side: How many it is padded to.
        out: How many it gets.
        interpolation: The filter; shrinking widens it, unless it is ``nearest``.
    """
    step = (high - low) / out
    middles = low[:, None] + (torch.arange(out, device=low.device) + 0.5) * step[:, None]
    pixels = torch.arange(side, device=low.device) + 0.5
    width = torch.ones_like(step) if interpolation == "nearest" else step.abs().clamp(min=1)
    weights = FILTERS[interpolation]((pixels - middles[:, :, None]) / width[:, None, None])
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
REACH: dict[Interpolation, int] = {"nearest": 1, "bilinear": 1, "bicubic": 2, "lanczos": 3}  # where a filter ends


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


def _lit(views: Tensor, light: Tensor, contrast: Tensor) -> Tensor:
    """Change light, then contrast about the mean grey, and cut decimals off after each, as Pillow does."""
    bright = (views * light).clamp_(0, 255).floor_()
    red, green, blue = bright.unbind(1)
    grey = ((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15) / 2**16).floor_()
    mean = (grey.mean(dim=(1, 2), dtype=torch.float64) + 0.5).floor().float().view(-1, 1, 1, 1)
    return (mean + contrast * (bright - mean)).clamp_(0, 255).floor_()
