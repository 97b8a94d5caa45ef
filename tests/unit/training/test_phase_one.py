from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.support.backbones import bits, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, CROPS, PREPROCESSING, renderer
from tests.support.training import Task, candidate, new_store, recipe, schedule, task, training_features

from unfreeze.data.sources import Sample
from unfreeze.evaluation.prior import WEAK_PRIOR
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import plan_from
from unfreeze.models.state import ModelState, loaded, random_head
from unfreeze.orientations import Orientation
from unfreeze.predict import to_model_input
from unfreeze.training.augmentation import choose_on_folds, make_renderers, select_augmentation
from unfreeze.training.features.activations import CachedActivations, PixelSource, compute_or_load, pooled_features
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.gather import compute_activations
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.phase_one import train_head
from unfreeze.training.recipe import ByGradient, Recipe
from unfreeze.training.recipes import LIGHT_AUG, ROTATION_AUG
from unfreeze.views import PLAIN_ONLY

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
VALIDATIONS = pytest.mark.parametrize("val", [0, 6])
Losses = NDArray[np.float64]
SOLVED = pytest.mark.parametrize("solved", [True, False])


def said(backbone: Backbone, weights: ModelState, given: Task, photos: Sequence[int]) -> torch.Tensor:
    """Return what a model says of photos, straight from their pixels."""
    plain = torch.cat([given.renderer.views(int(photo), (0,)) for photo in photos])
    with loaded(backbone, weights) as head, torch.no_grad():
        found: torch.Tensor = head(backbone.run(to_model_input(plain, backbone, 0)))
    return found


# The head


@SOLVED
@VALIDATIONS
@BACKBONES
def test_phase_one_leaves_the_backbone_to_the_bit(
    photos: tuple[Path, ...], make: Callable[..., Backbone], val: int, solved: bool
) -> None:
    backbone, given = make(dropout=0.3), task(photos, train=12, val=val)
    before = backbone.fingerprint()
    how = recipe(backbone, solved=solved)
    first = train_head(training_features(backbone, given, how), how)
    assert backbone.fingerprint() == before
    with loaded(backbone, first.state):
        assert backbone.fingerprint() == before
    assert bits(first.state) != bits(random_head(backbone, CLASSES, 0))


def test_phase_one_with_batch_norm_in_train_mode_moves_statistics_until_it_ends(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    before = backbone.fingerprint()
    how = recipe(backbone, candidate(backbone, 0), solved=False)
    how = replace(how, head=ByGradient(plan_from(backbone, 5, lr=0.0, head_lr=0.02, bn="train"), schedule(epochs=2)))
    first = train_head(training_features(backbone, given, how, for_head=0), how)
    assert backbone.fingerprint() == before
    with loaded(backbone, first.state):
        assert backbone.fingerprint() != before


def test_a_solved_head_is_judged_by_folds_that_it_never_saw(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    own = training_features(backbone, given, recipe(backbone))
    source = own.final.for_head
    assert isinstance(source, CachedActivations)
    first = train_head(own, recipe(backbone))
    found = pooled_features(source, range(18), (0, 1))
    fit = fit_head(found, given.data.labels[:18], given.data.fold, CLASSES, smoothing=schedule().smoothing)
    assert len(first.fold_inits) == len(first.fold_states) == len(first.fold_logits) == 3
    for number, answers in enumerate(first.fold_logits):
        assert torch.equal(first.fold_inits[number].head["weight"], fit.fold_inits[number].weight.float())
        assert torch.equal(first.fold_states[number].head["weight"], fit.fold_heads[number].weight.float())
        np.testing.assert_array_equal(answers, fit.out_of_fold[given.data.fold == number].astype(np.float32))
    assert torch.equal(first.state.head["bias"], fit.head.bias.float())
    assert torch.equal(first.phase2_init.head["bias"], fit.init_for_phase2.bias.float())
    assert first.history == ()


def test_a_mean_over_one_orientation_is_no_alternative_whose_rounding_could_pass_for_a_gain(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    right = np.eye(CLASSES, dtype=np.float32)[given.data.labels[:18].numpy()]
    monkeypatch.setattr("unfreeze.training.phase_one.out_of_fold_tta_logits", lambda *_: 9 * right)
    own = training_features(backbone, given, recipe(backbone))
    first = train_head(own, recipe(backbone))
    assert isinstance(own.final.for_head, CachedActivations)
    fit = fit_head(
        pooled_features(own.final.for_head, range(18), (0, 1)), given.data.labels[:18], given.data.fold, CLASSES, 0.0
    )
    for number, answers in enumerate(first.fold_logits):
        np.testing.assert_array_equal(answers, fit.out_of_fold[given.data.fold == number].astype(np.float32))


@SOLVED
@VALIDATIONS
def test_every_rounds_model_is_the_one_that_answered(photos: tuple[Path, ...], val: int, solved: bool) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=val)
    how = recipe(backbone, solved=solved)
    first = train_head(training_features(backbone, given, how), how)
    held = [given.data.val] if val else [given.data.train[given.data.fold == fold] for fold in range(3)]
    assert len(first.fold_states) == len(first.fold_logits) == len(held)
    for weights, answers, judges in zip(first.fold_states, first.fold_logits, held, strict=True):
        np.testing.assert_allclose(said(backbone, weights, given, judges.tolist()), answers, atol=1e-4)


@SOLVED
def test_with_the_users_validation_the_judged_head_is_the_one_that_ships(
    photos: tuple[Path, ...], solved: bool
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=6)
    how = recipe(backbone, solved=solved)
    first = train_head(training_features(backbone, given, how), how)
    assert bits(first.fold_inits[0]) == bits(first.phase2_init)
    assert bits(first.fold_states[0]) == bits(first.state)
    expected = said(backbone, first.state, given, given.data.val.tolist())
    np.testing.assert_allclose(first.fold_logits[0], expected, atol=1e-4)


@SOLVED
def test_as_many_rounds_are_judged_as_are_wanted(photos: tuple[Path, ...], solved: bool) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    for judges, rounds in ((0, 0), (1, 1), (7, 2), (18, 3)):
        how = recipe(backbone, solved=solved, judges=judges)
        first = train_head(training_features(backbone, given, how), how)
        assert len(first.fold_logits) == len(first.fold_states) == len(first.fold_inits) == rounds
        assert first.fold_views == (PLAIN_ONLY,) * rounds


# What it trains on


def test_the_photos_are_rendered_in_every_way_that_the_recipe_knows(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own = renderer(photos)
    samples = [Sample(path, path.name, 0, digest=digest) for path, digest in zip(own.paths, own.digests, strict=True)]
    how = replace(recipe(backbone), augmentations=(CROPS, ROTATION_AUG))
    found = make_renderers(how, backbone, samples, 7)
    assert [each.augmentation for each in found] == [CROPS, ROTATION_AUG]
    for each in found:
        assert (each.paths, each.digests) == (own.paths, own.digests)
        assert (each.seed, each.preprocessing) == (7, PREPROCESSING)


def gathered(backbone: Backbone, given: Task, how: Recipe) -> tuple[dict[int, object], object]:
    sources, at_head = compute_activations(new_store(), backbone, given.renderer, given.data, how)
    return dict(sources), at_head


def test_each_candidate_finds_activations_at_its_own_boundary(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12, val=6)
    how = recipe(backbone, candidate(backbone, 4), candidate(backbone, 2), candidate(backbone, 4, lr=0.1))
    sources, at_head = compute_activations(new_store(), backbone, given.renderer, given.data, how)
    assert set(sources) == {2, 4, backbone.head_boundary}
    assert {boundary: source.boundary for boundary, source in sources.items()} == {2: 2, 4: 4, 5: 5}
    assert isinstance(at_head, CachedActivations)
    assert at_head.boundary == 5
    wanted = {(photo, view) for photo, views in given.data.requested_views(2).items() for view in views}
    assert set(at_head.rows) == wanted
    [below], [above] = (sources[boundary].batches([3, 15], [1, 0], 2) for boundary in (2, 4))
    with torch.no_grad():
        torch.testing.assert_close(backbone.run(below, 2, 4), above, rtol=1e-4, atol=1e-5)


def test_where_everything_trains_the_photos_themselves_are_the_source(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    sources, at_head = gathered(backbone, given, recipe(backbone, candidate(backbone, 4), candidate(backbone, 0)))
    assert isinstance(sources[0], PixelSource)
    assert isinstance(sources[4], CachedActivations)
    assert isinstance(at_head, CachedActivations)


def test_without_candidates_only_features_are_kept(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    sources, at_head = gathered(backbone, given, recipe(backbone).without_phase_two())
    assert set(sources) == {0, backbone.head_boundary}
    assert isinstance(at_head, CachedActivations)


def test_a_head_that_is_trained_below_moving_statistics_trains_on_photos(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    how = recipe(backbone, candidate(backbone, 0), solved=False)
    how = replace(how, head=ByGradient(plan_from(backbone, 5, lr=0.0, head_lr=0.02, bn="train"), schedule(epochs=2)))
    sources, at_head = gathered(backbone, given, how)
    assert at_head is sources[0]


# Which way to augment


def slopes(root: Path, count: int) -> tuple[Path, ...]:
    """Draw photos that grow brighter to the right, downwards or to the left; turned, one looks like another."""
    y, x = np.mgrid[0:24, 0:24] / 23
    paths = []
    for number in range(count):
        noise = np.random.default_rng(number).normal(0, 0.03, (24, 24, 3))
        ramp = [x, y, 1 - x][number % CLASSES]
        paths.append(root / f"{number}.png")
        Image.fromarray(((0.1 + 0.8 * ramp[..., None] + noise).clip(0, 1) * 255).astype(np.uint8)).save(paths[-1])
    return tuple(paths)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_photos_whose_class_does_not_survive_turning_are_not_turned(tmp_path: Path, order: tuple[int, int]) -> None:
    backbone, given = tiny_vit(), task(slopes(tmp_path, 96), train=96)
    both = [replace(given.renderer, augmentation=how) for how in (replace(LIGHT_AUG, flip=0.0), ROTATION_AUG)]
    ordered = [both[place] for place in order]
    selected = select_augmentation(new_store(), backbone, ordered, given.data, recipe(backbone))
    assert all(each is both[0] for each in (selected.final, *selected.by_fold))


def planted(monkeypatch: pytest.MonkeyPatch, *losses: Losses) -> None:
    """Let phase 1 find these losses, one renderer after the other."""
    found = iter(losses)
    monkeypatch.setattr("unfreeze.training.augmentation.calibrated_nll", lambda *_: next(found))


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], 0),
        ([[1.0, 2.0, 3.0], [0.9, 1.9, 2.9]], 1),
        ([[1.0, 2.0, 3.0], [1.1, 2.1, 3.1]], 0),
        ([[1.0, 2.0, 3.0], [0.5, 1.6, 2.4], [0.6, 1.7, 2.5]], 1),
        ([[1.0, 2.0, 3.0], [0.9, 1.9, 2.9], [0.5, 1.6, 2.4]], 2),
        ([[1.0, 2.0, 3.0], [0.9, 1.9, 2.9], [1.9, 1.9, 1.9]], 1),  # as low on the mean, by one image
    ],
)
def test_the_way_to_augment_that_is_expected_to_gain_most_is_taken(losses: list[list[float]], expected: int) -> None:
    baseline, *others = (np.tile(each, 20) for each in losses)
    options = [("augmentation:other", each) for each in others]
    assert choose_on_folds(baseline, options, WEAK_PRIOR, np.zeros(60, np.int64), [0]) == expected


def by_folds_and_all(
    monkeypatch: pytest.MonkeyPatch, store: FeatureCache, backbone: Backbone, given: Task, losses: Sequence[Losses]
) -> tuple[int, list[int]]:
    """Return which of the renderers all images choose, and which the other folds choose for each fold."""
    renderers = [replace(given.renderer, seed=seed) for seed in range(len(losses))]
    planted(monkeypatch, *losses)
    how = replace(recipe(backbone), cross_fit=True)
    selected = select_augmentation(store, backbone, renderers, given.data, how)
    return renderers.index(selected.final), [renderers.index(each) for each in selected.by_fold]


def test_what_only_one_folds_images_like_is_used_for_the_others_alone(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    for liked_by in range(3):
        second = np.where(given.data.fold == liked_by, 0.1, 1.0)
        final, by_fold = by_folds_and_all(monkeypatch, new_store(), backbone, given, [np.ones(18), second])
        assert final == 1
        assert by_fold == [0 if fold == liked_by else 1 for fold in range(3)]


def test_a_folds_own_losses_do_not_choose_its_renderer(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, given, store = tiny_cnn(), task(photos, train=18), new_store()
    random = np.random.default_rng(0)
    chosen = set()
    for _ in range(8):
        losses = [random.normal(1, 0.5, 18) for _ in range(3)]
        _, by_fold = by_folds_and_all(monkeypatch, store, backbone, given, losses)
        chosen.update(by_fold)
        for fold in range(3):
            own = given.data.fold == fold
            others = [np.where(own, random.normal(1, 5, 18), each) for each in losses]
            assert by_folds_and_all(monkeypatch, store, backbone, given, others)[1][fold] == by_fold[fold]
    assert len(chosen) > 1


def test_a_single_way_to_augment_is_taken_unseen(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    planted(monkeypatch)
    selected = select_augmentation(new_store(), backbone, [given.renderer], given.data, recipe(backbone))
    assert selected.final is given.renderer
    assert len(selected.by_fold) == 3
    assert all(each is given.renderer for each in selected.by_fold)


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("enough", [400, 8])
def test_ways_to_augment_are_judged_on_photos_of_other_folds_in_two_poses(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, averages: bool, enough: int
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18, val=6)
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def noted(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        seen.append((logits, labels))
        return np.zeros(len(labels))

    monkeypatch.setattr("unfreeze.training.augmentation.calibrated_nll", noted)
    monkeypatch.setattr("unfreeze.training.augmentation.MAX_PROBE_IMAGES", enough)
    renderers = [replace(given.renderer, augmentation=how) for how in (CROPS, ROTATION_AUG)]
    select_augmentation(new_store(), backbone, renderers, given.data, replace(recipe(backbone), allow_tta=averages))
    some = given.data.subsample(enough)
    labels, fold = given.data.labels[torch.from_numpy(some.train)], some.fold
    for own, orientation, (logits, truth) in zip(
        renderers, (Orientation.FLIPPED, Orientation.ROT90), seen, strict=True
    ):
        orientations = (Orientation.IDENTITY, orientation)
        source = compute_or_load(
            new_store(), backbone, PixelSource(own), 5, dict.fromkeys(range(18), orientations), "test"
        )
        shown = pooled_features(source, some.train.tolist(), orientations)
        fit = fit_head(shown, labels, fold, CLASSES)
        expected = [fit.fold_heads[each].logits(shown[photo].mean(dim=0)).numpy() for photo, each in enumerate(fold)]
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(truth, labels)
