"""Which of a checkpoint's tensors are the network's, whatever they are called there."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.support.backbones import TinyCnn
from tests.support.photos import PREPROCESSING
from torch import Tensor, nn

from unfreeze.models.backbone import Architecture, Network, Tensors
from unfreeze.models.checkpoint import Fit, fit
from unfreeze.models.networks import build
from unfreeze.models.weights import read_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def cnn(outputs: int = 7) -> Network:
    torch.manual_seed(outputs)
    return Network(TinyCnn(outputs, 0.0), "fc", outputs, (), PREPROCESSING)


def weights(outputs: int = 7) -> Tensors:
    return dict(cnn(outputs).module.state_dict())


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: value for name, value in tensors.items()}


def other() -> Tensors:
    """Return weights of the same network, of another training."""
    return {name: value + 1 for name, value in weights().items()}


def fitted(tmp_path: Path, content: object, network: Network | None = None) -> Fit:
    """Return the fit of what was saved and read again."""
    torch.save(content, tmp_path / "mine.pth")
    return fit(network or cnn(), read_weights(tmp_path / "mine.pth"))


def assert_is(found: Fit, expected: Tensors) -> None:
    assert found.differences == ()
    assert found.weights.keys() == expected.keys()
    assert all(torch.equal(found.weights[name], expected[name]) for name in expected)


WRAPPED: dict[str, Callable[[Tensors], Any]] = {
    "plain": dict,
    "data parallel": lambda own: under("module.", own),
    "compiled": lambda own: under("_orig_mod.", own),
    "compiled in data parallel": lambda own: under("module._orig_mod.", own),
    "model.": lambda own: under("model.", own),
    "backbone.": lambda own: under("backbone.", own),
    "encoder.": lambda own: under("encoder.", own),
    "any other word": lambda own: under("my_net.trunk_2.", own),
    "a sequence": lambda own: under("0.", own),
    "state_dict": lambda own: {"state_dict": own, "epoch": 3},
    "model": lambda own: {"model": own, "epoch": 3, "note": "text", "nothing": None},
    "model_state_dict": lambda own: {
        "model_state_dict": own, "optimizer_state_dict": {"state": {0: {"exp_avg": own["fc.bias"]}}},
    },
    "net": lambda own: {"net": own, "acc": 0.9},
    "lightning": lambda own: {
        "state_dict": {**under("model.", own), "criterion.weight": torch.ones(7), "train_acc.total": torch.tensor(3)},
        "hyper_parameters": {"lr": 0.1},
        "pytorch-lightning_version": "2.5",
    },
    "ema alone": lambda own: {"model_ema": own, "epoch": 3},
    "ema in data parallel": lambda own: {"ema": {"module": own}},
    "nested": lambda own: {"models": {"classifier": {"weights": own}}},
    "in a list": lambda own: [own, {"lr": 0.1}],
    "with an optimizer": lambda own: {
        "model": own, "optimizer": {"state": {n: {"exp_avg": v} for n, v in enumerate(own.values())}},
    },
    "layers nested": lambda own: {
        part: {n.partition(".")[2]: v for n, v in own.items() if n.startswith(part)}
        for part in dict.fromkeys(n.partition(".")[0] for n in own)
    },
    "compiled layers": lambda own: {n.replace("layer1.", "layer1._orig_mod."): v for n, v in own.items()},
    "checkpointed layers": lambda own: {
        n.replace("layer2.", "layer2._checkpoint_wrapped_module."): v for n, v in own.items()
    },
    "averaged": lambda own: {**under("module.", own), "n_averaged": torch.tensor(5)},
    "profiled": lambda own: {**own, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)},
    "with settings": lambda own: {
        "state_dict": own, "args": argparse.Namespace(lr=0.1), "best": np.float64(0.9), "out": Path("runs"),
    },
    "half precision": lambda own: {n: v.half() if v.is_floating_point() else v for n, v in own.items()},
    "trained parameters": lambda own: {n: nn.Parameter(v) if v.is_floating_point() else v for n, v in own.items()},
}  # fmt: skip


@pytest.mark.parametrize("kind", WRAPPED)
def test_prefixes_and_nested_tables_are_found_by_names_and_shapes(tmp_path: Path, kind: str) -> None:
    found = fitted(tmp_path, WRAPPED[kind](weights()))
    assert_is(
        found, {n: v.half() if kind == "half precision" and v.is_floating_point() else v for n, v in weights().items()}
    )
    assert (found.has_head, found.notes) == (True, ())


@pytest.mark.parametrize("prefix", ["", "model.", "teacher.backbone.", "head.", "_orig_mod.module."])
def test_a_head_of_other_classes_is_left_out(tmp_path: Path, prefix: str) -> None:
    found = fitted(tmp_path, under(prefix, weights(3)))
    assert_is(found, {name: value for name, value in weights(3).items() if not name.startswith("fc.")})
    assert (found.has_head, found.head_classes) == (False, 3)


HEADS: dict[str, Tensors] = {
    "none": {},
    "without a bias": {"fc.weight": torch.ones(7, 12)},
    "of several layers": {"fc.0.weight": torch.ones(5, 12), "fc.0.bias": torch.ones(5), "fc.2.weight": torch.ones(7, 5)},
    "of another name": {"head.weight": torch.ones(7, 12), "head.bias": torch.ones(7)},
    "a projection": {"projector.0.weight": torch.ones(9, 12), "prototypes.weight": torch.ones(4, 9)},
    "a queue": {"queue": torch.ones(9, 2), "queue_ptr": torch.zeros(1)},
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_networks_without_their_classifier(tmp_path: Path, head: str) -> None:
    trunk = {name: value for name, value in weights().items() if not name.startswith("fc.")}
    found = fitted(tmp_path, {"state_dict": {**trunk, **HEADS[head]}})
    assert_is(found, trunk)
    assert not found.has_head


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_whole_numbers_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    assert fitted(tmp_path, {name: value.to(dtype) for name, value in weights().items()}).differences


@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "ema", "teacher", "swa_model"])
@pytest.mark.parametrize("first", [True, False])
def test_of_two_copies_the_averaged_one_is_taken_and_said(tmp_path: Path, averaged: str, first: bool) -> None:
    both = {averaged: weights(), "state_dict": other()}
    found = fitted(tmp_path, both if first else dict(reversed(both.items())))
    assert_is(found, weights())
    assert found.notes == (f"'{averaged}' is taken; 'state_dict' would fit, too",)


def test_of_two_equal_copies_the_first_is_taken(tmp_path: Path) -> None:
    found = fitted(tmp_path, {**under("encoder_q.", weights()), **under("encoder_k.", other())})
    assert_is(found, weights())
    assert "encoder_k" in found.notes[0]


def test_old_files_count_no_batches(tmp_path: Path) -> None:
    old = {name: value for name, value in weights().items() if not name.endswith("num_batches_tracked")}
    assert_is(fitted(tmp_path, old), old)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])  # safetensors sorts by name: 10 before 2
def test_numbered_layers_are_matched_by_their_order(tmp_path: Path, suffix: str) -> None:
    layers = [layer for child in cnn().module.children() for layer in (nn.ReLU(), child, nn.ReLU())]
    whole = dict(nn.Sequential(*layers).state_dict())
    path = tmp_path / f"mine{suffix}"
    save_file(whole, path) if suffix == ".safetensors" else torch.save(whole, path)
    found = fit(cnn(), read_weights(path))
    assert_is(found, weights())
    assert "order" in found.notes[0]


def test_a_body_of_numbered_layers_with_a_head_of_its_own(tmp_path: Path) -> None:
    children = nn.Sequential(*list(cnn().module.children())[:-1])
    body = nn.Sequential(children, nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)))
    found = fitted(tmp_path, {"model": body.state_dict(), "opt": {"state": [{"mom": torch.ones(3)}] * 50}})
    assert_is(found, {name: value for name, value in weights().items() if not name.startswith("fc.")})
    assert not found.has_head


@pytest.mark.parametrize("change", ["fewer", "more", "swapped"])
def test_numbered_layers_of_another_network_do_not_fit(tmp_path: Path, change: str) -> None:
    *children, last = cnn().module.children()
    changed = {"fewer": children[:-2], "more": [*children, nn.BatchNorm2d(12), last], "swapped": children[::-1]}
    assert fitted(tmp_path, nn.Sequential(*changed[change]).state_dict()).differences


def test_other_names_are_not_matched_by_their_order(tmp_path: Path) -> None:
    """Another library's network of the same shapes may pad or normalise otherwise."""
    assert fitted(tmp_path, {f"block_{name}": value for name, value in weights().items()}).differences


MISFITS: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "another shape": (
        lambda own: {**own, "layer1.0.weight": torch.ones(8, 6, 1, 1)},
        "layer1.0.weight is 8x6x1x1 in the file and 8x6x3x3 in the network",
    ),
    "a missing layer": (
        lambda own: {n: v for n, v in own.items() if not n.startswith("layer2.0.")}, "layer2.0.weight is not in the file",
    ),
    "a further layer": (lambda own: {**own, "layer2.9.weight": torch.ones(3)}, "layer2.9.weight is not in the network"),
    "a further norm": (lambda own: {**own, "norm_pre.weight": torch.ones(3)}, "norm_pre.weight is not in the network"),
    "nothing alike": (lambda own: {"blocks.0.weight": torch.ones(3)}, "stem.0.weight is not in the file"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISFITS)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_does_not_fit_is_told_by_its_first_tensors(tmp_path: Path, kind: str, prefix: str) -> None:
    change, said = MISFITS[kind]
    found = fitted(tmp_path, under(prefix, change(weights())))
    assert said in found.differences[:3]
    assert found.share < 1


def test_timms_own_conversion_is_used() -> None:
    """A vision transformer of another size in pixels: timm resizes the position embedding."""
    network = build(Architecture("timm", "test_vit"))
    larger = build(Architecture("timm", "test_vit", {"img_size": 224})).module.state_dict()
    found = fit(network, dict(larger))
    assert found.differences == ()
    assert found.weights["pos_embed"].shape == network.module.state_dict()["pos_embed"].shape
    assert torch.equal(found.weights["norm.weight"], larger["norm.weight"])
    assert found.notes == ("timm converts its names or sizes",)


def test_patches_of_another_size_are_another_network() -> None:
    network = build(Architecture("timm", "test_vit"))
    other_patches = build(Architecture("timm", "test_vit", {"patch_size": 8})).module.state_dict()
    assert fit(network, dict(other_patches)).differences


@pytest.mark.parametrize(
    "name", ["timm/test_vit", "timm/test_resnet", "torchvision/squeezenet1_1", "timm/test_efficientnet"]
)
def test_the_libraries_own_networks_fit_below_a_prefix(name: str) -> None:
    library, _, short = name.partition("/")
    network = build(Architecture(library, short))  # type: ignore[arg-type]
    own: dict[str, Tensor] = dict(network.module.state_dict())
    found = fit(network, under("model.net.", own))
    assert_is(found, own)
    assert found.has_head
    wider = build(Architecture(library, short, {"num_classes": 5}))  # type: ignore[arg-type]
    found = fit(replace(network), dict(wider.module.state_dict()))
    assert (found.differences, found.has_head, found.head_classes) == ((), False, 5)
