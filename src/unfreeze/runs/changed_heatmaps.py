"""Heatmaps of both models' predictions for the images that phase 2 fixed and broke."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import IntArray
from unfreeze.evaluation.significance import changed
from unfreeze.explain import as_photo, encoded, overlay, side_by_side
from unfreeze.files import write_bytes
from unfreeze.heatmaps import heatmaps
from unfreeze.inputs import Inputs
from unfreeze.models.state import ModelState, loaded
from unfreeze.predict import photo_batches
from unfreeze.runs.folder import PICTURED, RunFolder
from unfreeze.runtime import echo
from unfreeze.scoring.evidence import HeldOutPredictions
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult

SIDE = 256  # pixels of a picture's longer side: the report has dozens of them


def write_changed_heatmaps(
    folder: RunFolder,
    inputs: Inputs,
    features: TrainingFeatures,
    predictions: HeldOutPredictions,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult,
) -> None:
    """Write pictures of the first images that phase 2 fixed and broke: the view, and each model's heatmap over it.

    The heatmaps are computed by the models that predicted the image; cross-fitted, by those of its fold.  If none
    can be computed (see ``heatmaps.heatmaps``) or an image can't be read, the run goes on without them.

    Args:
        folder: The run folder; a picture is named by the image's row in ``predictions.csv``.
        inputs: Images and pretrained backbone of the run.
        features: The training images and their folds.
        predictions: Both models' predictions.
        phase1: The head-only models.
        phase2: The two-phase models.
    """
    assert predictions.two_phase is not None, "phase 2 ran"
    backbone, samples = inputs.backbone, inputs.photos.samples
    rows = np.concatenate(
        [indices[:PICTURED] for indices in changed(predictions.labels, predictions.head_only, predictions.two_phase)]
    )
    classes = [
        torch.from_numpy(probabilities.argmax(axis=1))
        for probabilities in (predictions.head_only, predictions.two_phase)
    ]
    try:
        for image_ids, *states in _by_model(predictions, features, phase1, phase2):
            model_rows = [int(row) for row in rows if predictions.image_ids[row] in image_ids]
            if not model_rows:
                continue
            paths = [samples[predictions.image_ids[row]].path for row in model_rows]
            views = torch.cat(list(photo_batches(backbone, paths)))
            pictures = [[as_photo(view)] for view in views]
            for state, predicted in zip(states, classes, strict=True):
                with loaded(backbone, state) as head:
                    heats = heatmaps(backbone, head, views, predicted[model_rows])
                for parts, heat in zip(pictures, heats, strict=True):
                    parts.append(overlay(parts[0], heat))
            for row, parts in zip(model_rows, pictures, strict=True):
                picture = side_by_side([_small(part) for part in parts])
                write_bytes(folder.heatmap(row), encoded(picture, "JPEG"))
    except UnfreezeError as error:
        echo(f"the report will have no heatmaps: {error.what}")


def _by_model(
    predictions: HeldOutPredictions, features: TrainingFeatures, phase1: HeadOnlyResult, phase2: TwoPhaseResult
) -> Iterator[tuple[IntArray, ModelState, ModelState]]:
    """Yield the ids of images with the head-only and the two-phase model that predicted them."""
    if predictions.protocol == "test":
        yield predictions.image_ids, phase1.state, phase2.state
        return
    for fold, head_only, two_phase in zip(
        features.folds.validation, phase1.fold_states, phase2.fold_states, strict=True
    ):
        yield features.data.ids[fold.val], head_only, two_phase


def _small(picture: Image.Image) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return smaller
