"""The photos that phase 2 fixed and broke, drawn while both models are at hand: where each saw what it answered."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import IntArray
from unfreeze.evaluation.significance import changed
from unfreeze.explain import as_photo, encoded, heatmaps, overlay, side_by_side
from unfreeze.files import write_bytes
from unfreeze.inputs import Inputs
from unfreeze.models.state import ModelState, loaded
from unfreeze.predict import photo_batches
from unfreeze.runs.folder import PICTURED, RunFolder
from unfreeze.runtime import echo
from unfreeze.scoring.evidence import HeldOutPredictions
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult

SIDE = 256  # pixels of a picture's longer side: a page holds dozens of them


def write_changed_heatmaps(
    folder: RunFolder,
    inputs: Inputs,
    features: TrainingFeatures,
    evidence: HeldOutPredictions,
    first: HeadOnlyResult,
    second: TwoPhaseResult,
) -> None:
    """Draw the first photos that phase 2 fixed and broke: the view, and on it the heatmap of each model's own prediction.

    Each photo is drawn by the models that predicted it: cross-fitted, by those of the fold that it is in.  Where nothing can
    be drawn (see ``explain.heatmaps``) or a photo is gone, the run goes on without.

    Args:
        folder: Of the run; a picture is named by the photo's row in ``predictions.csv``.
        inputs: All photos of the run, and the pretrained backbone.
        features: The images that training saw, and their folds.
        evidence: What both models predicted.
        first: Phase 1's models.
        second: Phase 2's.
    """
    assert evidence.two_phase is not None, "phase 2 has predicted"
    backbone, samples = inputs.backbone, inputs.photos.samples
    rows = np.concatenate(
        [which[:PICTURED] for which in changed(evidence.labels, evidence.head_only, evidence.two_phase)]
    )
    classes = [torch.from_numpy(arm.argmax(axis=1)) for arm in (evidence.head_only, evidence.two_phase)]
    try:
        for images, *states in _by_model(evidence, features, first, second):
            drawn_rows = [int(row) for row in rows if evidence.image_ids[row] in images]
            if not drawn_rows:
                continue
            paths = [samples[evidence.image_ids[row]].path for row in drawn_rows]
            views = torch.cat(list(photo_batches(backbone, paths)))
            pictures = [[as_photo(view)] for view in views]
            for state, predicted in zip(states, classes, strict=True):
                with loaded(backbone, state) as head:
                    heats = heatmaps(backbone, head, views, predicted[drawn_rows])
                for of_photo, heat in zip(pictures, heats, strict=True):
                    of_photo.append(overlay(of_photo[0], heat))
            for row, of_photo in zip(drawn_rows, pictures, strict=True):
                picture = side_by_side([_small(each) for each in of_photo])
                write_bytes(folder.heatmap(row), encoded(picture, "JPEG"))
    except UnfreezeError as error:
        echo(f"the report will have no heatmaps: {error.what}")


def _by_model(
    evidence: HeldOutPredictions, features: TrainingFeatures, first: HeadOnlyResult, second: TwoPhaseResult
) -> Iterator[tuple[IntArray, ModelState, ModelState]]:
    """Yield the ids of images with the head-only and the two-phase model that predicted them."""
    if evidence.protocol == "test":
        yield evidence.image_ids, first.state, second.state
        return
    for fold, before, after in zip(features.folds.validation, first.fold_states, second.fold_states, strict=True):
        yield features.data.ids[fold.val], before, after


def _small(picture: Image.Image) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return smaller
