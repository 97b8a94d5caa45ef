from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import CPU, new_head, tiny_cnn
from tests.support.photos import CLASSES, draw, renderer
from tests.support.training import Task, new_store, schedule, task

from unfreeze.artifacts import RunFolder
from unfreeze.data.checks import readable
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.evaluation.calibration import softmax
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.exam import Exam, set_exam
from unfreeze.models.backbone import Architecture, Backbone, assemble
from unfreeze.models.freezing import plan_from
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, load_model, save_model
from unfreeze.predict import photo_batches, place, probabilities
from unfreeze.training.activations import Cached, Rendered, features, keep, keep_or_render
from unfreeze.training.finetune import Weights, finetune
from unfreeze.training.fit_head import fit_head
from unfreeze.training.phase_one import head_weights

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


def papers(paths: tuple[Path, ...], given: Task) -> list[Sample]:
    """Return the test photos of a task as samples that have been read."""
    return [
        Sample(paths[photo], paths[photo].name, int(photo) % CLASSES, digest=given.renderer.digests[photo])
        for photo in given.test
    ]


def forgotten_by(exam: Exam, backbone: Backbone, boundary: int) -> Forgetting:
    pretrained = tiny_cnn().snapshot(boundary)
    own = exam.own_looks(backbone, Rendered(renderer(())), pretrained, [])
    found = exam.forgetting(backbone, pretrained, own, 0)
    assert found is not None
    return found


def tune(backbone: Backbone, given: Task, boundary: int) -> None:
    head = new_head(backbone, CLASSES, 0)
    source = keep_or_render(new_store(), backbone, given.renderer, boundary, given.data.views(2), "test")
    finetune(
        backbone, head, source, given.data.labels, plan_from(backbone, boundary, lr=0.1, head_lr=0.1), schedule(),
        phase="test", train=given.data.train, val=given.data.val, seed=0,
    )  # fmt: skip


@EVERY_BOUNDARY
def test_head_only_forgets_exactly_nothing(photos: tuple[Path, ...], reference: PhotoSet, boundary: int) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, papers(photos, given), reference)
    tune(backbone, given, backbone.head_boundary)
    forgotten = forgotten_by(exam, backbone, boundary)
    assert (forgotten.drop, forgotten.drop_ci95, forgotten.agreement) == (0.0, (0.0, 0.0), 1.0)
    assert (forgotten.n, forgotten.agreement_n) == (14, 18)
    assert forgotten.before == forgotten.after == pytest.approx(12 / 14)
    assert forgotten.reference == str(reference.root)


@EVERY_BOUNDARY
def test_forgetting_is_measured_by_the_original_classifier_on_the_tuned_backbone(
    photos: tuple[Path, ...], reference: PhotoSet, boundary: int
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, papers(photos, given), reference)
    tune(backbone, given, boundary)
    forgotten = forgotten_by(exam, backbone, boundary)
    labels = torch.tensor([sample.label for sample in reference.samples])
    batches = photo_batches(backbone, [sample.path for sample in reference.samples])
    now = torch.cat([backbone.network.module(place(x, backbone, 0)) for x in batches]).argmax(1)
    tests = photo_batches(backbone, [photos[photo] for photo in given.test])
    user_now = torch.cat([backbone.network.module(place(x, backbone, 0)) for x in tests]).argmax(1)
    untouched = tiny_cnn()
    tests = photo_batches(untouched, [photos[photo] for photo in given.test])
    user_before = torch.cat([untouched.network.module(place(x, untouched, 0)) for x in tests]).argmax(1)
    assert forgotten.after == pytest.approx(float((now == labels).float().mean()))
    assert forgotten.before == pytest.approx(12 / 14)
    assert forgotten.agreement == pytest.approx(float((user_now == user_before).float().mean()))
    assert forgotten.after is not None
    assert forgotten.after < 12 / 14


@EVERY_BOUNDARY
def test_answers_are_those_of_the_model_as_it_is_now(photos: tuple[Path, ...], boundary: int) -> None:
    backbone, given = tiny_cnn(dropout=0.3), task(photos, train=12)
    exam = set_exam(new_store(), backbone, boundary, given.renderer, papers(photos, given), None)
    head = new_head(backbone, CLASSES, 0)
    before = softmax(exam.answers(backbone, head))
    tune(backbone, given, max(boundary, 2))
    after = softmax(exam.answers(backbone, head))
    expected = probabilities(backbone, head, photo_batches(backbone, [photos[photo] for photo in given.test]))
    np.testing.assert_allclose(after, expected, atol=1e-6)
    assert after.shape == (18, CLASSES)
    assert not np.allclose(before, after, atol=1e-4)


def test_test_photos_are_seen_in_their_plain_view_alone(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    sheet = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), None).test
    assert sheet is not None
    assert isinstance(sheet.source, Cached)
    assert set(sheet.source.places) == {(photo, 0) for photo in range(18)}
    assert sheet.source.renderer.paths == photos[12:]


def test_without_an_original_classifier_nothing_is_said_of_forgetting(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    backbone = replace(backbone, network=replace(backbone.network, outputs=0))
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), None)
    pretrained = backbone.snapshot(2)
    assert exam.own_looks(backbone, Rendered(given.renderer), pretrained, []) == []
    assert exam.forgetting(backbone, pretrained, [], 0) is None
    assert exam.answers(backbone, new_head(backbone, CLASSES, 0)).shape == (18, CLASSES)


def test_without_reference_photos_agreement_alone_is_measured(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), None)
    forgotten = forgotten_by(exam, backbone, 2)
    assert forgotten.kl == 0
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
    samples = [Sample(photos[photo], "", 0, digest=own.digests[photo]) for photo in test]
    backbone = replace(backbone, network=replace(backbone.network, outputs=0))  # it can't be asked of pooled features
    answers = softmax(set_exam(store, backbone, boundary, own, samples, None).answers(backbone, head))
    save_model(RunFolder(tmp_path), Classifier(backbone, head, tuple("abc")))
    saved_model = load_model(RunFolder(tmp_path), CPU)
    again, head_again = saved_model.backbone, saved_model.head
    from_file = probabilities(again, head_again, photo_batches(again, [photos[photo] for photo in test]))
    np.testing.assert_allclose(answers, from_file, rtol=1e-3, atol=1e-4)
    assert answers.std() > 0.05


# What was forgotten, by cause


def telling(tmp_path: Path) -> tuple[Backbone, PhotoSet]:
    """Return a backbone whose original classifier tells photos apart, and photos of which it is right."""
    backbone, paths = tiny_cnn(), draw(tmp_path, 90)
    with torch.no_grad():
        said = torch.cat([backbone.original_logits(place(x, backbone, 0)) for x in photo_batches(backbone, paths)])
        backbone.network.module.get_parameter("fc.bias").sub_(said.mean(0))
    labels = (said - said.mean(0)).argmax(1)
    assert len(set(labels.tolist())) > 2
    samples = tuple(Sample(path, path.name, int(label)) for path, label in zip(paths, labels, strict=True))
    return backbone, readable(PhotoSet(tmp_path, tuple("abcdefg"), samples))


def moved(backbone: Backbone, *, weights: bool, statistics: bool) -> None:
    """Change stage 3 as a training would: its weights, or what its BatchNorm has seen."""
    stage = backbone.stages[3].module
    with torch.no_grad():
        for value in stage.parameters() if weights else ():
            value.mul_(torch.linspace(-1, 1, value.numel()).view(value.shape))
        for name, seen in stage.named_buffers() if statistics else ():
            if "mean" in name:
                seen.add_(3.0)


@pytest.mark.parametrize(("weights", "statistics"), [(True, False), (False, True), (True, True)])
def test_each_cause_is_told_from_the_other(
    photos: tuple[Path, ...], tmp_path: Path, weights: bool, statistics: bool
) -> None:
    (backbone, reference), given = telling(tmp_path), task(photos, train=12)
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), reference)
    moved(backbone, weights=weights, statistics=statistics)
    before = backbone.fingerprint()
    lost = forgotten_by(exam, backbone, 2)
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
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), reference)
    head, pretrained, before = new_head(backbone, CLASSES, 0), backbone.snapshot(2), backbone.fingerprint()
    moved(backbone, weights=True, statistics=True)
    lost = forgotten_by(exam, backbone, 2)
    model = Weights(backbone.snapshot(3), dict(head.state_dict()))
    backbone.restore(pretrained)
    forgets = exam.forgets(backbone, head, pretrained)
    assert forgets is not None
    assert lost.drop is not None
    assert lost.drop > 0.2
    assert forgets(model) == pytest.approx(lost.drop)
    assert forgets(Weights([], model.head)) == 0
    assert backbone.fingerprint() == before


def test_without_reference_photos_nobody_knows_what_is_forgotten(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), None)
    assert exam.forgets(backbone, new_head(backbone, CLASSES, 0), backbone.snapshot(2)) is None


@pytest.mark.parametrize("diagnosed", [0, 10, 64])
def test_a_look_keeps_no_more_than_it_is_told_to(tmp_path: Path, diagnosed: int) -> None:
    backbone, reference = telling(tmp_path)
    sheet = set_exam(new_store(), backbone, 2, renderer(()), [], reference).reference
    assert sheet is not None
    whole, brief = sheet.look(backbone), sheet.look(backbone, diagnosed=diagnosed)
    np.testing.assert_array_equal(brief.top1, whole.top1)
    assert brief.ranks is not None
    assert whole.ranks is not None
    np.testing.assert_array_equal(brief.ranks, whole.ranks)
    kept = 64 if diagnosed else 0  # whole batches
    assert (whole.logits.shape, brief.logits.shape) == ((90, 7), (kept, 7))
    assert [features.shape[0] for features in brief.stages] == ([64] * 3 if diagnosed else [])


def test_the_stage_that_moved_is_the_one_that_is_no_longer_alike(photos: tuple[Path, ...], reference: PhotoSet) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    exam = set_exam(new_store(), backbone, 2, given.renderer, papers(photos, given), reference)
    assert forgotten_by(exam, backbone, 2).cka == pytest.approx({"layer2": 1, "layer3": 1, "layer4": 1})
    moved(backbone, weights=True, statistics=False)
    alike = forgotten_by(exam, backbone, 2).cka
    assert alike["layer2"] == pytest.approx(1)
    assert alike["layer3"] < 0.99


def test_without_test_photos_each_round_is_looked_at_on_the_photos_that_it_held_out(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=30)
    exam = set_exam(new_store(), backbone, 2, given.renderer, [], None)
    pretrained = backbone.snapshot(2)
    still, other = Weights(backbone.snapshot(2), {}), tiny_cnn()
    moved(other, weights=True, statistics=False)
    rounds = [(still, np.arange(10)), (Weights(other.snapshot(2), {}), np.arange(10, 30))]
    moved(backbone, weights=False, statistics=True)
    before = backbone.fingerprint()
    looks = exam.own_looks(backbone, Rendered(given.renderer), pretrained, rounds)
    assert backbone.fingerprint() == before
    assert [len(first.top1) for first, _ in looks] == [10, 20]
    np.testing.assert_array_equal(looks[0][0].logits, looks[0][1].logits)
    plain = torch.cat([given.renderer.views(photo, (0,)) for photo in range(10, 30)])
    expected = other.network.module(place(plain, other, 0)).detach()
    np.testing.assert_allclose(looks[1][1].logits, expected, atol=1e-5)
    found = exam.forgetting(backbone, pretrained, looks, 0)
    assert found is not None
    assert found.agreement_n == 30
    assert found.drop is None
    assert found.kl is not None
    assert found.kl > 0


def test_a_new_reader_finds_what_the_old_head_no_longer_does(tmp_path: Path) -> None:
    """The last stage's channels are exchanged: the original head is lost, and nothing else."""
    backbone, reference = telling(tmp_path)
    exam = set_exam(new_store(), backbone, 4, renderer(()), [], reference)
    pretrained = backbone.snapshot(4)
    turned = torch.arange(11, -1, -1)
    with torch.no_grad():
        for value in [*backbone.stages[4].module.parameters(), *backbone.stages[4].module.buffers()]:
            if value.dim():
                value.copy_(value[turned])
    lost = exam.forgetting(backbone, pretrained, [], 0)
    assert lost is not None
    assert lost.drop is not None
    assert lost.drop > 0.3
    assert lost.probe_drop == pytest.approx(0, abs=0.02)
    assert lost.probe_before is not None
    assert lost.probe_before > 0.5
