"""Names of the training, validation and test side of an image set, as folders and tables have them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Literal

from unfreeze.errors import ConfigError

Split = Literal["train", "val", "test"]
Sides = Mapping[str, Split]
"""The user's own names of sides, in lower case."""

_WORDS: dict[str, Split] = {
    "train": "train", "training": "train", "trainval": "train", "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test", "holdout": "test",
}  # fmt: skip
PLAIN_NAMES = frozenset({"train", "val", "valid", "validation", "test"})
"""Names that need no explanation."""

_FILLERS = "sets?|data|dataset|images?|imgs?|photos?|pictures?|pics?|samples?|examples?|split|folder|part|seg|cls"
_NAME = re.compile(rf"(?:{_FILLERS}|\d)*?({'|'.join(_WORDS)})(?:{_FILLERS}|\d)*")
_FILLER = re.compile(rf"(?:{_FILLERS}|\d)+")
_MEND = "Write --sides train=FOLDER,test=FOLDER, or --sides none where every folder is a class."


def side(name: str) -> Split | None:
    """Return the side that a name means by itself, in any case, with numbers or words like "set": Training, test_set."""
    match = _NAME.fullmatch(re.sub(r"^[a-z][.)]|[\W_]+", "", name.lower()))
    return _WORDS[match[1]] if match else None


def is_filler(name: str) -> bool:
    """Return whether a name only wraps others, such as "images" or "data"."""
    return _FILLER.fullmatch(re.sub(r"[\W_]+", "", name.lower())) is not None


def find_sides(names: Iterable[str], given: Sides | None = None) -> dict[str, Split]:
    """Return the names that mean a side: those that the user gave, or those that ``side`` knows.

    Names with a common further part, such as flowers_train and flowers_test, mean sides where more than one does.
    """
    names = list(names)
    if given is not None:
        return {name: given[name.lower()] for name in names if name.lower() in given}
    found = {name: split for name in names if (split := side(name)) is not None}
    by_rest: dict[tuple[str, ...], dict[str, Split]] = defaultdict(dict)
    for name in names:
        words = [word.lower() for word in re.split(r"[\W_\d]+|(?<=[a-z])(?=[A-Z])", name) if word]
        splits = [split for word in words if (split := side(word)) is not None]
        if name not in found and len(splits) == 1:
            by_rest[tuple(word for word in words if side(word) is None and not is_filler(word))][name] = splits[0]
    for alike in by_rest.values():
        if len(set(alike.values())) > 1 and "train" in alike.values():
            found |= alike
    return found


def parse_sides(text: str | None) -> Sides | None:
    """Read ``train=Training,test=Testing``, or ``none`` for no sides at all; None: by the names.

    Raises:
        ConfigError: The text has another form, or names no training side.
    """
    if text is None:
        return None
    if text.strip().lower() == "none":
        return {}
    given: dict[str, Split] = {}
    for part in text.split(","):
        word, equals, name = part.partition("=")
        split = side(word.strip())
        if split is None or not equals or not name.strip():
            raise ConfigError(f"{part.strip()!r} names no side and its folder.", where="--sides", mend=_MEND)
        if given.setdefault(name.strip().strip("/").lower(), split) != split:
            raise ConfigError(f"{name.strip()!r} can't be on two sides.", where="--sides", mend=_MEND)
    return given
