"""What is kept between runs, end to end: it never changes a number, and where it can't be kept, the user is told."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.commands import command, small

from unfreeze.demo import DEFECTS, draw_photos

# In float32, as whether bf16 serves is decided by the photos that are computed first.
HEAD_ONLY = ["--recipe", "head-only", "--views", "2", "--precision", "fp32"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with photos, the cache of a run on them, and that run."""
    folder = tmp_path_factory.mktemp("first")
    draw_photos(folder / "photos", a_class=6)
    with small():
        train(folder, "run")
    return folder


@pytest.fixture
def own(first: Path, tmp_path: Path) -> Iterator[Path]:
    """Return a copy of ``first`` that may be changed."""
    with small():
        yield shutil.copytree(first, tmp_path / "own")


def train(folder: Path, run: str, *words: str) -> str:
    """Train on the folder's photos with the folder's cache, and return what the run predicted."""
    where = words or ("--cache", str(folder / "cache"))
    assert command("train", folder / "photos", "--out", folder / run, *HEAD_ONLY, *where) == 0
    return predictions(folder, run)


def predictions(folder: Path, run: str) -> str:
    return (folder / run / "predictions.csv").read_text("utf-8")


def test_a_changed_photo_counts_as_it_is_now(own: Path) -> None:
    scratch, stain = (min((own / "photos" / name).iterdir()) for name in sorted(DEFECTS)[-2:])
    scratch.rename(own / "scratch")
    stain.rename(scratch)
    (own / "scratch").rename(stain)
    after = train(own, "after")
    assert after == train(own, "fresh", "--cache-gib", "0")
    assert after != predictions(own, "run")


def test_renamed_and_moved_photos_are_found_again(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("computed again")

    for path in sorted((own / "photos").rglob("*.*")):
        path.rename(path.with_name(f"renamed {path.name}"))  # in the same order, so that the same are test photos
    moved = own.rename(own.with_name("elsewhere"))
    monkeypatch.setattr("unfreeze.training.features.activations.frozen_forward", refuse)
    assert train(moved, "after").replace("renamed ", "") == predictions(moved, "run")


@pytest.mark.parametrize("suffix", [".rows", ".json"])
def test_damage_on_disk_changes_no_number(own: Path, suffix: str) -> None:
    files = list((own / "cache").glob(f"*/*{suffix}"))
    assert files
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)
    assert train(own, "after") == predictions(own, "run")


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
def test_a_full_disk_ends_a_run_with_a_clear_error(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource  # which Windows lacks

    cache, run = tmp_path / "cache", tmp_path / "run"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        assert command("train", first / "photos", "--out", run, *HEAD_ONLY, "--cache", cache) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = capsys.readouterr().err
    assert "can't be kept" in told
    assert str(cache) in told
    assert "Traceback" not in told
    assert {path.name for path in run.iterdir()} == {
        "args.toml",
        "checks.csv",
        "photos.csv",
        "splits.csv",
    }
    kept = [path.stat().st_size for path in cache.glob("*/*")]  # what computes the frozen layers is small enough
    assert len(kept) <= 2
    assert all(size < 2**16 for size in kept)
    assert command("predict", run, first / "photos") == 2
    assert "never finished" in capsys.readouterr().err


def test_a_cache_that_cant_be_written_is_told_of_before_a_run_folder_is_made(
    first: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "file" / "cache"
    cache.parent.write_text("no folder")
    assert command("train", first / "photos", "--out", tmp_path / "run", *HEAD_ONLY, "--cache", cache) == 2
    assert str(cache) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
