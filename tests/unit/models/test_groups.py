"""Networks that read many bands in groups of three."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import new_head, tiny_cnn, tiny_vit
from torch import nn

from unfreeze.acceleration.frozen import frozen_features
from unfreeze.acceleration.trainable import trainable_forward
from unfreeze.export.deployed import ExportModule, example, metadata
from unfreeze.heatmaps import heatmaps
from unfreeze.models.backbone import Backbone
from unfreeze.models.groups import read_by
from unfreeze.models.saved import Classifier
from unfreeze.models.stage_head import describe_head, is_readable
from unfreeze.models.stages import input_channels
from unfreeze.orientations import Orientation
from unfreeze.predict import predict_logits, to_model_input
from unfreeze.reading import Channel, Reading, in_threes
from unfreeze.views import CROP, EvaluationView

SEVEN = Reading(channels=in_threes([Channel(number, 0, 100) for number in range(1, 8)]), scaling="range")


def images(count: int = 3) -> torch.Tensor:
    random = np.random.default_rng(0)
    return torch.from_numpy(random.integers(0, 65536, (count, 9, 16, 16), np.int32))


@pytest.fixture(params=[tiny_cnn, tiny_vit])
def plain(request: pytest.FixtureRequest) -> Backbone:
    backbone: Backbone = request.param()
    return backbone


def stages_read(backbone: Backbone) -> Backbone:
    from dataclasses import replace

    return replace(backbone, head_stages=(1, 2))


def test_each_group_is_seen_by_the_pretrained_filters(plain: Backbone) -> None:
    grouped = read_by(stages_read(plain), SEVEN)
    x = to_model_input(images(), grouped, 0)
    with torch.inference_mode():
        together = grouped.features(x)
        each = [stages_read(plain).features(part) for part in torch.split(x, 3, dim=1)]
    assert grouped.n_groups == 3
    assert together.shape[1] == grouped.feature_dim == 3 * each[0].shape[1]
    # Each pooling of each stage has the channels of all groups.
    expected = [torch.split(part, list(stages_read(plain).block_dims), dim=1) for part in each]
    torch.testing.assert_close(together, torch.cat([torch.cat(parts, 1) for parts in zip(*expected, strict=True)], 1))
    torch.testing.assert_close(frozen_features(grouped)(x), together, rtol=1e-3, atol=1e-4)


def test_three_channels_in_their_order_are_computed_bit_by_bit_as_ever(plain: Backbone) -> None:
    rgb = read_by(plain, Reading(channels=(Channel(4, 0, 1), Channel(3, 0, 1), Channel(2, 0, 1))))
    assert rgb.stages == plain.stages
    assert rgb.network.num_classes == plain.network.num_classes
    assert read_by(plain, Reading("middle")).network.preprocessing.cache_key == plain.network.preprocessing.cache_key


def test_groups_train_and_are_explained_and_exported(plain: Backbone) -> None:
    grouped = stages_read(read_by(plain, SEVEN))
    head = new_head(grouped, 4, 0)
    x = to_model_input(images(), grouped, 0)
    torch.testing.assert_close(trainable_forward(grouped, 0, x)(x), grouped.features(x), rtol=1e-3, atol=1e-4)
    maps = heatmaps(grouped, head, images(), torch.tensor([0, 1, 2]))
    assert maps.shape == (3, 16, 16)
    assert maps.max() == 1
    views = tuple(EvaluationView.of(CROP, orientation) for orientation in Orientation)
    model = Classifier(grouped, head, tuple("abcd"), views)
    module = ExportModule(model)
    with torch.inference_mode():
        expected = torch.from_numpy(predict_logits(grouped, head, [images()], views=views)).softmax(1)
        torch.testing.assert_close(module(images()), expected, rtol=1e-4, atol=1e-5)
    assert (example(model).dtype, example(model).shape[1]) == (torch.int32, 9)
    told = metadata(model, "0")["preprocessing"]
    assert '"band": 7, "low": 0, "high": 100' in told
    assert "int32, N x 9 x height x width" in told


def test_a_saved_head_says_how_many_groups_it_reads(plain: Backbone) -> None:
    for backbone in (read_by(plain, SEVEN), stages_read(read_by(plain, SEVEN))):
        described = describe_head(backbone)
        assert described["groups"] == 3
        assert sum(stage["dim"] for stage in described["stages"]) == backbone.feature_dim
        assert is_readable(described)
    assert "groups" not in describe_head(stages_read(plain))


def test_the_original_classifier_has_no_use_for_bands(plain: Backbone) -> None:
    grouped = read_by(plain, SEVEN)
    assert (grouped.network.num_classes, grouped.network.labels) == (0, ())


def test_channels_of_a_network_are_those_of_its_first_convolution() -> None:
    assert input_channels(nn.Sequential(nn.ReLU(), nn.Conv2d(13, 4, 3), nn.Conv2d(4, 4, 3))) == 13


def test_a_network_that_was_pretrained_on_many_bands_keeps_them(tmp_path: Path) -> None:
    import json

    import timm
    from safetensors.torch import save_file

    from unfreeze.models.backbones import load_backbone

    module = timm.create_model("test_resnet", in_chans=5, num_classes=4)
    save_file(module.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 4, "model_args": {"in_chans": 5}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    backbone = load_backbone(str(tmp_path))
    assert backbone.network.preprocessing.n_channels == 5
    five = Reading(channels=in_threes([Channel(number, 0, 1) for number in range(1, 6)], 5))
    assert read_by(backbone, five).n_groups == 1
