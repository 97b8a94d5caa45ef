from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support.backbones import new_head, tiny_cnn, tiny_vit
from tests.support.photos import CLASSES, PREPROCESSING, SIZE

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.models.saved import Classifier
from unfreeze.orientations import Orientation
from unfreeze.predict import (
    BATCH,
    MIN_COMPILED_IMAGES,
    Prediction,
    Unread,
    photo_batches,
    predict_logits,
    predictions,
    probabilities,
    to_model_input,
)
from unfreeze.views import PLAIN, PLAIN_ONLY, SQUEEZE, EvaluationView, Views, tiles

pytestmark = pytest.mark.usefixtures("one_thread", "compiled_anew")

NAMES = ("cat", "dog", "owl")
ENGINES = {"plain": 10**6, "built": 1}
EVERY_WAY = tuple(map(EvaluationView, Orientation))
MIXED = (PLAIN, EvaluationView.of(SQUEEZE, Orientation.FLIPPED), *map(EvaluationView.of, tiles((1, 2))))


def images(count: int = 10) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[tiny_cnn, tiny_vit])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    made: Backbone = request.param(dropout=0.5)
    return made


def test_probabilities_sum_to_one(backbone: Backbone) -> None:
    head = new_head(backbone, CLASSES, 0)
    with torch.no_grad():
        head.weight.mul_(100)
    answers = probabilities(backbone, head, torch.split(images(), 4))
    assert answers.shape == (10, CLASSES)
    assert answers.dtype == np.float32
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-6)
    assert (answers >= 0).all()


@pytest.mark.parametrize("boundary", range(6))
def test_an_answer_depends_on_no_mode_batch_or_boundary(backbone: Backbone, boundary: int) -> None:
    head = new_head(backbone, CLASSES, 0)
    expected = probabilities(backbone, head, [images()])
    backbone.network.module.train()
    whole = probabilities(backbone, head, torch.split(images(), 3))
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    with torch.no_grad():
        crossing = backbone.run(images(), 0, boundary)
    np.testing.assert_allclose(probabilities(backbone, head, torch.split(crossing, 3), boundary), expected, atol=1e-6)
    found = predict_logits(backbone, head, torch.split(crossing, 3), boundary)
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(found), 1), expected, atol=1e-6)


def test_predicting_changes_no_weight_or_buffer(backbone: Backbone) -> None:
    before = backbone.fingerprint()
    backbone.network.module.train()
    probabilities(backbone, new_head(backbone, CLASSES, 0), [images()])
    assert backbone.fingerprint() == before


def test_no_photo_gives_no_answer(backbone: Backbone) -> None:
    assert probabilities(backbone, new_head(backbone, CLASSES, 0), []).shape == (0, CLASSES)


def test_photo_files_are_rendered_as_in_training(photos: tuple[Path, ...], backbone: Backbone) -> None:
    chosen = [photos[4], photos[1], photos[4]]
    batches = list(photo_batches(backbone, chosen, size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    expected = Renderer(photos, PREPROCESSING)
    assert torch.equal(torch.cat(batches), torch.cat([expected.views(photo, (0,)) for photo in (4, 1, 4)]))


def classifier(backbone: Backbone, shown: Views = PLAIN_ONLY) -> Classifier:
    head = new_head(backbone, CLASSES, 0)
    with torch.no_grad():
        head.weight.mul_(20)
    return Classifier(backbone, head, NAMES, shown)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shown", [PLAIN_ONLY, EVERY_WAY[:2], EVERY_WAY, MIXED])
def test_every_engine_answers_in_order_and_averages_the_poses(
    photos: tuple[Path, ...],
    backbone: Backbone,
    engine: str,
    shown: Views,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("unfreeze.predict.MIN_COMPILED_IMAGES", ENGINES[engine])
    monkeypatch.setattr("unfreeze.predict.BATCH", 7)
    backbone.network.module.train()
    model = classifier(backbone, shown)
    answers = list(predictions(model, iter(photos)))
    assert bool(backbone.compiled) == (engine == "built")
    own = Renderer(photos, PREPROCESSING)  # which renders each view by itself, without the framings' batches
    turned = [
        torch.from_numpy(
            predict_logits(backbone, model.head, [torch.cat([own.views(i, [view]) for i in range(len(photos))])])
        )
        for view in shown
    ]
    expected = torch.softmax(torch.stack(turned).mean(dim=0), dim=1).numpy()
    assert expected.std(axis=0).max() > 0.01  # the photos differ, so that an order can be seen
    assert [answer.path for answer in answers] == list(photos)
    assert all(isinstance(answer, Prediction) for answer in answers)
    found = np.array([answer.probabilities for answer in answers if isinstance(answer, Prediction)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    for answer, row in zip(answers, found, strict=True):
        assert isinstance(answer, Prediction)
        assert (answer.label, answer.probability) == (NAMES[row.argmax()], row.max())


@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_computes_what_a_head_on_several_stages_reads(
    photos: tuple[Path, ...], backbone: Backbone, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.predict.MIN_COMPILED_IMAGES", ENGINES[engine])
    backbone = replace(backbone, head_stages=(1, 3))
    model = classifier(backbone, (PLAIN, EvaluationView.of(orientation=Orientation.FLIPPED)))
    views = torch.cat(list(photo_batches(backbone, photos)))
    with torch.no_grad():  # lower stages' features are large, and differ little
        model.head.bias.sub_(model.head(backbone.features(to_model_input(views, backbone, 0))).mean(dim=0))
    answers = list(predictions(model, iter(photos)))
    with torch.inference_mode():
        logits = [
            model.head(backbone.features(to_model_input(view.orientation.apply(views), backbone, 0)))
            for view in model.views
        ]
    expected = torch.softmax(torch.stack(logits).mean(dim=0), dim=1).numpy()
    assert expected.std(axis=0).max() > 0.01
    found = np.array([answer.probabilities for answer in answers if isinstance(answer, Prediction)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_damaged_photos_keep_their_places_and_spoil_no_other_answer(
    photos: tuple[Path, ...], backbone: Backbone, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unfreeze.predict.MIN_COMPILED_IMAGES", ENGINES[engine])
    monkeypatch.setattr("unfreeze.predict.BATCH", 4)
    (tmp_path / "cut.png").write_bytes(photos[0].read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no photo")
    bad = [tmp_path / "cut.png", tmp_path / "text.jpg", tmp_path / "gone.png", tmp_path]
    mixed = [
        *bad,
        *photos[:5],
        bad[1],
        *photos[5:9],
        bad[2],
    ]  # a batch of damaged ones alone, one in a batch, the last one
    model = classifier(backbone)
    answers = list(predictions(model, mixed))
    assert [answer.path for answer in answers] == mixed
    assert [answer.path for answer in answers if isinstance(answer, Unread)] == [*bad, bad[1], bad[2]]
    assert all(str(answer.path) in str(answer.error) for answer in answers if isinstance(answer, Unread))
    alone = [answer for answer in predictions(model, photos[:9]) if isinstance(answer, Prediction)]
    found = [answer for answer in answers if isinstance(answer, Prediction)]
    np.testing.assert_allclose(
        [answer.probabilities for answer in found], [answer.probabilities for answer in alone], atol=1e-6
    )


def test_no_photos_and_none_that_can_be_read(backbone: Backbone, tmp_path: Path) -> None:
    model = classifier(backbone)
    assert list(predictions(model, [])) == []
    answers = list(predictions(model, [tmp_path / "gone.png"] * MIN_COMPILED_IMAGES))
    assert len(answers) == MIN_COMPILED_IMAGES
    assert all(isinstance(answer, Unread) for answer in answers)


def test_photos_are_asked_for_a_few_batches_ahead(photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % len(photos)]

    answers = predictions(classifier(tiny_cnn()), endless())
    for _ in range(5 * BATCH):
        next(answers)
    assert taken <= max(MIN_COMPILED_IMAGES, 8 * BATCH)
    answers.close()  # type: ignore[attr-defined]


def test_the_most_probable_classes_come_in_order() -> None:
    answer = Prediction(Path("a"), "dog", 0.5, (0.2, 0.5, 0.3))
    assert answer.top(NAMES, 1) == [("dog", 0.5)]
    assert answer.top(NAMES, 2) == [("dog", 0.5), ("owl", 0.3)]
    assert answer.top(NAMES, 9) == [("dog", 0.5), ("owl", 0.3), ("cat", 0.2)]
    assert Prediction(Path("a"), "cat", 0.5, (0.5, 0.5)).top(NAMES[:2], 1) == [("cat", 0.5)]
