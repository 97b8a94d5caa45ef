import os
import sys
from pathlib import Path

import pytest
from PIL import Image

from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.errors import MissingExtraError, PhotosError


def put(root: Path, *names: str) -> Path:
    """Write a small photo under each name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / name, format="PNG")
    return root


def table(root: Path, text: str, name: str = "photos.csv", encoding: str = "utf-8") -> Path:
    (root / name).write_text(text, encoding=encoding)
    return root / name


def labels(photos: PhotoSet) -> dict[str, str]:
    return {sample.file_name: photos.classes[sample.label] for sample in photos.samples}


def test_class_folders(tmp_path: Path) -> None:
    photos = read_photos(put(tmp_path, "dog/a.jpg", "dog/deep/er/b.PNG", "cat/c d é.jpeg", "10/x.tiff", "9/y.webp"))
    assert photos.classes == ("10", "9", "cat", "dog")
    assert labels(photos) == {
        "dog/a.jpg": "dog", "dog/deep/er/b.PNG": "dog", "cat/c d é.jpeg": "cat", "10/x.tiff": "10", "9/y.webp": "9",
    }  # fmt: skip
    assert all(sample.path.is_file() and sample.split is None for sample in photos.samples)
    assert not photos.left_out
    assert not photos.notes


def test_split_folders_share_one_class_list(tmp_path: Path) -> None:
    put(tmp_path, "Train/b/1.png", "Train/a/1.png", "Train/c/1.png", "validation/b/1.png", "test/c/1.png", "test/u.png")
    photos = read_photos(tmp_path)
    assert photos.classes == ("a", "b", "c")
    assert [(s.split, photos.classes[s.label]) for s in photos.samples] == [
        ("train", "a"), ("train", "b"), ("train", "c"), ("test", "c"), ("val", "b"),
    ]  # fmt: skip
    assert [entry.file_name for entry in photos.left_out] == ["test/u.png"]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert read_photos(put(tmp_path, "train/1.png", "bus/1.png")).classes == ("bus", "train")


def test_litter_is_ignored_and_the_rest_is_reported(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png", "a/._1.png", "a/.ipynb_checkpoints/1.png", "__MACOSX/a/1.png", "b/@eaDir/1.png")
    put(tmp_path, "a/Thumbs.db", "a/notes.txt", "labels.csv", "a/raw.cr2", "loose.png")
    (tmp_path / "a" / "movie.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    (tmp_path / "empty").mkdir()
    photos = read_photos(tmp_path)
    assert set(labels(photos)) == {"a/1.png", "b/1.png"}
    assert {entry.file_name for entry in photos.left_out} == {"a/raw.cr2", "a/movie.mp4", "loose.png"}
    assert any("1 '.mp4', 1 '.cr2'" in note for note in photos.notes)
    assert any("'loose.png'" in note for note in photos.notes)
    assert any("passed over: 2." in note for note in photos.notes)
    assert any("'empty'" in note for note in photos.notes)


def test_links_are_followed_once(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "across").symlink_to(tmp_path / "b")
    (tmp_path / "a" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "a" / "loop.png").symlink_to(tmp_path / "a" / "loop.png")
    (tmp_path / "aa").symlink_to(tmp_path / "b")
    photos = read_photos(tmp_path)
    assert set(labels(photos)) == {"a/1.png", "b/1.png"}
    assert {e.file_name for e in photos.left_out} == {"a/self", "a/up", "a/across", "a/gone.png", "a/loop.png", "aa"}


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have one Unicode form")
def test_names_that_look_alike_are_listed_and_kept_apart(tmp_path: Path) -> None:
    photos = read_photos(put(tmp_path, "caf\u00e9/1.png", "cafe\u0301/2.png", "B/1.png", "b/1.png", "x y/1", "x  y/1"))
    assert photos.classes == ("B", "b", "cafe\u0301", "caf\u00e9", "x  y", "x y")
    assert any("'B', 'b' differ only in case" in note for note in photos.notes)
    assert any(r"'cafe\u0301', 'caf\xe9' look alike" in note for note in photos.notes)
    assert any("'x  y', 'x y' look alike" in note for note in photos.notes)


@pytest.mark.skipif(sys.platform == "darwin", reason="its file systems have one Unicode form")
def test_another_unicode_form_on_the_other_side_is_the_same_class(tmp_path: Path) -> None:
    photos = read_photos(put(tmp_path, "train/caf\u00e9/1.png", "train/b/1.png", "test/cafe\u0301/2.png"))
    assert photos.classes == ("b", "caf\u00e9")
    assert any("2 Unicode forms" in note for note in photos.notes)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize(
    ("encoding", "names", "likely"),
    [
        ("cp866", ["кот", "пес", "cat"], "cp866 ('кот', 'пес')"),
        ("gbk", ["狗", "马", "羊"], "gb2312 ('狗', '马', '羊')"),
        ("latin-1", ["hút", "hàt", "dog"], "cp1252 ('hàt', 'hút')"),
        ("big5", ["貓", "狗"], "big5 ('狗', '貓')"),
    ],
)
def test_class_names_of_other_encodings_stay_apart(
    tmp_path: Path, encoding: str, names: list[str], likely: str
) -> None:
    for name in names:
        put(tmp_path, os.fsdecode(name.encode(encoding)) + "/1.png")
    photos = read_photos(tmp_path)
    assert len(photos.classes) == len(names)
    assert all(name.encode("utf-8") for name in photos.classes)
    assert any("no valid Unicode" in note and likely in note for note in photos.notes)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_names_that_are_no_unicode(tmp_path: Path) -> None:
    put(tmp_path, "b/1.png")
    (tmp_path / "a").mkdir()
    os.link(tmp_path / "b" / "1.png", os.fsencode(tmp_path / "a") + b"/\xff\n.png")
    photos = read_photos(tmp_path)
    assert photos.samples[0].file_name == "a/\\xff\n.png"
    assert photos.samples[0].path.is_file()


def test_a_note_where_the_classes_lie_one_folder_deeper(tmp_path: Path) -> None:
    put(tmp_path, "site1/ok/1.png", "site1/bad/1.png", "site2/ok/1.png", "site2/bad/1.png")
    photos = read_photos(put(tmp_path, "site3/ok/1.png", "site3/bad/1.png", "site3/odd/1.png"))
    assert any("'bad', 'ok'" in note for note in photos.notes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "2.png"], "no class folders"),
        (["train/1.png", "test/2.png"], "no class folders"),
        (["a/1.png"], "only one class with photos, 'a'"),
        (["train/a/1.png", "train/b/1.png", "cats/1.png"], "'cats'.* side by side"),
        (["test/a/1.png", "val/b/1.png"], "no train folder"),
        (["train/a/1.png", "train/b/1.png", "test/B/1.png"], "not in train: 'B'"),
        (["a/readme.txt"], "only 0 photos"),
    ],
)
def test_layouts_that_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(PhotosError, match=message):
        read_photos(put(tmp_path, *names))


def test_neither_folder_nor_table(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="no such folder"):
        read_photos(tmp_path / "missing")
    with pytest.raises(PhotosError, match="neither a folder nor a table"):
        read_photos(put(tmp_path, "a.png") / "a.png")


def test_table_keeps_text_as_it_is(tmp_path: Path) -> None:
    put(tmp_path, "x/1.png", "2.png", "3.png", "4.png")
    text = (
        f"file_name,label,group,split\nx/1.png,no,g 1,\n2.png, 001 ,,train\n\n3.png,NA,,Valid\n{tmp_path}/4.png,NA,,\n"
    )
    photos = read_photos(table(tmp_path, text))
    assert photos.classes == ("001", "NA", "no")
    assert [(s.group, s.split) for s in photos.samples] == [("g 1", None), (None, "train"), (None, "val"), (None, None)]
    assert photos.left_out == ()


@pytest.mark.parametrize(("name", "sign"), [("p.csv", ";"), ("p.csv", ","), ("p.tsv", "\t")])
def test_table_dialects(tmp_path: Path, name: str, sign: str) -> None:
    put(tmp_path, "1.png", "2.png")
    text = f"Label{sign}FILE_NAME\r\na{sign}1.png\r\nb{sign}2.png\r\n"
    assert labels(read_photos(table(tmp_path, text, name, "utf-8-sig"))) == {"1.png": "a", "2.png": "b"}


def test_table_rows_that_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png", "3.png")
    text = "file_name,label\n1.png,a\n./1.png,a\n2.png,b\n3.png,\n4.png,a\n,b\n2.png\n"
    photos = read_photos(table(tmp_path, text))
    assert labels(photos) == {"1.png": "a", "2.png": "b"}
    assert [(entry.file_name, entry.reason[:8]) for entry in photos.left_out] == [
        ("3.png", "has no l"), ("4.png", "does not"), ("row 7", "names no"), ("2.png", "has no l"),
    ]  # fmt: skip
    assert photos.notes == (
        "Rows that repeat another row and count once: 1.",
        "Rows left out: 4 of 6, first '3.png', which has no label.",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "its columns are none"),
        ("name,label\n1.png,a\n", "no column 'file_name'; its columns are 'name', 'label'"),
        ("file_name,label\n9.png,a\n8.png,b\n", "No row names .*9.png does not exist"),
        ("file_name,label\n1.png,a\n1.png,b\n", r"1\.png is listed twice, as 'a' and as 'b'"),
        ("file_name,label,split\n1.png,a,train\n1.png,a,test\n", "'a' in train and as 'a' in test"),
        ("file_name,label,split\n1.png,a,dev\n", "split 'dev' is unknown"),
        ("file_name,label\n1.png,a\n", "only one class"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "1.png")
    with pytest.raises(PhotosError, match=message):
        read_photos(table(tmp_path, text))


def test_table_in_another_encoding(tmp_path: Path) -> None:
    with pytest.raises(PhotosError, match="can't be read"):
        read_photos(table(tmp_path, "file_name,label\né.png,a\n", encoding="latin-1"))


def test_parquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    put(tmp_path, "1.png", "2.png")
    rows = pyarrow.table({"file_name": ["1.png", "2.png"], "label": [1, 10], "group": ["g", None]})
    parquet.write_table(rows, tmp_path / "p.parquet")
    photos = read_photos(tmp_path / "p.parquet")
    assert photos.classes == ("1", "10")
    assert [sample.group for sample in photos.samples] == ["g", None]
    with pytest.raises(PhotosError, match="can't be read"):
        read_photos(table(tmp_path, "no parquet", "q.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"unfreeze\[parquet\]"):
        read_photos(tmp_path / "p.parquet")


def test_a_set_to_score_may_have_a_test_folder_alone(tmp_path: Path) -> None:
    put(tmp_path, "Test/a/1.png", "Test/b/1.png", "Test/b/2.png")
    photos = read_photos(tmp_path, to_train=False)
    assert labels(photos) == {"Test/a/1.png": "a", "Test/b/1.png": "b", "Test/b/2.png": "b"}
    with pytest.raises(PhotosError, match="no train folder"):
        read_photos(tmp_path)


@pytest.mark.parametrize("place", ["", "images/", "test/"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_folder_without_classes_may_hold_a_table_of_labels(tmp_path: Path, place: str, suffix: str) -> None:
    put(tmp_path, *(f"{place}{number}.png" for number in range(5)))
    separator = "\t" if suffix == ".tsv" else ","
    rows = [f"{place}{number}.png{separator}{'ab'[number % 2]}" for number in range(4)]
    table(tmp_path, "\n".join([f"file_name{separator}label", *rows]), f"labels{suffix}")
    table(tmp_path, "file_name,width\n0.png,4\n", "sizes.csv")
    table(tmp_path, "file_name,label\nelsewhere.png,a\n", "others.csv")
    for to_train in (False, True):
        photos = read_photos(tmp_path, to_train=to_train)
        assert labels(photos) == {f"{place}{number}.png": "ab"[number % 2] for number in range(4)}
        assert photos.notes == (f"The labels are those in labels{suffix}; 1 photos of the folder are not used.",)


def test_of_two_tables_of_labels_none_is_taken(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    for name in ("a.csv", "b.csv"):
        table(tmp_path, "file_name,label\n1.png,a\n", name)
    with pytest.raises(PhotosError, match=r"2 tables: 'a\.csv', 'b\.csv'"):
        read_photos(tmp_path, to_train=False)


def test_class_folders_count_more_than_a_table_beside_them(tmp_path: Path) -> None:
    put(tmp_path, "cat/1.png", "dog/1.png")
    table(tmp_path, "file_name,label\ncat/1.png,x\n")
    assert labels(read_photos(tmp_path)) == {"cat/1.png": "cat", "dog/1.png": "dog"}
