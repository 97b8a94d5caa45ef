"""Folders for temporary files and other packages' caches, where the user's home or the system's folder can't be written."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from unfreeze.errors import ConfigError

MEMORY = Path("/dev/shm")  # a folder in memory, which Linux containers with a read-only disk still have


def prepare_folders(near: Path | None = None) -> None:
    """Name folders for this process where it has none; for users with a home folder and ``/tmp`` this does nothing.

    - Without a folder for temporary files, torch can't even be imported: ``TMPDIR`` becomes one near a folder of ours.
    - Without a home folder, other packages would make a folder called ``~`` in the working folder.
    - Where Matplotlib can't write its settings, it makes a folder and complains.

    The folders are removed when the process ends.

    Args:
        near: A folder that will be written anyway; it needn't be there yet.

    Raises:
        ConfigError: There is no folder for temporary files.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        os.environ["TMPDIR"] = str(_made_folder(near))
        tempfile.tempdir = None  # it is looked for anew
    home = os.path.expanduser("~")  # noqa: PTH111 (Path.expanduser raises without a home folder)
    if home == "~":
        for variable in ("HF_HOME", "TORCH_HOME"):
            if variable not in os.environ:
                os.environ[variable] = str(_made_folder(None))
    settings = Path(os.environ.get("XDG_CONFIG_HOME") or Path(home, ".config"), "matplotlib")
    if "MPLCONFIGDIR" not in os.environ and (home == "~" or not _can_be_written(settings)):
        os.environ["MPLCONFIGDIR"] = str(_made_folder(None))


def _made_folder(near: Path | None) -> Path:
    """Make a folder that is removed at the end: in the system's folder for temporary files, or else near ``near``."""
    for folder in (None, _nearest(near), MEMORY):
        try:
            made = Path(tempfile.mkdtemp(prefix="unfreeze-", dir=folder))
        except OSError:
            continue
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        return made
    raise ConfigError(
        "No folder for temporary files can be written.", where="TMPDIR", mend="Set TMPDIR to a folder that can be."
    )


def _can_be_written(folder: Path) -> bool:
    nearest = _nearest(folder)
    return nearest is not None and os.access(nearest, os.W_OK)


def _nearest(folder: Path | None) -> Path | None:
    """Return the folder, or the lowest folder above it, that exists."""
    if folder is None:
        return None
    absolute = folder.absolute()
    return next((above for above in (absolute, *absolute.parents) if os.path.isdir(above)), None)  # noqa: PTH112
