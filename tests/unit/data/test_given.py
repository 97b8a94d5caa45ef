"""What may be given as a photo from Python, and what is said of anything else."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from unfreeze.data.decode import decode
from unfreeze.data.given import GivenImage, decode_photo, path_of, photo_each, photos_found, photos_given
from unfreeze.errors import ArgumentError, DecodeError, PhotosError, UnfreezeError

Make = Callable[[Path], Any]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A photo of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def pixels_of(path: Path) -> NDArray[np.uint8]:
    return np.asarray(decode(path))


def shown(photo: Any) -> NDArray[np.uint8]:
    (only,) = photos_given(photo)
    return np.asarray(decode_photo(only).image)


def written(path: Path) -> io.BytesIO:
    """Return a buffer that stands at its end, as it does after writing."""
    buffer = io.BytesIO()
    buffer.write(path.read_bytes())
    return buffer


class PathLike:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


ONE: dict[str, Make] = {
    "text": str,
    "path": Path,
    "path-like": PathLike,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "buffer": lambda path: io.BytesIO(path.read_bytes()),
    "written buffer": written,
    "Pillow": Image.open,
    "converted Pillow": lambda path: Image.open(path).convert("RGBA"),
    "array": pixels_of,
    "fortran array": lambda path: np.asfortranarray(pixels_of(path)),
    "channels-first array": lambda path: pixels_of(path).transpose(2, 0, 1),
    "fractions": lambda path: pixels_of(path) / 255,
    "fractions float32": lambda path: pixels_of(path).astype(np.float32) / 255,
    "tensor": lambda path: torch.tensor(pixels_of(path)).permute(2, 0, 1),
    "tensor of fractions": lambda path: torch.tensor(pixels_of(path)).permute(2, 0, 1) / 255,
    "tensor with a gradient": lambda path: (torch.tensor(pixels_of(path)).permute(2, 0, 1) / 255).requires_grad_(),
    "channels-last tensor": lambda path: torch.tensor(pixels_of(path)),
}
MANY: dict[str, Callable[[list[Any]], Any]] = {
    "alone": lambda photos: photos[0],
    "list": list,
    "tuple": tuple,
    "generator": lambda photos: (photo for photo in photos),
    "keys": lambda photos: dict(enumerate(photos)).values(),
}


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("reader", [photos_given, photos_found, photo_each])
def test_every_kind_of_photo_is_the_same_photo(photo: Path, kind: str, many: str, reader: Callable[..., Any]) -> None:
    given = MANY[many]([ONE[kind](photo)])
    (only,) = reader(given)
    assert np.array_equal(np.asarray(decode_photo(only).image), pixels_of(photo))


def test_an_open_file_is_named_and_read_from_its_beginning(photo: Path) -> None:
    with photo.open("rb") as file:
        file.read(20)
        (only,) = photos_given([file])
    assert path_of(only) == photo
    assert np.array_equal(np.asarray(decode_photo(only).image), pixels_of(photo))


def test_batches_of_arrays_and_arrays_of_names(photo: Path) -> None:
    batch = np.stack([pixels_of(photo)] * 3)
    assert [path_of(each) for each in photos_given(batch)] == [Path(f"photos[{n}]") for n in range(3)]
    assert len(list(photos_given(torch.tensor(batch).permute(0, 3, 1, 2)))) == 3
    assert list(photos_given(np.array([str(photo)] * 2))) == [photo] * 2
    assert photos_found({str(photo)}) == [photo]


@pytest.mark.parametrize(("values", "expected"), [(np.eye(4, dtype=np.uint8) * 200, 200), (np.eye(4, dtype=bool), 255)])
def test_grey_arrays(values: NDArray[Any], expected: int) -> None:
    for given in (values, values[..., None], torch.tensor(values)[None]):
        assert shown(given).shape == (4, 4, 3)
        assert shown(given).max() == expected
        assert shown(given)[0, 1].max() == 0


def test_transparent_pictures_are_shown_as_files_are(photo: Path, tmp_path: Path) -> None:
    picture = Image.open(photo).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    picture.save(tmp_path / "b.png")
    expected = pixels_of(tmp_path / "b.png")
    for given in (picture, np.asarray(picture), torch.tensor(np.asarray(picture)).permute(2, 0, 1)):
        assert np.array_equal(shown(given), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "YCbCr", "I;16", "F", "HSV", "PA"])
def test_pictures_of_every_mode_are_shown_as_files_are(photo: Path, tmp_path: Path, mode: str) -> None:
    picture: Image.Image = Image.open(photo)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
    else:
        picture = picture.convert("P" if mode == "PA" else mode if mode != "F" else "L").convert(mode)
    found = shown(picture)
    assert found.shape == (12, 9, 3)
    if mode in ("1", "L", "P", "LA", "I;16"):
        picture.save(tmp_path / "b.png")
        assert np.array_equal(found, pixels_of(tmp_path / "b.png"))


def test_a_picture_that_the_camera_turned_stands_upright(photo: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.open(photo).save(tmp_path / "turned.png", exif=exif)
    assert shown(Image.open(tmp_path / "turned.png")).shape == (9, 12, 3)
    assert np.array_equal(shown(Image.open(tmp_path / "turned.png")), pixels_of(tmp_path / "turned.png"))


def test_folders_are_searched_and_patterns_expanded_where_they_may_be(photo: Path) -> None:
    assert list(photos_given(str(photo.parent))) == [photo]
    assert photos_found([photo.parent, photo]) == [photo]
    assert photos_found(f"{photo.parent}/*.png") == [photo]
    assert photos_found([photo, str(photo)]) == [photo, photo]
    with Image.open(photo) as picture:
        mixed = photos_found([f"{photo.parent}/*.png", picture])
    assert [path_of(each) for each in mixed] == [photo, photo]
    assert photo_each(str(photo.parent)) == [photo.parent]


def test_photos_are_asked_for_one_by_one(photo: Path) -> None:
    asked: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            asked.append(1)
            yield str(photo)

    stream = photos_given(endless())
    next(stream)
    next(stream)
    assert len(asked) == 2


NO_PHOTOS = [
    None,
    3,
    2.5,
    {"a.jpg": 1},
    np.float32(3),
    object(),
    True,
    torch.tensor(1.0),
    np.zeros(5),
    np.zeros((0, 3, 3)),
]


@pytest.mark.parametrize("given", NO_PHOTOS, ids=lambda given: type(given).__name__)
@pytest.mark.parametrize("reader", [photos_given, photos_found, photo_each])
def test_what_is_no_photo_is_refused_by_its_name(given: object, reader: Callable[..., Any]) -> None:
    for wrapped, place in ((given, "photos"), ([given], r"photos\[0\]")):
        with pytest.raises(TypeError, match=rf"where: {place}(?s:.*)to do: Give") as caught:
            list(reader(wrapped))
        assert isinstance(caught.value, UnfreezeError)


def test_the_place_in_the_list_is_named(photo: Path) -> None:
    with pytest.raises(ArgumentError, match=r"photos\[2\] is no image: a tuple"):
        list(photos_given([photo, str(photo), (photo, "cat")]))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros((4, 4, 3), np.uint16), np.zeros((4, 4, 3), np.int64), np.full((4, 4, 3), 2.0), np.full((4, 4, 3), -0.1),
        np.full((4, 4, 3), np.nan), np.zeros((6, 7, 5), np.uint8), np.zeros((4, 4, 3), complex),
    ],
    ids=lambda values: f"{values.dtype} {values.shape} {values.max()}",
)  # fmt: skip
def test_arrays_whose_meaning_is_unclear_are_refused(values: NDArray[Any]) -> None:
    for given in (values, [values], torch.tensor(values) if values.dtype != np.uint16 else values):
        with pytest.raises(ArgumentError, match=r"where: photos(?s:.*)to do: Give"):
            list(photos_given(given))


def test_files_that_cant_be_read_say_how_to_open_them(photo: Path) -> None:
    with photo.open("rb") as closed:
        pass
    with photo.open("ab") as to_write, photo.open(encoding="latin-1") as text:
        for file in (closed, to_write, text):
            with pytest.raises(ArgumentError, match=r"photos\[0\](?s:.*)rb"):
                list(photos_given([file]))


@pytest.mark.parametrize("content", [b"", b"no photo", b"photos/a.jpg"])
def test_damaged_contents_are_damaged_photos(content: bytes) -> None:
    (only,) = photos_given(content)
    with pytest.raises(DecodeError, match="where: photos"):
        decode_photo(only)


def test_a_picture_that_is_cut_short_is_a_damaged_photo(photo: Path) -> None:
    picture = Image.open(io.BytesIO(photo.read_bytes()[:200]))
    (only,) = photos_given([picture])
    assert isinstance(only, GivenImage)
    with pytest.raises(DecodeError, match=r"where: photos\[0\]"):
        decode_photo(only)


def test_missing_files(tmp_path: Path) -> None:
    (only,) = photos_given(str(tmp_path / "gone.jpg"))
    with pytest.raises(DecodeError, match=r"gone\.jpg"):
        decode_photo(only)
    with pytest.raises(PhotosError, match=r"gone\.jpg"):
        photos_found(str(tmp_path / "gone.jpg"))
