"""Every failure that a user can cause or cure, as one small tree.

An error says what went wrong, where (which file, flag or class), and how to mend it.  The command line prints those three
and nothing else, and exits with 2; anything that is not an ``UnfreezeError`` is our own mistake and exits with 1.
"""

from __future__ import annotations

import re
from pathlib import Path


class UnfreezeError(Exception):
    """A problem that the user can solve.

    Args:
        what: One sentence that names the cause.
        where: The file, folder or flag it is about, where there is one.
        mend: What to do next.
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
    """A flag or a configuration file asks for something that can't be."""


class PhotosError(UnfreezeError):
    """The folder or table of photos can't be used as it is."""


class DecodeError(UnfreezeError):
    """One photo can't be read; the run goes on without it where that is possible."""


class FormatError(DecodeError):
    """It is no photo, or not in an accepted format."""


class SizeError(DecodeError):
    """It has more pixels than are accepted."""


class ModelError(UnfreezeError):
    """A backbone can't be built, or its weights can't be had."""


class RunError(UnfreezeError):
    """A run folder is missing, incomplete or of a later schema."""


class CacheError(UnfreezeError):
    """Activations can't be kept, or what was kept is no longer there."""


class MissingExtraError(UnfreezeError):
    """An optional package is needed for this and isn't installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the optional package {package}, which is not installed.",
            mend=f'pip install "unfreeze[{extra}]"',
        )


def reason(error: BaseException) -> str:
    """Return what another package's error comes down to: the first line of its deepest cause, without colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
