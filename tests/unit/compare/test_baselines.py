from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.training import new_store, task

from unfreeze.compare.arms import all_arms
from unfreeze.compare.baselines import classic, layer_decay, naive
from unfreeze.config import TrainConfig
from unfreeze.models.state import loaded
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune
from unfreeze.training.recipe import ByGradient

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = TrainConfig(photos=Path())
TEXTBOOK = TrainConfig(photos=Path(), recipe="classic", epochs=1, head_epochs=1)


def test_both_classics_differ_in_batch_norm_alone() -> None:
    backbone = tiny_cnn()
    frozen, moving = (classic(TEXTBOOK, backbone, 12, 3, bn) for bn in ("frozen", "train"))
    (still,), (drifting,) = frozen.candidates, moving.candidates
    assert [replace(row, bn="frozen") for row in drifting.plan.rows] == list(still.plan.rows)
    assert {row.bn for row in drifting.plan.rows} == {"train"}
    assert replace(drifting, plan=still.plan) == still
    assert replace(moving, candidates=frozen.candidates, head=frozen.head) == frozen


def test_naive_trains_everything_at_the_heads_rate_from_a_random_head() -> None:
    recipe = naive(tiny_cnn(), 3)
    assert recipe.candidates == ()
    assert isinstance(recipe.head, ByGradient)
    assert {row.lr for row in recipe.head.plan.rows} == {recipe.head.plan.head_lr} == {1e-3}
    assert all(row.trainable and row.bn == "train" for row in recipe.head.plan.rows)


def test_lower_layers_learn_slower() -> None:
    recipe = layer_decay(tiny_vit(), 3, 12)
    assert isinstance(recipe.head, ByGradient)
    rates = [row.lr for row in recipe.head.plan.rows]
    assert rates == pytest.approx([5e-4 * 0.7**below for below in (4, 3, 2, 1, 0)])


@pytest.mark.parametrize(
    "name",
    ["classic, BatchNorm frozen", "classic, as in textbooks", "naive: all at 1e-3", "layer decay, one phase"],
)
def test_every_contender_trains_its_model_and_leaves_the_backbone(photos: tuple[Path, ...], name: str) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    before = backbone.fingerprint()
    [contender] = [
        each for each in all_arms(CONFIG, 2, backbone, 12, 3) if name in (each.phase1_name, each.phase2_name)
    ]
    recipe = contender.recipe
    renderer = replace(given.renderer, augmentation=recipe.augmentations[0])
    features = compute_features(new_store(), backbone, [renderer], given.data, recipe, 0)
    first = train_head(features, recipe)
    final = first.state
    if contender.phase2_name is not None:
        final = fine_tune(features, first, recipe).state
    assert backbone.fingerprint() == before
    untouched = tiny_cnn().weights()
    with loaded(backbone, final):
        moved = {key for key, value in backbone.weights().items() if not torch.equal(value, untouched[key])}
    assert backbone.fingerprint() == before
    assert any(key.endswith("weight") for key in moved)
    assert any("running_mean" in key for key in moved) == (name in ("classic, as in textbooks", "naive: all at 1e-3"))


def test_without_batch_norm_there_is_one_classic() -> None:
    names = [(each.phase1_name, each.phase2_name) for each in all_arms(CONFIG, 4, tiny_vit(), 12, 3)]
    assert names == [
        ("head-only", "two-phase"), (None, "classic, as in textbooks"), ("naive: all at 1e-3", None),
        ("layer decay, one phase", None),
    ]  # fmt: skip


def test_only_ours_chooses_what_ships() -> None:
    assert [each.shipped_name for each in all_arms(CONFIG, 4, tiny_cnn(), 12, 3)] == ["auto", None, None, None, None]


def test_our_head_alone_reads_several_stages() -> None:
    assert [each.head_stages for each in all_arms(CONFIG, 4, tiny_cnn(), 12, 3)] == [(2, 3), (), (), (), ()]
    last = CONFIG.model_copy(update={"head": "last"})
    assert not any(each.head_stages for each in all_arms(last, 4, tiny_cnn(), 12, 3))
