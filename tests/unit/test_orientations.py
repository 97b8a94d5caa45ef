from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.support.backbones import bits, new_head, tiny_cnn
from tests.support.photos import CLASSES, CROPS, PREPROCESSING, renderer
from tests.support.training import candidate, new_store, recipe, task

from unfreeze.data.rendering.device_renderer import on_device
from unfreeze.data.rendering.framings import plain
from unfreeze.data.rendering.transforms import Augmentation, render, to_batch
from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import loaded
from unfreeze.orientations import Orientation
from unfreeze.predict import predict_logits
from unfreeze.training.features.activations import (
    CachedActivations,
    PixelSource,
    compute_or_load,
    logits_from,
    pooled_features,
)
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.head.regularisation_path import fit_head
from unfreeze.training.phase_one import HeadOnlyResult, train_head
from unfreeze.training.phase_two import fine_tune
from unfreeze.views import PLAIN, PLAIN_ONLY, EvaluationView

pytestmark = pytest.mark.usefixtures("one_thread")

TRANSPOSED = {
    Orientation.FLIPPED: Image.Transpose.FLIP_LEFT_RIGHT,
    Orientation.ROT90: Image.Transpose.ROTATE_90,
    Orientation.ROT180: Image.Transpose.ROTATE_180,
    Orientation.ROT270: Image.Transpose.ROTATE_270,
}


def test_a_pose_is_the_plain_view_to_the_pixel_wherever_it_is_rendered(photos: tuple[Path, ...]) -> None:
    own = renderer(photos[:2])
    card = on_device(own, torch.device("cpu"), 0)
    for photo, path in enumerate(own.paths):
        with Image.open(path) as opened:
            upright = plain(opened.convert("RGB"), PREPROCESSING)
        for orientation in Orientation:
            expected = to_batch(
                [upright if orientation is Orientation.IDENTITY else upright.transpose(TRANSPOSED[orientation])]
            )
            with Image.open(path) as opened:
                shown = render(opened.convert("RGB"), PREPROCESSING, None, 0, [orientation], 0)[0]
            assert torch.equal(to_batch([shown]), expected)
            assert torch.equal(own.views(photo, [orientation]), expected)
            assert torch.equal(orientation.apply(own.views(photo, [0])), expected)
            (batch,) = card.batches([[(photo, [orientation])]])
            assert torch.equal(batch, expected)


def test_poses_are_kept_apart_from_each_other_and_from_views_that_are_drawn(photos: tuple[Path, ...]) -> None:
    own = renderer(photos[:1])
    views = [*Orientation, 1, 2]
    assert len({own.cache_key(0, view) for view in views}) == len(views)
    assert replace(own, seed=1, augmentation=None).cache_key(0, Orientation.ROT90) == own.cache_key(
        0, Orientation.ROT90
    )


@pytest.mark.parametrize(
    ("augmentation", "size", "expected"),
    [
        (CROPS, (32, 48), (Orientation.IDENTITY, Orientation.FLIPPED)),
        (replace(CROPS, flip=0.0), (32, 32), (Orientation.IDENTITY,)),
        (
            replace(CROPS, rotate=True),
            (32, 32),
            (Orientation.IDENTITY, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270),
        ),
        (replace(CROPS, rotate=True), (32, 48), (Orientation.IDENTITY, Orientation.ROT180)),
    ],
)
def test_a_photo_is_shown_as_training_turned_it(
    augmentation: Augmentation, size: tuple[int, int], expected: tuple[Orientation, ...]
) -> None:
    assert augmentation.tta_orientations(size) == expected


def test_what_is_said_of_several_poses_is_averaged_alike_from_pixels_and_from_what_was_kept(
    photos: tuple[Path, ...],
) -> None:
    backbone, given = tiny_cnn(), task(photos, train=6)
    head, shown = (
        new_head(backbone, CLASSES, 0),
        tuple(map(EvaluationView, (0, Orientation.FLIPPED, Orientation.ROT270))),
    )
    chosen = np.arange(6)
    pixels = torch.cat([given.renderer.views(photo, [0]) for photo in range(6)])
    apart = [predict_logits(backbone, head, [view.orientation.apply(pixels)]) for view in shown]
    whole = predict_logits(backbone, head, [pixels[:4], pixels[4:]], views=shown)
    np.testing.assert_allclose(whole, np.mean(apart, axis=0), atol=1e-5)
    assert not np.allclose(whole, apart[0], atol=1e-3)
    kept = compute_or_load(
        new_store(), backbone, PixelSource(given.renderer), 2, given.data.requested_views(1, shown), "test"
    )
    for source in (PixelSource(given.renderer), kept):
        np.testing.assert_allclose(logits_from(backbone, head, source, chosen, shown), whole, atol=1e-4)


def drawn(folder: Path, *, tells: bool) -> tuple[Path, ...]:
    """Draw coarse noise tinted by class, evenly; or, where the side ``tells``, mirrored photos are another class's."""
    rng = np.random.default_rng(1)
    for number in range(48):
        pixels = np.kron(rng.integers(0, 255, (5, 5, 3)), np.ones((8, 8, 1), int))
        if tells:
            side = slice(20, 40) if number % CLASSES == 1 else slice(0, 20)
            pixels[:, side] = 255 * (number % CLASSES < 2)
        else:
            pixels[..., number % CLASSES] += 40
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")
    return tuple(sorted(folder.iterdir()))


def trained(paths: tuple[Path, ...], *, averages: bool, val: int = 0) -> tuple[Backbone, HeadOnlyResult, list[bytes]]:
    backbone, given = tiny_cnn(), task(paths, train=len(paths) - val, val=val)
    how = recipe(backbone, candidate(backbone), averages=averages)
    features = compute_features(new_store(), backbone, [given.renderer], given.data, how, 0)
    first = train_head(features, how)
    second = fine_tune(features, first, how)
    held = [given.data.train[given.data.fold == fold] for fold in range(3)] if not val else [given.data.val]
    for phase in (first, second):
        rounds = zip(phase.fold_states, first.fold_views, phase.fold_logits, held, strict=True)
        for state, shown, said, judged in rounds:
            pixels = torch.cat([given.renderer.views(int(photo), [0]) for photo in judged])
            with loaded(backbone, state) as head:
                np.testing.assert_allclose(predict_logits(backbone, head, [pixels], views=shown), said, atol=1e-3)
    if not val:
        truth = given.data.labels[torch.from_numpy(np.concatenate(held))].numpy()
        assert first.temperature == pytest.approx(fit_temperature(np.concatenate(first.fold_logits), truth), rel=1e-3)
    return backbone, first, bits(second.state)


@pytest.mark.parametrize("val", [0, 9])
def test_poses_are_averaged_where_that_is_better_on_photos_that_were_held_out(tmp_path: Path, val: int) -> None:
    paths = drawn(tmp_path, tells=False)
    _, first, _ = trained(paths, averages=True, val=val)
    assert first.views == (PLAIN, EvaluationView(Orientation.FLIPPED))
    _, alone, _ = trained(paths, averages=False, val=val)
    assert alone.views == PLAIN_ONLY
    assert bits(first.state) != bits(alone.state), "views that may be asked about are learned from"


def test_the_solved_head_is_fitted_on_the_poses_too(tmp_path: Path) -> None:
    backbone, given = tiny_cnn(), task(drawn(tmp_path, tells=False), train=48)
    how = recipe(backbone, candidate(backbone), averages=True)
    computed = compute_features(new_store(), backbone, [given.renderer], given.data, how, 0)
    at_head = computed.final.for_head
    assert isinstance(at_head, CachedActivations)
    found = pooled_features(at_head, range(48), (0, 1, Orientation.FLIPPED))
    fit = fit_head(found, given.data.labels[:48], given.data.fold, CLASSES, how.smoothing)
    final = train_head(computed, how).state
    torch.testing.assert_close(final.head["weight"], fit.head.weight.float(), rtol=0, atol=0)


def test_poses_are_left_alone_where_they_are_no_better(tmp_path: Path) -> None:
    _, first, _ = trained(drawn(tmp_path, tells=True), averages=True)
    assert first.views == PLAIN_ONLY
