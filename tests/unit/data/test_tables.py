"""Tables: what is refused because it is no class, contradicts itself or would lose rows, and what is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.errors import PhotosError


def write(root: Path, text: str, *photos: str, encoding: str = "utf-8") -> Path:
    """Write a table, and empty files under the names of photos."""
    for name in photos:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "t.csv").write_bytes(text.encode(encoding))
    return root / "t.csv"


def listing(root: Path, *labels: str, sign: str = ";") -> Path:
    """Write a table of one photo for each label."""
    rows = [f"{number}.jpg{sign}{label}" for number, label in enumerate(labels)]
    return write(root, "\n".join([f"file_name{sign}label", *rows]), *(f"{n}.jpg" for n in range(len(labels))))


def read(table: Path) -> PhotoSet:
    return read_photos(table)


def refusal(table: Path) -> str:
    with pytest.raises(PhotosError) as caught:
        read(table)
    return str(caught.value)


@pytest.mark.parametrize(
    "labels",
    [
        ("cat,dog", "cat", "dog", "cat"),
        ("cat|dog", "cat", "dog", "cat"),
        ("cat, indoor", "dog, indoor", "dog, outdoor", "cat, indoor"),
        ("['cat', 'dog']", "['cat']", "['dog']", "['dog']"),
        ("[1, 0]", "[0, 1]", "[1, 1]", "[1, 0]"),
        ("scab", "rust", "scab rust", "scab"),
        ("cat/dog", "cat", "dog", "cat"),
        ("cat & dog", "cat", "dog", "cat"),
    ],
)
def test_tags_are_no_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    message = refusal(listing(tmp_path, *labels))
    assert "one class a photo" in message
    assert "several classes" in message


@pytest.mark.parametrize(
    "labels",
    [
        ("3.7", "4.1", "3.9", "12"),
        ("4.5", "5", "4.5", "5"),
        ("3,7", "4,1", "3,7", "4,1"),
        ("12.5 %", "13 %", "12.5 %", "13 %"),
        ("1e-3", "0.5", "1e-3", "0.5"),
        tuple(str(20 + 7 * n % 60) for n in range(30)),
    ],
)
def test_measurements_are_no_classes(tmp_path: Path, labels: tuple[str, ...]) -> None:
    message = refusal(listing(tmp_path, *labels))
    assert "measurements or ratings" in message
    assert "one class a photo" in message


def test_a_text_for_each_photo_is_no_class(tmp_path: Path) -> None:
    assert "12 labels for 12 photos" in refusal(listing(tmp_path, *(f"a dog on day {n}" for n in range(12))))


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (("tench, Tinca tinca", "crane", "goldfish, Carassius auratus", "crane"), "one class each: 'tench, Tinca"),
        (("1", "2", "5", "3"), "numbers, 1 to 5"),
        (("great white shark", "tiger shark", "great white shark", "tiger shark"), None),
        (("0", "1", "0", "1"), None),
        (("n/a", "ok", "n/a", "salt & vinegar"), None),
        (("1.0", "0.0", "1.0", "0.0"), None),
        (("001", "NA", "no", "10-20"), None),
    ],
)
def test_labels_that_are_classes(tmp_path: Path, labels: tuple[str, ...], note: str | None) -> None:
    photos = read(listing(tmp_path, *labels))
    assert photos.classes == tuple(sorted(set(labels)))
    assert (
        [note for note in photos.notes if "kept apart" not in note] == [] if note is None else note in photos.notes[0]
    )


@pytest.mark.parametrize(
    "text",
    [
        'file_name,label\n1.jpg,"a\n2.jpg,b\n3.jpg,a\n',
        'file_name,label\n1.jpg,"a\n2.jpg,b\n3.jpg,"a\n',
        'file_name,label\n"1.jpg,a\n2.jpg",b\n3.jpg,a\n',
        'file_name,label\n"1.jpg"x,a\n2.jpg,b\n3.jpg,a\n',
        'file_name,label,remark\n1.jpg,a,"big\n2.jpg,b,\n3.jpg,a,"\n',
    ],
)
def test_a_stray_quote_swallows_no_rows(tmp_path: Path, text: str) -> None:
    message = refusal(write(tmp_path, text, "1.jpg", "2.jpg", "3.jpg"))
    assert "quote" in message
    assert "line 2" in message


def test_a_remark_may_have_several_lines_and_a_label_a_quote(tmp_path: Path) -> None:
    text = 'file_name,label,remark\n1.jpg,5" pipe,"one\ntwo"\n2.jpg,"the ""b""",\n'
    assert read(write(tmp_path, text, "1.jpg", "2.jpg")).classes == ('5" pipe', 'the "b"')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label,label\n1.jpg,a,b\n2.jpg,b,a\n", "2 columns called 'label'"),
        ("file_name,Label,LABEL \n1.jpg,a,b\n2.jpg,b,a\n", "2 columns called 'label'"),
        ("file_name,label,file_name\n1.jpg,a,2.jpg\n2.jpg,b,1.jpg\n", "2 columns called 'file_name'"),
        ("file_name,label\n1.jpg,a,b\n2.jpg,b\n", "3 cells, and the table 2 columns"),
        ("image,class\n1.jpg,a\n2.jpg,b\n", "Rename the column image to file_name, class to label"),
        ("file_name,label\n1.jpg,a\n2.jpg,a\n", "another label to the table"),
        ("file_name,label\n1,a\n2,b\n", "'1.jpg' does: write file names as they are, with their suffix"),
        ("file_name,label\n1.JPG,a\n2.JPG,b\n", "'1.jpg' does"),
        ("file_name,label\n7,a\n8,b\n", "no suffix such as .jpg"),
        ("file_name,label\nC:\\Users\\me\\1.jpg,a\n", "Windows computer"),
        ("file_name,label\n\\\\server\\photos\\1.jpg,a\n", "Windows computer"),
        ("file_name,label\nphotos/7.jpg,a\n", "paths start at the table's folder"),
        ("file_name,label\n.,a\n", "is a folder"),
    ],
)
def test_tables_are_refused_with_what_to_do_in_them(tmp_path: Path, text: str, message: str) -> None:
    said = refusal(write(tmp_path, text, "1.jpg", "2.jpg"))
    assert message in said
    assert "PHOTOS/CLASS" not in said


def test_backslashes_are_read_as_slashes(tmp_path: Path) -> None:
    photos = read(write(tmp_path, "file_name,label\np\\1.jpg,a\np\\q\\2.jpg,b\n", "p/1.jpg", "p/q/2.jpg"))
    assert [sample.file_name for sample in photos.samples] == ["p/1.jpg", "p/q/2.jpg"]
    assert photos.notes == ("Paths in the table with \\ were read with / in its place: 2.",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_encodings_and_separators(tmp_path: Path, encoding: str, sign: str) -> None:
    text = f"file_name{sign}label\r\n1.jpg{sign}ä\r\n2.jpg{sign}ö\r\n"
    assert read(write(tmp_path, text, "1.jpg", "2.jpg", encoding=encoding)).classes == ("ä", "ö")


def test_another_encoding_is_told_what_to_do_with_the_table(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, "file_name,label\n1.jpg,ä\n2.jpg,ö\n", "1.jpg", "2.jpg", encoding="cp1252"))
    assert "Save the table anew as CSV in UTF-8" in message


def test_utf16_without_its_mark(tmp_path: Path) -> None:
    assert "UTF-16" in refusal(write(tmp_path, "file_name,label\n1.jpg,a\n", encoding="utf-16-le"))


def test_words_for_sides(tmp_path: Path) -> None:
    text = "file_name,label,split\n1.jpg,a,Training\n2.jpg,b,train\n3.jpg,a,Testing\n4.jpg,b,VAL\n"
    table = write(tmp_path, text, *(f"{n}.jpg" for n in range(1, 5)))
    assert [sample.split for sample in read(table).samples] == ["train", "train", "test", "val"]
    own = write(tmp_path, "file_name,label,split\n1.jpg,a,dev\n2.jpg,b,dev\n3.jpg,a,hold\n")
    assert "--sides train=...,val=dev" in refusal(own)
    assert [s.split for s in read_photos(own, sides="train=dev,test=hold").samples] == ["train", "train", "test"]
