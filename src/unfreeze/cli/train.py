"""The commands that train: train, compare, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from unfreeze.cli.parameters import UserPath
from unfreeze.config import CompareSettings, Settings, TrainConfig, make_comparison, make_config
from unfreeze.config_file import read_config
from unfreeze.errors import ConfigError
from unfreeze.runs.folder import RunFolder
from unfreeze.screen import echo, tell

Tracker = Literal["tensorboard", "mlflow"]
DEFAULTS = Settings()
COMPARE_DEFAULTS = CompareSettings()


def train(
    photos: UserPath | None = None,
    /,
    *,
    config: UserPath | None = None,
    track: Tracker | None = None,
    settings: Annotated[Settings, Parameter(name="*")] = DEFAULTS,
) -> None:
    """Train on a folder of labelled photos, and print the verdict.

    Args:
        photos: Folders PHOTOS/CLASS or PHOTOS/{train,val,test}/CLASS, or a CSV or Parquet table (file_name, label).
        config: A TOML file with any of these settings, such as a run's args.toml; flags override it.
        track: Also write the finished run into this tracker: tensorboard in its folder, or MLFLOW_TRACKING_URI.
    """
    values = read_config(config) if config is not None else {}
    values |= settings.model_dump(include=settings.model_fields_set)
    if photos is not None:
        values["photos"] = photos
    if "photos" not in values:
        raise ConfigError("Which photos?", where="PHOTOS", mend="unfreeze train PHOTOS")
    validated = make_config(values)

    if track is not None:
        from unfreeze.runs.trackers import check_tracker

        check_tracker(track)
    _train(validated, next_photos="PHOTO...", tracker=track)


def compare(
    photos: UserPath,
    /,
    *,
    settings: Annotated[CompareSettings, Parameter(name="*")] = COMPARE_DEFAULTS,
) -> None:
    """Train head-only, two-phase and common recipes on the same photos, and print one table.

    Args:
        photos: As for train. The test photos are the same for all recipes.
    """
    from unfreeze.compare.arms import compare as run

    values = settings.model_dump(include=settings.model_fields_set) | {"photos": photos}
    comparison = run(make_comparison(values))
    tell(*comparison.table())
    tell(f"rows     {comparison.folder.rows}")
    tell(f"plot     {comparison.folder.plot}")


def demo() -> None:
    """Draw photos of metal surfaces with defects into demo/photos, and train on them."""
    from unfreeze.demo import draw_photos

    photos = Path("demo", "photos")
    echo(f"{photos} holds photos of metal surfaces that this program drew: they are not real")
    draw_photos(photos)
    _train(make_config({"photos": photos}), next_photos=str(photos / "scratch"))


def _train(config: TrainConfig, next_photos: str, tracker: Tracker | None = None) -> None:
    from unfreeze.pipeline import run
    from unfreeze.runs.summary import summary

    finished = run(config)
    folder = finished.folder
    report = _report(folder)
    address = _track(folder, tracker) if tracker is not None else None
    tell(*summary(finished.verdict))  # last: nobody may read it
    tell(f"run      {folder.root}")
    tell(f"verdict  {folder.verdict}")
    tell(f"model    {folder.model}")
    if report is not None:
        tell(f"report   {report}")
    if address is not None:
        tell(f"tracked  {address}")
    tell(f"next     unfreeze predict {folder.root} {next_photos}")


def _report(folder: RunFolder) -> Path | None:
    """Write the report and return its path; an error is shown but does not fail the finished run."""
    try:
        from unfreeze.report import write_report

        return write_report(folder)
    except Exception as error:
        echo(f"the report can't be written: {error}\n`unfreeze report {folder.root}` tries again")
        return None


def _track(folder: RunFolder, tracker: Tracker) -> str | None:
    """Write the run into a tracker and return its address; an error is shown but does not fail the finished run."""
    try:
        from unfreeze.runs.trackers import track_run

        return track_run(folder.root, tracker)
    except Exception as error:
        echo(f"the run is finished, but not tracked: {error}")
        return None
