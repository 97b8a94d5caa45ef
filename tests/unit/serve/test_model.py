from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.support.backbones import tiny_cnn
from tests.support.photos import noise, packed
from tests.support.serving import served

from unfreeze.errors import ModelError
from unfreeze.predict import photo_batches, probabilities
from unfreeze.serve import model as module
from unfreeze.serve.limits import Limits
from unfreeze.serve.model import Upload
from unfreeze.views import PLAIN, SQUEEZE, EvaluationView, framings_of, tiles

pytestmark = pytest.mark.usefixtures("one_thread")


def test_photos_of_someone_who_has_given_up_are_not_decoded(tmp_path: Path) -> None:
    upload = Upload("a.png", io.BytesIO(packed(noise())))
    with pytest.raises(TimeoutError):
        served(tmp_path, ("a", "b")).predict([upload], Limits().accepted, until=time.monotonic() - 1)
    assert upload.file.tell() == 0


def test_several_framings_are_averaged_and_the_picture_says_which_it_is(tmp_path: Path) -> None:
    views = (PLAIN, EvaluationView.of(SQUEEZE), *map(EvaluationView.of, tiles((1, 2))))
    model = served(tmp_path, ("a", "b"), views=views)
    contents = [packed(noise(seed, 60, 30)) for seed in range(3)]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    uploads = [Upload(path.name, io.BytesIO(content)) for path, content in zip(paths, contents, strict=True)]
    answers = model.predict(uploads, Limits().accepted, explain=True)
    batches = photo_batches(model.model.backbone, paths, framings=framings_of(views))
    expected = probabilities(model.model.backbone, model.model.head, batches, views=views)
    np.testing.assert_allclose([answer.probabilities for answer in answers], expected, rtol=1e-5)
    assert [answer.note for answer in answers] == ["heatmap: centre crop; probability: 4 views"] * 3
    assert all(answer.heatmap for answer in answers)


def test_a_head_on_several_stages_answers_and_draws(tmp_path: Path) -> None:
    server = served(tmp_path, ("a", "b"), lambda: replace(tiny_cnn(), head_stages=(1, 3)))
    upload = Upload("a.png", io.BytesIO(packed(noise())))
    (answer,) = server.predict([upload], Limits().accepted, explain=True)
    assert sum(answer.probabilities) == pytest.approx(1)
    assert answer.heatmap is not None


def test_a_network_without_places_answers_without_a_heatmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("no places")

    monkeypatch.setattr(module, "heatmaps", refuse)
    upload = Upload("a.png", io.BytesIO(packed(noise())))
    (answer,) = served(tmp_path, ("a", "b")).predict([upload], Limits().accepted, explain=True)
    assert answer.view is not None
    assert answer.heatmap is None
