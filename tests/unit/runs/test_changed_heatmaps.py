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
from tests.support.training import candidate, recipe, task, training_features

from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.data.splits import Splits
from unfreeze.evaluation.calibration import softmax
from unfreeze.evaluation.significance import changed
from unfreeze.explain import GAP, as_photo, encoded, overlay, side_by_side
from unfreeze.heatmaps import heatmaps
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState, loaded
from unfreeze.predict import photo_batches, predict_logits
from unfreeze.runs.changed_heatmaps import write_changed_heatmaps
from unfreeze.runs.folder import RunFolder
from unfreeze.scoring.evidence import HeldOutPredictions
from unfreeze.training.folds import Fold, Folds
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult
from unfreeze.training.search import Trial
from unfreeze.views import PLAIN_ONLY

pytestmark = pytest.mark.usefixtures("one_thread")

BOUNDARY = 3


def model(backbone: Backbone, seed: int) -> ModelState:
    """Return a model with its own two top stages and head."""
    random = torch.Generator().manual_seed(seed)
    stages = [
        {name: value * (1 + torch.rand(value.shape, generator=random)) if value.is_floating_point() else value
         for name, value in stage.items()}
        for stage in backbone.snapshot(BOUNDARY)
    ]  # fmt: skip
    return ModelState(stages, new_head(backbone, CLASSES, seed).state_dict())


class Scene:
    """Photos, and models of both phases: the last ones, and those of three folds.

    Training numbers its photos from 0; in the ``PhotoSet`` they stand in another order, after photos of no one.
    """

    def __init__(self, photos: tuple[Path, ...], *, folds: bool) -> None:
        self.backbone = tiny_cnn()
        self.photos = photos
        given = task(photos, train=len(photos))
        others = 5
        ids = others + np.random.default_rng(3).permutation(len(photos))
        data = replace(given.data, ids=ids)
        nobody = Sample(Path("nobody.png"), "nobody.png", 0)
        self.samples = [nobody] * (others + len(photos))
        for number, path in enumerate(photos):
            self.samples[ids[number]] = Sample(path, path.name, number % CLASSES)
        before = [ModelState([], new_head(self.backbone, CLASSES, seed).state_dict()) for seed in range(4)]
        after = [model(self.backbone, 10 + seed) for seed in range(4)]
        rounds = Folds.of(data, len(photos)).validation if folds else ()
        everyone = Fold(data.train[:0], data.train, None)
        self.features = replace(
            training_features(self.backbone, given, recipe(self.backbone)), data=data, folds=Folds(rounds, None)
        )
        said = [np.empty((len(photos), CLASSES)) for _ in range(2)]
        self.answered_by: dict[int, tuple[ModelState, ModelState]] = {}  # by index in the PhotoSet
        for each, *models in zip(rounds or [everyone], before, after, strict=False):
            self.answered_by |= {int(ids[photo]): (models[0], models[1]) for photo in each.val}
            for answers, state in zip(said, models, strict=True):
                answers[each.val] = softmax(self.logits(state, each.val))
        self.first = HeadOnlyResult(
            before[0], PLAIN_ONLY, (), 1.0, 0, tuple(before[:3]) if folds else (), (PLAIN_ONLY,) * len(rounds),
            before[0], (), (),
        )  # fmt: skip
        self.second = TwoPhaseResult(
            after[0], Trial(candidate(self.backbone), {}, (), (), None, 0.0), 1.0, (), 1.0, 0, True, (),
            tuple(after[:3]) if folds else (), (), (), (),
        )  # fmt: skip
        order = np.argsort(ids)
        truth, (head_only, two_phase) = (np.arange(len(photos)) % CLASSES)[order], (each[order] for each in said)
        self.evidence = HeldOutPredictions(
            "cross_fitted" if folds else "test", ids[order], truth, head_only, two_phase, two_phase, two_phase, 1
        )

    def logits(self, state: ModelState, which: np.ndarray[tuple[int], np.dtype[np.int64]]) -> np.ndarray:
        with loaded(self.backbone, state) as head:
            batches = photo_batches(self.backbone, [self.photos[photo] for photo in which])
            return predict_logits(self.backbone, head, batches).astype(float)

    def write(self, folder: RunFolder) -> None:
        photo_set = PhotoSet(Path(), tuple("abc"), tuple(self.samples))
        nothing = np.arange(0)
        inputs = Inputs(
            photo_set, Splits(nothing, nothing, nothing, nothing), self.backbone, None, self.features.cache, 0
        )
        write_changed_heatmaps(folder, inputs, self.features, self.evidence, self.first, self.second)


@pytest.mark.parametrize("folds", [False, True])
def test_a_changed_photo_is_drawn_by_the_models_that_answered_it(
    photos: tuple[Path, ...], tmp_path: Path, folds: bool
) -> None:
    scene, folder = Scene(photos, folds=folds), RunFolder(tmp_path)
    assert scene.evidence.two_phase is not None
    fixed, broken = changed(scene.evidence.labels, scene.evidence.head_only, scene.evidence.two_phase)
    assert len(fixed) > 1
    assert len(broken) > 1
    scene.write(folder)
    rows = [*fixed[:12].tolist(), *broken[:12].tolist()]
    assert {path.name for path in (tmp_path / "heatmaps").iterdir()} == {f"{row}.jpg" for row in rows}
    for row in rows:
        photo = int(scene.evidence.image_ids[row])
        models = scene.answered_by[photo]
        (views,) = photo_batches(scene.backbone, [scene.samples[photo].path])
        pictures = [as_photo(views[0])]
        for state, answers in zip(models, (scene.evidence.head_only, scene.evidence.two_phase), strict=True):
            answer = torch.from_numpy(answers[[row]].argmax(axis=1))
            with loaded(scene.backbone, state) as head:
                pictures.append(overlay(pictures[0], heatmaps(scene.backbone, head, views, answer)[0]))
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
