"""A head that reads several stages: the same features however they are computed, and the same model in both phases."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.photos import CLASSES
from tests.support.training import at, candidate, new_store, recipe, schedule, task, training_features
from torch import Tensor

from unfreeze.acceleration.trainable import trainable_forward
from unfreeze.config import make_config
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import apply, plan_from
from unfreeze.models.pooling import channels_last, pool
from unfreeze.models.state import loaded, random_head
from unfreeze.predict import predict_logits, to_model_input
from unfreeze.training.features.activations import (
    CachedActivations,
    PixelSource,
    compute_or_load,
    logits_from,
    pooled_features,
)
from unfreeze.training.features.demand import ActivationRequest, cache_misses
from unfreeze.training.finetune.loop import FineTuneResult, finetune, kd_loss
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.phase_one import head_state, train_head
from unfreeze.training.recipes import MAX_HEAD_STAGES, head_stages_for

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")

STAGES = (1, 2)
BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
WANTED = {2: range(2), 0: range(2), 5: (0,)}
PAIRS = ([2, 0, 5, 2], [1, 0, 0, 0])


def several(make: Callable[[], Backbone] = tiny_cnn) -> Backbone:
    return replace(make(), head_stages=STAGES)


def by_hand(backbone: Backbone, x: Tensor) -> Tensor:
    """Pool each stage that the head reads, one after the other."""
    blocks = []
    for number, stage in enumerate(backbone.stages):
        x = stage.module(x)
        if number in STAGES:
            blocks.append(
                torch.cat([x[:, 0], x[:, 1:].mean(1)], 1)
                if x.dim() == 3
                else torch.cat([x.flatten(2).mean(2), x.flatten(2).amax(2)], 1)
            )
    return torch.cat([*blocks, pool(x)], 1)


@BACKBONES
def test_features_are_every_stage_pooled_and_the_last_stage_at_the_end(make: Callable[[], Backbone]) -> None:
    backbone = several(make)
    images = torch.randn(3, 3, *backbone.network.preprocessing.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = by_hand(backbone, images)
        assert expected.shape[1] == backbone.feature_dim == sum(backbone.block_dims)
        assert backbone.block_dims == ((8, 8, 8, 8, 12) if make is tiny_cnn else (8, 8, 8, 8, 8))
        torch.testing.assert_close(backbone.features(images), expected)
        torch.testing.assert_close(make().features(images), make().run(images))
        for boundary in range(1, 5):
            x, below = backbone.run_pooling(images, 0, boundary, None)
            assert (0 if below is None else below.shape[1]) == backbone.dim_below(boundary)
            torch.testing.assert_close(backbone.features(x, boundary, below), expected)
    assert torch.equal(backbone.features(expected, backbone.head_boundary), expected)


@pytest.mark.parametrize(
    ("shape", "last"), [((7, 7, 64), True), ((64, 7, 7), False), ((7, 7, 7), False), ((14, 7, 7), True)]
)
def test_maps_have_their_channels_where_the_aspect_ratio_says(shape: tuple[int, int, int], last: bool) -> None:
    assert channels_last(shape, (448, 224) if shape[0] == 14 else (224, 224)) is last


@BACKBONES
@pytest.mark.parametrize("boundary", range(1, 6))
def test_cached_features_of_lower_stages_are_what_recomputing_gives(
    photos: tuple[Path, ...], make: Callable[[], Backbone], boundary: int
) -> None:
    backbone, renderer = several(make), task(photos, train=9).renderer
    cached = compute_or_load(new_store(), backbone, PixelSource(renderer), boundary, WANTED, "test")
    (x,), below = cached.batches(*PAIRS, 4), cached.features_below(*PAIRS)
    views = torch.cat([renderer.views(photo, (view,)) for photo, view in zip(*PAIRS, strict=True)])
    with torch.no_grad():
        expected = by_hand(backbone, to_model_input(views, backbone, 0))
        found = backbone.features(to_model_input(x, backbone, boundary), boundary, below)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (below is None) == (boundary in (1, 5))


@BACKBONES
def test_features_have_the_same_bits_through_any_boundary_and_from_any_part_of_the_cache(
    photos: tuple[Path, ...], make: Callable[[], Backbone]
) -> None:
    backbone, images = several(make), PixelSource(task(photos, train=9).renderer)

    def rows(source: CachedActivations) -> Tensor:
        return torch.cat(list(source.batches(*PAIRS, 4)))

    direct = rows(compute_or_load(new_store(), backbone, images, 5, WANTED, "test"))
    for boundary in (2, 3, 4):
        store = new_store()
        compute_or_load(store, backbone, images, boundary, {2: (1,)}, "test")
        below = compute_or_load(store, backbone, images, boundary, WANTED, "test")
        assert torch.equal(rows(compute_or_load(store, backbone, below, 5, WANTED, "test")), direct)
        assert torch.equal(rows(compute_or_load(store, several(make), images, 5, WANTED, "test")), direct)


def test_activations_without_the_features_below_them_are_computed_again(photos: tuple[Path, ...]) -> None:
    store, renderer = new_store(), task(photos, train=9).renderer
    compute_or_load(store, tiny_cnn(), PixelSource(renderer), 3, WANTED, "test")
    request = ActivationRequest(renderer, 3, WANTED, "test")
    assert not cache_misses(store, tiny_cnn(), [request])
    (miss,) = cache_misses(store, several(), [request])
    assert len(miss.pairs) == 5
    compute_or_load(store, several(), PixelSource(renderer), 3, WANTED, "test")
    assert not cache_misses(store, several(), [request])


@BACKBONES
def test_the_trainable_stages_compute_the_features_above_the_boundary(make: Callable[[], Backbone]) -> None:
    backbone = several(make)
    plan = plan_from(backbone, 2, lr=1e-3, head_lr=1e-3)
    images = torch.randn(3, 3, *backbone.network.preprocessing.size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x, below = backbone.run_pooling(images, 0, 2, None)
        expected = by_hand(backbone, images)
    apply(plan, backbone)
    assert below is not None
    found = torch.cat([below, trainable_forward(backbone, 2, x)(x)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert all(value.grad is not None for value in backbone.stages[2].module.parameters())
    backbone.stages[0].module.requires_grad_(False)
    assert all(value.grad is None for value in backbone.stages[0].module.parameters())


def test_a_head_on_several_stages_is_scikit_learns_on_blocks_of_one_variance() -> None:
    random = np.random.default_rng(0)
    labels = torch.arange(60) % 3
    features = torch.from_numpy(random.normal(size=(60, 1, 8))).float()
    features[:, 0, 0] += labels
    features = features * torch.tensor([1e3, 5e2, 1, 2, 1, 50, 20, 1]) + torch.tensor([9e3, 5, 0, 0, 0, 0, 0, 0])
    features[:, :, 7] = 4.0  # a stage whose output is constant says nothing
    fit = fit_head(features, labels, np.arange(60) // 3 % 5, 3, blocks=(2, 3, 2, 1))
    x = features[:, 0].double().numpy()
    standard = x - x.mean(0)
    for block in (slice(0, 2), slice(2, 5), slice(5, 7)):
        standard[:, block] /= np.sqrt(standard[:, block].var(0).sum() / np.sqrt(standard[:, block].shape[1]))
    standard /= np.sqrt((standard**2).sum(1).mean())
    theirs = LogisticRegression(C=1 / (fit.l2 * 60), tol=1e-10, max_iter=10000).fit(standard, labels)
    np.testing.assert_allclose(fit.head.probabilities(features[:, 0]), theirs.predict_proba(standard), atol=2e-4)
    assert not fit.head.weight[:, 7].any()
    assert fit.standardisation is not None
    state = head_state(fit.head, fit.standardisation)
    with loaded(replace(tiny_cnn(), stage_dims=(0, 0, 0, 0, 8)), state) as head:
        torch.testing.assert_close(head(features[:, 0]), fit.head.logits(features[:, 0]).float(), rtol=1e-3, atol=1e-3)


def test_both_phases_predict_what_the_loaded_model_computes_from_the_images(photos: tuple[Path, ...]) -> None:
    backbone, given = several(), task(photos, train=18)
    how = recipe(backbone, candidate(backbone, 2))
    own = training_features(backbone, given, how, boundaries=(2,))
    first = train_head(own, how)
    before = backbone.fingerprint()
    fold, source = own.folds.trainings[0], own.final.by_boundary[2]
    tuned = finetune(
        backbone, first.fold_inits[0], source, given.data.labels, how.candidates[0].plan, schedule(epochs=2),
        phase="test", train=fold.train, val=fold.val, seed=0,
    )  # fmt: skip
    assert backbone.fingerprint() == before
    assert not torch.equal(tuned.state.head["weight"], first.fold_inits[0].head["weight"])
    assert torch.equal(tuned.state.head["scale"], first.fold_inits[0].head["scale"])
    pixels = torch.cat([given.renderer.views(int(photo), (0,)) for photo in fold.val])
    for state, said in ((first.fold_states[0], first.fold_logits[0]), (tuned.state, tuned.val_logits)):
        with loaded(backbone, state) as head:
            np.testing.assert_allclose(predict_logits(backbone, head, [pixels]), said, atol=2e-4, rtol=1e-3)
            np.testing.assert_allclose(logits_from(backbone, head, source, fold.val), said, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "subset", "bn", "distill"),
    [(tiny_vit, "lora", "frozen", 0.0), (tiny_cnn, "norms", "frozen", 0.0), (tiny_cnn, "all", "train", 0.0),
     (tiny_cnn, "all", "frozen", 50.0), (tiny_vit, "all", "frozen", 2.0)],
)  # fmt: skip
def test_every_way_to_train_phase_two_ends_in_what_the_loaded_model_computes(
    photos: tuple[Path, ...],
    make: Callable[[], Backbone],
    subset: Literal["all", "norms", "lora"],
    bn: Literal["frozen", "train"],
    distill: float,
) -> None:
    backbone, given = several(make), task(photos, train=18)
    first = train_head(training_features(backbone, given, recipe(backbone)), recipe(backbone))
    plan = plan_from(backbone, 2, lr=0.02, head_lr=0.02, subset=subset, bn=bn)
    source, at_head = at(backbone, given, plan.boundary), at(backbone, given, 5)
    before, train, val = backbone.fingerprint(), given.data.train[:12], given.data.train[12:]

    def tuned_with(weight: float) -> FineTuneResult:
        return finetune(
            backbone, first.phase2_init, source, given.data.labels, plan,
            replace(schedule(epochs=6), distill=weight), phase="test", train=train, val=val, seed=0,
            pretrained_features=at_head if weight else None,
        )  # fmt: skip

    tuned = tuned_with(distill)
    assert (tuned.failure, backbone.fingerprint()) == (None, before)
    pixels = torch.cat([given.renderer.views(int(photo), (0,)) for photo in val])
    with loaded(backbone, tuned.state) as head:
        np.testing.assert_allclose(predict_logits(backbone, head, [pixels]), tuned.val_logits, atol=2e-4, rtol=1e-3)
        assert backbone.fingerprint() != before
    if not distill:
        return
    free = tuned_with(0.0)
    x, drifts = to_model_input(pixels, backbone, 0), []
    with torch.no_grad():
        pretrained = backbone.original_logits(x)
        for state in (tuned.state, free.state):
            with loaded(backbone, state):
                drifts.append(float(kd_loss(backbone.original_logits(x), pretrained)))
    assert drifts[0] < drifts[1]


def test_frozen_stages_that_the_head_reads_keep_their_bits_and_trained_ones_move(photos: tuple[Path, ...]) -> None:
    backbone, given = several(), task(photos, train=18)
    how = recipe(backbone, candidate(backbone, 2))
    own = training_features(backbone, given, how, boundaries=(2,))
    first = train_head(own, how)
    assert own.final.for_head.boundary == 5
    assert pooled_features(own.final.for_head, [0], [0]).shape[2] == backbone.feature_dim  # type: ignore[arg-type]
    fingerprints = backbone.fingerprints()
    fold = own.folds.trainings[-1]
    tuned = finetune(
        backbone, first.phase2_init, own.final.by_boundary[2], given.data.labels, how.candidates[0].plan, schedule(),
        phase="test", train=fold.train, val=fold.val, seed=0,
    )  # fmt: skip
    with loaded(backbone, tuned.state):
        after = backbone.fingerprints()
    assert after[:3] == fingerprints[:3]
    assert after[3] != fingerprints[3]


def test_a_temperature_divides_the_logits_of_a_head_on_standardised_features(photos: tuple[Path, ...]) -> None:
    backbone, given = several(), task(photos, train=18)
    first = train_head(training_features(backbone, given, recipe(backbone)), recipe(backbone))
    pixels = given.renderer.views(0, (0,))
    with loaded(backbone, first.state) as head:
        logits = predict_logits(backbone, head, [pixels])
    with loaded(backbone, first.state.with_temperature(2.5)) as head:
        np.testing.assert_allclose(predict_logits(backbone, head, [pixels]), logits / 2.5, rtol=1e-5)


def test_the_recipe_chooses_stages_from_the_third_on_and_few_of_many() -> None:
    backbone = tiny_cnn()
    assert head_stages_for(make_config({"photos": "x"}), backbone) == (2, 3)
    assert head_stages_for(make_config({"photos": "x", "head": "last"}), backbone) == ()
    assert head_stages_for(make_config({"photos": "x", "recipe": "classic"}), backbone) == ()
    many = replace(backbone, stages=backbone.stages[:1] * 24, stage_dims=(4,) * 24)
    chosen = head_stages_for(make_config({"photos": "x"}), many)
    assert len(chosen) == MAX_HEAD_STAGES
    assert chosen[-1] == 22
    assert len({after - before for before, after in pairwise(chosen)}) <= 2
    tuples = replace(backbone, stage_dims=(6, 8, 0, 10, 12))
    assert head_stages_for(make_config({"photos": "x"}), tuples) == (3,)


def test_a_random_head_reads_all_stages(photos: tuple[Path, ...]) -> None:
    backbone = several()
    assert random_head(backbone, CLASSES, 0).head["weight"].shape == (CLASSES, backbone.feature_dim)
