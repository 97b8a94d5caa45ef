from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.support.backbones import new_head, shake, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES

from unfreeze.models.backbone import Backbone, Tensors
from unfreeze.training.finetune import Weights
from unfreeze.training.interpolate import between

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
ALPHAS = pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
COUNTED = "layer4.1.num_batches_tracked"


def head_of(backbone: Backbone, seed: int) -> Tensors:
    return dict(new_head(backbone, CLASSES, seed).state_dict())


def ends(make: Callable[[], Backbone], boundary: int) -> tuple[list[Tensors], Weights, Weights]:
    """Return all pretrained stages, phase 1's model, and one whose stages from ``boundary`` on have moved."""
    backbone = make()
    pretrained, first = backbone.snapshot(), Weights([], head_of(backbone, 1))
    shake(backbone.network.module, seed=7)
    with torch.no_grad():
        for value in backbone.network.module.parameters():
            value.add_(0.1 * torch.ones_like(value))
    return pretrained, first, Weights(backbone.snapshot(boundary), head_of(backbone, 2))


def same(one: list[Tensors], other: list[Tensors]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("boundary", [0, 3, 5])
@BACKBONES
def test_the_ends_are_the_phases_to_the_bit(make: Callable[[], Backbone], boundary: int) -> None:
    pretrained, first, second = ends(make, boundary)
    for alpha, end in ((0.0, first), (1.0, second)):
        found = between(pretrained, first, second, alpha)
        assert same(found.stages, end.stages)
        assert same([found.head], [end.head])


@ALPHAS
@pytest.mark.parametrize("boundary", [0, 3, 5])
@BACKBONES
def test_between_them_every_weight_lies_on_the_straight_line(
    make: Callable[[], Backbone], boundary: int, alpha: float
) -> None:
    pretrained, first, second = ends(make, boundary)
    found = between(pretrained, first, second, alpha)
    assert len(found.stages) == 5 - boundary
    before = [*pretrained[boundary:], first.head]
    for mixed, start, end in zip([*found.stages, found.head], before, [*second.stages, second.head], strict=True):
        assert mixed.keys() == start.keys()
        for name, value in mixed.items():
            if value.is_floating_point():
                line = start[name].double() + alpha * (end[name].double() - start[name].double())
                torch.testing.assert_close(value, line.float(), rtol=1e-6, atol=1e-7)
                assert value.dtype == start[name].dtype


@ALPHAS
def test_counters_are_the_later_ones(alpha: float) -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    second.stages[1][COUNTED] = torch.tensor(12)
    found = between(pretrained, first, second, alpha).stages[1][COUNTED]
    assert (found.item(), found.dtype) == (12, torch.int64)


@pytest.mark.parametrize("kept", [2, 3, 5])
def test_a_snapshot_may_hold_more_stages_than_have_moved(kept: int) -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    exact = between(pretrained[3:], first, second, 0.5)
    found = between(pretrained[5 - kept :], first, second, 0.5)
    assert same(found.stages, exact.stages)
    assert len(found.stages) == 2


def test_a_phase_one_that_moved_stages_is_where_the_line_begins() -> None:
    pretrained, first, second = ends(tiny_cnn, 2)
    drifted = tiny_cnn()
    shake(drifted.network.module, seed=3)
    found = between(pretrained, Weights(drifted.snapshot(4), first.head), second, 0.5)
    start = [*pretrained[2:4], *drifted.snapshot(4)]
    expected = between(start, first, second, 0.5)
    assert same(found.stages, expected.stages)
    assert not same(found.stages, between(pretrained, first, second, 0.5).stages)


@ALPHAS
def test_mixing_leaves_both_ends_as_they_were(alpha: float) -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    again = ends(tiny_cnn, 3)
    between(pretrained, first, second, alpha)
    for now, then in zip(
        (pretrained, first.stages, second.stages), (again[0], again[1].stages, again[2].stages), strict=True
    ):
        assert same(now, then)
    assert same([first.head, second.head], [again[1].head, again[2].head])


def test_the_mixed_model_can_be_installed() -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    backbone = tiny_cnn()
    below, head = backbone.fingerprint(3), new_head(backbone, CLASSES, 0)
    mixed = between(pretrained, first, second, 0.5)
    mixed.install(backbone, head, pretrained)
    assert backbone.fingerprint(3) == below
    assert same(backbone.snapshot(3), mixed.stages)
