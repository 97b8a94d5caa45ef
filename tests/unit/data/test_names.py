"""The encoding that names of other systems are in, and which spellings are one class."""

from __future__ import annotations

import pytest

from unfreeze.data.names import likely_encodings, name_classes


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp866", ["кот", "пес"]),
        ("cp866", ["Кот", "Собака"]),
        ("cp1251", ["кошка", "собака"]),
        ("cp1251", ["годные", "брак"]),
        ("gb2312", ["狗", "马", "羊"]),
        ("gb2312", ["正常", "缺陷"]),
        ("shift_jis", ["犬", "ネコ"]),
        ("euc_kr", ["개", "고양이"]),
        ("big5", ["正常", "異常"]),
        ("cp1252", ["Käfer", "Straße"]),
        ("cp850", ["Käfer", "Vögel"]),
        ("cp1253", ["σκύλος", "γάτα"]),
    ],
)
def test_the_likely_encoding(encoding: str, names: list[str]) -> None:
    assert likely_encodings([name.encode(encoding) for name in names])[0] == encoding


def test_bytes_that_are_words_in_no_encoding() -> None:
    assert likely_encodings([b"\xff\xfe\x01", b"\x81"]) == []


def test_spellings_are_one_class_unless_one_place_has_both() -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    named, notes = name_classes([("train", composed), ("test", decomposed)])
    assert set(named.values()) == {composed}
    assert "2 Unicode forms" in notes[0]
    named, notes = name_classes([("train", composed), ("train", decomposed)])
    assert named == {composed: composed, decomposed: decomposed}
    assert "kept apart" in notes[0]
    assert name_classes([("train", decomposed)]) == ({decomposed: composed}, [])


@pytest.mark.parametrize(
    "names", [("Cat", "cat"), ("fish", "\ufb01sh"), ("A", "\uff21"), ("a", "a\u200b"), ("x y", "x  y")]
)
def test_names_that_look_alike(names: tuple[str, str]) -> None:
    named, notes = name_classes([("", name) for name in names])
    assert len(set(named.values())) == 2
    assert "kept apart" in notes[0]
