"""Text for a terminal, a pipe or a file: printable in every encoding, and without commands to the terminal."""

from __future__ import annotations

import sys

_LINE_ENDS = {ord("\n"), ord("\t")}
_CONTROL = (*range(32), *range(127, 160))
# Characters that reorder the text around them or end a line elsewhere: names with them look like others.
_REORDERING = (0x061C, 0x200E, 0x200F, 0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_NAME = {code: f"\\x{code:02x}" for code in _CONTROL} | {code: f"\\u{code:04x}" for code in _REORDERING}
_TEXT = {code: escape for code, escape in _NAME.items() if code not in _LINE_ENDS}
_JSON = {code: f"\\u{code:04x}" for code in (*range(127, 160), *_REORDERING)}


def inert(text: str) -> str:
    """Return a message with escaped control characters, which could command the terminal; its lines stay lines."""
    return text.translate(_TEXT)


def inert_name(name: str) -> str:
    """Return a name with escaped control characters, line ends included."""
    return name.translate(_NAME)


def inert_json(text: str, encoding: str | None) -> str:
    """Return JSON that reads as the same values, in characters that ``encoding`` has and no terminal obeys."""
    text = text.translate(_JSON)
    if (encoding or "utf-8").lower().replace("-", "").replace("_", "").startswith("utf"):
        return text
    units = text.encode("utf-16-be", "surrogatepass")  # JSON escapes characters beyond 16 bits as two
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)


def tell(*lines: str) -> None:
    """Print results to stdout."""
    for line in lines:
        print(inert(line))


def echo(message: str) -> None:
    """Print a message for the user to stderr; stdout is for results.

    It is lost where nobody reads stderr any more (a closed pipe, a terminal that is gone), which ends no run.
    """
    try:
        if sys.stderr is not None:  # closed; ``print`` would take stdout instead
            print(inert(message), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass


def is_terminal() -> bool:
    """Tell whether messages are read on a terminal; FORCE_COLOR and the like make none of a file."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # closed
        return False
