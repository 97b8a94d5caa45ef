from __future__ import annotations

from pathlib import Path

from unfreeze.files import exists, is_file, is_folder


def test_what_is_there_is_told_apart(tmp_path: Path) -> None:
    file, gone = tmp_path / "file", tmp_path / "gone"
    file.write_text("")
    assert [exists(path) for path in (tmp_path, file, gone)] == [True, True, False]
    assert [is_folder(path) for path in (tmp_path, file, gone)] == [True, False, False]
    assert [is_file(path) for path in (tmp_path, file, gone)] == [False, True, False]


def test_a_name_that_is_too_long_is_not_there(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 5000)
    assert not exists(long)
    assert not is_folder(long)
    assert not is_file(long)
