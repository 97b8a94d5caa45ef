from __future__ import annotations

import pytest
import torch

from unfreeze.models.backbone import Architecture, Tensors
from unfreeze.models.nearest import nearest
from unfreeze.models.networks import build

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three families, of which a few members are compared: building one takes a tenth of a second."""
    families = {"timm/test_vit": "test_vit", "torchvision/squeezenet1_1": "squeezenet", "timm/resnet18": "resnet1"}
    monkeypatch.setattr("unfreeze.models.nearest.FAMILIES", families)
    monkeypatch.setattr("unfreeze.models.nearest.MAX_COMPARED", 4)


def weights(name: str, **arguments: int) -> Tensors:
    library, _, short = name.partition("/")
    with torch.device("meta"):
        return dict(build(Architecture(library, short, arguments)).module.state_dict())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["timm/test_vit2", "torchvision/squeezenet1_0", "timm/resnet14t"])
@pytest.mark.parametrize("prefix", ["", "state_dict.model."])
def test_the_architecture_that_fits_comes_first(name: str, prefix: str) -> None:
    found = nearest({prefix + key: value for key, value in weights(name, num_classes=7).items()}, f"my_{name[5:]}_best")
    assert str(found[0]) == f"{name} (fits)"
    assert len(found) == 3 or name == "torchvision/squeezenet1_0"
    assert all(each.share < 1 for each in found[1:])
    assert "% alike" in str(found[1])


def test_a_changed_network_is_like_its_original() -> None:
    changed = weights("timm/resnet14t") | {"layer1.0.conv1.weight": torch.empty(1, 1, 1, 1, device="meta")}
    (first, *_) = nearest(changed, "timm/resnet14t")
    assert first.name == "timm/resnet14t"
    assert 0.9 < first.share < 1


def test_what_is_like_nothing_has_no_nearest() -> None:
    assert nearest({"w": torch.ones(3)}, "timm/resnet18") == []
