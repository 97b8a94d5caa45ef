from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from tests.support.backbones import bits, new_head, shake, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, SIZE
from torch import Tensor, nn

from unfreeze.models.backbone import Backbone, Tensors
from unfreeze.models.freezing import apply, plan_from
from unfreeze.models.state import ModelState, interpolate, loaded, random_head, state_of

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
ALPHAS = pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
COUNTED = "layer4.1.num_batches_tracked"


def head_of(backbone: Backbone, seed: int) -> Tensors:
    return dict(new_head(backbone, CLASSES, seed).state_dict())


def ends(make: Callable[[], Backbone], boundary: int) -> tuple[list[Tensors], ModelState, ModelState]:
    """Return all pretrained stages, phase 1's model, and one whose stages from ``boundary`` on have moved."""
    backbone = make()
    pretrained, first = backbone.snapshot(), ModelState([], head_of(backbone, 1))
    shake(backbone.network.module, seed=7)
    with torch.no_grad():
        for value in backbone.network.module.parameters():
            value.add_(0.1 * torch.ones_like(value))
    return pretrained, first, ModelState(backbone.snapshot(boundary), head_of(backbone, 2))


def same(one: Sequence[Tensors], other: Sequence[Tensors]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("boundary", [0, 3, 5])
@BACKBONES
def test_the_ends_are_the_phases_to_the_bit(make: Callable[[], Backbone], boundary: int) -> None:
    pretrained, first, second = ends(make, boundary)
    for alpha, end in ((0.0, first), (1.0, second)):
        found = interpolate(pretrained, first, second, alpha)
        assert same(found.stages, end.stages)
        assert same([found.head], [end.head])


@ALPHAS
@pytest.mark.parametrize("boundary", [0, 3, 5])
@BACKBONES
def test_between_them_every_weight_lies_on_the_straight_line(
    make: Callable[[], Backbone], boundary: int, alpha: float
) -> None:
    pretrained, first, second = ends(make, boundary)
    found = interpolate(pretrained, first, second, alpha)
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
    found = interpolate(pretrained, first, second, alpha).stages[1][COUNTED]
    assert (found.item(), found.dtype) == (12, torch.int64)


@pytest.mark.parametrize("kept", [2, 3, 5])
def test_a_snapshot_may_hold_more_stages_than_have_moved(kept: int) -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    exact = interpolate(pretrained[3:], first, second, 0.5)
    found = interpolate(pretrained[5 - kept :], first, second, 0.5)
    assert same(found.stages, exact.stages)
    assert len(found.stages) == 2


def test_a_phase_one_that_moved_stages_is_where_the_line_begins() -> None:
    pretrained, first, second = ends(tiny_cnn, 2)
    drifted = tiny_cnn()
    shake(drifted.network.module, seed=3)
    found = interpolate(pretrained, ModelState(drifted.snapshot(4), first.head), second, 0.5)
    start = [*pretrained[2:4], *drifted.snapshot(4)]
    expected = interpolate(start, first, second, 0.5)
    assert same(found.stages, expected.stages)
    assert not same(found.stages, interpolate(pretrained, first, second, 0.5).stages)


@ALPHAS
def test_mixing_leaves_both_ends_as_they_were(alpha: float) -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    again = ends(tiny_cnn, 3)
    interpolate(pretrained, first, second, alpha)
    for now, then in zip(
        (pretrained, first.stages, second.stages), (again[0], again[1].stages, again[2].stages), strict=True
    ):
        assert same(now, then)
    assert same([first.head, second.head], [again[1].head, again[2].head])


def test_the_mixed_model_can_be_loaded() -> None:
    pretrained, first, second = ends(tiny_cnn, 3)
    backbone = tiny_cnn()
    below = backbone.fingerprint(3)
    mixed = interpolate(pretrained, first, second, 0.5)
    with loaded(backbone, mixed) as head:
        assert backbone.fingerprint(3) == below
        assert bits(state_of(backbone, head, 3)) == bits(mixed)


# Loading


def inputs() -> Tensor:
    return torch.randn(6, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def train(backbone: Backbone, head: nn.Module, boundary: int, steps: int = 2) -> None:
    """Train the stages from ``boundary`` on; all BatchNorm layers from there on move their statistics, too."""
    apply(plan_from(backbone, boundary, lr=0.1, head_lr=0.1), backbone)
    for stage in backbone.stages[boundary:]:
        stage.module.train()
    learned = [value for stage in backbone.stages[boundary:] for value in stage.module.parameters()]
    optimizer = torch.optim.SGD([*learned, *head.parameters()], lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone.run(inputs())), torch.arange(6) % CLASSES).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def at_rest(backbone: Backbone) -> bool:
    """Return whether every layer is in eval mode and no parameter asks for a gradient."""
    module = backbone.network.module
    stages = [stage.module for stage in backbone.stages]
    still = not any(layer.training for stage in stages for layer in stage.modules())
    return still and not any(value.requires_grad for value in module.parameters())


@pytest.mark.parametrize("boundary", [0, 2, 4])
@BACKBONES
def test_after_training_weights_and_buffers_are_what_they_were(make: Callable[..., Backbone], boundary: int) -> None:
    backbone = make(dropout=0.3)
    before = [value.clone() for value in backbone.network.module.state_dict().values()]
    start = random_head(backbone, CLASSES, 0)
    with loaded(backbone, start, trainable_from=boundary) as head:
        train(backbone, head, boundary)
        trained = state_of(backbone, head, boundary)
        moved = {
            name
            for now, then in zip(trained.stages, make().snapshot(boundary), strict=True)
            for name, value in now.items()
            if not torch.equal(value, then[name])
        }
        assert any(name.endswith("weight") for name in moved)
        assert any("running_mean" in name for name in moved) == any("tracked" in name for name in moved)
        assert any("running_mean" in name for name in moved) == backbone.batch_norm
    after = backbone.network.module.state_dict().values()
    assert all(map(torch.equal, before, after))
    assert at_rest(backbone)
    assert bits(start) == bits(random_head(backbone, CLASSES, 0))
    with loaded(backbone, trained) as head:
        assert bits(state_of(backbone, head, boundary)) == bits(trained)
    assert all(map(torch.equal, before, after))


class PlannedError(Exception):
    """Raised on purpose."""


@BACKBONES
def test_after_an_exception_weights_and_buffers_are_what_they_were(make: Callable[..., Backbone]) -> None:
    backbone = make()
    before = backbone.fingerprint()
    reached = []

    def fail() -> None:
        with loaded(backbone, random_head(backbone, CLASSES, 0), trainable_from=1) as head:
            train(backbone, head, 1)
            reached.append(backbone.fingerprint())
            raise PlannedError

    with pytest.raises(PlannedError):
        fail()
    assert reached != [before]
    assert backbone.fingerprint() == before
    assert at_rest(backbone)


def test_a_state_that_does_not_fit_leaves_the_network_as_it_was() -> None:
    backbone = tiny_cnn()
    before = backbone.fingerprint()
    whole = state_of(backbone, new_head(backbone, CLASSES, 0), 0)
    moved = [{name: value + 1 for name, value in stage.items()} for stage in whole.stages]
    del moved[2]["layer2.0.weight"]
    with pytest.raises(RuntimeError), loaded(backbone, ModelState(moved, whole.head)):
        pass
    assert backbone.fingerprint() == before


def test_a_state_within_a_state_gives_way_to_it_again() -> None:
    backbone = tiny_cnn()
    before = backbone.fingerprint()
    _, _, deep = ends(tiny_cnn, 1)
    with loaded(backbone, deep) as outer:
        with loaded(backbone, random_head(backbone, CLASSES, 5), trainable_from=3) as inner:
            train(backbone, inner, 3)
            assert not same(backbone.snapshot(3), deep.stages[2:])
            assert same(backbone.snapshot(1)[:2], deep.stages[:2])  # a state without stages leaves what is loaded
        assert bits(state_of(backbone, outer, 1)) == bits(deep)
        assert outer is not inner
        assert not torch.equal(outer.weight, inner.weight)
    assert backbone.fingerprint() == before
    assert at_rest(backbone)


@BACKBONES
def test_a_loaded_model_answers_with_the_states_weights(make: Callable[..., Backbone]) -> None:
    backbone, moved = make(), make()
    shake(moved.network.module, seed=7)
    head = new_head(moved, CLASSES, 4)
    with torch.no_grad():
        expected = head(moved.run(inputs()))
        with loaded(backbone, state_of(moved, head, 0)) as own:
            assert torch.equal(own(backbone.run(inputs())), expected)
            assert torch.equal(backbone.original_logits(inputs()), backbone.classifier(moved.run(inputs())))
        assert not torch.equal(own(backbone.run(inputs())), expected)


def test_the_head_of_a_state_may_be_trained_without_changing_the_state() -> None:
    backbone = tiny_cnn()
    state = random_head(backbone, CLASSES, 1)
    with loaded(backbone, state) as head:
        assert all(value.requires_grad for value in head.parameters())
        with torch.no_grad():
            head.weight.add_(1)
    assert bits(state) == bits(random_head(backbone, CLASSES, 1)) != bits(state_of(backbone, head, 5))


@pytest.mark.parametrize("state", [ModelState([], {}), random_head(tiny_cnn(), CLASSES, 3)])
def test_loading_draws_no_random_numbers(state: ModelState) -> None:
    backbone = tiny_cnn()
    before = torch.get_rng_state()
    with loaded(backbone, state):
        pass
    assert torch.equal(torch.get_rng_state(), before)
    random_head(backbone, CLASSES, 3)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_head_the_original_classifier_can_be_asked() -> None:
    backbone = tiny_cnn()
    with torch.no_grad():
        expected = backbone.original_logits(inputs())
        with loaded(backbone, ModelState([], {})):
            assert torch.equal(backbone.original_logits(inputs()), expected)


# Changes of a state


def test_a_temperature_divides_the_logits_alone() -> None:
    backbone = tiny_cnn()
    _, _, state = ends(tiny_cnn, 3)
    cooler = state.with_temperature(2.5)
    assert same(cooler.stages, state.stages)
    with torch.no_grad():
        with loaded(backbone, state) as head:
            expected = head(backbone.run(inputs())) / 2.5
        with loaded(backbone, cooler) as head:
            torch.testing.assert_close(head(backbone.run(inputs())), expected)


@pytest.mark.parametrize("boundary", [0, 3, 5])
def test_buffers_of_the_network_replace_those_of_the_state(boundary: int) -> None:
    _, _, state = ends(tiny_cnn, boundary)
    backbone = tiny_cnn()
    mixed = state.with_buffers_of(backbone)
    assert same([mixed.head], [state.head])
    for found, own, old in zip(mixed.stages, state.stages, backbone.snapshot(boundary), strict=True):
        assert found.keys() == own.keys()
        for name, value in found.items():
            buffer = "running" in name or "tracked" in name
            assert torch.equal(value, old[name] if buffer else own[name])
            assert not ("running" in name and torch.equal(value, own[name]))
    with torch.no_grad():  # copies
        for stage in backbone.stages:
            for value in stage.module.buffers():
                value.add_(1)
    assert bits(mixed) == bits(state.with_buffers_of(tiny_cnn()))
