"""The report's photos: what phase 2 put right, what it broke, and where the shipped model is surest and wrong."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.data.decode import decode
from unfreeze.data.locate import relocate_images
from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.evaluation.significance import changed
from unfreeze.report.elements import Gallery, Photo, Section, Text
from unfreeze.report.run_data import NAMES, Predictions, RunData
from unfreeze.runs.folder import PICTURED
from unfreeze.verdict import counted

SIDE = 160  # pixels
QUALITY = 80
HEATMAPS = (
    "Of a photo that phase 2 fixed or broke there are three pictures: what the models see of it, and where each of them, "
    "head-only and two-phase, finds what speaks for its own answer. Grey is nothing, red a little, yellow the most. "
    "Every picture is scaled to its own strongest place: its brightness does not tell how sure a model is, and what is "
    "marked need not be the cause (Grad-CAM, Selvaraju et al. 2017)."
)


@dataclass(frozen=True)
class _Kind:
    """Photos that belong together, the most telling first, and their heatmaps where they have any."""

    what: str
    order: str
    photos: IntArray
    heatmaps: Mapping[int, bytes]

    @property
    def first(self) -> list[int]:
        """Those that are shown."""
        return [int(i) for i in self.photos[:PICTURED]]


def photos(run: RunData) -> Section | None:
    """Up to twelve photos of each kind, with what both models say."""
    said = run.predictions
    if said is None or run.answers is None:
        return None
    wrong = f"that the {run.arm} model gets wrong"
    kinds = [_Kind(wrong, "the ones first that it is surest of", _surest(run.answers, said), {})]
    if len(said.arms) == 2:
        fixed, broken = changed(said.labels, said.arms["head_only"], said.arms["two_phase"])
        most = "the ones first whose own class moved most"
        kinds = [
            _Kind("that phase 2 fixed", most, fixed, run.heatmaps),
            _Kind("that phase 2 broke", most, broken, run.heatmaps),
            *kinds,
        ]
    plain = sorted({i for kind in kinds for i in kind.first if i not in kind.heatmaps})
    files = relocate_images(_source(run), [said.file_names[i] for i in plain])
    thumbnails = {i: thumbnail(files.get(said.file_names[i])) for i in plain}
    galleries = [
        Gallery(
            heading=f"{counted(len(kind.photos), 'photo')} {kind.what}",
            note=f"The first {PICTURED} of them, {kind.order}." if len(kind.photos) > PICTURED else "",
            photos=tuple(_card(run, said, i, kind.heatmaps.get(i), thumbnails.get(i)) for i in kind.first),
        )
        for kind in kinds
    ]
    notes = [Text(HEATMAPS)] if any(gallery.wide for gallery in galleries) else []
    if None in thumbnails.values():
        gone = sum(jpeg is None for jpeg in thumbnails.values())
        notes.append(Text(f"{gone} of {len(thumbnails)} photos are not where they were any more, or can't be read."))
    return Section("Photos", (*notes, *galleries))


def thumbnail(path: Path | None) -> bytes | None:
    """Return a photo as a small JPEG; None where it can't be read."""
    if path is None:
        return None
    try:
        photo = decode(path, min_side=SIDE)
    except UnfreezeError:
        return None
    photo.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    photo.save(packed, "JPEG", quality=QUALITY)
    return packed.getvalue()


def _surest(answers: FloatArray, said: Predictions) -> IntArray:
    wrong = np.flatnonzero(answers.argmax(axis=1) != said.labels)
    surest: IntArray = wrong[np.argsort(-answers.max(axis=1)[wrong], kind="stable")]
    return surest


def _source(run: RunData) -> Path | None:
    place = run.args.get("photos")
    return Path(place) if isinstance(place, str) else None


def _card(run: RunData, said: Predictions, i: int, heatmaps: bytes | None, jpeg: bytes | None) -> Photo:
    classes = run.verdict.data.classes
    answers = tuple(
        f"{NAMES[arm]}: {classes[answers[i].argmax()]} {answers[i].max():.3f}" for arm, answers in said.arms.items()
    )
    return Photo(
        file_name=said.file_names[i],
        label=classes[said.labels[i]],
        answers=() if heatmaps else answers,
        jpeg=heatmaps or jpeg,
        columns=("the photo", *answers) if heatmaps else (),
    )
