"""Paths as people write them: ``~`` is the home folder wherever a path is given, also where no shell replaces it."""

from __future__ import annotations

import os
from pathlib import Path

from unfreeze.errors import ConfigError


def user_path(path: str | Path) -> Path:
    """Return the path with ``~`` or ``~NAME`` at its start replaced by the home folder.

    Shells leave ``--out=~/x`` as it is, and Python and configuration files know no ``~``.  A file called ``~`` is meant by
    ``./~``; a name that is no user's, such as ``~draft.jpg``, stays.

    Raises:
        ConfigError: There is no home folder.
    """
    expanded = Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser refuses unknown users)
    if expanded.parts[:1] == ("~",) and not str(path).startswith("~"):  # ./~, which pathlib spells ~
        return Path.cwd() / expanded
    if expanded.parts[:1] == ("~",):
        raise ConfigError("~ has no meaning here: there is no home folder.", where=path, mend="Write the whole path.")
    return expanded


def user_model(model: str) -> str:
    """Return the name of a model, or the path of a checkpoint with the home folder in place of ``~``."""
    return str(user_path(model)) if model.startswith("~") else model


def model_text(model: object) -> object:
    """Return the path of a checkpoint as text, as Python programs have a ``Path``; anything else stays."""
    return os.fspath(model) if isinstance(model, os.PathLike) else model
