from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import tiny_cnn
from tests.support.photos import CLASSES, draw
from tests.support.scoring import evaluation, inputs_of
from tests.support.training import Task, candidate, new_store, recipe, schedule, task

from unfreeze.data.checks import drop_unreadable
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import plan_from
from unfreeze.models.state import PRETRAINED, ModelState, loaded, random_head
from unfreeze.predict import photo_batches, to_model_input
from unfreeze.scoring.forgetting import (
    ForgettingMeter,
    forgetting_meter,
    measure_forgetting,
    original_outputs,
)
from unfreeze.scoring.held_out import EvaluationSet, predict_held_out
from unfreeze.training.features.activations import PixelSource, activations_at
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY_BOUNDARY = pytest.mark.parametrize("boundary", [0, 2, 4])


@pytest.fixture
def reference(tmp_path: Path) -> PhotoSet:
    """Photos of the original task, of whose labels the untouched backbone gets most right."""
    paths = draw(tmp_path, 14)
    backbone = tiny_cnn()
    said = (
        torch.cat([backbone.original_logits(to_model_input(x, backbone, 0)) for x in photo_batches(backbone, paths)])
        .argmax(1)
        .tolist()
    )
    labels = [label if number % 7 else (label + 1) % 7 for number, label in enumerate(said)]
    samples = tuple(Sample(path, path.name, label) for path, label in zip(paths, labels, strict=True))
    return drop_unreadable(PhotoSet(tmp_path, tuple("abcdefg"), samples))


def forgotten_by(meter: ForgettingMeter, state: ModelState) -> Forgetting:
    found = meter.measure(state, meter.on_test_images(state), 0)
    assert found is not None
    return found


def tune(backbone: Backbone, given: Task, boundary: int) -> ModelState:
    source = activations_at(new_store(), backbone, given.renderer, boundary, given.data.requested_views(2), "test")
    return finetune(
        backbone, random_head(backbone, CLASSES, 0), source, given.data.labels,
        plan_from(backbone, boundary, lr=0.1, head_lr=0.1), schedule(),
        phase="test", train=given.data.train, val=given.data.val, seed=0,
    ).state  # fmt: skip


@pytest.mark.parametrize("head_stages", [(), (1, 3)])
@EVERY_BOUNDARY
def test_head_only_forgets_exactly_nothing(
    photos: tuple[Path, ...], reference: PhotoSet, boundary: int, head_stages: tuple[int, ...]
) -> None:
    backbone, given = replace(tiny_cnn(), head_stages=head_stages), task(photos, train=12)
    meter = evaluation(backbone, photos, given, boundary, reference).meter
    forgotten = forgotten_by(meter, tune(backbone, given, backbone.head_boundary))
    assert (forgotten.drop, forgotten.drop_ci95, forgotten.agreement) == (0.0, (0.0, 0.0), 1.0)
    assert (forgotten.n, forgotten.agreement_n) == (14, 18)
    assert forgotten.before == forgotten.after == pytest.approx(12 / 14)
    assert forgotten.reference == str(reference.root)


@EVERY_BOUNDARY
def test_forgetting_is_measured_by_the_original_classifier_on_the_tuned_backbone(
    photos: tuple[Path, ...], reference: PhotoSet, boundary: int
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    meter = evaluation(backbone, photos, given, boundary, reference).meter
    state = tune(backbone, given, boundary)
    forgotten = forgotten_by(meter, state)
    labels = torch.tensor([sample.label for sample in reference.samples])

    def top1(network: Backbone, paths: list[Path]) -> torch.Tensor:
        batches = photo_batches(network, paths)
        return torch.cat([network.network.module(to_model_input(x, network, 0)) for x in batches]).argmax(1)

    tests = [photos[photo] for photo in given.test]
    with loaded(backbone, state):
        now = top1(backbone, [sample.path for sample in reference.samples])
        user_now = top1(backbone, tests)
    user_before = top1(tiny_cnn(), tests)
    assert forgotten.after == pytest.approx(float((now == labels).float().mean()))
    assert forgotten.before == pytest.approx(12 / 14)
    assert forgotten.agreement == pytest.approx(float((user_now == user_before).float().mean()))
    assert forgotten.after is not None
    assert forgotten.after < 12 / 14


def test_without_an_original_classifier_nothing_is_said_of_forgetting(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    backbone = replace(backbone, network=replace(backbone.network, num_classes=0))
    own = evaluation(backbone, photos, given, 2)
    state = random_head(backbone, CLASSES, 0)
    assert own.meter.on_test_images(state) == []
    assert own.meter.on_folds([(state, EvaluationSet(PixelSource(given.renderer), np.arange(10)))]) == []
    assert own.meter.measure(state, [], 0) is None
    assert predict_held_out(backbone, state, own.held_out).shape == (18, CLASSES)


def test_without_reference_photos_agreement_alone_is_measured(photos: tuple[Path, ...]) -> None:
    forgotten = forgotten_by(evaluation(tiny_cnn(), photos, task(photos, train=12), 2).meter, PRETRAINED)
    assert forgotten.kl == 0
    assert (forgotten.agreement, forgotten.drop, forgotten.reference) == (1.0, None, None)


def test_with_neither_reference_nor_own_photos_nothing_is_measured(photos: tuple[Path, ...]) -> None:
    meter = evaluation(tiny_cnn(), photos, task(photos, train=30), 2).meter
    assert meter.on_test_images(PRETRAINED) == []
    assert meter.measure(PRETRAINED, [], 0) is None


# What was forgotten, by cause


def telling(tmp_path: Path) -> tuple[Backbone, PhotoSet]:
    """Return a backbone whose original classifier tells photos apart, and photos of which it is right."""
    backbone, paths = tiny_cnn(), draw(tmp_path, 90)
    with torch.no_grad():
        said = torch.cat(
            [backbone.original_logits(to_model_input(x, backbone, 0)) for x in photo_batches(backbone, paths)]
        )
        backbone.network.module.get_parameter("fc.bias").sub_(said.mean(0))
    labels = (said - said.mean(0)).argmax(1)
    assert len(set(labels.tolist())) > 2
    samples = tuple(Sample(path, path.name, int(label)) for path, label in zip(paths, labels, strict=True))
    return backbone, drop_unreadable(PhotoSet(tmp_path, tuple("abcdefg"), samples))


def moved(backbone: Backbone, *, weights: bool, statistics: bool) -> ModelState:
    """Return a model whose stage 3 a training has changed: its weights, or what its BatchNorm has seen."""
    stages, parameters = backbone.snapshot(2), {name for name, _ in backbone.stages[3].module.named_parameters()}
    for name, value in stages[1].items():
        if name in parameters and weights:
            value.mul_(torch.linspace(-1, 1, value.numel()).view(value.shape))
        elif "mean" in name and statistics:
            value.add_(3.0)
    return ModelState(stages, {})


@pytest.mark.parametrize(("weights", "statistics"), [(True, False), (False, True), (True, True)])
def test_each_cause_is_told_from_the_other(
    photos: tuple[Path, ...], tmp_path: Path, weights: bool, statistics: bool
) -> None:
    (backbone, reference), given = telling(tmp_path), task(photos, train=12)
    meter = evaluation(backbone, photos, given, 2, reference).meter
    before = backbone.fingerprint()
    lost = forgotten_by(meter, moved(backbone, weights=weights, statistics=statistics))
    assert backbone.fingerprint() == before
    assert lost.drop is not None
    assert lost.weights_drop is not None
    assert lost.batch_norm_drop is not None
    assert lost.drop > 0.2
    assert lost.weights_drop + lost.batch_norm_drop == pytest.approx(lost.drop)
    if not weights:
        assert (lost.weights_drop, lost.batch_norm_drop) == pytest.approx((0, lost.drop))
    if not statistics:
        assert (lost.batch_norm_drop, lost.weights_drop) == pytest.approx((0, lost.drop))


def test_what_a_model_forgets_is_asked_without_leaving_a_trace(photos: tuple[Path, ...], tmp_path: Path) -> None:
    (backbone, reference), given = telling(tmp_path), task(photos, train=12)
    meter, before = evaluation(backbone, photos, given, 2, reference).meter, backbone.fingerprint()
    head = random_head(backbone, CLASSES, 0).head
    whole = moved(backbone, weights=True, statistics=True)
    lost = forgotten_by(meter, whole)
    assert lost.drop is not None
    assert lost.drop > 0.2
    assert meter.drop(ModelState(whole.stages[1:], head)) == pytest.approx(lost.drop)
    assert meter.drop(ModelState([], head)) == 0
    assert backbone.fingerprint() == before


def test_without_reference_photos_nobody_knows_what_is_forgotten(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    assert evaluation(backbone, photos, given, 2).meter.drop(moved(backbone, weights=True, statistics=True)) is None


@pytest.mark.parametrize("diagnosed", [0, 10, 64])
def test_no_more_outputs_are_kept_than_are_asked_for(photos: tuple[Path, ...], tmp_path: Path, diagnosed: int) -> None:
    backbone, reference = telling(tmp_path)
    of_reference = evaluation(backbone, photos, task(photos, train=30), 2, reference).meter.reference
    assert of_reference is not None
    images = of_reference.images
    whole, brief = original_outputs(backbone, images), original_outputs(backbone, images, n_diagnosed=diagnosed)
    np.testing.assert_array_equal(brief.top1, whole.top1)
    assert brief.ranks is not None
    assert whole.ranks is not None
    np.testing.assert_array_equal(brief.ranks, whole.ranks)
    kept = 64 if diagnosed else 0  # whole batches
    assert (whole.logits.shape, brief.logits.shape) == ((90, 7), (kept, 7))
    assert [features.shape[0] for features in brief.stages] == ([64] * 3 if diagnosed else [])


def test_the_stage_that_moved_is_the_one_that_is_no_longer_alike(photos: tuple[Path, ...], reference: PhotoSet) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    meter = evaluation(backbone, photos, given, 2, reference).meter
    assert forgotten_by(meter, PRETRAINED).cka == pytest.approx({"layer2": 1, "layer3": 1, "layer4": 1})
    alike = forgotten_by(meter, moved(backbone, weights=True, statistics=False)).cka
    assert alike["layer2"] == pytest.approx(1)
    assert alike["layer3"] < 0.99


def test_without_test_photos_each_fold_is_measured_on_the_photos_that_it_held_out(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=30)
    meter, before = evaluation(backbone, photos, given, 2).meter, backbone.fingerprint()
    still, other = ModelState(backbone.snapshot(2), {}), moved(backbone, weights=True, statistics=False)
    source = activations_at(new_store(), backbone, given.renderer, 2, given.data.requested_views(2), "test")
    pairs = meter.on_folds([
        (still, EvaluationSet(source, np.arange(10))),
        (other, EvaluationSet(source, np.arange(10, 30))),
    ])  # fmt: skip
    assert backbone.fingerprint() == before
    assert [len(first.top1) for first, _ in pairs] == [10, 20]
    np.testing.assert_array_equal(pairs[0][0].logits, pairs[0][1].logits)
    plain = torch.cat([given.renderer.views(photo, (0,)) for photo in range(10, 30)])
    with loaded(backbone, other):
        expected = backbone.network.module(to_model_input(plain, backbone, 0)).detach()
    np.testing.assert_allclose(pairs[1][1].logits, expected, atol=1e-5)
    found = meter.measure(other, pairs, 0)
    assert found is not None
    assert found.agreement_n == 30
    assert found.drop is None
    assert found.kl is not None
    assert found.kl > 0
    assert list(found.cka) == ["layer2", "layer3", "layer4"]


@pytest.mark.parametrize("second", [False, True])
def test_a_cross_fitted_run_is_measured_on_all_photos_once_there_is_a_phase_two(
    photos: tuple[Path, ...], second: bool
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=30)
    how = recipe(backbone, candidate(backbone)).cross_fit_all(30)
    inputs = inputs_of(backbone, photos, given)
    features = compute_features(inputs.cache, backbone, [given.renderer], given.data, how, 0)
    first = train_head(features, how)
    meter = forgetting_meter(inputs, how, given.renderer, None)
    found = measure_forgetting(meter, features, how, first, fine_tune(features, first, how) if second else None)
    if second:
        assert found is not None
        assert found.agreement_n == 30
    else:
        assert found is None


def test_a_new_reader_finds_what_the_old_head_no_longer_does(photos: tuple[Path, ...], tmp_path: Path) -> None:
    """The last stage's channels are exchanged: the original head is lost, and nothing else."""
    backbone, reference = telling(tmp_path)
    meter = evaluation(backbone, photos, task(photos, train=30), 4, reference).meter
    turned = torch.arange(11, -1, -1)
    (last,) = backbone.snapshot(4)
    state = ModelState([{name: value[turned] if value.dim() else value for name, value in last.items()}], {})
    lost = meter.measure(state, [], 0)
    assert lost is not None
    assert lost.drop is not None
    assert lost.drop > 0.3
    assert lost.probe_drop == pytest.approx(0, abs=0.02)
    assert lost.probe_before is not None
    assert lost.probe_before > 0.5
