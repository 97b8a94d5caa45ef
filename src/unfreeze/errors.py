"""Errors that a user can cause or solve.

Each has a cause, a location (a file, flag or class) and a remedy.  The command line prints these three and nothing
else, and exits with 2; any other exception is a bug and exits with 1.
"""

from __future__ import annotations

import re
from pathlib import Path


class UnfreezeError(Exception):
    """A problem that the user can solve.

    Args:
        what: One sentence that names the cause.
        where: The file, folder or flag concerned, if any.
        mend: The next thing to do.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, mend: str | None = None) -> None:
        self.what = what
        self.where = where
        self.mend = mend
        lines = [what]
        if where is not None:
            lines.append(f"  where: {where}")
        if mend is not None:
            lines.append(f"  to do: {mend}")
        super().__init__("\n".join(lines))


class ConfigError(UnfreezeError):
    """A flag or a configuration file has an invalid value."""


class ArgumentError(UnfreezeError, TypeError):
    """An argument of a function isn't of a kind that it takes; ``where`` names the argument."""


class PhotosError(UnfreezeError):
    """A folder or table of images can't be used."""


class DecodeError(UnfreezeError):
    """An image can't be read; the run goes on without it where possible."""


class FormatError(DecodeError):
    """A file is no image, or not in an accepted format."""


class SizeError(DecodeError):
    """An image has more pixels than are accepted."""


class ModelError(UnfreezeError):
    """A backbone can't be built, or its weights can't be obtained."""


class RunError(UnfreezeError):
    """A run folder is missing, incomplete or of a later schema."""


class CacheError(UnfreezeError):
    """Activations can't be cached, or cached ones are no longer there."""


class MissingExtraError(UnfreezeError):
    """An optional package is needed and isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the optional package {package}, which is not installed.",
            mend=f'pip install "unfreeze[{extra}]"',
        )


def reason(error: BaseException) -> str:
    """Return the first line of the deepest cause of another package's error, without terminal colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
