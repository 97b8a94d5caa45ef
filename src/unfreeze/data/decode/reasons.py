"""Why a file can't be decoded, in plain words: the libraries' own are for programmers."""

from __future__ import annotations

import re
import struct
import zlib

SAVE_ANEW = "Save it anew as JPEG or PNG, or remove it."
TRUNCATED, DAMAGED = "it is truncated", "its content is damaged"
UNKNOWN = "it is damaged, or of a kind that isn't read here"
# What the libraries' words say, by a part of them; what isn't listed is ``UNKNOWN``.
_WORDS = {
    TRUNCATED: r"truncat|unexpected end|end of (file|data|stream)|not enough|less than expected|premature|Expected to read|"
    r"buffer of|too short",
    DAMAGED: r"checksum|CRC|broken|data stream|corrupt|damaged|out of range|invalid",
    "its text is of a suspicious size": r"MAX_TEXT",
}


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
        return TRUNCATED
    if isinstance(error, zlib.error):
        return DAMAGED
    found = (reason for reason, words in _WORDS.items() if re.search(words, str(error), re.IGNORECASE))
    return next(found, UNKNOWN)


def mend_of(error: Exception) -> str:
    """Return what to do about a file that can't be read: one that can't be opened can't be saved anew."""
    if isinstance(error, FileNotFoundError):
        return "Check its path: it may have been moved or renamed."
    if isinstance(error, PermissionError):
        return "Change who may read it, or leave it out."
    return SAVE_ANEW
