"""Files of settings: a user's own, and a run's ``args.toml``, whose paths hold in every working folder."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import tomli_w

from unfreeze.config import Common, in_present_names
from unfreeze.errors import ConfigError
from unfreeze.files import exists
from unfreeze.paths import user_path

SOURCES = ("photos", "reference", "model")  # settings that are, or may be, paths of what a run reads
RELATIVE = "relative_to_run"  # the table with the same paths seen from the run's folder, which may move with them
LOCAL = {"out", "cache", "cache_gib"}  # settings of one machine and one run, which no run folder has


def read_config(path: Path) -> dict[str, Any]:
    """Read settings from a TOML file, such as a run's ``args.toml``.

    A relative path starts at the working folder or, if there is nothing, at the file's folder.

    Raises:
        ConfigError: The file is unreadable, or no TOML, or has a setting under its former and its present name.
    """
    path = user_path(path)
    try:
        values = in_present_names(tomllib.loads(path.read_text("utf-8")))
    except (OSError, ValueError) as error:  # TOML's and Unicode's errors are ValueErrors
        raise ConfigError(f"The configuration can't be read: {error}", where=path) from error
    beside = values.pop(RELATIVE, None)
    for name in SOURCES:
        written = values.get(name)
        if isinstance(written, str):
            places = [written, beside[name]] if isinstance(beside, dict) and name in beside else [written]
            values[name] = next((found for place in places if (found := _find(place, path.parent))), written)
    return values


def photos_of(path: Path) -> Path | None:
    """Return the folder or table that a run was trained on, by its ``args.toml``; None where it isn't known."""
    try:
        photos = read_config(path).get("photos")
    except ConfigError:
        return None
    return Path(photos) if isinstance(photos, str) else None


def config_text(config: Common, folder: Path) -> str:
    """Return the settings as TOML, with which ``unfreeze train --config`` does the same from every working folder.

    Args:
        config: The settings.
        folder: The run's folder.
    """
    values = config.model_dump(mode="json", exclude_none=True, exclude=LOCAL)
    beside = {}
    for name in SOURCES:
        written = values.get(name)
        if written is not None and (name != "model" or exists(written)):
            values[name] = os.path.abspath(written)  # noqa: PTH100 (Path.absolute keeps "..")
            try:
                beside[name] = Path(os.path.relpath(written, folder)).as_posix()
            except ValueError:  # on another drive of Windows
                continue
    return tomli_w.dumps(values | ({RELATIVE: beside} if beside else {}))


def _find(written: object, folder: Path) -> str | None:
    """Return the path that exists: as it is written, or seen from ``folder``."""
    if not isinstance(written, str):
        return None
    return next((str(path) for path in (user_path(written), folder / written) if exists(path)), None)
