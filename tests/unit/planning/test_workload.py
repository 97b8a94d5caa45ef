from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.backbones import tiny_cnn
from tests.support.photos import CLASSES, draw
from tests.support.training import new_store, papers, planned
from torch import Tensor

import unfreeze
from unfreeze.models.backbone import Backbone
from unfreeze.planning.forecast import Forecast, forecast_run
from unfreeze.planning.workload import Workload, count_workload, order_by_cache_hits
from unfreeze.runs.run import Run
from unfreeze.training.features.activations import BATCH, EVALUATION_BATCH, Activations, CachedActivations, PixelSource
from unfreeze.training.features.demand import compute, held_out_request
from unfreeze.training.features.gather import compute_activations
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.forgetting_budget import MAX_MEASUREMENTS
from unfreeze.training.phase_one import train_head

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD_BOUNDARY = 5
N_REFERENCE, N_TRAIN = 9, 30  # the most images that may be validated on
STEP = 8  # images of a training step: neither BATCH nor EVALUATION_BATCH, so that a batch's size tells what it is for


@dataclass
class Observed:
    """What a run read after its forecast: images by (of the training set, from pixels, boundary, size of the batches)."""

    work: Workload | None = None
    training: tuple[Path, ...] = ()
    read: Counter[tuple[bool, bool, int, int]] | None = None

    def note(self, source: Activations, count: int, size: int) -> None:
        if self.read is not None:
            self.read[
                source.renderer.paths == self.training, isinstance(source, PixelSource), source.boundary, size
            ] += count

    def rows(self, *, size: int, training: bool | None = None, pixels: bool | None = None, below: int = 99) -> int:
        assert self.read is not None
        return sum(
            count
            for (of_training, from_pixels, boundary, batch), count in self.read.items()
            if batch == size and boundary < below and training in (None, of_training) and pixels in (None, from_pixels)
        )


@pytest.fixture
def observed(monkeypatch: pytest.MonkeyPatch) -> Observed:
    """Let every run train a tiny network with an original task, count its work and observe it."""
    seen = Observed()

    def load(*_: object, **__: object) -> Backbone:
        backbone = tiny_cnn()
        return replace(backbone, network=replace(backbone.network, labels=tuple((name,) for name in "abcdefg")))

    def forecast(*arguments: Any, **named: Any) -> Forecast:
        planned = forecast_run(*arguments, **named)
        store, backbone, renderers, data, recipe, *held_out = arguments
        likely = order_by_cache_hits(store, backbone, renderers, data, recipe)
        seen.work = count_workload(store, backbone, likely, data, recipe, *held_out)
        seen.training, seen.read = renderers[0].paths, Counter()
        return planned

    def noting(kind: type[CachedActivations | PixelSource]) -> None:
        batches = kind.batches

        def noted(self: Any, photos: Any, views: Any, size: int) -> Iterator[Tensor]:
            seen.note(self, len(photos), size)
            return batches(self, photos, views, size)

        monkeypatch.setattr(kind, "batches", noted)

    monkeypatch.setattr("unfreeze.inputs.load_backbone", load)
    monkeypatch.setattr("unfreeze.inputs.forecast_run", forecast)
    monkeypatch.setattr("unfreeze.pipeline.write_changed_heatmaps", lambda *_: None)
    noting(CachedActivations)
    noting(PixelSource)
    return seen


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photos of three classes, and photos of three classes of the original task."""
    root = tmp_path_factory.mktemp("folders")
    for name, count, classes in (("photos", 30, "xyz"), ("reference", 9, "abc")):
        for number, path in enumerate(draw(root / name, count)):
            folder = root / name / classes[number % CLASSES]
            folder.mkdir(exist_ok=True)
            path.rename(folder / path.name)
    for path in (root / "reference").rglob("*.png"):
        path.write_bytes(path.read_bytes() + b" ")  # other files than those of the same number
    return root / "photos", root / "reference"


def train(folders: tuple[Path, Path], cache: Path, seen: Observed, **settings: Any) -> tuple[Run, Workload]:
    settings = dict(settings)
    if settings.pop("with_reference", False):
        settings["reference"] = folders[1]
    run = unfreeze.train(folders[0], cache=cache, out=cache / f"run{len(list(cache.glob('run*')))}", **settings)
    assert seen.work is not None
    return run, seen.work


AUTO = {"symmetry": "flip", "epochs": 3, "depth": "layer3", "views": 4, "batch_size": STEP}
CLASSIC = {"recipe": "classic", "epochs": 2, "head_epochs": 3, "batch_size": STEP}
HEAD = {"recipe": "head-only", "symmetry": "flip", "tta": False}
REFERENCE = {"with_reference": True, "max_forgetting": 100.0}


@pytest.mark.parametrize(
    ("settings", "before"),
    [
        ({**AUTO, "tta": False}, None),
        ({**AUTO, "test_size": 0.3, **REFERENCE}, None),
        ({**AUTO, "test_size": 0.3, **REFERENCE}, {**HEAD, "test_size": 0.3}),
        ({**AUTO, "tta": False, **REFERENCE}, {**AUTO, "views": 2}),
        ({**AUTO, "tta": False, **REFERENCE}, "the same"),
        ({**AUTO, "depth": "all", "tta": False}, {**AUTO, "tta": False}),
        ({**AUTO, "distill": 1.0, "tta": False}, None),
        ({**CLASSIC, "test_size": 0.3}, None),
        ({**CLASSIC, "test_size": 0.3}, "the same"),
        ({**CLASSIC, "bn": "train"}, None),
        ({**HEAD, "with_reference": True}, None),
        ({**HEAD, "test_size": 0.3}, {**AUTO, "test_size": 0.3}),
    ],
)
def test_the_work_that_is_counted_is_done(
    folders: tuple[Path, Path],
    tmp_path: Path,
    observed: Observed,
    settings: dict[str, Any],
    before: dict[str, Any] | str | None,
) -> None:
    """A run does what was counted: with an empty cache, one that holds a part of it, and one that holds all of it."""
    if before is not None:
        train(folders, tmp_path, observed, **(settings if isinstance(before, str) else before))
    run, work = train(folders, tmp_path, observed, **settings)
    tried = len(run.verdict.trials)
    assert tried == len(work.n_train_steps_images)
    assert observed.rows(size=BATCH, training=True, pixels=True) == work.n_views
    assert observed.rows(size=BATCH, training=True, pixels=False) == work.n_to_head
    chosen = 4 if settings.get("tta", True) and settings.get("recipe") != "classic" else 1
    held_out = observed.rows(size=BATCH, training=False, pixels=True)
    if run.verdict.model.n_views == chosen:
        assert held_out == work.n_heldout_pixels
    else:  # photos are taken to be shown in the largest set of views
        assert work.n_heldout_pixels / chosen <= held_out <= work.n_heldout_pixels
    features = HEAD_BOUNDARY if "distill" in settings else 99  # which the anchor reads beside the images
    assert observed.rows(size=STEP, below=features) == work.n_head_train_images + sum(work.n_train_steps_images)
    if before == "the same":
        assert (work.n_views, work.n_to_head, work.n_heldout_pixels, work.needs_head_fit) == (0, 0, 0, False)
    forward = observed.rows(size=EVALUATION_BATCH, below=HEAD_BOUNDARY)
    forward += observed.rows(size=BATCH, training=False, pixels=False)
    counted = work.n_head_val_images + sum(work.n_val_images) + work.n_heldout_forward
    if "max_forgetting" in settings:  # a bisection is counted, which a budget that nothing exceeds doesn't need
        assert counted / chosen - (MAX_MEASUREMENTS - 1) * N_REFERENCE - chosen * N_TRAIN <= forward < counted
    elif run.verdict.model.n_views == chosen:
        assert forward == counted
    else:  # photos are taken to be shown in the largest set of views
        assert counted / chosen <= forward < counted


# What a run alone doesn't show


def test_every_candidate_is_counted_by_itself(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    (way,) = recipe.candidates
    both = replace(recipe, candidates=(way, replace(way, schedule=replace(way.schedule, epochs=5))))
    work = count_workload(new_store(), backbone, [own], data, both, papers(own))
    # All four folds judge: 4 x 18 images and then 24 are learned from.  The folds' 24 images are evaluated at first, after
    # each epoch, and then at 4 alphas in 2 orientations.
    assert work.n_train_steps_images == (3 * (72 + 24), 5 * (72 + 24))
    assert work.n_val_images == ((1 + 3 + 8) * 24, (1 + 5 + 8) * 24)


def test_validation_named_by_the_user_is_the_only_training(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3")
    named = replace(data, train=np.arange(20), val=np.arange(20, 24), fold=np.arange(20) % 4)
    work = count_workload(new_store(), backbone, [own], named, recipe, papers(own))
    expected = (20 * 9 + 2 * 4, (3 * 20,), ((1 + 3 + 8) * 4,))
    assert (work.n_views, work.n_train_steps_images, work.n_val_images) == expected


@pytest.mark.parametrize("enough", [400, 10])
def test_another_augmentation_adds_an_orientation_of_some_images(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr("unfreeze.training.augmentation.MAX_PROBE_IMAGES", enough)
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    turned = replace(own, augmentation=recipe.augmentations[1])
    alone, both = (
        count_workload(new_store(), backbone, renderers, data, recipe, papers(own))
        for renderers in ([own], [own, turned])
    )
    assert (both.n_views - alone.n_views, both.n_to_head - alone.n_to_head) == (min(enough, 24), min(enough, 24))


def test_held_out_images_are_computed_in_float32_whatever_training_computes_in(photos: tuple[Path, ...]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, epochs=3, depth="layer3", tta=False)
    compute_activations(store, backbone, own, data, recipe)
    compute(store, backbone, [held_out_request(papers(own), recipe.boundary)])
    lowered = count_workload(store, replace(backbone, precision=torch.bfloat16), [own], data, recipe, papers(own))
    assert (lowered.n_views, lowered.n_heldout_pixels) == (24 * 8, 0)


@pytest.mark.parametrize("settings", [{}, {"recipe": "head-only"}])
def test_a_head_that_was_solved_before_is_not_counted(photos: tuple[Path, ...], settings: dict[str, object]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone, **settings)
    features = compute_features(store, backbone, [own], data, recipe, 0)
    assert count_workload(store, backbone, [own], data, recipe, papers(own)).needs_head_fit
    train_head(features, recipe)
    assert not count_workload(store, backbone, [own], data, recipe, papers(own)).needs_head_fit


def test_the_augmentation_that_an_earlier_run_used_is_taken_to_be_chosen_again(photos: tuple[Path, ...]) -> None:
    backbone, store = tiny_cnn(), new_store()
    own, data, recipe = planned(photos, backbone)
    both = [own, replace(own, augmentation=recipe.augmentations[1])]
    assert order_by_cache_hits(store, backbone, both, data, recipe) == both
    compute_activations(store, backbone, both[1], data, recipe)
    assert order_by_cache_hits(store, backbone, both, data, recipe) == both[::-1]
