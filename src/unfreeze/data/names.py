"""Names of classes: bytes decide which are the same, and names that only look alike are listed."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise

from unfreeze.data.folders import display_name, quote_list

# In the order of how often archives have them.  Those of several bytes come first: fewer texts are valid in them.
_ENCODINGS = ("gb2312", "shift_jis", "euc_kr", "big5", "gbk", "cp866", "cp1251", "cp1252", "cp850", "cp1253")
_LAST_FREQUENT, _LAST_HANGUL, _ENOUGH_HANGUL = 0xD7, 0xC8, 4  # first bytes in gb2312 and euc_kr; letters
_SCRIPTS_OF_JAPANESE = {"CJK", "HIRAGANA", "KATAKANA"}


def name_classes(spelled: Iterable[tuple[str, str]]) -> tuple[dict[str, str], list[str]]:
    """Return the class name of each spelling, and sentences for the user about odd names.

    A class is named in NFC.  Spellings that differ only in their Unicode form are one class, unless one place has both:
    somebody keeps them apart there.

    Args:
        spelled: The place of each class (a side's folder, a table) and the name as it is spelled there.
    """
    places: dict[str, set[str]] = defaultdict(set)
    for place, raw in spelled:
        places[raw].add(place)
    forms: dict[str, list[str]] = defaultdict(list)
    for raw in sorted(places):
        forms[display_name(raw)].append(raw)
    named: dict[str, str] = {}
    notes = []
    for shown, raws in forms.items():
        apart = len(raws) > 1 and any(places[a] & places[b] for a in raws for b in raws if a < b)
        named |= {raw: raw if apart else shown for raw in raws}
        if len(raws) > 1 and not apart:
            notes.append(f"The class name {shown!r} is spelled in {len(raws)} Unicode forms; they count as one class.")
    return named, notes + _lookalike_notes(sorted(set(named.values()))) + _invalid_notes(sorted(places))


def likely_encodings(names: Sequence[bytes]) -> list[str]:
    """Return the encoding in which these bytes most probably are words, and another one if that is about as probable."""
    oddities = {encoding: _oddity(names, encoding) for encoding in _ENCODINGS}
    possible = {encoding: oddity for encoding, oddity in oddities.items() if oddity is not None}
    ranked = sorted(possible, key=possible.__getitem__)
    return [encoding for encoding in ranked[:2] if possible[encoding] <= possible[ranked[0]] + 1]


def _oddity(names: Sequence[bytes], encoding: str) -> int | None:
    """Return how odd the texts are in an encoding: mixed scripts and rare letters; None unless all of them are words."""
    try:
        texts = [name.decode(encoding) for name in names]
    except UnicodeDecodeError:
        return None
    foreign = [letter for text in texts for letter in text if not letter.isascii()]
    if not all(map(str.isprintable, texts)):
        return None
    if any(not letter.isalpha() or "HALFWIDTH" in unicodedata.name(letter, "") for letter in foreign):
        return None
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in foreign}
    oddity = 10 * (len(scripts) > 1 and not scripts <= _SCRIPTS_OF_JAPANESE)
    oddity += 5 * (scripts != {"LATIN"} and any(_has_ascii_letter(text) and not text.isascii() for text in texts))
    oddity += sum(letter in "ªºƒÿ" for letter in foreign)
    oddity += sum(before.islower() and after.isupper() for text in texts for before, after in pairwise(text))
    if encoding == "euc_kr":
        oddity += sum("HANGUL" not in unicodedata.name(letter, "") for letter in foreign)
    if encoding == "gb2312":
        # The less frequent half of its characters.  Korean texts stay in a part of the others.
        codes = [letter.encode(encoding)[0] for letter in foreign]
        oddity += sum(code > _LAST_FREQUENT for code in codes)
        oddity += len(codes) >= _ENOUGH_HANGUL and all(code <= _LAST_HANGUL for code in codes)
    return oddity


def _has_ascii_letter(text: str) -> bool:
    return any(letter.isascii() and letter.isalpha() for letter in text)


def _lookalike_notes(names: Sequence[str]) -> list[str]:
    by_fold: dict[str, list[str]] = defaultdict(list)
    for name in names:
        by_fold[_folded(name)].append(name)
    notes = []
    for alike in by_fold.values():
        if len(alike) > 1:
            only_case = len({name.casefold() for name in alike}) == 1
            shown = quote_list(alike) if only_case else ", ".join(map(ascii, alike))
            how = "differ only in case" if only_case else "look alike (Unicode forms, spaces or invisible signs)"
            notes.append(f"The classes {shown} {how} and are kept apart; give them one name if they are one.")
    return notes


def _folded(name: str) -> str:
    """Return what names that look alike have in common: no case, compatible forms, invisible signs or doubled spaces."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return " ".join("".join(letter for letter in text if unicodedata.category(letter) != "Cf").split())


def _invalid_notes(spelled: Sequence[str]) -> list[str]:
    invalid = [raw for raw in spelled if not _is_unicode(raw)]
    if not invalid:
        return []
    contents = list(map(os.fsencode, invalid))
    shown = ", ".join(f"'{display_name(raw)}'" for raw in invalid[:8])
    encodings = likely_encodings(contents)
    read = " or ".join(
        f"{encoding} ({quote_list(content.decode(encoding) for content in contents)})" for encoding in encodings
    )
    means = f" Probably they are in {read}: convmv -f {encodings[0]} -t utf8 renames the folders." if encodings else ""
    return [f"Class names that are no valid Unicode, each kept apart: {shown}.{means or ' Rename the folders.'}"]


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
