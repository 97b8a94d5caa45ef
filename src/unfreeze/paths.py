"""What is at a path.  pathlib's own questions raise where a path can't be looked up: a name too long, a closed folder."""

from __future__ import annotations

import os
from pathlib import Path


def exists(path: str | Path) -> bool:
    """Return whether anything is there; False too where it can't be looked up."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Return whether the path is a folder; likewise."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Return whether the path is a file; likewise."""
    return os.path.isfile(path)  # noqa: PTH113
