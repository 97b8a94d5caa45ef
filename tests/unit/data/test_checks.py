import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from unfreeze.data.checks import check, drop_unreadable, with_trait_notes
from unfreeze.data.decode import Decoded, Facts, decode, facts_key, inspect
from unfreeze.data.sources import PhotoSet, Sample, Split, read_photos
from unfreeze.errors import PhotosError
from unfreeze.reading import FIRST_FRAME, Reading


def draw(root: Path, *names: str, side: int = 40) -> Path:
    """Write a different photo under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = list(name.encode())
        Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)).save(path)
    return root


def paint(path: Path, seed: int) -> None:
    """Draw a scene: large areas of light and shade, and small marks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    image = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((280, 200), Image.Resampling.BICUBIC)
    for x, y in random.integers(10, 190, (12, 2)):
        image.paste((int(x), int(y), 128), (int(x), int(y), int(x) + 9, int(y) + 5))
    image.save(path)


def two_classes(root: Path) -> Path:
    return draw(root, *(f"{name}/{number}.png" for name in "ab" for number in range(5)))


def copy(root: Path, source: str, target: str) -> None:
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / source, root / target)


def listed(root: Path, *rows: tuple[str, int, str | None, Split | None]) -> PhotoSet:
    samples = tuple(Sample(root / name, name, label, group, split) for name, label, group, split in rows)
    return PhotoSet(root, ("a", "b"), samples)


def test_good_photos_pass_unchanged(tmp_path: Path) -> None:
    photos = read_photos(two_classes(tmp_path))
    checked = check(photos)
    digests = [hashlib.sha256(sample.path.read_bytes()).hexdigest() for sample in photos.samples]
    expected = [
        replace(sample, digest=digest, size=(40, 40)) for sample, digest in zip(photos.samples, digests, strict=True)
    ]
    assert list(checked.samples) == expected
    assert drop_unreadable(photos).samples == checked.samples
    assert checked.left_out == ()
    assert checked.notes == ()


def test_known_photos_are_hashed_but_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = read_photos(two_classes(tmp_path))
    first = check(photos)
    decoded: list[Path] = []

    def noted(path: Path, enough: int, reading: Reading) -> Decoded:
        decoded.append(path)
        return inspect(path, enough, reading)

    monkeypatch.setattr("unfreeze.data.checks.inspect", noted)
    known = {
        sample.digest: Facts(sample.size, sample.traits, sample.fingerprint)
        for sample in first.samples
        if sample.file_name != "a/3.png"
    }
    assert check(photos, known) == first
    assert drop_unreadable(photos, known).samples == first.samples
    assert [path.name for path in decoded] == ["3.png", "3.png"]
    (tmp_path / "b" / "0.png").write_bytes(b"no photo any more")
    assert [left.file_name for left in check(photos, known).left_out] == ["b/0.png"]


def test_what_is_unseen_is_noted_whether_a_file_was_decoded_or_known(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for number in range(3):
        page = np.random.default_rng(number).integers(0, 4000, (40, 40), np.uint16)
        Image.fromarray(page).save(tmp_path / "a" / f"deep {number}.png")
        pages = [Image.fromarray((page >> shift).astype(np.uint8)) for shift in (4, 5)]
        pages[0].save(tmp_path / "b" / f"stack {number}.tif", save_all=True, append_images=pages[1:])
    photos = read_photos(tmp_path)
    for reading in (FIRST_FRAME, Reading(2)):
        checked = check(photos, reading=reading)
        known = {
            facts_key(sample.digest, reading): Facts(sample.size, sample.traits, sample.fingerprint)
            for sample in checked.samples
        }
        assert check(photos, known, reading) == checked
        for notes in (with_trait_notes(checked, reading).notes, drop_unreadable(photos, reading=reading).notes):
            deep, frames = notes[-2:]
            assert deep.startswith("Photos with more than 8 bits a band: 3;")
            assert frames.startswith(f"Files that hold several pages or frames: 3; {reading.frame_name} of each")
    assert [left.reason for left in check(photos, reading=Reading(3)).left_out] == [
        "The file has 2 pages or frames, and number 3 was asked for. Take a lower number for --frame, or middle."
    ] * 3


def test_sizes_are_those_of_the_upright_file_though_large_jpegs_are_decoded_smaller(tmp_path: Path) -> None:
    two_classes(tmp_path)
    exif = Image.Exif()
    exif[274] = 6  # turned by a quarter
    Image.new("RGB", (1001, 300)).save(tmp_path / "a" / "wide.jpg")
    Image.new("RGB", (1001, 300)).save(tmp_path / "a" / "turned.jpg", exif=exif)
    Image.new("RGB", (901, 300)).save(tmp_path / "a" / "wide.png")
    sizes = {sample.file_name: sample.size for sample in check(read_photos(tmp_path)).samples}
    assert sizes["a/wide.jpg"] == (1001, 300)
    assert sizes["a/turned.jpg"] == (300, 1001)
    assert sizes["a/wide.png"] == (901, 300)
    assert sizes["a/0.png"] == (40, 40)


def test_unreadable_photos_are_left_out_with_the_reason(tmp_path: Path) -> None:
    (two_classes(tmp_path) / "a" / "bad.jpg").write_bytes(b"")
    checked = check(read_photos(tmp_path))
    assert len(checked.samples) == 10
    assert [entry.file_name for entry in checked.left_out] == ["a/bad.jpg"]
    assert "empty" in checked.left_out[0].reason


def test_copies_in_a_class_share_a_group(tmp_path: Path) -> None:
    two_classes(tmp_path)
    copy(tmp_path, "a/0.png", "a/copy.png")
    groups = {sample.file_name: sample.group for sample in check(read_photos(tmp_path)).samples}
    assert groups["a/0.png"] == groups["a/copy.png"] == "copies of a/0.png"
    assert [group for name, group in groups.items() if name not in ("a/0.png", "a/copy.png")] == [None] * 9


def resave(root: Path, source: str, target: str, scale: float = 1, **options: Any) -> None:
    """Save a photo anew, smaller if wanted."""
    image = decode(root / source)
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    size = (round(image.width * scale), round(image.height * scale))
    image.resize(size, Image.Resampling.LANCZOS).save(root / target, **options)


RESAVED = [
    ("x.bmp", {}),
    ("x.tif", {"compression": "tiff_lzw"}),
    ("x.webp", {"lossless": True}),
    ("x.png", {"compress_level": 1}),
]


@pytest.mark.parametrize(("name", "options"), RESAVED)
def test_photos_with_the_same_pixels_are_copies(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    two_classes(tmp_path / "train")
    resave(tmp_path, "train/a/0.png", f"test/a/{name}", **options)
    resave(tmp_path, "train/a/1.png", f"train/a/one{name}", **options)
    resave(tmp_path, "train/a/2.png", f"train/b/two{name}", **options)
    checked = check(read_photos(tmp_path))
    reasons = {entry.file_name: entry.reason for entry in checked.left_out}
    assert reasons.keys() == {"train/a/0.png", "train/a/2.png", f"train/b/two{name}"}
    assert reasons["train/a/0.png"].endswith(f"identical to those of test/a/{name}, which is in test")
    assert "another label" in reasons["train/a/2.png"]
    groups = {sample.file_name: sample.group for sample in checked.samples}
    assert groups["train/a/1.png"] == groups[f"train/a/one{name}"] == "copies of train/a/1.png"
    assert any("Identical copies among them (the same bytes or pixels): 1" in note for note in checked.notes)


def test_photos_that_look_the_same_stay_together_unless_the_user_parts_them(tmp_path: Path) -> None:
    for number in range(8):
        paint(tmp_path / f"train/{'ab'[number % 2]}/{number}.png", number)
    resave(tmp_path, "train/a/0.png", "train/a/0.jpg", quality=70)
    resave(tmp_path, "train/a/2.png", "train/a/half.png", scale=0.5)
    resave(tmp_path, "train/b/1.png", "test/b/1.jpg", quality=70)
    resave(tmp_path, "train/b/3.png", "train/a/3.jpg", quality=70)
    checked = check(read_photos(tmp_path))
    assert checked.left_out == ()
    groups = {sample.file_name: sample.group for sample in checked.samples}
    assert groups["train/a/0.jpg"] == groups["train/a/0.png"] is not None
    assert groups["train/a/half.png"] == groups["train/a/2.png"] is not None
    assert groups["train/a/3.jpg"] == groups["train/b/3.png"] is not None
    assert sum(group is None for group in groups.values()) == 6
    notes = " ".join(checked.notes)
    assert "look the same as another one (saved anew?): 3" in notes
    assert "on both sides of your splits: 1, such as test/b/1.jpg and train/b/1.png" in notes
    assert "have two labels: 1" in notes
    assert "Identical" not in notes


def test_copies_join_the_groups_of_the_user(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png", "3.png", "4.png", "5.png")
    copy(tmp_path, "1.png", "same.png")
    rows = [("1.png", 0, "q", None), ("same.png", 0, "p", None), ("2.png", 0, "q", None), ("3.png", 1, "r", None)]
    checked = check(listed(tmp_path, *rows, ("4.png", 1, None, None), ("5.png", 0, "p", None)))
    assert [sample.group for sample in checked.samples] == ["p", "p", "p", "r", None, "p"]


def test_copies_with_two_labels_are_left_out(tmp_path: Path) -> None:
    two_classes(tmp_path)
    copy(tmp_path, "a/0.png", "b/copy.png")
    reasons = {entry.file_name: entry.reason for entry in check(read_photos(tmp_path)).left_out}
    assert reasons.keys() == {"a/0.png", "b/copy.png"}
    assert "identical to b/copy.png" in reasons["a/0.png"]
    assert "identical to a/0.png" in reasons["b/copy.png"]


def test_a_copy_in_test_takes_the_photo_out_of_train(tmp_path: Path) -> None:
    two_classes(tmp_path / "train")
    copy(tmp_path, "train/a/0.png", "test/a/x.png")
    copy(tmp_path, "train/a/1.png", "val/a/y.png")
    checked = check(read_photos(tmp_path))
    assert {entry.file_name for entry in checked.left_out} == {"train/a/0.png", "train/a/1.png"}
    assert {sample.file_name for sample in checked.samples} >= {"test/a/x.png", "val/a/y.png"}


def test_a_class_that_is_lost_is_dropped_and_labels_are_renumbered(tmp_path: Path) -> None:
    draw(tmp_path, "train/b/1.png", "train/b/2.png", "train/c/1.png", "train/c/2.png", "test/a/1.png", "test/c/1.png")
    (tmp_path / "train" / "a").mkdir()
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"broken")
    checked = check(read_photos(tmp_path))
    assert checked.classes == ("b", "c")
    assert {(sample.file_name.split("/")[1], sample.label) for sample in checked.samples} == {("b", 0), ("c", 1)}
    assert {entry.file_name for entry in checked.left_out} == {"train/a/1.png", "test/a/1.png"}
    assert any("train on in 'a'" in note for note in checked.notes)


def test_notes(tmp_path: Path) -> None:
    draw(tmp_path, *(f"many/{number}.png" for number in range(23)), side=16)
    draw(tmp_path, "few/1.png", "few/2.png")
    notes = " ".join(check(read_photos(tmp_path)).notes)
    assert "below 32 pixels: 23 (first: many/0.png)" in notes
    assert "'many' has 23 photos and 'few' 2" in notes
    assert "Fewer than 5 photos are in 'few'" in notes


def test_a_group_across_given_splits_is_noted(tmp_path: Path) -> None:
    draw(tmp_path, "1.png", "2.png", "3.png", "4.png")
    rows = [
        ("1.png", 0, "g", "train"),
        ("2.png", 0, "g", "test"),
        ("3.png", 1, None, "train"),
        ("4.png", 1, None, "test"),
    ]
    checked = check(listed(tmp_path, *rows))  # type: ignore[arg-type]
    assert any("part the groups 'g'" in note for note in checked.notes)


def test_too_little_is_left(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    (tmp_path / "b" / "2.png").write_bytes(b"broken")
    with pytest.raises(PhotosError, match=r"Of 4 photos 3 can be used[\s\S]*b/2.png"):
        check(read_photos(tmp_path))
    for photo in tmp_path.glob("*/*.png"):
        photo.write_bytes(b"broken")
    with pytest.raises(PhotosError, match="Of 4 photos 0 can be used"):
        check(read_photos(tmp_path))


def test_the_photos_on_disk_stay_as_they_are(tmp_path: Path) -> None:
    (two_classes(tmp_path) / "a" / "bad.jpg").write_bytes(b"broken")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*/*")}
    check(read_photos(tmp_path))
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.glob("*/*")}


def test_a_test_set_that_cannot_be_read_is_not_replaced_by_training_photos(tmp_path: Path) -> None:
    draw(tmp_path, *(f"train/{name}/{number}.png" for name in "ab" for number in range(5)))
    for name in "ab":
        (tmp_path / "test" / name).mkdir(parents=True)
        (tmp_path / "test" / name / "0.jpg").write_bytes(b"")
    with pytest.raises(PhotosError, match="your test set"):
        check(read_photos(tmp_path))
