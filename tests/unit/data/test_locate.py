from __future__ import annotations

from pathlib import Path

from PIL import Image

from unfreeze.data.locate import relocate_images


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
