"""Which photos a place stands for."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest

from unfreeze.data.places import expand_globs, find_photos, iter_photos, read_path_list
from unfreeze.errors import PhotosError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*places: str) -> list[str]:
    return [path.as_posix() for path in find_photos(places)]


def test_files_whatever_their_suffix_and_photos_below_folders_each_once(here: Path) -> None:
    put("in/b.png", "in/a/c.jpg", "in/notes.txt", "one.bin")
    assert found("one.bin", "in", "in/b.png") == ["one.bin", "in/b.png", "in/a/c.jpg"]
    assert found(str(here / "in")) == [f"{here}/in/b.png", f"{here}/in/a/c.jpg"]


def test_a_place_that_is_not_there_or_holds_no_photo_is_named(here: Path) -> None:
    with pytest.raises(PhotosError, match="no such file") as caught:
        find_photos(["gone"])
    assert str(caught.value.where) == "gone"
    Path("empty").mkdir()
    with pytest.raises(PhotosError, match="No photo was found"):
        find_photos(["empty"])


def test_patterns_match_as_a_shell_has_them(here: Path) -> None:
    put("p/2.jpg", "p/1.jpg", "p/10.png", "p/.hidden.jpg", "p/deep/er/3.jpg", "p/.git/4.jpg")
    assert found("p/*.jpg") == ["p/1.jpg", "p/2.jpg"]
    assert found("p/?.jpg", "p/1*") == ["p/1.jpg", "p/2.jpg", "p/10.png"]
    assert found("p/[!1].jpg") == ["p/2.jpg"]
    assert found("p/**/*.jpg") == ["p/1.jpg", "p/2.jpg", "p/deep/er/3.jpg"]
    assert found("**/3.jpg") == ["p/deep/er/3.jpg"]
    assert found("p/*/er") == ["p/deep/er/3.jpg"]
    assert found("p/.git/*.jpg") == ["p/.git/4.jpg"]
    assert found("p/../p/2*") == ["p/../p/2.jpg"]
    assert found(f"{here}/p/1*") == [f"{here}/p/1.jpg", f"{here}/p/10.png"]
    assert sorted(found("p/**")) == ["p/1.jpg", "p/10.png", "p/2.jpg", "p/deep/er/3.jpg"]


@pytest.mark.parametrize("pattern", ["p/*.png", "q/*.jpg", "p/[ab].jpg", "**/*.png"])
def test_a_pattern_that_matches_nothing_is_named(here: Path, pattern: str) -> None:
    put("p/1.jpg")
    with pytest.raises(PhotosError, match="Nothing matches") as caught:
        expand_globs(["p/1.jpg", pattern])
    assert str(caught.value.where) == pattern


def test_a_name_that_is_there_is_no_pattern(here: Path) -> None:
    put("p/a[1].jpg", "p/a1.jpg", "d[2]/b.jpg", "d2/b.jpg")
    assert found("p/a[1].jpg") == ["p/a[1].jpg"]
    assert found("d[2]") == ["d[2]/b.jpg"]
    assert found("d[2]/*.jpg") == ["d[2]/b.jpg"]
    Path("p/a[1].jpg").unlink()
    assert found("p/a[1].jpg") == ["p/a1.jpg"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_that_lead_back_end(here: Path) -> None:
    put("p/1.jpg", "p/q/2.jpg")
    for name in ("back", "again"):
        Path("p", name).symlink_to(here / "p", target_is_directory=True)
    assert found("p/**/*.jpg") == ["p/1.jpg", "p/q/2.jpg"]
    assert found("p") == ["p/1.jpg", "p/q/2.jpg"]


def test_folders_are_listed_one_at_a_time(here: Path) -> None:
    put("p/a/1.jpg", "p/b/2.jpg")
    photos = iter_photos(expand_globs(["p"]))
    assert next(photos).name == "1.jpg"
    put("p/b/3.jpg")
    assert [photo.name for photo in photos] == ["2.jpg", "3.jpg"]


@pytest.mark.parametrize("null", [False, True])
def test_a_list_holds_files_and_folders_as_they_are_called(here: Path, null: bool) -> None:
    put("a[1].jpg", "d/x.png", "d/y.png", " spaced .jpg")
    names = ["a[1].jpg", "d", "*.jpg", "", " spaced .jpg", "a[1].jpg", "gone.jpg"]
    end = "\0" if null else "\n"
    expected = ["a[1].jpg", "d/x.png", "d/y.png", "*.jpg", " spaced .jpg", "a[1].jpg", "gone.jpg"]
    for text in (end.join(names), end.join(names) + end):
        assert [path.as_posix() for path in read_path_list(io.BytesIO(text.encode()), null=null)] == expected


def test_a_list_from_windows_has_no_carriage_returns(here: Path) -> None:
    assert list(read_path_list(io.BytesIO(b"a.jpg\r\nb.jpg\r\n"))) == [Path("a.jpg"), Path("b.jpg")]
    assert list(read_path_list(io.BytesIO(b"a\n.jpg\0b.jpg\r\0"), null=True)) == [Path("a\n.jpg"), Path("b.jpg\r")]


@pytest.mark.skipif(sys.platform != "linux", reason="names are any bytes there alone")
def test_a_list_may_hold_names_that_are_no_unicode(here: Path) -> None:
    assert list(read_path_list(io.BytesIO(b"\xff.jpg\n"))) == [Path(os.fsdecode(b"\xff.jpg"))]


def test_a_list_is_read_as_it_comes(here: Path) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", 0) as pipe:
        pipe.write(b"a.jpg\nb.")
        photos = read_path_list(stream)
        assert next(photos) == Path("a.jpg")
        pipe.write(b"jpg\n")
        assert next(photos) == Path("b.jpg")
        pipe.close()
        assert list(photos) == []
