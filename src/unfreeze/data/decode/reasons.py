"""Why a file can't be decoded, in plain words: the libraries' own are for programmers."""

from __future__ import annotations

import re
import struct
import zlib

SAVE_ANEW = "Save it anew as JPEG or PNG, or remove it."
# What the libraries' words say, by a part of them.
_WORDS = (
    (r"truncat|unexpected end|ends? early|end of (file|data|stream)|not enough|less than expected|premature|"
     r"Expected to read|buffer of|too short", "it is truncated: the file ends before the image does"),
    (r"checksum|CRC|broken PNG|data stream|Error -\d|decoder error|codec|corrupt|damaged|out of range|invalid",
     "its content is damaged"),
    (r"Decompressed data too large|MAX_TEXT", "its text is of a suspicious size"),
)  # fmt: skip


class UnreadableError(Exception):
    """A file can't be decoded, for a reason in plain words.

    Args:
        reason: Completes the sentence "The photo can't be read: ...".
        mend: What to do.
    """

    def __init__(self, reason: str, mend: str = SAVE_ANEW) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mend = mend


def plain_reason(error: Exception) -> str:
    """Return a reason that completes the sentence "The photo can't be read: ..."."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, MemoryError):
        return "there is too little memory for it"
    if isinstance(error, (EOFError, struct.error)):
        return _WORDS[0][1]
    if isinstance(error, zlib.error):
        return "its content is damaged"
    for pattern, reason in _WORDS:
        if re.search(pattern, str(error), re.IGNORECASE):
            return reason
    return "it is damaged, or of a kind that isn't read here"
