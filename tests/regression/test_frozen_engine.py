"""What frozen layers compute is good enough to classify real photos by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.photos import real_photos

from unfreeze.acceleration.frozen import backend_version
from unfreeze.acceleration.precision import choose_precision
from unfreeze.data.reference import read_reference
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbones import load_backbone
from unfreeze.predict import photo_batches, to_model_input
from unfreeze.training.features.activations import PixelSource, frozen_outputs

pytestmark = pytest.mark.regression


@pytest.fixture(scope="module")
def imagenet() -> Path:
    return real_photos("imagenet_train1k")


def test_the_original_classifier_is_as_accurate_on_what_the_engine_computes(imagenet: Path) -> None:
    backbone = load_backbone("efficientnet_lite0")
    fast = replace(backbone, precision=choose_precision("auto", backbone.device))
    samples = read_reference(imagenet, backbone.network.labels).samples
    assert len(samples) >= 500
    paths, labels = [sample.path for sample in samples], np.array([sample.label for sample in samples])
    with torch.inference_mode():
        asked = (backbone.network.module(to_model_input(x, backbone, 0)) for x in photo_batches(backbone, paths))
        said = torch.cat([each.argmax(1) for each in asked]).numpy()
    renderer = Renderer(tuple(paths), backbone.network.preprocessing)
    everything = list(range(len(paths)))
    with torch.inference_mode():
        features = frozen_outputs(fast, PixelSource(renderer), fast.head_boundary, everything, [0] * len(everything))
        found = torch.cat([backbone.classifier(each.float()).argmax(1) for (each,) in features]).numpy()
    exact, engine, agreement = (said == labels).mean(), (found == labels).mean(), (found == said).mean()
    print(
        f"{backend_version(backbone.device)}, {fast.precision}: {engine:.4f}, exactly {exact:.4f}, the same {agreement:.4f}"
    )
    assert exact > 0.8
    assert abs(engine - exact) <= 0.002 + 1e-9
    assert agreement >= 0.98
