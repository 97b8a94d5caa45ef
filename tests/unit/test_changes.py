"""The photos that phase 2 fixed and broke are drawn by the models that answered them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.backbones import new_head, tiny_cnn
from tests.support.photos import CLASSES, SIZE
from tests.support.training import candidate, task

from unfreeze.artifacts import RunFolder
from unfreeze.changes import write_changes
from unfreeze.data.sources import Sample
from unfreeze.evaluation.calibration import softmax
from unfreeze.evaluation.significance import changed
from unfreeze.evidence import Evidence
from unfreeze.explain import GAP, as_photo, encoded, heatmaps, overlay, side_by_side
from unfreeze.models.backbone import Backbone, Head
from unfreeze.poses import UPRIGHT
from unfreeze.predict import logits, photo_batches
from unfreeze.training.finetune import Weights
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.phase_two import PhaseTwo
from unfreeze.training.rounds import Round, validation_rounds
from unfreeze.training.search import Trial

pytestmark = pytest.mark.usefixtures("one_thread")

BOUNDARY = 3


def model(backbone: Backbone, seed: int) -> Weights:
    """Return a model with its own two top stages and head."""
    random = torch.Generator().manual_seed(seed)
    stages = [
        {name: value * (1 + torch.rand(value.shape, generator=random)) if value.is_floating_point() else value
         for name, value in stage.items()}
        for stage in backbone.snapshot(BOUNDARY)
    ]  # fmt: skip
    return Weights(stages, new_head(backbone, CLASSES, seed).state_dict())


class Scene:
    """Photos, and models of both phases: the last ones, and those of three folds."""

    def __init__(self, photos: tuple[Path, ...], *, folds: bool) -> None:
        self.backbone = tiny_cnn()
        self.head = Head(self.backbone.feature_dim, CLASSES)
        self.pretrained = self.backbone.snapshot(BOUNDARY)
        self.photos = photos
        self.samples = [Sample(path, path.name, number % CLASSES) for number, path in enumerate(photos)]
        before = [Weights([], new_head(self.backbone, CLASSES, seed).state_dict()) for seed in range(4)]
        after = [model(self.backbone, 10 + seed) for seed in range(4)]
        data = task(photos, train=len(photos)).data
        self.rounds = validation_rounds(data, len(photos)) if folds else ()
        everyone = Round(data.train[:0], data.train, None)
        self.answered_by = list(zip(self.rounds or [everyone], before, after, strict=False))
        said = [np.empty((len(photos), CLASSES)) for _ in range(2)]
        for each, *models in self.answered_by:
            for answers, weights in zip(said, models, strict=True):
                answers[each.val] = softmax(self.logits(weights, each.val))
        self.first = PhaseOne(before[0], UPRIGHT, (), 1.0, 0, tuple(before[:3]) if folds else (), before[0], (), ())
        self.second = PhaseTwo(
            after[0], Trial(candidate(self.backbone), {}, (), (), None, 0.0), 1.0, (), 1.0, 0, True, (),
            tuple(after[:3]) if folds else (), (), (), (),
        )  # fmt: skip
        truth = np.arange(len(photos)) % CLASSES
        self.evidence = Evidence(
            "cross_fitted" if folds else "test", np.arange(len(photos)), truth, said[0], said[1], said[1], said[1], 1
        )

    def logits(self, weights: Weights, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray:
        weights.install(self.backbone, self.head, self.pretrained)
        batches = photo_batches(self.backbone, [self.photos[photo] for photo in which])
        return logits(self.backbone, self.head, batches).astype(float)

    def write(self, folder: RunFolder) -> None:
        write_changes(
            folder, self.backbone, self.head, self.pretrained, self.samples, self.evidence, self.rounds, self.first,
            self.second,
        )  # fmt: skip


@pytest.mark.parametrize("folds", [False, True])
def test_a_changed_photo_is_drawn_by_the_models_that_answered_it(
    photos: tuple[Path, ...], tmp_path: Path, folds: bool
) -> None:
    scene, folder = Scene(photos, folds=folds), RunFolder(tmp_path)
    assert scene.evidence.two_phase is not None
    fixed, broken = changed(scene.evidence.truth, scene.evidence.head_only, scene.evidence.two_phase)
    assert len(fixed) > 1
    assert len(broken) > 1
    scene.write(folder)
    rows = [*fixed[:12].tolist(), *broken[:12].tolist()]
    assert {path.name for path in (tmp_path / "heatmaps").iterdir()} == {f"{row}.jpg" for row in rows}
    for row in rows:
        [models] = [models for each, *models in scene.answered_by if row in each.val]
        (views,) = photo_batches(scene.backbone, [photos[row]])
        pictures = [as_photo(views[0])]
        for weights, answers in zip(models, (scene.evidence.head_only, scene.evidence.two_phase), strict=True):
            weights.install(scene.backbone, scene.head, scene.pretrained)
            answer = torch.from_numpy(answers[[row]].argmax(axis=1))
            pictures.append(overlay(pictures[0], heatmaps(scene.backbone, scene.head, views, answer)[0]))
        written = folder.heatmap(row).read_bytes()
        drawn = np.asarray(Image.open(io.BytesIO(written)), np.int64)
        assert drawn.shape == (SIZE, 3 * SIZE + 2 * GAP, 3)
        expected = np.asarray(Image.open(io.BytesIO(encoded(side_by_side(pictures), "JPEG"))), np.int64)
        assert np.abs(drawn - expected).max() <= 16  # a batch rounds otherwise, and JPEG's steps make more of it
        assert np.abs(drawn - expected).mean() < 0.5


def test_a_photo_that_is_gone_by_then_fails_no_run(
    photos: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = Scene(photos, folds=False)
    scene.samples = [replace(sample, path=tmp_path / "gone.png") for sample in scene.samples]
    scene.write(RunFolder(tmp_path))
    assert "the report will have no heatmaps: The photo can't be read" in capsys.readouterr().err
    assert not (tmp_path / "heatmaps").exists()


def test_where_phase_two_changed_nothing_nothing_is_drawn(photos: tuple[Path, ...], tmp_path: Path) -> None:
    scene = Scene(photos, folds=True)
    scene.evidence = replace(scene.evidence, two_phase=scene.evidence.head_only)
    scene.write(RunFolder(tmp_path))
    assert not (tmp_path / "heatmaps").exists()
