"""Types of the parameters that several commands have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, Token

from unfreeze.paths import user_path


def _to_path(_: type, tokens: Sequence[Token]) -> Path:
    return user_path(tokens[0].value)


UserPath = Annotated[Path, Parameter(converter=_to_path)]
"""A path in which ``~`` is the home folder, which shells leave to the program in ``--out=~/x``."""
