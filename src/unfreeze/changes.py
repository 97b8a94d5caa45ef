"""The photos that phase 2 fixed and broke, drawn while both models are at hand: where each saw what it answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from unfreeze.artifacts import PICTURED, RunFolder, write_bytes
from unfreeze.data.sources import Sample
from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import IntArray
from unfreeze.evaluation.significance import changed
from unfreeze.evidence import Evidence
from unfreeze.explain import as_photo, encoded, heatmaps, overlay, side_by_side
from unfreeze.models.backbone import Backbone, Head, Tensors
from unfreeze.predict import photo_batches
from unfreeze.runtime import say
from unfreeze.training.finetune import Weights
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.phase_two import PhaseTwo
from unfreeze.training.rounds import Round

SIDE = 256  # pixels of a picture's longer side: a page holds dozens of them


def write_changes(
    folder: RunFolder,
    backbone: Backbone,
    head: Head,
    pretrained: list[Tensors],
    samples: Sequence[Sample],
    evidence: Evidence,
    rounds: Sequence[Round],
    first: PhaseOne,
    second: PhaseTwo,
) -> None:
    """Draw the first photos that phase 2 fixed and broke: the view, and the heat of either model's own answer upon it.

    Each photo is drawn by the models that answered it: cross-fitted, by those of the fold that it is in.  Where there is
    nothing to draw by (see ``explain.heatmaps``) or a photo is gone, the run goes on without.

    Args:
        folder: Of the run; a picture is named by the photo's row in ``predictions.csv``.
        backbone: Left with other weights than it came with.
        head: Likewise.
        pretrained: Its stages, as they were at first.
        samples: All photos of the run.
        evidence: What both models said.
        rounds: Who judged, in cross-fitting.
        first: Phase 1's models.
        second: Phase 2's.
    """
    assert evidence.two_phase is not None, "phase 2 has answered"
    rows = np.concatenate(
        [which[:PICTURED] for which in changed(evidence.truth, evidence.head_only, evidence.two_phase)]
    )
    answers = [torch.from_numpy(said.argmax(axis=1)) for said in (evidence.head_only, evidence.two_phase)]
    try:
        for photos, *models in _by_model(evidence, rounds, first, second):
            own = [int(row) for row in rows if evidence.photos[row] in photos]
            if not own:
                continue
            views = torch.cat(list(photo_batches(backbone, [samples[evidence.photos[row]].path for row in own])))
            drawn = [[as_photo(view)] for view in views]
            for model, said in zip(models, answers, strict=True):
                model.install(backbone, head, pretrained)
                for pictures, heat in zip(drawn, heatmaps(backbone, head, views, said[own]), strict=True):
                    pictures.append(overlay(pictures[0], heat))
            for row, pictures in zip(own, drawn, strict=True):
                write_bytes(folder.heatmap(row), encoded(side_by_side([_small(each) for each in pictures]), "JPEG"))
    except UnfreezeError as error:
        say(f"the report will have no heatmaps: {error.what}")


def _by_model(
    evidence: Evidence, rounds: Sequence[Round], first: PhaseOne, second: PhaseTwo
) -> Iterator[tuple[IntArray, Weights, Weights]]:
    """Yield photos with the head-only and the two-phase model that answered them."""
    if evidence.kind == "test":
        yield evidence.photos, first.final, second.final
        return
    for each, before, after in zip(rounds, first.round_finals, second.round_finals, strict=True):
        yield each.val, before, after


def _small(picture: Image.Image) -> Image.Image:
    smaller = picture.copy()
    smaller.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return smaller
