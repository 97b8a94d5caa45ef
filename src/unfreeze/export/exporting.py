"""The story of an export: write a file, ask it about real photos in its own runtime, and only then put it in place."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unfreeze.errors import ConfigError, PhotosError, RunError
from unfreeze.export import hub_folder, int8, onnx_file, torchscript_file
from unfreeze.export.deployed import metadata
from unfreeze.export.parity import BATCH, max_abs_difference, run_all
from unfreeze.export.parity_images import ParityImages, find_parity_images, spread
from unfreeze.files import write_text
from unfreeze.models.saved import Classifier, load_model
from unfreeze.predict import Probabilities, photo_batches, predict_logits, probabilities
from unfreeze.runs.run import Run
from unfreeze.version import __version__

Format = Literal["onnx", "torchscript", "safetensors", "int8"]
NAMES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.pt",
    "safetensors": "model",
    "int8": "model.int8.onnx",
}
TABLE = "export.json"


@dataclass(frozen=True)
class Exported:
    """A file that says what the run says.

    Attributes:
        format: Which kind.
        path: The file; of safetensors, the folder.
        size: In bytes.
        photos: How many the answers were compared on.
        difference: The largest between a probability of its and the run's; of safetensors, between plain views' logits.
        note: What else must be known.
        cost: Of int8, what it costs.
    """

    format: Format
    path: Path
    size: int
    photos: int
    difference: float
    note: str | None = None
    cost: int8.Cost | None = None

    def lines(self) -> list[str]:
        """Return it for people."""
        told = f"largest difference {self.difference:.1g} on {self.photos} photos"
        first = f"{self.format:12} {self.path}  {self.size / 2**20:.1f} MiB  {told}"
        return [first, *([self.note] if self.note else []), *([self.cost.sentence()] if self.cost else [])]


def export(
    run: Run, formats: Sequence[Format] = ("onnx",), *, photos: str | Path | None = None, out: str | Path | None = None
) -> list[Exported]:
    """Write a run's model for other runtimes; each file is removed unless it says of real photos what the run says.

    Args:
        run: A finished run.
        formats: ``onnx``: one file for ONNX Runtime and others.  ``torchscript``: one for torch without our code.
            ``safetensors``: a folder in timm's and the model hubs' format.  ``int8``: the ONNX file at a third of its
            size, with 8-bit integers, and what they cost; it comes with ``onnx``.  On a CPU without instructions for them
            (VNNI) it is slower.
        photos: Where the run's photos are now, or others like them; None: where they were.
        out: The folder; None: ``export`` in the run's.

    Returns:
        One for each format.

    Raises:
        ConfigError: There is no such format.
        MissingExtraError: The packages for a format are not installed.
        ModelError: The network can't be exported, or the answers differ.
        PhotosError: There are no photos to compare on.
        RunError: The folder can't be written, or holds files of somebody else's.
    """
    strangers = [each for each in formats if each not in NAMES]
    if strangers:
        mend = "It can be: " + ", ".join(NAMES)
        raise ConfigError(f"There is no format called {strangers[0]!r}.", where="formats", mend=mend)
    wanted: list[Format] = [each for each in NAMES if each in formats or (each == "onnx" and "int8" in formats)]
    if "onnx" in wanted:
        onnx_file.require()
    folder = Path(out) if out is not None else run.folder.export
    _refuse_foreign(folder, wanted)
    model = load_model(run.folder.model, torch.device("cpu"))
    material = find_parity_images(run, Path(photos) if photos is not None else None)
    if "int8" in wanted and not material.learnt:
        raise PhotosError(
            "int8 is fitted on training photos and measured on test photos, and the run's are not where they were.",
            where="--int8",
            mend="Say with --photos where they are now.",
        )
    views = torch.cat(list(photo_batches(model.backbone, material.compared())))
    sha256 = hashlib.sha256(run.folder.weights.read_bytes()).hexdigest()
    expected = probabilities(model.backbone, model.head, torch.split(views, BATCH), orientations=model.orientations)
    work = _Work(run, model, material, views, expected, metadata(model, sha256))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            done = [work.write(each, Path(scratch), folder) for each in wanted]
            for each in done:
                _move(Path(scratch, NAMES[each.format]), each.path)
        _remember(folder, done, sha256)
    except OSError as error:
        raise RunError(f"The file can't be written: {error}", where=folder, mend="Take another --out.") from error
    return done


@dataclass(frozen=True)
class _Work:
    """What every format needs."""

    run: Run
    model: Classifier
    material: ParityImages
    views: Tensor
    expected: Probabilities
    told: dict[str, str]

    def write(self, kind: Format, scratch: Path, folder: Path) -> Exported:
        """Write one format into ``scratch``, and compare."""
        place, model, views, expected = scratch / NAMES[kind], self.model, self.views, self.expected
        batches, cost, note = torch.split(views, BATCH), None, None
        if kind == "onnx":
            onnx_file.write(model, place, self.told)
            worst = max_abs_difference(onnx_file.answers(place), views, expected, place)
        elif kind == "torchscript":
            torchscript_file.write(model, place, self.told)
            worst = max_abs_difference(torchscript_file.answers(place), views, expected, place)
        elif kind == "safetensors":
            hub_folder.write(self.run.folder, place)
            answers, note = hub_folder.answers(model, place)
            worst = max_abs_difference(answers, views, predict_logits(model.backbone, model.head, batches), place)
        else:
            cost = self._int8(scratch / NAMES["onnx"], place)
            worst = float(np.abs(run_all(onnx_file.answers(place), batches) - expected).max())
        size = sum(file.stat().st_size for file in ([place] if place.is_file() else place.iterdir()))
        return Exported(kind, folder / NAMES[kind], size, len(views), worst, note, cost)

    def _int8(self, source: Path, place: Path) -> int8.Cost:
        """Write the int8 form of the ONNX file, and measure on all test photos what it costs."""
        material, backbone = self.material, self.model.backbone
        scored = material.test or material.learnt
        seen = [photo.path for photo in spread(material.learnt, int8.CALIBRATED)]
        int8.write(source, place, photo_batches(backbone, seen, int8.BATCH))
        files = onnx_file.answers(source), onnx_file.answers(place)
        said = [
            (before(batch), after(batch))
            for before, after in [files]
            for batch in photo_batches(backbone, [photo.path for photo in scored])
        ]
        before, after = (np.concatenate(each).astype(np.float64) for each in zip(*said, strict=True))
        labels = np.array([photo.label for photo in scored])
        groups = [photo.group for photo in scored]
        cost = int8.cost(labels, before, after, groups, unseen=bool(material.test))
        onnx_file.set_metadata(place, {**self.told, "int8_cost": json.dumps(_known(asdict(cost)))})
        return cost


def _refuse_foreign(folder: Path, formats: Sequence[Format]) -> None:
    """Refuse to overwrite what no export wrote.

    Raises:
        RunError: It would.
    """
    taken = [folder / NAMES[each] for each in formats if (folder / NAMES[each]).exists()]
    if taken and not (folder / TABLE).exists():
        raise RunError("This is there already, and no export wrote it.", where=taken[0], mend="Take another --out.")


def _move(source: Path, target: Path) -> None:
    if source.is_file():
        source.replace(target)
        return
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        file.replace(target / file.name)


def _remember(folder: Path, done: Sequence[Exported], sha256: str) -> None:
    """Write what is in the folder, beside what earlier exports of the same model wrote."""
    rows: dict[str, Any] = {}
    try:
        old = json.loads((folder / TABLE).read_text("utf-8"))
        if old["run_sha256"] == sha256:
            rows = {name: row for name, row in old["files"].items() if (folder / row["file"]).exists()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    for each in done:
        row = {**asdict(each), "file": each.path.name}
        rows[each.format] = _known({name: value for name, value in row.items() if name not in ("path", "format")})
    told = {"schema": 1, "unfreeze": __version__, "run_sha256": sha256, "files": rows}
    write_text(folder / TABLE, json.dumps(told, indent=2) + "\n")


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is absent."""
    known = {name: value for name, value in fields.items() if value is not None}
    return {name: _known(value) if isinstance(value, dict) else value for name, value in known.items()}
