from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import CLASSES, CPU, Task, draw, new_head, new_store, renderer, schedule, task, tiny_cnn

from unfreeze.artifacts import RunFolder
from unfreeze.data.checks import readable
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.exam import set_exam
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.models.freezing import plan_from
from unfreeze.models.networks import build
from unfreeze.models.saved import load_model, save_model
from unfreeze.predict import photo_batches, place, probabilities
from unfreeze.training.activations import Cached, Rendered, features, keep, keep_or_render
from unfreeze.training.finetune import finetune
from unfreeze.training.fit_head import fit_head
from unfreeze.training.phases import head_weights

pytestmark = pytest.mark.usefixtures("one_thread")

EVERY_BOUNDARY = pytest.mark.parametrize("boundary", [0, 2, 4])


@pytest.fixture
def reference(tmp_path: Path) -> PhotoSet:
    """Photos of the original task, of whose labels the untouched backbone gets most right."""
    paths = draw(tmp_path, 14)
    backbone = tiny_cnn()
    said = (
        torch.cat([backbone.original_logits(place(x, backbone, 0)) for x in photo_batches(backbone, paths)])
        .argmax(1)
        .tolist()
    )
    labels = [label if number % 7 else (label + 1) % 7 for number, label in enumerate(said)]
    samples = tuple(Sample(path, path.name, label) for path, label in zip(paths, labels, strict=True))
    return readable(PhotoSet(tmp_path, tuple("abcdefg"), samples))


def tune(backbone: Backbone, given: Task, boundary: int) -> None:
    head = new_head(backbone, CLASSES, 0)
    source = keep_or_render(new_store(), backbone, given.renderer, boundary, given.data.views(2), "test")
    finetune(
        backbone, head, source, given.data.labels, plan_from(backbone, boundary, lr=0.1, head_lr=0.1), schedule(),
        phase="test", train=given.data.train, val=given.data.val, seed=0, keep="last",
    )  # fmt: skip


@EVERY_BOUNDARY
def test_head_only_forgets_exactly_nothing(photos: tuple[Path, ...], reference: PhotoSet, boundary: int) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, given.test, reference)
    tune(backbone, given, backbone.head_boundary)
    forgotten = exam.forgetting(backbone, 0)
    assert forgotten is not None
    assert (forgotten.drop, forgotten.drop_ci95, forgotten.agreement) == (0.0, (0.0, 0.0), 1.0)
    assert (forgotten.n, forgotten.agreement_n) == (14, 18)
    assert forgotten.before == forgotten.after == pytest.approx(12 / 14)
    assert forgotten.reference == str(reference.root)


@EVERY_BOUNDARY
def test_forgetting_is_measured_by_the_original_classifier_on_the_tuned_backbone(
    photos: tuple[Path, ...], reference: PhotoSet, boundary: int
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, given.test, reference)
    tune(backbone, given, boundary)
    forgotten = exam.forgetting(backbone, 0)
    labels = torch.tensor([sample.label for sample in reference.samples])
    batches = photo_batches(backbone, [sample.path for sample in reference.samples])
    now = torch.cat([backbone.network.module(place(x, backbone, 0)) for x in batches]).argmax(1)
    tests = photo_batches(backbone, [photos[photo] for photo in given.test])
    user_now = torch.cat([backbone.network.module(place(x, backbone, 0)) for x in tests]).argmax(1)
    untouched = tiny_cnn()
    tests = photo_batches(untouched, [photos[photo] for photo in given.test])
    user_before = torch.cat([untouched.network.module(place(x, untouched, 0)) for x in tests]).argmax(1)
    assert forgotten is not None
    assert forgotten.after == pytest.approx(float((now == labels).float().mean()))
    assert forgotten.before == pytest.approx(12 / 14)
    assert forgotten.agreement == pytest.approx(float((user_now == user_before).float().mean()))
    assert forgotten.after is not None
    assert forgotten.after < 12 / 14


@EVERY_BOUNDARY
def test_answers_are_those_of_the_model_as_it_is_now(photos: tuple[Path, ...], boundary: int) -> None:
    backbone, given = tiny_cnn(dropout=0.3), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, given.test, None)
    head = new_head(backbone, CLASSES, 0)
    before = exam.answers(backbone, head)
    tune(backbone, given, max(boundary, 2))
    after = exam.answers(backbone, head)
    expected = probabilities(backbone, head, photo_batches(backbone, [photos[photo] for photo in given.test]))
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert after.shape == (18, CLASSES)
    assert not np.allclose(before, after, atol=1e-4)


def test_test_photos_are_seen_in_their_plain_view_alone(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    source = set_exam(new_store(), backbone, 2, given.renderer, given.test, None).test.source
    assert isinstance(source, Cached)
    assert set(source.places) == {(int(photo), 0) for photo in given.test}


def test_without_an_original_classifier_nothing_is_said_of_forgetting(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    backbone = replace(backbone, network=replace(backbone.network, outputs=0))
    exam = set_exam(new_store(), backbone, 2, given.renderer, given.test, None)
    assert exam.forgetting(backbone, 0) is None
    assert exam.answers(backbone, new_head(backbone, CLASSES, 0)).shape == (18, CLASSES)


def test_without_reference_photos_agreement_alone_is_measured(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    forgotten = set_exam(new_store(), backbone, 2, given.renderer, given.test, None).forgetting(backbone, 0)
    assert forgotten is not None
    assert (forgotten.agreement, forgotten.drop, forgotten.reference) == (1.0, None, None)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_model_trained_on_kept_features_answers_the_same_from_its_file(
    photos: tuple[Path, ...], tmp_path: Path, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    architecture = Architecture("timm", "test_efficientnet")
    exactly = assemble("test", architecture, build(architecture), CPU)
    backbone, boundary = replace(exactly, precision=precision), exactly.head_boundary
    own = Renderer(photos, backbone.network.preprocessing, digests=renderer(photos).digests)
    train, test = np.arange(15), np.arange(15, 30)
    store = new_store()
    kept = keep(store, backbone, Rendered(own), boundary, dict.fromkeys(train.tolist(), (0,)), "test")
    labels = torch.arange(15) % CLASSES
    head = new_head(backbone, CLASSES, 0)
    fit = fit_head(features(kept, train.tolist(), (0,)), labels, train % 3, CLASSES)
    head.load_state_dict(head_weights(fit.head))
    answers = set_exam(store, backbone, boundary, own, test, None).answers(backbone, head)
    save_model(RunFolder(tmp_path), backbone, head, tuple("abc"))
    again, head_again, _ = load_model(RunFolder(tmp_path), CPU)
    from_file = probabilities(again, head_again, photo_batches(again, [photos[photo] for photo in test]))
    np.testing.assert_allclose(answers, from_file, rtol=1e-3, atol=1e-4)
    assert answers.std() > 0.05
