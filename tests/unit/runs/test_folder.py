from __future__ import annotations

import csv
import errno
import os
from pathlib import Path
from typing import Any

import pytest

from unfreeze.errors import ArgumentError, RunError
from unfreeze.files import Cell, read_table, write_bytes, write_table, write_text
from unfreeze.runs.folder import RunFolder, new_run, open_run


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_runs_are_numbered_and_never_overwritten(here: Path) -> None:
    folders = []
    for number in range(3):
        folder = new_run(None)
        write_text(folder.verdict, str(number))
        folders.append(folder)
    assert [str(folder.root) for folder in folders] == [
        str(Path("runs") / name) for name in ("train", "train2", "train3")
    ]
    assert [folder.verdict.read_text() for folder in folders] == ["0", "1", "2"]


def test_an_empty_run_folder_is_not_taken_twice(here: Path) -> None:
    assert new_run(None).root != new_run(None).root


def test_latest_points_at_the_newest(here: Path) -> None:
    for number in range(3):
        folder = new_run(None)
        write_text(folder.verdict, str(number))
        assert (here / "runs" / "latest" / "verdict.json").read_text() == str(number)
    assert sorted(path.name for path in (here / "runs").iterdir()) == ["latest", "train", "train2", "train3"]


def test_a_deleted_run_frees_its_name_alone(here: Path) -> None:
    for _ in range(3):
        new_run(None)
    (here / "runs" / "train2").rmdir()
    assert new_run(None).root.name == "train2"


def test_a_named_folder_is_made_with_its_parents(tmp_path: Path) -> None:
    folder = new_run(tmp_path / "a" / "b")
    assert folder.root.is_dir()
    assert new_run(tmp_path / "a" / "b").root == folder.root  # still empty


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(RunError, match=r"not empty(?s:.*)--out"):
        new_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_that_cant_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunError, match="can't be made"):
            new_run(place)


def test_opening_a_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        open_run(tmp_path / "gone")
    with pytest.raises(RunError, match=r"never finished(?s:.*)Train again"):
        open_run(tmp_path)
    (tmp_path / "verdict.json").write_text("{}")
    assert open_run(tmp_path) == RunFolder(tmp_path)


def test_file_names_in_a_run_are_distinct(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    places = [getattr(folder, name) for name in vars(RunFolder) if isinstance(getattr(RunFolder, name), property)]
    assert len(set(places)) == len(places) >= 10
    assert all(place.is_relative_to(tmp_path) for place in places)
    assert folder.weights.parent == folder.model_config.parent == folder.model_card.parent == folder.model


def test_a_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "verdict.json"
    write_text(path, "a long first version, Grüße")
    write_text(path, "second\n")
    assert path.read_bytes() == b"second\n"
    assert os.listdir(path.parent) == ["verdict.json"]  # noqa: PTH208


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "verdict.json"
    write_text(path, "old")
    monkeypatch.setattr(os if failing == "fsync" else Path, failing, full)
    with pytest.raises(RunError, match=r"No space left(?s:.*)verdict.json(?s:.*)Make room"):
        write_bytes(path, b"new" * 1000)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["verdict.json"]


def test_readers_see_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    sync = os.fsync

    def look(handle: int) -> None:
        seen.append(path.read_text())
        sync(handle)

    path = tmp_path / "history.csv"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", look)
    write_text(path, "new")
    assert seen == ["old"]
    assert path.read_text() == "new"


def test_a_file_in_the_way_of_a_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("")
    with pytest.raises(RunError, match="can't be written"):
        write_text(RunFolder(tmp_path).model_config, "{}")


def test_tables_keep_every_cell(tmp_path: Path) -> None:
    rows: list[list[Cell]] = [["a,b.jpg", 'say "hi"', "two\nlines", "Übung", 1, 0.25, None, -3.5]]
    write_table(tmp_path / "t.csv", ["1", "2", "3", "4", "5", "6", "7", "8"], rows)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.reader(file))
    assert read[1] == ["a,b.jpg", 'say "hi"', "two\nlines", "Übung", "1", "0.25", "", "-3.5"]


@pytest.mark.parametrize("first", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_that_a_spreadsheet_would_run_are_made_inert(tmp_path: Path, first: str) -> None:
    cell = f'{first}HYPERLINK("http://x")'
    write_table(tmp_path / "t.csv", [cell], [[cell], [f"safe{cell}"]])
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        assert [row[0] for row in csv.reader(file)] == [f"'{cell}", f"'{cell}", f"safe{cell}"]


def test_a_table_is_read_as_it_was_before_it_was_written(tmp_path: Path) -> None:
    header, rows = ["file_name", "=a"], [["=cmd", "two\nlines, and more"], ["-1", "'quoted'"], ["@x", ""]]
    write_table(tmp_path / "t.csv", header, rows)
    assert read_table(tmp_path / "t.csv") == (header, rows)
    assert read_table(tmp_path / "gone.csv") == ([], [])


@pytest.mark.parametrize("content", [b"a,b\n1\n", b"a\n\xff\n"])
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(RunError, match=r"t\.csv"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("wrong", [None, 3, ["runs/train"], b"runs/train", {}])
def test_what_is_no_path_is_no_run_folder(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match=r"folder is no path(?s:.*)where: folder"):
        open_run(wrong)


@pytest.mark.parametrize("name", ["verdict.json", "model", "report.html", "model/config.json"])
def test_a_part_of_a_run_names_its_folder(tmp_path: Path, name: str) -> None:
    folder = RunFolder(tmp_path / "run")
    for path in (folder.verdict, folder.model_config, folder.report):
        write_text(path, "")
    with pytest.raises(RunError, match=r"part of a run(?s:.*)to do: Name .*run\."):
        open_run(folder.root / name)


def test_a_file_in_place_of_a_folder_is_told_without_the_temporary_name(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(RunError, match=r"can't be written: \w[\w ]+\.\n") as caught:
        write_text(tmp_path / "out", "")
    assert ".out." not in str(caught.value)
