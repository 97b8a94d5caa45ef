"""Heatmaps: the oracle is captum's Grad-CAM, and photos in which one patch decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from PIL import Image
from tests.support.backbones import CPU, new_head, shake, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, PREPROCESSING, SIZE, draw
from torch import Tensor, nn
from torch.nn import functional

from unfreeze.data.rendering.transforms import normalize
from unfreeze.errors import ModelError
from unfreeze.explain import TEXT_HEIGHT, Explanation, explanations, overlay, side_by_side
from unfreeze.heatmaps import contributions, heatmaps
from unfreeze.models.backbone import Architecture, Backbone, Library, Network, assemble
from unfreeze.models.head import Head
from unfreeze.models.networks import build
from unfreeze.models.pooling import pool
from unfreeze.models.saved import Classifier, load_model, save_model
from unfreeze.orientations import Orientation
from unfreeze.predict import photo_batches, predict_logits, probabilities
from unfreeze.views import PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, framings_of, tiles

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS: tuple[tuple[Library, str, tuple[int, int], dict[str, Any]], ...] = (
    ("timm", "test_efficientnet", (96, 96), {}),
    ("timm", "test_resnet", (64, 128), {}),
    ("timm", "test_convnext", (96, 96), {}),
    ("timm", "test_vit3", (160, 160), {}),  # registers, no class token
    ("timm", "vit_tiny_patch16_224", (96, 96), {"img_size": 96}),
    ("timm", "vit_tiny_patch16_224", (96, 160), {"img_size": (96, 160), "reg_tokens": 4}),
    ("timm", "swin_tiny_patch4_window7_224", (128, 128), {"img_size": 128}),  # channels last
    ("torchvision", "swin_t", (96, 160), {}),
    ("torchvision", "vit_b_32", (128, 128), {"image_size": 128}),
    ("torchvision", "squeezenet1_1", (96, 96), {}),
)


def images(size: tuple[int, int] = (SIZE, SIZE)) -> Tensor:
    return torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))


class Whole(nn.Module):
    """What captum explains: a backbone and a head."""

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone, self.network, self.head = backbone, backbone.network.module, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone.run(x))
        return logits


@pytest.fixture(params=[tiny_cnn, tiny_vit])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    made: Backbone = request.param(dropout=0.5)
    return made


@pytest.mark.parametrize(
    ("make", "layer", "size"),
    [
        (tiny_cnn, "layer4", (SIZE, SIZE)),
        (lambda: untrained("torchvision", "resnet18", (96, 64), {}), "layer4", (96, 64)),
        (lambda: untrained("timm", "test_efficientnet", (96, 96), {}), "bn2", (96, 96)),
        # the last stage of this one has no places any more
        (lambda: untrained("torchvision", "mobilenet_v3_small", (96, 96), {}), "features.12", (96, 96)),
    ],
    ids=["tiny", "resnet", "efficientnet", "mobilenet"],
)
def test_a_cnns_maps_are_captums(make: Callable[[], Backbone], layer: str, size: tuple[int, int]) -> None:
    backbone = make()
    head = new_head(backbone, 20, 0)  # so many that something speaks for one
    with torch.no_grad():
        classes = head(backbone.run(images(size))).argmax(dim=1)
    method = LayerGradCam(Whole(backbone, head), backbone.network.module.get_submodule(layer))
    heat = method.attribute(images(size).requires_grad_(), target=classes, relu_attributions=True)
    heat = functional.interpolate(heat, size, mode="bilinear", align_corners=False)[:, 0].detach()
    expected = heat / heat.amax(dim=(1, 2), keepdim=True)
    assert (heat.amax(dim=(1, 2)) > 0).all()
    found = heatmaps(backbone, head, images(size), classes)
    assert found.dtype == np.float32
    assert found.shape == (4, *size)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def untrained(library: Library, name: str, size: tuple[int, int], arguments: dict[str, object]) -> Backbone:
    torch.manual_seed(0)
    architecture = Architecture(library, name, arguments)
    network = build(architecture)
    shake(network.module)
    preprocessing = replace(network.preprocessing, size=size)
    return assemble(name, architecture, replace(network, preprocessing=preprocessing), CPU)


def decided_by(backbone: Backbone, size: tuple[int, int], cells: int) -> tuple[Head, Tensor]:
    """Return photos with a patch in one of ``cells`` x ``cells`` cells, and a head for which a patch is class 1.

    Its weights are how a patch changes the features, and what grey photos have of it is taken out.
    """
    height, width = size[0] // cells, size[1] // cells
    photos = torch.zeros(cells * cells, 3, *size)
    noise = 3 * torch.randn(3, height, width, generator=torch.Generator().manual_seed(1))
    for number, photo in enumerate(photos):
        row, column = divmod(number, cells)
        photo[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = noise
    head = Head(backbone.feature_dim, 2)
    with torch.no_grad():
        grey, patched = pool(backbone.run(torch.zeros(1, 3, *size)))[0], pool(backbone.run(photos))
        change = (patched - grey).mean(dim=0)
        head.weight[0] = 0
        head.weight[1] = change - (change @ grey) / (grey @ grey) * grey
    return head, photos


def hottest(found: NDArray[np.float32], cells: int) -> list[int]:
    """Return the number of the cell that has most of each map's heat."""
    count, height, width = found.shape
    heat = found.reshape(count, cells, height // cells, cells, width // cells).sum(axis=(2, 4))
    return [int(number) for number in heat.reshape(count, -1).argmax(axis=1)]


def test_a_token_that_decides_is_where_the_heat_is() -> None:
    backbone = tiny_vit()
    head, photos = decided_by(backbone, (SIZE, SIZE), 4)
    found = heatmaps(backbone, head, photos, torch.ones(16, dtype=torch.int64))
    assert hottest(found, 4) == list(range(16))


@pytest.mark.parametrize(("library", "name", "size", "arguments"), NETWORKS, ids=lambda value: str(value))
def test_a_patch_that_decides_is_where_the_heat_is(
    library: Library, name: str, size: tuple[int, int], arguments: dict[str, object]
) -> None:
    backbone = untrained(library, name, size, dict(arguments))
    head, photos = decided_by(backbone, size, 2)
    found = heatmaps(backbone, head, photos, torch.ones(4, dtype=torch.int64))
    assert hottest(found, 2) == [0, 1, 2, 3]


def several(backbone: Backbone, stages: tuple[int, ...], seed: int = 0) -> tuple[Backbone, Head]:
    """Return a backbone and a head on standardised features of several stages."""
    backbone = replace(backbone, head_stages=stages)
    head = Head(backbone.feature_dim, 3, standardised=True)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        features = backbone.features(images(backbone.network.preprocessing.size))
        assert head.center is not None
        assert head.scale is not None
        head.center.copy_(features.mean(dim=0))
        head.scale.copy_(1 / (features.std(dim=0) + 0.1))
        head.weight.copy_(torch.randn(head.weight.shape, generator=random))
    return backbone, head


@pytest.mark.parametrize(
    "make", [tiny_cnn, lambda: untrained("torchvision", "resnet18", (96, 64), {})], ids=["tiny", "resnet"]
)
def test_the_contributions_of_all_places_and_stages_are_the_logit(make: Callable[[], Backbone]) -> None:
    backbone, head = several(make(), (1, 2, 3))
    size = backbone.network.preprocessing.size
    classes = torch.tensor([0, 1, 2, 1])
    maps = contributions(backbone, head, images(size), classes)
    assert len(maps) == 4
    assert maps[0].shape[1] > maps[-1].shape[1] or make is tiny_cnn
    last = backbone.stage_columns[-1]
    with torch.no_grad():
        logits = head(backbone.features(images(size))).gather(1, classes[:, None])[:, 0]
        assert head.center is not None
        assert head.scale is not None
        constant = head.bias - (head.weight * head.scale * head.center)[:, last].sum(dim=1)
    found = torch.stack([each.mean(dim=(1, 2)) for each in maps]).sum(dim=0) + constant[classes]
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-3)


def test_the_patches_of_a_transformers_lower_stage_are_all_but_the_class_tokens_part() -> None:
    backbone, head = several(tiny_vit(), (2,))
    maps = contributions(backbone, head, images(), torch.tensor([0, 1, 2, 1]))
    with torch.no_grad():
        features = backbone.features(images())
        assert head.center is not None
        assert head.scale is not None
        parts = (head.weight * head.scale)[torch.tensor([0, 1, 2, 1])] * (features - head.center)
    torch.testing.assert_close(maps[0].mean(dim=(1, 2)), parts[:, 8:16].sum(dim=1), rtol=1e-4, atol=1e-4)


def test_a_lower_stage_that_decides_is_where_the_heat_is() -> None:
    backbone, head = several(tiny_cnn(), (2,))
    photos = torch.zeros(4, 3, SIZE, SIZE)
    half = SIZE // 2
    for number, photo in enumerate(photos):
        row, column = divmod(number, 2)
        photo[:, row * half : (row + 1) * half, column * half : (column + 1) * half] = torch.randn(
            3, half, half, generator=torch.Generator().manual_seed(1)
        )
    with torch.no_grad():
        x = backbone.features(torch.cat([torch.zeros(1, 3, SIZE, SIZE), photos]))
        assert head.center is not None
        assert head.scale is not None
        head.center.copy_(x[0])
        head.weight.zero_()
        head.weight[1, :8] = ((x[1:] - x[0]).mean(dim=0) / head.scale)[:8]
    found = heatmaps(backbone, head, photos, torch.ones(4, dtype=torch.int64))
    assert hottest(found, 2) == [0, 1, 2, 3]


def test_without_weights_on_lower_stages_the_map_is_the_last_stages() -> None:
    backbone, head = several(tiny_cnn(), (3,))  # of the same size as the last stage's
    head.requires_grad_(False).weight[:, backbone.stage_columns[0]] = 0
    assert head.scale is not None
    plain = Head(tiny_cnn().feature_dim, 3)
    with torch.no_grad():
        plain.weight.copy_((head.weight * head.scale)[:, backbone.stage_columns[1]])
    classes = torch.tensor([0, 1, 2, 1])
    np.testing.assert_allclose(
        heatmaps(backbone, head, images(), classes), heatmaps(tiny_cnn(), plain, images(), classes), atol=1e-5
    )


def test_a_saved_models_maps_are_the_runs(tmp_path: Path) -> None:
    backbone, head = several(untrained("timm", "test_efficientnet", (96, 96), {}), (2, 4))
    classes, size = torch.tensor([0, 1, 2, 1]), (96, 96)
    save_model(tmp_path, Classifier(backbone, head, ("a", "b", "c")))
    again = load_model(tmp_path, CPU)
    np.testing.assert_allclose(
        heatmaps(again.backbone, again.head, images(size), classes),
        heatmaps(backbone, head, images(size), classes),
        atol=1e-4,
    )


def test_nothing_is_changed_or_left_behind(backbone: Backbone) -> None:
    head = new_head(backbone, CLASSES, 0)
    before = backbone.fingerprint(), [value.clone() for value in head.state_dict().values()]
    backbone.network.module.train()
    heatmaps(backbone, head, images(), torch.tensor([0, 1, 2, 1]))
    assert backbone.fingerprint() == before[0]
    assert all(torch.equal(a, b) for a, b in zip(before[1], head.state_dict().values(), strict=True))
    parameters = [*backbone.network.module.parameters(), *head.parameters()]
    assert all(parameter.grad is None for parameter in parameters)
    assert not any(parameter.requires_grad for parameter in backbone.network.module.parameters())
    for module in [*backbone.network.module.modules(), *(s.module for s in backbone.stages)]:
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_a_map_is_the_same_alone_and_in_a_batch_and_while_nothing_is_differentiated(backbone: Backbone) -> None:
    head, classes = new_head(backbone, CLASSES, 0), torch.tensor([0, 1, 2, 1])
    together = heatmaps(backbone, head, images(), classes)
    with torch.no_grad():
        alone = heatmaps(backbone, head, images()[2:3], classes[2:3])
    np.testing.assert_allclose(alone[0], together[2], atol=1e-5)
    assert together.min() >= 0
    assert together.max(axis=(1, 2)).tolist() == pytest.approx([1, 1, 1, 1])
    assert np.abs(together - heatmaps(backbone, head, images(), (classes + 1) % 3)).max() > 0.1


def test_rendered_views_give_the_same_maps_as_normalised_ones(backbone: Backbone, photos: tuple[Path, ...]) -> None:
    head, classes = new_head(backbone, CLASSES, 0), torch.tensor([0, 1, 2])
    (views,) = photo_batches(backbone, photos[:3])
    assert views.dtype == torch.uint8
    np.testing.assert_array_equal(
        heatmaps(backbone, head, views, classes), heatmaps(backbone, head, normalize(views, PREPROCESSING), classes)
    )


def test_evidence_against_a_class_is_no_heat(backbone: Backbone) -> None:
    head = new_head(backbone, CLASSES, 0)
    opposite = new_head(backbone, CLASSES, 0)
    with torch.no_grad():
        opposite.weight.neg_()
    classes = torch.tensor([0, 1, 2, 1])
    both = np.minimum(heatmaps(backbone, head, images(), classes), heatmaps(backbone, opposite, images(), classes))
    assert both.min(axis=(1, 2)).max() == 0  # what speaks for one speaks against the other


def test_a_network_without_places_is_refused() -> None:
    layers = nn.Sequential(nn.Flatten(), *(nn.Linear(3 * SIZE * SIZE if n == 0 else 8, 8) for n in range(6)))
    backbone = assemble("flat", Architecture("timm", "flat"), Network(layers, "6", 8, (), PREPROCESSING), CPU)
    with pytest.raises(ModelError, match="flat has no features with a place"):
        heatmaps(backbone, new_head(backbone, CLASSES, 0), images(), torch.zeros(4, dtype=torch.int64))


def test_more_heat_is_lighter_and_none_leaves_the_photo() -> None:
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (8, 1))
    for grey in (0, 90, 200, 255):
        photo = Image.new("RGB", (64, 8), (grey, grey, grey))
        drawn = overlay(photo, ramp)
        assert drawn.size == photo.size
        lightness = np.asarray(drawn.convert("L"), np.int64)[0]
        assert (np.maximum.accumulate(lightness) - lightness).max() <= 2  # in 255: nobody sees it
        assert lightness[-1] - lightness[0] > 80
        red, green, blue = np.asarray(drawn)[0, 0]
        assert red == green == blue
    with pytest.raises(ValueError, match="belongs to no photo"):
        overlay(photo, ramp[:4])


def test_explanations_are_of_the_answer_or_of_the_class_that_is_asked_for(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    head, names = new_head(backbone, CLASSES, 0), ("cat", "dog", "owl")
    answers = probabilities(backbone, head, photo_batches(backbone, photos))
    said = list(explanations(backbone, head, photos, names))
    assert [each.path for each in said] == list(photos)
    assert [each.label for each in said] == [names[number] for number in answers.argmax(axis=1)]
    assert [each.probability for each in said] == pytest.approx(answers.max(axis=1).tolist())
    asked = list(explanations(backbone, head, photos[:2], names, "owl"))
    assert [each.label for each in asked] == ["owl", "owl"]
    assert [each.probability for each in asked] == pytest.approx(answers[:2, 2].tolist())
    (views,) = photo_batches(backbone, photos[:2])
    np.testing.assert_allclose(
        np.stack([each.heatmap for each in asked]), heatmaps(backbone, head, views, torch.tensor([2, 2])), atol=1e-5
    )
    assert np.array_equal(np.asarray(asked[1].view), views[1].permute(1, 2, 0).numpy())


MIXED = (EvaluationView.of(SQUEEZE), PLAIN, EvaluationView(Orientation.FLIPPED))
TILED = tuple(map(EvaluationView.of, tiles((1, 2))))


def test_of_several_framings_the_crop_is_drawn_and_the_picture_says_so(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    head, names = new_head(backbone, CLASSES, 0), ("cat", "dog", "owl")
    batches = photo_batches(backbone, photos[:3], framings=framings_of(MIXED))
    expected = probabilities(backbone, head, batches, views=MIXED)
    (plain,) = photo_batches(backbone, photos[:3])
    (alone,), (several,) = (list(explanations(backbone, head, photos[:1], names, views=v)) for v in (PLAIN_ONLY, MIXED))
    assert several.probability == pytest.approx(expected[0].max())
    assert np.array_equal(np.asarray(several.view), plain[0].permute(1, 2, 0).numpy())
    assert several.note == "heatmap: centre crop; probability: 3 views"
    assert alone.note is None
    assert several.picture().height == alone.picture().height + TEXT_HEIGHT


def test_without_a_crop_the_framing_that_speaks_most_for_the_class_is_drawn(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    head, names = new_head(backbone, CLASSES, 0), ("cat", "dog", "owl")
    (framed,) = photo_batches(backbone, photos[:6], framings=framings_of(TILED))
    logits = np.stack([predict_logits(backbone, head, [framed[:, i]])[:, 2] for i in range(2)])
    best = logits.argmax(axis=0)
    assert set(best) == {0, 1}
    for number, each in enumerate(explanations(backbone, head, photos[:6], names, "owl", TILED)):
        assert np.array_equal(np.asarray(each.view), framed[number, best[number]].permute(1, 2, 0).numpy())
        assert each.note == f"heatmap: part {best[number] + 1} of 2; probability: 2 views"


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd.png", "a/..", "C:\\x.png", "\udcff\n<img>.png", "x" * 250 + ".png", "雪" * 80, ".hidden", "-f"],
)
def test_no_name_leaves_the_folder(name: str) -> None:
    found = Explanation(Path(name), "dog", 0.5, Image.new("RGB", (4, 4)), np.zeros((4, 4), np.float32)).file_name
    assert Path(found).name == found
    assert found.endswith(".png")
    assert len(found.encode()) < 255
    assert found.isprintable()


def test_no_two_pictures_have_the_same_name() -> None:
    view, heat = Image.new("RGB", (4, 4)), np.zeros((4, 4), np.float32)
    places = [Path("a/x.png"), Path("b/x.png"), Path("a/x.jpg"), Path("a/x?.png"), Path("a/x*.png")]
    names = {Explanation(place, label, 0.5, view, heat).file_name for place in places for label in ("cat", "dog")}
    assert len(names) == 10


def test_a_picture_is_the_photo_and_the_heat_under_a_line_of_text(tmp_path: Path) -> None:
    (photo,) = draw(tmp_path, 1)
    view = Image.open(photo).convert("RGB")
    heat = np.zeros(view.size[::-1], np.float32)
    heat[:5] = 1
    found = Explanation(photo, "雪 " * 60 + "\n<b>", 0.5, view, heat).picture()
    both = side_by_side([view, overlay(view, heat)])
    assert np.array_equal(np.asarray(found)[-view.height :], np.asarray(both))
    line = np.asarray(found.convert("L"))[: -view.height]
    assert line.min() < 100
    assert line.max() == 255
