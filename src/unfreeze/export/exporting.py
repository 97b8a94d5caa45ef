"""Export a run: write each file, compare its outputs on real images in its own runtime, then move it into place."""

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
from unfreeze.export.parity_images import ParityImages, evenly_spaced, find_parity_images
from unfreeze.files import write_text
from unfreeze.models.saved import Classifier, load_model
from unfreeze.paths import user_path
from unfreeze.predict import Probabilities, photo_batches, predict_logits, probabilities
from unfreeze.runs.run import Run
from unfreeze.version import __version__
from unfreeze.views import framings_of

Format = Literal["onnx", "torchscript", "safetensors", "int8"]
FILE_NAMES: dict[Format, str] = {
    "onnx": "model.onnx",
    "torchscript": "model.pt",
    "safetensors": "model",
    "int8": "model.int8.onnx",
}
INDEX = "export.json"


@dataclass(frozen=True)
class Exported:
    """An exported file whose outputs match the run's.

    Attributes:
        format: Format of the file.
        path: The file; for safetensors, the folder.
        size: Size in bytes.
        photos: Number of images on which outputs were compared.
        difference: Largest difference from the run's probabilities; for safetensors, from the logits of plain views.
        note: A note for the user.
        cost: The change in accuracy; int8 only.
    """

    format: Format
    path: Path
    size: int
    photos: int
    difference: float
    note: str | None = None
    cost: int8.Cost | None = None

    def lines(self) -> list[str]:
        """Return the lines that the terminal shows."""
        compared = f"largest difference {self.difference:.1g} on {self.photos} photos"
        line = f"{self.format:12} {self.path}  {self.size / 2**20:.1f} MiB  {compared}"
        return [line, *([self.note] if self.note else []), *([self.cost.sentence()] if self.cost else [])]


def export(
    run: Run, formats: Sequence[Format] = ("onnx",), *, photos: str | Path | None = None, out: str | Path | None = None
) -> list[Exported]:
    """Export a run's model for other runtimes; a file whose outputs on real images differ from the run's is removed.

    Args:
        run: A finished run.
        formats: ``onnx``: one file for ONNX Runtime and others.  ``torchscript``: one file for torch without our code.
            ``safetensors``: a folder in timm's and the model hubs' format.  ``int8``: the ONNX file in 8-bit integers,
            a third of the size, with its change in accuracy; includes ``onnx``.  On a CPU without instructions for them
            (VNNI) it is slower.
        photos: Present folder of the run's images, or one of similar images; None: the folder that it was trained on.
        out: The folder to write to; None: ``export`` in the run's folder.

    Returns:
        One entry per format.

    Raises:
        ConfigError: There is no such format.
        MissingExtraError: The packages for a format are not installed.
        ModelError: The network can't be exported, or the answers differ.
        PhotosError: There are no photos to compare on.
        RunError: The folder can't be written, or has files that no export wrote.
    """
    unknown = [name for name in formats if name not in FILE_NAMES]
    if unknown:
        mend = "It can be: " + ", ".join(FILE_NAMES)
        raise ConfigError(f"There is no format called {unknown[0]!r}.", where="formats", mend=mend)
    requested: list[Format] = [name for name in FILE_NAMES if name in formats or (name == "onnx" and "int8" in formats)]
    if "onnx" in requested:
        onnx_file.require()
    folder = user_path(out) if out is not None else run.folder.export
    _refuse_foreign(folder, requested)
    model = load_model(run.folder.model, torch.device("cpu"), run.classes)
    images = find_parity_images(run, user_path(photos) if photos is not None else None)
    if "int8" in requested and not images.train_and_val:
        raise PhotosError(
            "int8 is fitted on training photos and measured on test photos, and the run's are not where they were.",
            where="--int8",
            mend="Say with --photos where they are now.",
        )
    framings = framings_of(model.views)
    framed = torch.cat(list(photo_batches(model.backbone, images.to_compare(), framings=framings)))
    sha256 = hashlib.sha256(run.folder.weights.read_bytes()).hexdigest()
    expected = probabilities(model.backbone, model.head, torch.split(framed, BATCH), views=model.views)
    exporter = _Exporter(run, model, images, framed, expected, metadata(model, sha256))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            exported = [exporter.write(name, Path(scratch), folder) for name in requested]
            for file in exported:
                _move(Path(scratch, FILE_NAMES[file.format]), file.path)
        _write_index(folder, exported, sha256)
    except OSError as error:
        raise RunError(f"The file can't be written: {error}", where=folder, mend="Take another --out.") from error
    return exported


@dataclass(frozen=True)
class _Exporter:
    """Writes one format at a time; ``expected`` are the run's probabilities (N, C) of ``framed`` images."""

    run: Run
    model: Classifier
    images: ParityImages
    framed: Tensor
    expected: Probabilities
    metadata: dict[str, str]

    def write(self, name: Format, scratch: Path, folder: Path) -> Exported:
        """Write one format into ``scratch`` and compare its outputs; ``folder`` is where it will be moved."""
        path, model, framed, expected = scratch / FILE_NAMES[name], self.model, self.framed, self.expected
        cost, note = None, None
        if name == "onnx":
            onnx_file.write(model, path, self.metadata)
            difference = max_abs_difference(onnx_file.load_predict_fn(path), framed, expected, path)
        elif name == "torchscript":
            torchscript_file.write(model, path, self.metadata)
            difference = max_abs_difference(torchscript_file.load_predict_fn(path), framed, expected, path)
        elif name == "safetensors":
            hub_folder.write(self.run.folder, path)
            predict, note = hub_folder.load_predict_fn(model, path)
            plain = torch.cat(list(photo_batches(model.backbone, self.images.to_compare())))
            logits = predict_logits(model.backbone, model.head, torch.split(plain, BATCH))
            difference = max_abs_difference(predict, plain, logits, path)
        else:
            cost = self._write_int8(scratch / FILE_NAMES["onnx"], path)
            difference = float(
                np.abs(run_all(onnx_file.load_predict_fn(path), torch.split(framed, BATCH)) - expected).max()
            )
        size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.iterdir()))
        return Exported(name, folder / FILE_NAMES[name], size, len(framed), difference, note, cost)

    def _write_int8(self, source: Path, path: Path) -> int8.Cost:
        """Write the int8 form of the ONNX file, and measure its change in accuracy on all test images."""
        images, backbone, framings = self.images, self.model.backbone, framings_of(self.model.views)
        scored = images.test or images.train_and_val
        calibration = [photo.path for photo in evenly_spaced(images.train_and_val, int8.N_CALIBRATION)]
        int8.write(source, path, photo_batches(backbone, calibration, int8.BATCH, framings))
        predict_float32, predict_int8 = onnx_file.load_predict_fn(source), onnx_file.load_predict_fn(path)
        outputs = [
            (predict_float32(batch), predict_int8(batch))
            for batch in photo_batches(backbone, [photo.path for photo in scored], framings=framings)
        ]
        before, after = (np.concatenate(batches).astype(np.float64) for batches in zip(*outputs, strict=True))
        labels = np.array([photo.label for photo in scored])
        groups = [photo.group for photo in scored]
        cost = int8.cost(labels, before, after, groups, unseen=bool(images.test))
        onnx_file.set_metadata(path, {**self.metadata, "int8_cost": json.dumps(_without_none(asdict(cost)))})
        return cost


def _refuse_foreign(folder: Path, formats: Sequence[Format]) -> None:
    """Refuse to overwrite files that no export wrote.

    Raises:
        RunError: There are such files.
    """
    existing = [folder / FILE_NAMES[name] for name in formats if (folder / FILE_NAMES[name]).exists()]
    if existing and not (folder / INDEX).exists():
        raise RunError("This is there already, and no export wrote it.", where=existing[0], mend="Take another --out.")


def _move(source: Path, target: Path) -> None:
    if source.is_file():
        source.replace(target)
        return
    target.mkdir(exist_ok=True)
    for file in source.iterdir():
        file.replace(target / file.name)


def _write_index(folder: Path, exported: Sequence[Exported], sha256: str) -> None:
    """Write the index of the folder's files; entries of earlier exports of the same weights are kept."""
    rows: dict[str, Any] = {}
    try:
        old = json.loads((folder / INDEX).read_text("utf-8"))
        if old["run_sha256"] == sha256:
            rows = {name: row for name, row in old["files"].items() if (folder / row["file"]).exists()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        pass
    for file in exported:
        row = {**asdict(file), "file": file.path.name}
        rows[file.format] = _without_none(
            {name: value for name, value in row.items() if name not in ("path", "format")}
        )
    index = {"schema": 1, "unfreeze": __version__, "run_sha256": sha256, "files": rows}
    write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are not None, also of nested dictionaries."""
    known = {name: value for name, value in fields.items() if value is not None}
    return {name: _without_none(value) if isinstance(value, dict) else value for name, value in known.items()}
