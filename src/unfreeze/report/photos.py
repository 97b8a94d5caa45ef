"""The report's photos: what phase 2 put right, what it broke, and where the shipped model is surest and wrong."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unfreeze.data.decode import decode
from unfreeze.data.sources import read_photos
from unfreeze.errors import UnfreezeError
from unfreeze.evaluation.resampling import FloatArray, IntArray
from unfreeze.report.material import NAMES, Material, Predictions
from unfreeze.report.parts import Gallery, Photo, Section, Text
from unfreeze.verdict import counted

SHOWN = 12  # photos of each kind
SIDE = 160  # pixels
QUALITY = 80


def photos(run: Material) -> Section | None:
    """Up to twelve photos of each kind, with what both models say."""
    said = run.predictions
    if said is None or run.answers is None:
        return None
    kinds = [
        (
            f"that the {run.arm} model gets wrong",
            "the ones first that it is surest of",
            _surest(run.answers, said),
        )
    ]
    if len(said.arms) == 2:
        before, after = said.arms["head_only"], said.arms["two_phase"]
        own = np.arange(len(said.labels))
        moved = after[own, said.labels] - before[own, said.labels]
        was, now = before.argmax(axis=1) == said.labels, after.argmax(axis=1) == said.labels
        most = "the ones first whose own class moved most"
        fixed, broken = np.flatnonzero(~was & now), np.flatnonzero(was & ~now)
        kinds = [
            ("that phase 2 fixed", most, fixed[np.argsort(-moved[fixed], kind="stable")]),
            ("that phase 2 broke", most, broken[np.argsort(moved[broken], kind="stable")]),
            *kinds,
        ]
    wanted = sorted({int(i) for _, _, found in kinds for i in found[:SHOWN]})
    files = find(_source(run), [said.file_names[i] for i in wanted])
    thumbnails = {i: thumbnail(files.get(said.file_names[i])) for i in wanted}
    galleries = [
        Gallery(
            heading=f"{counted(len(found), 'photo')} {what}",
            note=f"The first {SHOWN} of them, {order}." if len(found) > SHOWN else "",
            photos=tuple(_card(run, said, int(i), thumbnails[int(i)]) for i in found[:SHOWN]),
        )
        for what, order, found in kinds
    ]
    notes = []
    if None in thumbnails.values():
        gone = sum(jpeg is None for jpeg in thumbnails.values())
        notes.append(Text(f"{gone} of {len(thumbnails)} photos are not where they were any more, or can't be read."))
    return Section("Photos", (*notes, *galleries))


def find(source: Path | None, names: Sequence[str]) -> dict[str, Path]:
    """Return where the photos of a source are, by the names that a run's tables give them; lost ones are absent."""
    if source is None:
        return {}
    root = source if os.path.isdir(source) else source.parent  # noqa: PTH112 (Path.is_dir raises on odd paths)
    found = {name: root / name for name in names if os.path.isfile(root / name)}  # noqa: PTH113
    if len(found) < len(names):
        # The tables have names as they are shown; on disk they may be spelled in another form of Unicode, or in none.
        try:
            listed = read_photos(source, to_train=False).samples
        except (UnfreezeError, OSError):
            return found
        lost = set(names) - set(found)
        found |= {sample.file_name: sample.path for sample in listed if sample.file_name in lost}
    return found


def thumbnail(path: Path | None) -> bytes | None:
    """Return a photo as a small JPEG; None where it can't be read."""
    if path is None:
        return None
    try:
        photo = decode(path, enough=SIDE)
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


def _source(run: Material) -> Path | None:
    place = run.args.get("photos")
    return Path(place) if isinstance(place, str) else None


def _card(run: Material, said: Predictions, i: int, jpeg: bytes | None) -> Photo:
    classes = run.verdict.data.classes
    return Photo(
        file_name=said.file_names[i],
        label=classes[said.labels[i]],
        answers=tuple(
            f"{NAMES[arm]}: {classes[answers[i].argmax()]} {answers[i].max():.3f}" for arm, answers in said.arms.items()
        ),
        jpeg=jpeg,
    )
