from __future__ import annotations

import io
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.backbones import tiny_cnn
from tests.support.photos import noise, packed
from tests.support.serving import served

from unfreeze.errors import ModelError
from unfreeze.serve import model as module
from unfreeze.serve.limits import Limits
from unfreeze.serve.model import Upload

pytestmark = pytest.mark.usefixtures("one_thread")


def test_photos_of_someone_who_has_given_up_are_not_decoded(tmp_path: Path) -> None:
    upload = Upload("a.png", io.BytesIO(packed(noise())))
    with pytest.raises(TimeoutError):
        served(tmp_path, ("a", "b")).predict([upload], Limits().accepted, until=time.monotonic() - 1)
    assert upload.file.tell() == 0


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
