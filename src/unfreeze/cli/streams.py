"""The standard streams of the command line, and the words of other packages that would reach them."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def settle_streams() -> None:
    """Make every print survive: closed streams lead nowhere, and characters that an encoding lacks are escaped.

    What is no terminal is written in UTF-8, unless PYTHONIOENCODING names another encoding: on Windows, files and pipes
    have one of few characters.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes this number, so that no file of ours gets another's words
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
    if not sys.stdout.isatty():
        for variable in (
            "FORCE_COLOR",
            "TTY_COMPATIBLE",
        ):  # no colours in a file, whatever the terminal beside it may do
            os.environ.pop(variable, None)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_free = not os.environ.get("PYTHONIOENCODING", "").partition(":")[0] and not stream.isatty()
            encoding = "utf-8" if is_free else stream.encoding
            with suppress(io.UnsupportedOperation, ValueError):
                stream.reconfigure(encoding=encoding, errors="backslashreplace")


def drop_output() -> None:
    """Let stdout lead nowhere: at exit Python flushes it again, which would raise again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def quiet_packages() -> Iterator[None]:
    """Keep other packages' warnings and log lines off the screen, unless -W or PYTHONWARNINGS asks for warnings.

    Filters stay as they are: what is made an error is raised.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    if sys.warnoptions:
        yield
        return
    show, disabled = warnings.showwarning, logging.root.manager.disable
    warnings.showwarning = _show_nothing
    logging.disable(max(disabled, logging.WARNING))
    try:
        yield
    finally:
        warnings.showwarning = show
        logging.disable(disabled)


def _show_nothing(*_: Any, **__: Any) -> None:
    pass
