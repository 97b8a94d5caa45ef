from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.backbones import CPU, tiny_cnn
from tests.support.photos import CLASSES, renderer
from tests.support.scoring import evaluation, inputs_of
from tests.support.training import candidate, new_store, recipe, task

from unfreeze.data.decode import decode
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.evaluation.calibration import softmax
from unfreeze.models.backbone import Architecture, assemble
from unfreeze.models.freezing import plan_from
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, load_model, save_model
from unfreeze.models.state import loaded, random_head
from unfreeze.orientations import Orientation
from unfreeze.predict import photo_batches, probabilities
from unfreeze.reading import Reading
from unfreeze.runs.folder import RunFolder
from unfreeze.scoring.held_out import evaluation_set, predict_held_out
from unfreeze.scoring.held_out import open_test_set as set_up_test
from unfreeze.training.features.activations import CachedActivations, PixelSource, compute_or_load, pooled_features
from unfreeze.training.features.demand import held_out_request
from unfreeze.training.finetune.loop import finetune
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.phase_one import head_state
from unfreeze.views import CROP, PLAIN, SQUEEZE, EvaluationView, tiles

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("boundary", [0, 2, 4])
def test_predictions_are_those_of_the_given_model(photos: tuple[Path, ...], boundary: int) -> None:
    backbone, given = tiny_cnn(dropout=0.3), task(photos, train=12)
    before = backbone.fingerprint()
    test = evaluation(backbone, photos, given, boundary).held_out
    start, lowest = random_head(backbone, CLASSES, 0), max(boundary, 2)
    tuned = finetune(
        backbone, start, PixelSource(given.renderer), given.data.labels,
        plan_from(backbone, lowest, lr=0.1, head_lr=0.1), candidate(backbone).schedule,
        phase="test", train=given.data.train, val=given.data.val, seed=0,
    ).state  # fmt: skip
    said = []
    for state in (start, tuned):
        said.append(softmax(predict_held_out(backbone, state, test)))
        with loaded(backbone, state) as head:
            batches = photo_batches(backbone, [photos[photo] for photo in given.test])
            expected = probabilities(backbone, head, batches)
        np.testing.assert_allclose(said[-1], expected, atol=1e-6)
    assert said[0].shape == (18, CLASSES)
    assert not np.allclose(said[0], said[1], atol=1e-4)
    assert backbone.fingerprint() == before


def test_test_photos_are_seen_in_their_plain_view_alone(photos: tuple[Path, ...]) -> None:
    source = evaluation(tiny_cnn(), photos, task(photos, train=12), 2).held_out.activations
    assert isinstance(source, CachedActivations)
    assert set(source.rows) == {(photo, 0) for photo in range(18)}
    assert source.renderer.paths == photos[12:]


def test_views_are_averaged(photos: tuple[Path, ...]) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    views = (PLAIN, EvaluationView.of(CROP, Orientation.ROT180), EvaluationView.of(SQUEEZE))
    how = recipe(backbone, candidate(backbone, 2))
    test = set_up_test(inputs_of(backbone, photos, given), how, given.renderer, views)
    assert test is not None
    state = random_head(backbone, CLASSES, 0)
    apart = [predict_held_out(backbone, state, test, (view,)) for view in views]
    assert not np.allclose(apart[0], apart[1], atol=1e-4)
    np.testing.assert_allclose(predict_held_out(backbone, state, test, views), np.mean(apart, axis=0), atol=1e-6)


@pytest.mark.parametrize("classes", [0, 7])
def test_test_photos_have_a_plain_view_for_the_original_classifier(photos: tuple[Path, ...], classes: int) -> None:
    backbone, given, tiled = tiny_cnn(), task(photos, train=12), tuple(map(EvaluationView.of, tiles((1, 2))))
    backbone = replace(backbone, network=replace(backbone.network, num_classes=classes))
    how = recipe(backbone, candidate(backbone, 2))
    test = set_up_test(inputs_of(backbone, photos, given), how, given.renderer, tiled)
    assert test is not None
    assert isinstance(test.activations, CachedActivations)
    assert {view for _, view in test.activations.rows} == {*tiled, *([PLAIN] if classes else [])}


@pytest.mark.parametrize("boundary", [0, 2])
def test_a_file_is_decoded_once_for_all_views(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, boundary: int
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=12)
    views = (PLAIN, EvaluationView.of(SQUEEZE), *map(EvaluationView.of, tiles((1, 2))))
    decoded: list[Path] = []

    def counting(path: Path, min_side: int, reading: Reading) -> Image.Image:
        decoded.append(path)
        return decode(path, min_side, reading=reading)

    monkeypatch.setattr("unfreeze.data.rendering.renderer.decode_pixels", counting)
    how = recipe(backbone, candidate(backbone, boundary))
    test = set_up_test(inputs_of(backbone, photos, given), how, given.renderer, views)
    assert test is not None
    predict_held_out(backbone, random_head(backbone, CLASSES, 0), test, views)
    assert sorted(decoded) == sorted(photos[12:])


def test_without_test_photos_there_is_no_test_set(photos: tuple[Path, ...]) -> None:
    assert evaluation(tiny_cnn(), photos, task(photos, train=30), 2).test is None


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
    kept = compute_or_load(store, backbone, PixelSource(own), boundary, dict.fromkeys(train.tolist(), (0,)), "test")
    labels = torch.arange(15) % CLASSES
    state = head_state(fit_head(pooled_features(kept, train.tolist(), (0,)), labels, train % 3, CLASSES).head)
    tested = replace(own, paths=own.paths[15:], digests=own.digests[15:])
    held_out = evaluation_set(store, backbone, held_out_request(tested, boundary))
    answers = softmax(predict_held_out(backbone, state, held_out))
    with loaded(backbone, state) as head:
        save_model(RunFolder(tmp_path).model, Classifier(backbone, head, tuple("abc")))
    saved_model = load_model(RunFolder(tmp_path).model, CPU)
    again, head_again = saved_model.backbone, saved_model.head
    from_file = probabilities(again, head_again, photo_batches(again, [photos[photo] for photo in test]))
    np.testing.assert_allclose(answers, from_file, rtol=1e-3, atol=1e-4)
    assert answers.std() > 0.05
