"""Trackers (TensorBoard, MLflow): a finished run, read from its folder alone, is written into one.

An extension is one entry in ``TRACKERS``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from unfreeze.config_file import read_config
from unfreeze.errors import MissingExtraError, RunError
from unfreeze.files import read_table
from unfreeze.runs.folder import RunFolder, open_run
from unfreeze.verdict import Verdict

Name = Literal["tensorboard", "mlflow"]
EXPERIMENT = "unfreeze"  # in MLflow, unless MLFLOW_EXPERIMENT_NAME is set


@dataclass(frozen=True)
class Record:
    """The values of a run that are written into a tracker.

    Attributes:
        name: Name of the run folder.
        settings: All settings of the run.
        figures: All numbers of the verdict by their path in ``verdict.json``, such as ``scores/shipped/accuracy``.
        epochs: Points (epoch, value) of each curve, by PHASE/FIGURE.
        sentences: The verdict for people.
    """

    name: str
    settings: dict[str, str]
    figures: dict[str, float]
    epochs: dict[str, list[tuple[int, float]]]
    sentences: str


def check_tracker(name: Name) -> None:
    """Refuse a tracker that can't be used, before anything is trained for it.

    Raises:
        MissingExtraError: The tracker isn't installed.
    """
    required = {"tensorboard": ["tensorboard"], "mlflow": ["mlflow"]}[name]
    if name == "mlflow" and "MLFLOW_TRACKING_URI" not in os.environ:
        required += ["sqlalchemy", "alembic"]  # MLflow's slim package can't open its local store, a database, alone
    for package in required:
        if find_spec(package) is None:
            raise MissingExtraError(package, name, f"Tracking in {name}")


def track_run(root: Path, name: Name) -> str:
    """Write a finished run into a tracker, and return its location there.

    Raises:
        RunError: There is no finished run in ``root``, or the tracker can't write it.
        MissingExtraError: The tracker isn't installed.
    """
    folder = open_run(root)
    check_tracker(name)
    record = read_record(folder)
    try:
        return TRACKERS[name](folder, record)
    except Exception as error:  # such as full disks and unreachable servers
        raise RunError(
            f"{name} can't write the run: {error}", where=root, mend=f"unfreeze track {root} --to {name} tries again."
        ) from error


def read_record(folder: RunFolder) -> Record:
    """Read the values of a run for a tracker.

    Raises:
        RunError: A file of the run is damaged.
    """
    verdict = Verdict.from_json(folder.verdict.read_text("utf-8"), str(folder.verdict))
    sections = verdict.model_dump(exclude_none=True, exclude={"schema_version", "trials", "versions"})
    settings = read_config(folder.args) if folder.args.exists() else {}
    header, rows = read_table(folder.history)
    epochs: dict[str, list[tuple[int, float]]] = {}
    for row in (dict(zip(header, cells, strict=True)) for cells in rows):
        for figure in header[2:]:
            if row[figure]:
                epochs.setdefault(f"{row['phase']}/{figure}", []).append((int(row["epoch"]), float(row[figure])))
    return Record(
        name=folder.root.resolve().name,
        settings={name: str(value) for name, value in settings.items()},
        figures=dict(_figures(sections)),
        epochs=epochs,
        sentences=" ".join(verdict.sentences()),
    )


def _figures(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _figures(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", float(value)
        elif name.endswith("_ci95"):
            yield from (
                (f"{prefix}{name}/{end}", float(bound)) for end, bound in zip(("low", "high"), value, strict=True)
            )


def _to_tensorboard(folder: RunFolder, record: Record) -> str:
    import numpy as np
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder.tensorboard, ignore_errors=True)  # events of an earlier tracking of this run
    with SummaryWriter(str(folder.tensorboard)) as writer:
        add: Any = writer
        for name, value in record.figures.items():
            add.add_scalar(name, value)
        for name, points in record.epochs.items():
            for epoch, value in points:
                add.add_scalar(name, value, epoch)
        add.add_text("verdict", record.sentences)
        add.add_text("settings", "\n".join(f"    {name} = {value}" for name, value in record.settings.items()))
        for plot in sorted(folder.plots.glob("*.png")):
            with Image.open(plot) as image:
                add.add_image(f"plots/{plot.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")
    return str(folder.tensorboard)


def _to_mlflow(folder: RunFolder, record: Record) -> str:
    # MLflow reads these on import; without them it reports every run to its makers.
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient()
    title = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    existing = client.get_experiment_by_name(title)
    experiment = existing.experiment_id if existing is not None else client.create_experiment(title)
    run = client.create_run(
        experiment, run_name=record.name, tags={"mlflow.note.content": record.sentences}
    ).info.run_id
    status = "FAILED"
    try:
        for name, text in record.settings.items():
            client.log_param(run, name, text)
        for name, value in record.figures.items():
            client.log_metric(run, _metric_name(name), value)
        for name, points in record.epochs.items():
            for epoch, value in points:
                client.log_metric(run, _metric_name(name), value, step=epoch)
        for file in (folder.args, folder.verdict, folder.report, folder.history):
            if file.exists():
                client.log_artifact(run, str(file))
        if folder.plots.is_dir():
            client.log_artifacts(run, str(folder.plots), folder.plots.name)
        status = "FINISHED"
    finally:
        client.set_terminated(run, status)
    return f"run {run} of the experiment {title} in {_without_password(client.tracking_uri)}"


def _without_password(address: str) -> str:
    """Return an address without the user name and password that may precede the host."""
    return re.sub(r"^([\w+]+://)[^/]*@", r"\1", address)


def _metric_name(name: str) -> str:
    """Return a metric's name without the characters that MLflow refuses."""
    return re.sub(r"[^\w. /:-]", "", name)


TRACKERS: dict[Name, Callable[[RunFolder, Record], str]] = {"tensorboard": _to_tensorboard, "mlflow": _to_mlflow}
