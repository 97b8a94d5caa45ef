"""Rendering of an image in a framing: the plain view, the whole image, or one tile of it.

The plain view is the centre crop of the backbone's source, or the whole image, as ``Preprocessing.fit`` says.
"""

from __future__ import annotations

from PIL import Image

from unfreeze.data.decode import BandImage
from unfreeze.data.decode.band_image import P
from unfreeze.preprocessing import Preprocessing
from unfreeze.views import CROP, SQUEEZE, Framing, Grid

MAX_ELONGATION = 64  # long side / short side; a centre crop extends half the short side from the centre
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def frame(image: P, preprocessing: Preprocessing, framing: Framing) -> P:
    """Return an upright image in a framing, of the backbone's input size."""
    if framing == CROP:
        return plain(image, preprocessing)
    if framing != SQUEEZE:
        image = image.crop(tile_box(image.size, preprocessing, framing.grid, framing.index))
    size = preprocessing.size[::-1]
    return image if image.size == size else image.resize(size, RESAMPLING[preprocessing.interpolation])


def plain(image: P, preprocessing: Preprocessing) -> P:
    """Resize an image and crop its centre, or pad it, rounding as torchvision and timm do."""
    if preprocessing.fit == "pad":
        return _pad(image, preprocessing.size, preprocessing)
    if isinstance(preprocessing.resize, int):
        image = _limit_elongation(image)
    scaled = scaled_size(image.size, preprocessing)
    crop_height, crop_width = preprocessing.size
    if scaled != image.size:
        image = image.resize(scaled, RESAMPLING[preprocessing.interpolation])
    left, top = _margin(scaled[0], crop_width), _margin(scaled[1], crop_height)
    return image.crop((left, top, left + crop_width, top + crop_height))


def scaled_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Return the (width, height) that an image of ``size`` is resized to before the centre crop."""
    resize = preprocessing.resize
    if not isinstance(resize, int):
        return resize[1], resize[0]
    width, height = size
    short = min(size)
    return int(resize * width / short), int(resize * height / short)


def tile_box(size: tuple[int, int], preprocessing: Preprocessing, grid: Grid, index: int) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a tile, in whole pixels of an image of ``size`` (width, height).

    The tiles are the smallest boxes of the input's aspect ratio that cover the image in this grid, evenly spaced and
    overlapping, except that

    - they are enlarged beyond the file's pixels at most as much as the centre crop is;
    - they don't extend beyond the image: of one longer than the grid, the tiles are longer, too, and are squeezed.

    Args:
        size: Width and height of the image.
        preprocessing: The backbone's preprocessing.
        grid: Tiles along the short and along the long side; short and long are relative to the input's aspect ratio.
        index: The number of the tile, row by row from the top left.
    """
    width, height = size
    input_height, input_width = preprocessing.size
    is_wide = width * input_height >= height * input_width
    down, across = grid if is_wide else grid[::-1]
    scaled_width, scaled_height = scaled_size(size, preprocessing)
    # Division rounds up.
    tile_width = max(
        -(-width // across),
        -(-height * input_width // (down * input_height)),
        min(input_width, -(-width * input_width // scaled_width), -(-height * input_width // scaled_height)),
    )
    tile_height = max(
        -(-height // down),
        -(-width * input_height // (across * input_width)),
        min(input_height, -(-width * input_height // scaled_width), -(-height * input_height // scaled_height)),
    )
    tile_width, tile_height = min(width, tile_width), min(height, tile_height)
    row, column = divmod(index, across)
    left = (width - tile_width) * column // max(1, across - 1)
    top = (height - tile_height) * row // max(1, down - 1)
    return left, top, left + tile_width, top + tile_height


def to_crop_from(image: P, preprocessing: Preprocessing) -> P:
    """Return the image that random crops are taken from: itself, or padded to the input's aspect ratio."""
    if preprocessing.fit != "pad":
        return image
    height, width = preprocessing.size
    enlargement = max(image.width / width, image.height / height)
    # Of more pixels, a random crop shows no more, and the borders of a long strip would fill the memory.
    enlargement = min(enlargement, preprocessing.min_side / min(height, width))
    return _pad(image, (round(height * enlargement), round(width * enlargement)), preprocessing)


def _pad(image: P, size: tuple[int, int], preprocessing: Preprocessing) -> P:
    """Scale an image to fit into ``size`` (height, width), centred on the mean colour, as timm's crop mode "border"."""
    height, width = size
    ratio = max(image.height / height, image.width / width)
    scaled = max(1, round(image.width / ratio)), max(1, round(image.height / ratio))
    if scaled != image.size:
        image = image.resize(scaled, RESAMPLING[preprocessing.interpolation])
    if isinstance(image, BandImage):
        return image.centred((width, height), preprocessing.mean)
    red, green, blue = (round(255 * mean) for mean in preprocessing.mean)
    padded = Image.new("RGB", (width, height), (red, green, blue))
    padded.paste(image, ((width - scaled[0]) // 2, (height - scaled[1]) // 2))
    return padded


def _limit_elongation(image: P) -> P:
    """Crop an image to ``MAX_ELONGATION`` times its short side: a longer strip, upscaled, would fill the memory."""
    width, height = image.size
    span = MAX_ELONGATION * min(width, height)
    if max(width, height) <= span:
        return image
    left, top = max(0, (width - span) // 2), max(0, (height - span) // 2)
    return image.crop((left, top, left + min(width, span), top + min(height, span)))


def _margin(side: int, crop: int) -> int:
    """Return the start of a centred crop; where the crop is longer, the smaller half of the padding comes first."""
    return -((crop - side) // 2) if crop > side else round((side - crop) / 2)
