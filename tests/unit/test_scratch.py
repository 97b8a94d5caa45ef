"""Processes without a home folder or a folder for temporary files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from unfreeze.errors import CacheError, ConfigError
from unfreeze.scratch import prepare_folders
from unfreeze.training.features.cache import open_cache

VARIABLES = ("HF_HOME", "TORCH_HOME", "MPLCONFIGDIR", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home folder of a user who set nothing."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "x")  # it is restored, though the functions set it
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)


def without_temporary_folder(monkeypatch: pytest.MonkeyPatch, usable: Path | None) -> None:
    """Let the system have no folder for temporary files but ``usable`` and those below it."""

    def mkdtemp(prefix: str, dir: Path | None) -> str:
        if dir is None or usable is None or not dir.is_relative_to(usable):
            raise FileNotFoundError
        made = dir / f"{prefix}made"
        made.mkdir()
        return str(made)

    def gettempdir() -> str:
        raise FileNotFoundError

    monkeypatch.setattr(tempfile, "gettempdir", gettempdir)
    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)


def test_with_a_home_folder_nothing_changes(plain: Path) -> None:
    prepare_folders(plain / "run")
    assert not set(VARIABLES) & set(os.environ)
    assert not list(plain.iterdir())


def test_without_a_home_folder_other_packages_get_folders(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    monkeypatch.setenv("TORCH_HOME", "mine")
    prepare_folders()
    assert os.environ["TORCH_HOME"] == "mine"
    for variable in ("HF_HOME", "MPLCONFIGDIR"):
        assert Path(os.environ[variable]).parent == plain


def test_a_home_folder_that_cant_be_written_is_not_used(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    prepare_folders()
    assert Path(os.environ["MPLCONFIGDIR"]).parent == plain
    assert "HF_HOME" not in os.environ  # weights may lie there, and can be read


def test_temporary_files_lie_beside_the_run_where_the_system_has_no_folder(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_temporary_folder(monkeypatch, usable=plain)
    prepare_folders(plain / "runs" / "new")
    assert os.environ["TMPDIR"] == str(plain / "unfreeze-made")


def test_without_any_folder_the_user_is_told(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_temporary_folder(monkeypatch, usable=None)
    with pytest.raises(ConfigError, match="Set TMPDIR"):
        prepare_folders(plain)


@pytest.mark.parametrize("home", [None, "file", "file/home"])
def test_the_cache_is_off_where_the_users_folder_cant_be_made(
    home: str | None, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (plain / "file").touch()
    if home is None:
        without_home(monkeypatch)
    else:
        monkeypatch.setenv("HOME", str(plain / home))
    cache = open_cache(None, 10)
    assert cache.root.parent == plain
    assert cache.root.is_dir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("note: nothing is kept for later runs, as ")
    assert line.endswith("; --cache names another folder")


def test_a_cache_that_the_user_named_is_not_replaced(plain: Path) -> None:
    (plain / "file").touch()
    with pytest.raises(CacheError, match="can't be written"):
        open_cache(plain / "file" / "cache", 10)
