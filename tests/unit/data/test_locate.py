from __future__ import annotations

import hashlib
from pathlib import Path

from PIL import Image

from unfreeze.data.locate import find_by_content, relocate_images, unchanged


def test_a_photo_is_found_however_its_name_is_spelled(tmp_path: Path) -> None:
    decomposed = "e\N{COMBINING ACUTE ACCENT}.png"
    for place in (tmp_path / "cat" / decomposed, tmp_path / "dog" / "a.png"):
        place.parent.mkdir()
        Image.new("RGB", (4, 4)).save(place)
    composed = "cat/\N{LATIN SMALL LETTER E WITH ACUTE}.png"
    assert relocate_images(tmp_path, [composed, "dog/a.png", "dog/b.png"]) == {
        composed: tmp_path / "cat" / decomposed, "dog/a.png": tmp_path / "dog" / "a.png",
    }  # fmt: skip
    assert relocate_images(tmp_path / "table.csv", ["dog/a.png", "x" * 5000]) == {
        "dog/a.png": tmp_path / "dog" / "a.png"
    }
    assert relocate_images(None, ["a.png"]) == {}


def test_a_photo_that_was_moved_is_found_by_its_content(tmp_path: Path) -> None:
    digests = {}
    for number, place in enumerate(("deep/inside/x.png", "y.png", "y copy.png")):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4 + min(number, 1), 4)).save(tmp_path / place)
        digests[f"a/{number}.png"] = hashlib.sha256((tmp_path / place).read_bytes()).hexdigest()
    digests["a/gone.png"] = "0" * 64
    found = find_by_content(tmp_path, digests)
    assert found["a/0.png"] == tmp_path / "deep" / "inside" / "x.png"
    assert found["a/1.png"] == found["a/2.png"]
    assert found["a/1.png"].name.startswith("y")
    assert "a/gone.png" not in found
    assert find_by_content(tmp_path / "gone", digests) == find_by_content(tmp_path, {}) == {}


def test_another_photo_of_the_same_name_is_not_taken(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("same.png", "other.png", "unknown.png", "gone.png")}
    for name in ("same.png", "other.png", "unknown.png"):
        Image.new("RGB", (4, 4)).save(paths[name])
    digest = hashlib.sha256(paths["same.png"].read_bytes()).hexdigest()
    digests = {"same.png": digest, "other.png": "0" * 64, "gone.png": digest}
    assert unchanged(paths, digests).keys() == {"same.png", "unknown.png"}
