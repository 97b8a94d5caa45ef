"""Images as Python programs give them: paths, open files, bytes, Pillow images, arrays and tensors, one or many."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from unfreeze.data.decode import Decoded, inspect
from unfreeze.data.decode.band_image import scaled
from unfreeze.data.places import find_photos, iter_photos
from unfreeze.errors import ArgumentError, DecodeError
from unfreeze.files import exists, is_file
from unfreeze.paths import user_path
from unfreeze.reading import FIRST_FRAME, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

ACCEPTED = (
    "Give a path, an open file, bytes, a Pillow image, an array (height, width, 3) or a tensor (3, height, width), "
    "or any iterable of these."
)
_BY_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")  # modes that PNG stores, transparency included
_BANDS = (1, 3, 4)


@dataclass(frozen=True, eq=False, slots=True)
class GivenImage:
    """An image in memory.

    Attributes:
        path: The path of its file where it has one, else its place in what was given, such as ``photos[0]``.
        content: The file's content, or the image.
    """

    path: Path
    content: bytes | Image.Image


Photo = Path | GivenImage
if TYPE_CHECKING:
    OnePhoto = (
        Photo
        | str
        | os.PathLike[str]
        | bytes
        | bytearray
        | memoryview
        | IO[bytes]
        | Image.Image
        | NDArray[Any]
        | Tensor
    )
    Photos = OnePhoto | Iterable[OnePhoto]


def path_of(photo: Photo) -> Path:
    """Return the path by which an image is named."""
    return photo.path if isinstance(photo, GivenImage) else photo


def decode_photo(photo: Photo, min_side: int | None = None, reading: Reading = FIRST_FRAME) -> Decoded:
    """Decode an image, and say what of its file is unseen or changed; see ``decode.inspect``.

    Raises:
        DecodeError: It can't be decoded.
    """
    if isinstance(photo, Path):
        return inspect(photo, min_side, reading)
    try:
        content = photo.content if isinstance(photo.content, bytes) else _encode(photo.content)
        if isinstance(content, Image.Image) and reading.channels:
            image, is_unsuited = scaled(np.asarray(content), reading)
            return Decoded(image, image.size, ("clipped",) if is_unsuited else ())
        if isinstance(content, Image.Image):
            return Decoded(content, content.size, ())
        return inspect(io.BytesIO(content), min_side, reading)
    except DecodeError as error:
        raise type(error)(error.what, where=photo.path, mend=error.mend) from error


def photos_given(given: object, argument: str = "photos") -> Iterator[Photo]:
    """Yield the images, as they are asked for; folders among them are searched, and patterns are not expanded.

    Args:
        given: One image, or an iterable of images.
        argument: What the caller calls it.

    Raises:
        ArgumentError: It is something else.
    """
    for place, item in _items(given, argument):
        photo = _photo(item, place)
        yield from iter_photos([photo]) if isinstance(photo, Path) and exists(photo) else (photo,)


def photos_found(given: object, argument: str = "photos") -> list[Photo]:
    """Return the images, with folders searched and patterns expanded.

    Photos that are named one by one stay as often as they are named, so that each has its prediction; where folders or
    patterns are among them, each file is there once.

    Raises:
        ArgumentError: It is no image, and no iterable of images.
        PhotosError: A path doesn't exist, a pattern matches nothing, or no image was found.
    """
    photos = [_photo(item, place) for place, item in _items(given, argument)]
    paths = [photo for photo in photos if isinstance(photo, Path)]
    if photos and all(map(is_file, paths)):
        return photos
    if len(paths) == len(photos):
        return list(find_photos(paths))
    return [each for photo in photos for each in (find_photos([photo]) if isinstance(photo, Path) else (photo,))]


def photo_each(given: object, argument: str = "photos") -> list[Photo]:
    """Return the images, one for each item; a folder is none.

    Raises:
        ArgumentError: It is no image, and no iterable of images.
    """
    return [_photo(item, place) for place, item in _items(given, argument)]


def _items(given: object, argument: str) -> Iterator[tuple[str, object]]:
    """Yield what was given, one by one, with its place for messages."""
    if _is_one(given):
        yield argument, given
    elif isinstance(given, Iterable) and not isinstance(given, Mapping):
        for index, item in enumerate(given):
            yield f"{argument}[{index}]", item
    else:
        raise _refusal(given, argument)


def _is_one(given: object) -> bool:
    """Return whether it is one image, and not an iterable of images."""
    if isinstance(given, str | os.PathLike | bytes | bytearray | memoryview | Image.Image) or hasattr(given, "read"):
        return True
    array = _as_array(given)
    return array is not None and array.dtype.kind in "biufc" and array.ndim < 4


def _photo(item: object, place: str) -> Photo:
    if isinstance(item, GivenImage):
        return item
    if isinstance(item, str | os.PathLike):
        return user_path(os.fsdecode(item))
    if isinstance(item, bytes | bytearray | memoryview):
        return GivenImage(Path(place), bytes(item))
    if isinstance(item, Image.Image):
        return GivenImage(_named(getattr(item, "filename", ""), place), item)
    if hasattr(item, "read"):
        return GivenImage(_named(getattr(item, "name", ""), place), _read(item, place))
    array = _as_array(item)
    if array is None:
        raise _refusal(item, place)
    return GivenImage(Path(place), _from_array(array, place, channels_first=not isinstance(item, np.ndarray)))


def _named(name: object, place: str) -> Path:
    return Path(name) if isinstance(name, str | os.PathLike) and os.fspath(name) else Path(place)


def _read(file: Any, place: str) -> bytes:
    """Read an open file from its beginning: a buffer that was just written stands at its end."""
    try:
        if file.seekable():
            file.seek(0)
        content = file.read()
    except (OSError, ValueError, AttributeError) as error:  # closed, or open for writing alone
        raise ArgumentError(f"The open file can't be read: {error}", where=place, mend='Open it with "rb".') from error
    if not isinstance(content, bytes):
        raise ArgumentError("The file is open as text.", where=place, mend='Open it with "rb".')
    return content


def _as_array(item: object) -> NDArray[Any] | None:
    """Return an array, or a tensor of torch's or another library's, as an array; None if it is neither."""
    if isinstance(item, np.ndarray):
        return item
    if hasattr(item, "detach"):
        tensor: Tensor = item.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy has no bfloat16
    return np.asarray(item) if hasattr(item, "__array__") and hasattr(item, "shape") else None


def _from_array(array: NDArray[Any], place: str, *, channels_first: bool) -> Image.Image:
    """Return an array's values as an image: whole numbers 0 to 255 as uint8, or fractions 0 to 1."""
    layouts = [axes for axes in ((1, 2, 0), (0, 1, 2)) if array.ndim == 3 and array.shape[axes[2]] in _BANDS]
    if not channels_first:
        layouts.reverse()
    if (array.ndim != 2 and not layouts) or not array.size:
        raise ArgumentError(f"An array of shape {array.shape} is no image.", where=place, mend=ACCEPTED)
    if array.dtype.kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ArgumentError(
                f"The values of an image of {array.dtype} run from 0 to 1; these, from {low:.4g} to {high:.4g}.",
                where=place,
                mend="Give it before it is normalised, or as uint8 from 0 to 255.",
            )
        array = np.rint(array * 255)
    elif array.dtype == np.bool_:
        array = array * 255
    elif array.dtype != np.uint8:
        raise ArgumentError(
            f"An image of {array.dtype} doesn't say how bright its values are.",
            where=place,
            mend="Give uint8 (0 to 255) or fractions (0 to 1), or save it as a TIFF and give that.",
        )
    pixels = array.astype(np.uint8).transpose(layouts[0]) if layouts else array.astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(image: Image.Image) -> Image.Image | bytes:
    """Return an upright 8-bit RGB image as it is, and any other as a file's content, for the rules of ``decode``."""
    try:
        image.load()
    except Exception as error:  # Pillow raises any class on bad data
        raise DecodeError(f"The image can't be read: {error}.", mend="Save it anew as JPEG or PNG.") from error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # malformed EXIF, which decoding ignores, too
        image = image.copy()
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("PA", "La", "RGBa"):
        image = image.convert("RGBA")
    elif image.mode in ("HSV", "RGBX"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    if image.mode in _BY_PNG:
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "TIFF")
    return buffer.getvalue()


def _refusal(given: object, place: str) -> ArgumentError:
    kind = type(given).__name__
    article = "an" if kind[:1].lower() in "aeiou" else "a"
    return ArgumentError(
        f"{place} is no image: {'None' if given is None else f'{article} {kind}'}.", where=place, mend=ACCEPTED
    )
