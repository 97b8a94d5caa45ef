"""A run's own photos: found again, and known when they are scored."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

import unfreeze
from unfreeze.errors import RunError
from unfreeze.files import read_table, write_table
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.photos import find_photos_of
from unfreeze.runs.run import Run


def of_split(run: Run, drawn: Path, split: str) -> list[Path]:
    header, rows = read_table(run.folder.splits)
    name, side = header.index("file_name"), header.index("split")
    return [drawn / row[name] for row in rows if row[side] == split]


def copy(files: list[Path], root: Path, suffix: str | None = None) -> Path:
    """Copy photos into class folders under new names; with ``suffix``, saved anew in another format."""
    for number, file in enumerate(files):
        target = root / file.parent.name / f"new{number}{suffix or '.jpg'}"
        target.parent.mkdir(parents=True, exist_ok=True)
        if suffix is None:
            shutil.copy(file, target)
        else:
            Image.open(file).save(target)
    return root


def test_scores_on_training_photos_come_with_a_warning(
    run: Run, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, tested = of_split(run, drawn, "train"), of_split(run, drawn, "test")
    run.evaluate(drawn)
    n_all = len(trained) + len(tested)
    assert f"note: {len(trained)} of these {n_all} photos trained this model, so" in capsys.readouterr().err
    run.evaluate(copy(trained[:3], tmp_path / "renamed"))
    assert "3 of these 3 photos trained this model, so" in capsys.readouterr().err
    run.evaluate(copy(trained[:3], tmp_path / "anew", suffix=".png"))
    assert "3 of these 3 photos trained this model (3 of them saved anew), so" in capsys.readouterr().err
    run.evaluate(copy(tested, tmp_path / "tested"))
    assert "trained this model" not in capsys.readouterr().err


def test_photos_are_found_by_name_or_by_content(run: Run, drawn: Path, tmp_path: Path) -> None:
    files = of_split(run, drawn, "test")
    names = [file.relative_to(drawn).as_posix() for file in files]
    assert find_photos_of(run.folder, names, None) == dict(zip(names, files, strict=True))
    moved = copy(files, tmp_path / "moved")
    found = find_photos_of(run.folder, names, moved)
    assert [found[name].read_bytes() for name in names] == [file.read_bytes() for file in files]
    assert find_photos_of(run.folder, names, tmp_path / "gone") == {}


def test_a_file_of_the_same_name_with_another_content_is_another_photo(run: Run, drawn: Path, tmp_path: Path) -> None:
    (name, other), places = [f.relative_to(drawn) for f in of_split(run, drawn, "test")[:2]], tmp_path / "photos"
    (places / name).parent.mkdir(parents=True)
    shutil.copy(drawn / other, places / name)
    assert find_photos_of(run.folder, [name.as_posix()], places) == {}


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_table(folder.photos, ["file_name", "width"], [("a.png", 3)])
    with pytest.raises(RunError, match=r"photos\.csv"):
        find_photos_of(folder, ["a.png"], None)


def test_a_run_is_used_after_the_working_folder_changes(
    run: Run, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.folder.root.parent)
    opened = unfreeze.load(run.folder.root.name)
    monkeypatch.chdir(tmp_path)
    assert opened.predict([of_split(run, drawn, "test")[0]])
