from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.support.backbones import CPU, new_head, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, PREPROCESSING, SIZE
from torch import Tensor, nn

from unfreeze.errors import ConfigError, ModelError
from unfreeze.models.backbone import Architecture, Backbone, Network, assemble
from unfreeze.models.pooling import pool

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
IMAGES = torch.randn(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


@BACKBONES
def test_the_stages_and_the_classifier_are_the_network(make: Callable[[], Backbone]) -> None:
    backbone = make()
    expected = backbone.network.module(IMAGES)
    assert torch.equal(backbone.original_logits(IMAGES), expected)
    for boundary in range(backbone.head_boundary + 1):
        kept = backbone.run(IMAGES, 0, boundary)
        assert torch.equal(backbone.original_logits(kept, boundary), expected)


@BACKBONES
def test_a_new_backbone_is_frozen_in_eval_mode(make: Callable[[], Backbone]) -> None:
    module = make().network.module
    assert not any(value.requires_grad for value in module.parameters())
    assert not any(layer.training for layer in module.modules())


def test_boundaries_have_names() -> None:
    backbone = tiny_cnn()
    assert backbone.depths() == ("all", "layer1", "layer2", "layer3", "layer4", "head")
    assert [backbone.boundary(depth) for depth in backbone.depths()] == [0, 1, 2, 3, 4, 5]
    assert backbone.boundary("stem") == 0
    with pytest.raises(ConfigError, match=r"layer5(?s:.*)--depth(?s:.*)layer3, layer4, head"):
        backbone.boundary("layer5")


def test_only_batch_norm_counts_as_batch_norm() -> None:
    assert tiny_cnn().batch_norm
    assert not tiny_vit().batch_norm


@pytest.mark.parametrize("boundary", [0, 2, 5])
def test_restoring_a_snapshot_is_exact(boundary: int) -> None:
    backbone = tiny_cnn()
    before, snapshot = backbone.fingerprint(), backbone.snapshot(boundary)
    with torch.no_grad():
        for stage in backbone.stages[boundary:]:
            for value in stage.module.state_dict().values():
                value.add_(1)
    assert (backbone.fingerprint() == before) == (boundary == 5)
    backbone.restore(snapshot)
    assert backbone.fingerprint() == before


def test_a_snapshot_is_a_copy() -> None:
    backbone = tiny_cnn()
    snapshot = backbone.snapshot(4)
    kept = {name: value.clone() for name, value in snapshot[0].items()}
    with torch.no_grad():
        for value in backbone.stages[4].module.parameters():
            value.zero_()
    assert all(torch.equal(snapshot[0][name], kept[name]) for name in kept)


@pytest.mark.parametrize("name", ["layer1.0.weight", "layer1.1.running_var", "layer1.1.num_batches_tracked"])
def test_the_fingerprint_sees_every_weight_and_buffer_below_the_boundary(name: str) -> None:
    backbone = tiny_cnn()
    before = [backbone.fingerprint(boundary) for boundary in (0, 1, 2, None)]
    state = backbone.network.module.state_dict()
    with torch.no_grad():
        state[name][(0,) * state[name].dim()] += 1
    after = [backbone.fingerprint(boundary) for boundary in (0, 1, 2, None)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False, False]


def test_the_fingerprint_leaves_the_classifier_out() -> None:
    backbone = tiny_cnn()
    before = backbone.fingerprint()
    nn.init.zeros_(backbone.network.module.get_submodule("fc").weight)  # type: ignore[arg-type]
    assert backbone.fingerprint() == before
    assert not [name for name in backbone.weights() if name.startswith("fc")]
    assert len(backbone.weights()) == len(backbone.network.module.state_dict()) - 2


def test_pooling() -> None:
    maps, tokens = torch.rand(2, 5, 3, 3), torch.rand(2, 7, 5)
    torch.testing.assert_close(pool(maps), maps.flatten(2).mean(2))
    torch.testing.assert_close(pool(tokens), tokens.mean(1))
    assert torch.equal(pool(tokens[:, 0]), tokens[:, 0])


class PoolingLast(nn.Module):
    """Its classifier is a convolution, and what it says is pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.fc = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.stem(x).relu()).mean(dim=(2, 3))
        return logits


@BACKBONES
def test_pooled_features_are_all_that_most_classifiers_need(make: Callable[[], Backbone]) -> None:
    backbone = make()
    assert backbone.pooled
    with torch.no_grad():
        pooled = pool(backbone.run(IMAGES))
        torch.testing.assert_close(backbone.classifier(pooled), backbone.original_logits(IMAGES))
    network = Network(PoolingLast(), "fc", 2, (), PREPROCESSING)
    assert not assemble("mine", Architecture("timm", "pooling_last"), network, CPU).pooled


@BACKBONES
def test_a_head_fits_the_features_and_depends_on_the_seed_alone(make: Callable[[], Backbone]) -> None:
    backbone = make()
    before = torch.random.get_rng_state()
    heads = [new_head(backbone, CLASSES, seed) for seed in (4, 4, 5)]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)
    assert heads[0](backbone.run(IMAGES)).shape == (4, CLASSES)


class Forgetful(nn.Module):
    """Its pieces do something else than the whole: tracing takes the branch of a first call."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.fc(self.stem(x).mean(dim=(2, 3))) * self.calls
        return logits


def test_a_cut_that_changes_the_answer_is_refused() -> None:
    network = Network(Forgetful(), "fc", 2, (), PREPROCESSING)
    with pytest.raises(ModelError, match="timm/forgetful can't be cut into stages"):
        assemble("mine", Architecture("timm", "forgetful"), network, CPU)
