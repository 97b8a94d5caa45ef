"""What is predicted for a fold's images is chosen by the other folds' images alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import bits, tiny_cnn
from tests.support.photos import CLASSES
from tests.support.priors import linear
from tests.support.training import Task, candidate, new_store, recipe, setting, task, training_features
from torch import Tensor

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.evaluation.prior import PriorTable
from unfreeze.evaluation.selection import FoldIds, ModelSelector, TrialLogits
from unfreeze.models.state import ModelState
from unfreeze.orientations import Orientation
from unfreeze.predict import Logits
from unfreeze.training.features.activations import CachedActivations
from unfreeze.training.features.cache_files import RowRef
from unfreeze.training.features.training_features import FoldActivations
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import TwoPhaseResult, fine_tune
from unfreeze.training.recipe import Candidate
from unfreeze.training.search import SearchContext, Trial, search
from unfreeze.views import PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Framing, Views

pytestmark = pytest.mark.usefixtures("one_thread")

FOLDS = 3
FLIPPED, SQUEEZED = EvaluationView(Orientation.FLIPPED), EvaluationView.of(SQUEEZE)
LIKED_BY = pytest.mark.parametrize("liked_by", range(FOLDS))


# Renderers and orientations


def planted_features(by_view: Mapping[int, Tensor], renderer: Renderer) -> CachedActivations:
    """Return a cache of the given features at the head, of shape (N, D) for each view."""
    places: dict[tuple[int, int], RowRef] = {}
    with new_store().namespace("planted").write() as draft:
        for view, rows in by_view.items():
            draft.append([f"{image} {view}" for image in range(len(rows))], rows)
    for view, rows in by_view.items():
        places |= {(image, view): draft.rows[f"{image} {view}"] for image in range(len(rows))}
    return CachedActivations(5, renderer, places)


def helps_one_fold(given: Task, liked_by: int, helpful: EvaluationView) -> dict[int, Tensor]:
    """Return features of which one view tells the class in one fold, and hides it in the others."""
    random = torch.Generator().manual_seed(0)
    labels = given.data.labels[: len(given.data.train)]
    centers = torch.randn(CLASSES, 12, generator=random)
    plain, augmented = (torch.randn(len(labels), 12, generator=random) for _ in range(2))
    plain, augmented = centers[labels] + 3 * plain, centers[labels] + 3 * augmented
    liked = torch.from_numpy(given.data.fold == liked_by)[:, None]
    hidden = plain - 0.5 * centers[labels]
    others = dict.fromkeys((FLIPPED, SQUEEZED, EvaluationView.of(SQUEEZE, Orientation.FLIPPED)), hidden)
    return {0: plain, 1: augmented} | others | {helpful: torch.where(liked, plain + 6 * centers[labels], hidden)}


@LIKED_BY
@pytest.mark.parametrize(("helpful", "framings"), [(FLIPPED, ()), (SQUEEZED, (SQUEEZE,))])
def test_views_that_only_one_folds_images_like_are_averaged_for_the_others_alone(
    photos: tuple[Path, ...], liked_by: int, helpful: EvaluationView, framings: tuple[Framing, ...]
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=30)
    how = replace(recipe(backbone).cross_fit_all(30), allow_tta=True, framings=framings)
    by_view, both = helps_one_fold(given, liked_by, helpful), (PLAIN, helpful)
    features = training_features(backbone, given, recipe(backbone, judges=30))
    planted = FoldActivations(given.renderer, {}, planted_features(by_view, given.renderer))
    first = train_head(replace(features, final=planted, by_fold=(planted,) * FOLDS), how)
    assert first.views == both
    assert first.fold_views == tuple(PLAIN_ONLY if fold == liked_by else both for fold in range(FOLDS))
    for fold, (model, said, views) in enumerate(
        zip(first.fold_states, first.fold_logits, first.fold_views, strict=True)
    ):
        own = torch.from_numpy(given.data.fold == fold)

        def answers(views: Views, model: ModelState = model, own: Tensor = own) -> Logits:
            mean = torch.stack([by_view[view][own] for view in views]).mean(dim=0)
            return (mean @ model.head["weight"].T + model.head["bias"]).numpy()

        np.testing.assert_allclose(said, answers(views), atol=1e-4)
        assert not np.allclose(said, answers(PLAIN_ONLY if views == both else both), atol=1e-3)


@pytest.mark.parametrize("solved", [True, False])
def test_a_folds_model_is_trained_and_asked_with_the_folds_own_renderer(photos: tuple[Path, ...], solved: bool) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    how = recipe(backbone, solved=solved, judges=18)
    one = training_features(backbone, given, how)
    other = training_features(backbone, replace(given, renderer=replace(given.renderer, seed=1)), how)
    mixed = replace(one, final=other.final, by_fold=(one.final, other.final, one.final))
    found, by_one, by_other = (train_head(each, how) for each in (mixed, one, other))
    for fold, (right, wrong) in enumerate([(by_one, by_other), (by_other, by_one), (by_one, by_other)]):
        assert bits(found.fold_states[fold]) == bits(right.fold_states[fold]) != bits(wrong.fold_states[fold])
        assert bits(found.fold_inits[fold]) == bits(right.fold_inits[fold]) != bits(wrong.fold_inits[fold])
        np.testing.assert_array_equal(found.fold_logits[fold], right.fold_logits[fold])
        assert not np.array_equal(found.fold_logits[fold], wrong.fold_logits[fold])
    assert bits(found.state) == bits(by_other.state) != bits(by_one.state)
    assert bits(found.phase2_init) == bits(by_other.phase2_init) != bits(by_one.phase2_init)


def test_phase_two_trains_a_fold_on_the_views_of_the_folds_own_renderer(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=18)
    how = recipe(backbone, judges=18)
    one = training_features(backbone, given, how, boundaries=(3,))
    elsewhere = replace(given, renderer=replace(given.renderer, seed=1))
    other = training_features(backbone, elsewhere, how, boundaries=(3,))
    mixed = replace(one, by_fold=(one.final, other.final, one.final))
    first = train_head(one, how)  # the same start for all: only the views differ
    found, by_one, by_other = (fine_tune(each, first, how).trials[0].fold_states for each in (mixed, one, other))
    assert bits(found[0]) == bits(by_one[0]) != bits(by_other[0])
    assert bits(found[1]) == bits(by_other[1]) != bits(by_one[1])
    assert bits(found[2]) == bits(by_one[2])
    assert bits(found[3]) == bits(by_one[3]) != bits(by_other[3])


# How deep the search goes


@pytest.mark.parametrize(
    ("wants", "nested", "considered"),
    [
        (lambda _tried, judges: 0 in judges, True, (1, 3, 3)),
        (lambda _tried, judges: 0 in judges, False, (3, 3, 3)),
        (lambda tried, judges: (tried == 1) == (0 in judges), True, (1, 2, 2)),  # who has stopped doesn't go on
        (lambda _tried, judges: len(judges) == FOLDS, True, (1, 1, 1)),  # tried for the final model alone
        (lambda _tried, judges: list(judges) == [0, 2], True, (1, 3, 1)),  # tried for one fold alone
        (lambda _tried, _judges: False, True, (1, 1, 1)),
        (lambda _tried, _judges: True, True, (3, 3, 3)),
    ],
)
def test_the_other_folds_decide_how_many_candidates_a_fold_considers(
    photos: tuple[Path, ...],
    monkeypatch: pytest.MonkeyPatch,
    wants: Callable[[int, FoldIds], bool],
    nested: bool,
    considered: tuple[int, ...],
) -> None:
    def wants_more(_panel: ModelSelector, trials: Sequence[TrialLogits], _depth: str, judges: FoldIds) -> bool:
        return wants(len(trials), judges)

    def try_out(_bench: SearchContext, asked: Candidate, _phase: str) -> Trial:
        return Trial(asked, {1.0: ()}, (), (), None, 0.0)

    backbone = tiny_cnn()
    own = setting(backbone, photos)
    monkeypatch.setattr(ModelSelector, "should_continue", wants_more)
    monkeypatch.setattr("unfreeze.training.search.run_trial", try_out)
    ways = [candidate(backbone, boundary) for boundary in (4, 3, 2)]
    found = search(own.bench, ways, own.panel, lambda _: True, lambda _: True, nested)
    assert found.considered == considered
    assert max(considered) <= len(found.trials)


def planted_search(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, liked_by: Sequence[int], *, cross_fit: bool = True
) -> tuple[TwoPhaseResult, tuple[Trial, ...]]:
    """Run phase 2 with two planted trials: what the first one gains, only some folds' images show; the second is perfect."""
    backbone, given = tiny_cnn(), task(photos, train=30)
    ways = candidate(backbone, 4), candidate(backbone, 3)
    rows = {"phase2:top-third:1": linear(0.0, 0.5), "phase2:half:1": linear(0.02, 0.5)}
    how = replace(recipe(backbone, *ways).cross_fit_all(30), cross_fit=cross_fit, prior=PriorTable(rows))
    features = training_features(backbone, given, how)
    truths = [given.data.labels[torch.from_numpy(fold.val)].numpy() for fold in features.folds.validation]
    random = np.random.default_rng(0)
    noise = [random.normal(size=(len(truth), CLASSES)) for truth in truths]

    def said(strengths: Sequence[float]) -> tuple[Logits, ...]:
        return tuple(
            (each + strength * np.eye(CLASSES)[truth]).astype(np.float32)
            for each, strength, truth in zip(noise, strengths, truths, strict=True)
        )

    def trial(asked: Candidate, number: int, strengths: Sequence[float]) -> Trial:
        heads = [{"weight": torch.full((CLASSES, 12), 10.0 * number + fold)} for fold in range(FOLDS + 1)]
        models = tuple(ModelState([], {**head, "bias": torch.zeros(CLASSES)}) for head in heads)
        return Trial(asked, {1.0: said(strengths)}, models, (), None, 0.0)

    strengths = [4.0 if fold in liked_by else 0.0 for fold in range(FOLDS)]
    planted = trial(ways[0], 0, strengths), trial(ways[1], 1, [9.0] * FOLDS)
    left = list(planted)
    monkeypatch.setattr("unfreeze.training.search.run_trial", lambda *_: left.pop(0))
    first = replace(train_head(features, how), fold_logits=said([0.5] * FOLDS))
    return fine_tune(features, first, how), planted


def uses(second: TwoPhaseResult, trial: Trial, fold: int) -> bool:
    """Tell whether a fold's prediction and its model both are those of a trial."""
    same = np.array_equal(second.fold_logits[fold], trial.val_logits_by_alpha[1.0][fold])
    assert same == (bits(second.fold_states[fold]) == bits(trial.fold_states[fold]))
    return same


@LIKED_BY
def test_a_fold_never_uses_a_candidate_that_only_its_own_images_wanted(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, liked_by: int
) -> None:
    second, (shallow, deep) = planted_search(photos, monkeypatch, [liked_by])
    assert second.trials == (shallow, deep)
    assert second.trial is deep
    for fold in range(FOLDS):
        assert uses(second, shallow if fold == liked_by else deep, fold)
    assert second.fold_accepted == tuple(fold != liked_by for fold in range(FOLDS))


@LIKED_BY
def test_what_a_fold_uses_is_the_same_whatever_its_own_images_say(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, liked_by: int
) -> None:
    others = [fold for fold in range(FOLDS) if fold != liked_by]
    for by_others in ([], others):
        found = []
        for own in ([], [liked_by]):
            second, (_, deep) = planted_search(photos, monkeypatch, [*by_others, *own])
            found.append((uses(second, deep, liked_by), second.fold_accepted[liked_by]))
        assert found == [(bool(by_others), bool(by_others))] * 2


def test_where_the_predictions_are_no_evidence_all_folds_decide_together(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    second, (_, deep) = planted_search(photos, monkeypatch, [0], cross_fit=False)
    assert all(uses(second, deep, fold) for fold in range(FOLDS))
