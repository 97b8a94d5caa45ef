"""Synthetic images with the statistics of photos, the same in every process: they check the choice of an engine.

The choice must not depend on which images a run computes first, and no photo can ship with the package.  White noise
is unsuitable: its spectrum is flat, and networks respond to it unlike to photos.  These are dead leaves (overlapping
ellipses of all sizes) with a texture whose amplitude falls with the frequency (1/f), as in natural images (Lee,
Mumford & Huang 2001), at different brightness, contrast and saturation.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unfreeze.preprocessing import Preprocessing

N_LEAVES = 60  # ellipses in an image
COLOUR_STATISTICS = ((0.45, 0.25, 0.6), (0.75, 0.12, 0.3), (0.2, 0.15, 0.5), (0.5, 0.08, 0.0))
"""Brightness, contrast and saturation of each image: everyday photo, microscope slide, dark photo, grey texture."""


def probe_images(preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """Return the images as a network receives photos: float32, normalised, channels-last, shape (N, channels, H, W)."""
    random = torch.Generator().manual_seed(0)
    images = torch.stack([_render(*statistics, preprocessing.size, random) for statistics in COLOUR_STATISTICS])
    images = images[:, torch.arange(preprocessing.n_channels) % 3]
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    return ((images - mean) / std).to(device=device, memory_format=torch.channels_last)


def _render(
    brightness: float, contrast: float, saturation: float, size: tuple[int, int], random: torch.Generator
) -> Tensor:
    """Return one image with values from 0 to 1 in steps of 1/255, shape (3, H, W)."""
    y_grid, x_grid = (torch.linspace(-1, 1, length) for length in size)
    height, width = size
    colours = torch.randn(N_LEAVES, 4, generator=random)
    geometry = torch.rand(N_LEAVES, 4, generator=random)
    leaf = torch.zeros(height, width, dtype=torch.long)  # index of the topmost ellipse at each pixel
    for index, (y, x, scale, turn) in enumerate(geometry.tolist()):
        radius = 0.08 / (scale + 0.08)  # a few large ellipses, many small ones
        cosine, sine = math.cos(math.pi * turn), math.sin(math.pi * turn)
        v, u = y_grid[:, None] - (2 * y - 1), x_grid[None, :] - (2 * x - 1)
        inside = (u * cosine + v * sine) ** 2 + 4 * (v * cosine - u * sine) ** 2 < radius**2
        leaf.masked_fill_(inside, index)
    image = colours.T[:, leaf]  # luminance and three colour differences
    y_frequency, x_frequency = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None, :]
    frequency = torch.hypot(y_frequency, x_frequency).clamp(min=1 / max(size))
    noise = torch.fft.rfft2(torch.randn(4, height, width, generator=random))
    texture = torch.fft.irfft2(noise / frequency, s=size)
    image = image + 0.6 * texture / texture.std(dim=(1, 2), keepdim=True).clamp(min=1e-6)
    mixed = image[:1] + saturation * image[1:]
    scaled = brightness + contrast * (mixed - mixed.mean()) / mixed.std().clamp(min=1e-6)
    rendered: Tensor = (scaled.clamp(0, 1) * 255).round() / 255
    return rendered
