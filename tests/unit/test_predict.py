from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.support import CLASSES, PREPROCESSING, SIZE, new_head, tiny_cnn, tiny_vit

from unfreeze.data.loaders import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.predict import Prediction, logits, named, photo_batches, probabilities

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ("cat", "dog", "owl")


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
    found = logits(backbone, head, torch.split(crossing, 3), boundary)
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(found), 1), expected, atol=1e-6)


def test_predicting_changes_no_weight_or_buffer(backbone: Backbone) -> None:
    before = backbone.fingerprint()
    backbone.network.module.train()
    probabilities(backbone, new_head(backbone, CLASSES, 0), [images()])
    assert backbone.fingerprint() == before


def test_no_photo_gives_no_answer(backbone: Backbone) -> None:
    assert probabilities(backbone, new_head(backbone, CLASSES, 0), []).shape == (0, CLASSES)


def test_a_prediction_names_the_most_probable_class() -> None:
    rows = np.array([[0.25, 0.5, 0.25], [0.0, 0.0, 1.0]], dtype=np.float32)
    assert list(named([Path("a"), Path("b")], rows, NAMES)) == [
        Prediction(Path("a"), "dog", 0.5, (0.25, 0.5, 0.25)),
        Prediction(Path("b"), "owl", 1.0, (0.0, 0.0, 1.0)),
    ]
    with pytest.raises(ValueError, match="argument"):
        list(named([Path("a")], rows, NAMES))


def test_photo_files_are_rendered_as_in_training(photos: tuple[Path, ...], backbone: Backbone) -> None:
    chosen = [photos[4], photos[1], photos[4]]
    batches = list(photo_batches(backbone, chosen, size=2))
    assert [len(batch) for batch in batches] == [2, 1]
    expected = Renderer(photos, PREPROCESSING)
    assert torch.equal(torch.cat(batches), torch.cat([expected.views(photo, (0,)) for photo in (4, 1, 4)]))
