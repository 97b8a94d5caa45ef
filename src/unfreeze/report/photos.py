"""The report's images: those that phase 2 fixed or broke, and the shipped model's most confident errors."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.data.decode import decode
from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.evaluation.significance import changed
from unfreeze.reading import FIRST_FRAME, Reading
from unfreeze.report.elements import Gallery, Photo, Section, Text
from unfreeze.report.run_data import ARM_NAMES, Predictions, RunData
from unfreeze.runs.folder import PICTURED
from unfreeze.runs.photos import find_photos_of
from unfreeze.verdict_sentences import counted

THUMBNAIL_SIDE = 160  # pixels
JPEG_QUALITY = 80
HEATMAP_NOTE = (
    "Photos that phase 2 fixed or broke are shown three times: their centre crop, and with the evidence that the "
    "head-only and the two-phase model find for their own prediction (Grad-CAM, Selvaraju et al. 2017). Grey: none, "
    "red: a little, yellow: the most. Each picture is scaled to its own maximum, so its brightness does not show how "
    "sure a model is; and a marked region need not be the cause."
)


@dataclass(frozen=True)
class _Group:
    """Images of one gallery.

    Attributes:
        title: The gallery's heading, without the number of images.
        order: The order of the images, in words.
        rows: Indices among the predictions, in that order.
        heatmaps: JPEG files of heatmaps by index.
    """

    title: str
    order: str
    rows: IntArray
    heatmaps: Mapping[int, bytes]

    @property
    def shown(self) -> list[int]:
        """Indices of the images that the report shows."""
        return [int(row) for row in self.rows[:PICTURED]]


def photos(run: RunData) -> Section | None:
    """Return up to ``PICTURED`` images of each group, with both models' predictions."""
    predictions = run.predictions
    if predictions is None or run.probabilities is None:
        return None
    errors = _most_confident_errors(run.probabilities, predictions)
    groups = [_Group(f"that the {run.arm} model gets wrong", "most confident first", errors, {})]
    if len(predictions.arms) == 2:
        fixed, broken = changed(predictions.labels, predictions.arms["head_only"], predictions.arms["two_phase"])
        order = "the largest change in the label's probability first"
        groups = [
            _Group("that phase 2 fixed", order, fixed, run.heatmaps),
            _Group("that phase 2 broke", order, broken, run.heatmaps),
            *groups,
        ]
    without_heatmap = sorted({row for group in groups for row in group.shown if row not in group.heatmaps})
    names = [predictions.file_names[row] for row in without_heatmap]
    files = find_photos_of(run.folder, names, run.photos) if run.folder is not None else {}
    reading = _reading(run)
    thumbnails = {row: thumbnail(files.get(predictions.file_names[row]), reading) for row in without_heatmap}
    galleries = [
        Gallery(
            heading=f"{counted(len(group.rows), 'photo')} {group.title}",
            note=f"The first {PICTURED} of them, {group.order}." if len(group.rows) > PICTURED else "",
            photos=tuple(
                _photo(run, predictions, row, group.heatmaps.get(row), thumbnails.get(row)) for row in group.shown
            ),
        )
        for group in groups
    ]
    notes = [Text(HEATMAP_NOTE)] if any(gallery.wide for gallery in galleries) else []
    if None in thumbnails.values():
        missing = sum(jpeg is None for jpeg in thumbnails.values())
        notes.append(
            Text(
                f"{missing} of {len(thumbnails)} photos are not shown: they were moved or changed, or can't be read. "
                "unfreeze report RUN --photos FOLDER looks for them in another folder."
            )
        )
    return Section("Photos", (*notes, *galleries))


def thumbnail(path: Path | None, reading: Reading = FIRST_FRAME) -> bytes | None:
    """Return an image as a small JPEG; None where it can't be read."""
    if path is None:
        return None
    try:
        image = decode(path, min_side=THUMBNAIL_SIDE, reading=reading)
    except UnfreezeError:
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _most_confident_errors(probabilities: FloatArray, predictions: Predictions) -> IntArray:
    """Return the indices of wrong predictions, the highest probability first."""
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != predictions.labels)
    ordered: IntArray = wrong[np.argsort(-probabilities.max(axis=1)[wrong], kind="stable")]
    return ordered


def _reading(run: RunData) -> Reading:
    """Return how the run read files; runs of earlier versions don't say, and looked at the first frame."""
    frame = run.args.get("frame")
    return run.verdict.model.reading(frame if frame == "middle" or isinstance(frame, int) else "first")


def _photo(run: RunData, predictions: Predictions, row: int, heatmaps: bytes | None, jpeg: bytes | None) -> Photo:
    classes = run.verdict.data.classes
    lines = tuple(
        f"{ARM_NAMES[arm]}: {classes[probabilities[row].argmax()]} {probabilities[row].max():.3f}"
        for arm, probabilities in predictions.arms.items()
    )
    return Photo(
        file_name=predictions.file_names[row],
        label=classes[predictions.labels[row]],
        predictions=() if heatmaps else lines,
        jpeg=heatmaps or jpeg,
        columns=("the photo", *lines) if heatmaps else (),
    )
