"""The stages of real architectures, untrained: together they are the network, and they may be cut at every boundary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.support.backbones import TinyCnn, TinyVit, shake
from tests.support.photos import SIZE
from torch import Tensor, nn

from unfreeze.models.backbone import Architecture
from unfreeze.models.networks import build
from unfreeze.models.stages import StagedNetwork, find_stages

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Case:
    """An architecture, the photo size that it is tried on, and the least stages that it must have."""

    name: str
    size: int
    stages: int = 5
    arguments: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name


CASES = (
    Case("torchvision/resnet18", 64),
    Case("torchvision/mobilenet_v2", 64),
    Case("torchvision/mobilenet_v3_small", 64),
    Case("torchvision/efficientnet_b0", 64),
    Case("torchvision/densenet121", 64),
    Case("torchvision/squeezenet1_1", 64),
    Case("torchvision/shufflenet_v2_x0_5", 64),
    Case("torchvision/mnasnet0_5", 64),
    Case("torchvision/regnet_y_400mf", 64),
    Case("torchvision/alexnet", 64),
    Case("torchvision/googlenet", 64),
    Case("torchvision/convnext_tiny", 64),
    Case("torchvision/swin_t", 64),
    Case("torchvision/vit_b_16", 32, arguments=(("image_size", 32),)),
    Case("timm/test_byobnet", 64),
    Case("timm/test_convnext", 64),
    Case("timm/test_efficientnet", 64),
    Case("timm/test_resnet", 64),
    Case("timm/test_maxvit", 160),
    Case("timm/test_nfnet", 64),
    Case("timm/test_vit3", 160),
    Case("timm/tf_efficientnet_lite0", 64),
    Case("timm/deit_tiny_distilled_patch16_224", 64, arguments=(("img_size", 64),)),
    Case("timm/mobilevit_xxs", 64),
)


@dataclass(frozen=True)
class Cut:
    """A network, its stages, and what it says of two photos."""

    case: Case
    network: nn.Module
    classifier: str
    staged: StagedNetwork
    images: Tensor
    logits: Tensor


def enliven(network: nn.Module, classifier: str, size: int) -> None:
    """Untrained networks say much the same of every photo: give them weights by which a mistake would show."""
    torch.manual_seed(0)
    shake(network)
    nn.init.normal_(network.get_submodule(classifier).weight, std=0.1)  # type: ignore[arg-type]
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            network.train()(torch.randn(4, 3, size, size))
    network.eval()


@pytest.fixture(scope="module", params=CASES, ids=str)
def cut(request: pytest.FixtureRequest) -> Cut:
    case: Case = request.param
    library, _, name = case.name.partition("/")
    built = build(Architecture(library, name, dict(case.arguments)))  # type: ignore[arg-type]
    network = built.module
    enliven(network, built.classifier, case.size)
    images = torch.randn(2, 3, case.size, case.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
    return Cut(case, network, built.classifier, find_stages(network, built.classifier), images, logits)


def test_any_boundary_may_be_crossed_by_one_tensor(cut: Cut) -> None:
    stages = cut.staged.stages
    assert cut.logits.std() > 1e-4
    assert (cut.logits[0] - cut.logits[1]).abs().max() > 1e-4 * cut.logits.std()
    tolerance = 1e-5 * float(cut.logits.std())
    with torch.inference_mode():
        crossing = cut.images
        for boundary in range(len(stages) + 1):
            kept = crossing.clone()
            x = kept
            for stage in stages[boundary:]:
                x = stage.module(x)
            torch.testing.assert_close(cut.staged.classifier(x), cut.logits, rtol=1e-5, atol=tolerance)
            if boundary < len(stages):
                crossing = stages[boundary].module(crossing)


def test_stages_are_the_networks_own_modules(cut: Cut) -> None:
    stages = cut.staged.stages
    assert len(stages) >= cut.case.stages
    owned = dict(cut.network.named_parameters())
    for stage in stages:
        shared = dict(stage.module.named_parameters())
        assert all(value is owned[name] for name, value in shared.items())
        block = cut.network.get_submodule(stage.name)
        assert {id(value) for value in block.parameters()} <= {id(value) for value in shared.values()}
    assert len({stage.name for stage in stages}) == len(stages)


def test_every_weight_and_buffer_is_in_one_stage(cut: Cut) -> None:
    parts = [stage.module for stage in cut.staged.stages] + [cut.staged.classifier]
    seen = [name for part in parts for name in part.state_dict()]
    assert len(set(seen)) == len(seen)
    unused = set(cut.network.state_dict()) - set(seen)
    assert {name for name in unused if not name.startswith("aux")} == set()  # GoogLeNet's training-time side exits
    classifier = dict(cut.network.get_submodule(cut.classifier).named_parameters())
    in_classifier = {id(value) for value in cut.staged.classifier.parameters()}
    assert {id(value) for value in classifier.values()} <= in_classifier


def test_layers_keep_their_modes_and_learn_through_the_stages() -> None:
    network = TinyCnn(4, dropout=0.5).eval()
    shake(network)
    staged = find_stages(network, "fc")
    assert [stage.name for stage in staged.stages] == ["stem", "layer1", "layer2", "layer3", "layer4"]
    staged.stages[1].module.train()
    modes = {name: module.training for name, module in network.named_modules() if isinstance(module, nn.Dropout)}
    assert modes == {"stem.3": False, "layer1.3": True, "layer2.3": False, "layer3.3": False, "layer4.3": False}
    x = torch.randn(2, 3, SIZE, SIZE)
    for stage in staged.stages:
        x = stage.module(x)
    staged.classifier(x).square().sum().backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in network.parameters())


def test_a_transformers_loose_parameters_belong_to_the_stage_that_reads_them() -> None:
    staged = find_stages(TinyVit(4, dropout=0.0).eval(), "head")
    assert {"cls_token", "pos_embed", "patch_embed.weight"} <= set(staged.stages[0].module.state_dict())
    assert {"norm.weight", "norm.bias"} <= set(staged.stages[-1].module.state_dict())


class Branching(nn.Module):
    """Two parallel branches between the stem and the top, and a skip round the top."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.left = nn.Linear(6, 6)
        self.right = nn.Linear(6, 6)
        self.top = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.left(x).relu() + self.right(x).tanh()
        logits: Tensor = self.fc(x + self.top(x))
        return logits


def test_no_boundary_lies_where_two_tensors_are_alive() -> None:
    network = Branching().eval()
    staged = find_stages(network, "fc")
    # "right" begins while the stem's output and left's are alive; "top" begins on one tensor, which it also adds
    assert [stage.name for stage in staged.stages] == ["stem", "left", "top"]
    x = torch.randn(3, 6)
    expected = network(x)
    for stage in staged.stages:
        x = stage.module(x)
    assert torch.equal(staged.classifier(x), expected)


class WithConstant(nn.Module):
    """Makes a constant as it runs, as DINOv3's rotary position embedding does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.top = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        features: Tensor = self.top(self.stem(x) * torch.arange(6.0)).relu()
        return features

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        logits: Tensor = x if pre_logits else self.fc(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_a_constant_made_in_the_forward_pass_is_no_obstacle() -> None:
    network = WithConstant().eval()
    staged = find_stages(network, "fc")
    x = torch.randn(3, 6)
    expected = network(x)
    for stage in staged.stages:
        x = stage.module(x)
    assert torch.equal(staged.classifier(x), expected)


class Untraceable(nn.Module):
    """Its way through depends on the numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 6)
        self.fc = nn.Linear(6, 2)

    def forward_features(self, x: Tensor) -> Tensor:
        x = self.body(x)
        return x if x.sum() > 0 else -x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        logits: Tensor = x.tanh() if pre_logits else self.fc(x.tanh())
        return logits

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def test_what_cant_be_traced_is_one_stage_where_it_has_timms_two_halves() -> None:
    network = Untraceable().eval()
    staged = find_stages(network, "fc")
    assert [stage.name for stage in staged.stages] == ["backbone"]
    x = torch.randn(3, 6)
    assert torch.equal(staged.classifier(staged.stages[0].module(x)), network(x))


def test_what_cant_be_traced_at_all_is_refused() -> None:
    class NoHalves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.fc(x if x.sum() > 0 else -x)
            return logits

    with pytest.raises(ValueError, match="NoHalves"):
        find_stages(NoHalves().eval(), "fc")
