from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.decode import BandImage
from unfreeze.data.rendering.framings import frame
from unfreeze.data.rendering.transforms import Augmentation, augment, normalize, to_batch
from unfreeze.preprocessing import Fit, Preprocessing
from unfreeze.views import CROP, SQUEEZE, Framing, tiles

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
PHOTO = Image.fromarray(PIXELS)
BANDS = BandImage.from_array((np.concatenate([PIXELS, PIXELS[..., :2]], axis=2) / 255).astype(np.float32))
PREPROCESSING = Preprocessing((16, 20), 18, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "bicubic")


def in_8_bits(image: BandImage) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return image.to_array() / 65535 * 255


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize("framing", [CROP, SQUEEZE, *tiles((1, 2))])
def test_bands_are_framed_as_8_bit_photos_are(framing: Framing, fit: Fit) -> None:
    photo = frame(PHOTO, PREPROCESSING.fitted(fit), framing)
    wide = Preprocessing((16, 20), 18, (0.5, 0.4, 0.3, 0.5, 0.4), (0.2,) * 5, "bicubic").fitted(fit)
    bands = in_8_bits(frame(BANDS, wide, framing))
    assert bands.shape == (16, 20, 5)
    np.testing.assert_allclose(bands[..., :3], np.asarray(photo), atol=4)  # of a filter with two passes
    np.testing.assert_array_equal(bands[..., :2], bands[..., 3:])


def test_numbers_keep_their_values_in_augmented_views() -> None:
    jittered = Augmentation((1.0, 1.0), (1.0, 1.0), 0.0, 0.5, color_jitter=0.5)
    squashed = Preprocessing((30, 50), (30, 50), (0.5,) * 5, (0.5,) * 5, "bilinear").fitted("squash")
    view = augment(BANDS, squashed, jittered, (0, 1, 2))
    np.testing.assert_array_equal(view.to_array(), BANDS.to_array())


def test_batches_are_normalised_per_channel() -> None:
    batch = to_batch([BANDS])
    assert batch.shape == (1, 5, 30, 50)
    wide = Preprocessing((30, 50), 30, (0.5, 0.4, 0.3, 0.2, 0.1), (0.1, 0.2, 0.3, 0.4, 0.5), "bilinear")
    expected = (BANDS.to_array() / 65535 - wide.mean) / wide.std
    np.testing.assert_allclose(normalize(batch, wide)[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_people_see_the_first_three_channels_or_one_in_grey() -> None:
    np.testing.assert_array_equal(np.asarray(BANDS.picture()), PIXELS)
    two = BandImage(BANDS.channels[:2])
    np.testing.assert_array_equal(np.asarray(two.picture())[..., 2], PIXELS[..., 0])


def test_a_band_that_is_repeated_is_resized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resized: list[Image.Image] = []
    plain = Image.Image.resize

    def counted(image: Image.Image, *arguments: Any, **options: Any) -> Image.Image:
        resized.append(image)
        return plain(image, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", counted)
    grey = BandImage(BANDS.channels[:1] * 3).resize((9, 9), Image.Resampling.BILINEAR)
    assert (len(resized), len(grey.channels), len(set(map(id, grey.channels)))) == (1, 3, 1)
