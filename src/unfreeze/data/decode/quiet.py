"""The words that image libraries print for programmers, kept off the user's screen."""

from __future__ import annotations

import ctypes
import logging
from contextlib import suppress
from functools import lru_cache

from PIL import _imaging


@lru_cache(maxsize=1)
def silence_libraries() -> None:
    """Keep the libraries from printing; this program says in its own words what is wrong with a file.

    Their loggers' messages still reach handlers that a program has set up.
    """
    for name in ("PIL", "tifffile", "pydicom"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    # libtiff prints errors by itself.  Pillow has no setting for it; where the function isn't exported, they stay.
    with suppress(OSError, AttributeError):
        libraries = ctypes.CDLL(_imaging.__file__)
        for setter in (libraries.TIFFSetErrorHandler, libraries.TIFFSetWarningHandler):
            setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
            setter(None)
