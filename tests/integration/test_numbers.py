"""What only the numbers of a file say is learnt: absolute brightness, and a band beyond the third."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.files import write_png16, write_tiff

import unfreeze
from unfreeze.config import make_config
from unfreeze.data.checks import check
from unfreeze.data.scaling import choose_reading
from unfreeze.data.sources import read_photos
from unfreeze.errors import ConfigError, DecodeError
from unfreeze.evaluation.resampling import FloatArray
from unfreeze.models.backbones import load_backbone
from unfreeze.models.groups import read_by
from unfreeze.predict import evaluation_mode, photo_batches, to_model_input
from unfreeze.reading import Reading
from unfreeze.report.photos import thumbnail
from unfreeze.runs.run import Run
from unfreeze.training.head.regularisation_path import fit_head

A_CLASS = 8


def texture(random: np.random.Generator) -> FloatArray:
    """Return a smooth random surface, from 0 to 1."""
    coarse = Image.fromarray(random.random((5, 5)).astype(np.float32)).resize((40, 40), Image.Resampling.BICUBIC)
    return np.asarray(coarse, np.float64).clip(0, 1)


@pytest.fixture(scope="module")
def brightness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12-bit photos of surfaces that differ in how bright they are, and in nothing else."""
    root, random = tmp_path_factory.mktemp("brightness"), np.random.default_rng(0)
    for label, gain in (("dim", 1500), ("bright", 3500)):
        (root / label).mkdir()
        for number in range(A_CLASS):
            pixels = (gain * (0.3 + 0.7 * texture(random))).astype(np.uint16)
            write_png16(root / label / f"{number}.png", pixels[..., None])
    return root


@pytest.fixture(scope="module")
def six_bands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of six bands, of which the fifth is high where the class is "wet"."""
    root, random = tmp_path_factory.mktemp("six"), np.random.default_rng(0)
    for label, gain in (("dry", 0.3), ("wet", 0.9)):
        (root / label).mkdir()
        for number in range(A_CLASS):
            bands = [3000 * texture(random) for _ in range(6)]
            bands[4] = 4000 * gain * (0.7 + 0.3 * texture(random))
            pixels = np.stack(bands).astype(np.uint16)
            options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "separate"}
            write_tiff(root / label / f"{number}.tif", pixels, **options)
    return root


def learnt(photos: Path, **settings: Any) -> float:
    """Return the cross-validated accuracy of a head on the packaged backbone."""
    samples = check(read_photos(photos)).samples
    backbone = load_backbone("efficientnet_lite0")
    reading, _ = choose_reading(make_config({"photos": photos, **settings}), samples)
    backbone = read_by(backbone, reading)
    evaluation_mode(backbone)
    with torch.inference_mode():
        batches = photo_batches(backbone, [sample.path for sample in samples])
        features = torch.cat([backbone.features(to_model_input(batch, backbone, 0)) for batch in batches])
    labels = np.array([sample.label for sample in samples])
    fold = np.arange(len(samples)) % A_CLASS % 4
    pooled = features if features.dim() == 2 else features.mean(dim=(2, 3))
    fit = fit_head(pooled[:, None], torch.from_numpy(labels), fold, 2)
    return float((fit.out_of_fold.argmax(axis=1) == labels).mean())


def test_absolute_brightness_is_learnt_with_one_scaling_and_lost_with_each_photos_own(brightness: Path) -> None:
    assert len(check(read_photos(brightness)).samples) == 2 * A_CLASS
    assert learnt(brightness) == 1
    assert learnt(brightness, scaling="image") < 0.8


@pytest.fixture(scope="module")
def run(six_bands: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "six"
    return unfreeze.train(six_bands, recipe="head-only", views=1, test_size=0.25, tta=False, out=out)


def test_the_fifth_band_is_learnt_and_red_green_and_blue_do_not_say_it(run: Run, six_bands: Path) -> None:
    assert run.verdict.scores.shipped.accuracy == 1
    assert learnt(six_bands, bands="1,2,3") < 0.9
    channels = run.verdict.model.channels
    assert channels is not None
    assert [channel.band for channel in channels] == [1, 2, 3, 4, 5, 6]
    assert run.verdict.model.scaling == "percentiles"
    saved = json.loads(run.folder.model_config.read_text("utf-8"))
    preprocessing = saved["unfreeze"]["preprocessing"]
    assert [channel["band"] for channel in preprocessing["reading"]["channels"]] == [1, 2, 3, 4, 5, 6]
    assert saved["pretrained_cfg"]["input_size"][0] == 6


def test_later_files_are_read_as_in_training(run: Run, six_bands: Path, tmp_path: Path) -> None:
    files = sorted(six_bands.glob("*/*.tif"))
    assert [each.label for each in run.predict(files)] == [path.parent.name for path in files]
    few = write_tiff(tmp_path / "few.tif", np.zeros((40, 40, 3), np.uint16), photometric="rgb")
    with pytest.raises(DecodeError, match="3 bands, and band 6 is needed"):
        run.predict(few)
    with pytest.raises(DecodeError, match="3 bands, and band 6 is needed"):
        run.predict(np.zeros((40, 40, 3), np.uint8))
    far = np.full((6, 40, 40), 60000, np.uint16)
    other = write_tiff(tmp_path / "far.tif", far, photometric="minisblack", planarconfig="separate")
    assert run.predict(other)[0].traits == ("clipped",)


def test_people_see_three_of_the_bands(run: Run, six_bands: Path) -> None:
    path = next(six_bands.glob("wet/*.tif"))
    (explanation,) = run.explain(path)
    assert explanation.view.mode == "RGB"
    assert explanation.picture().size[0] > 2 * explanation.view.width
    assert thumbnail(path, run.reading) is not None
    assert run.verdict.model.reading() == run.reading != Reading()


def test_the_folder_computes_the_same_without_this_package(run: Run, six_bands: Path, tmp_path: Path) -> None:
    from unfreeze.export.exporting import export

    (exported,) = export(run, ["safetensors"], photos=six_bands, out=tmp_path / "out")
    assert exported.difference < 1e-3
    assert "modeling.py" in str(exported.note)
    assert len(run.predict(next(six_bands.glob("wet/*.tif")))) == 1


def test_forgetting_of_rgb_photos_is_refused(six_bands: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Forgetting can't be measured") as caught:
        unfreeze.train(six_bands, reference=six_bands, out=tmp_path / "run")
    assert caught.value.where == "--reference"
