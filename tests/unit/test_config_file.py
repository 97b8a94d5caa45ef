"""Settings in files, and the paths in them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from unfreeze.config import TrainConfig, make_config
from unfreeze.config_file import RELATIVE, photos_of, read_config
from unfreeze.errors import ConfigError
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.writers import write_arguments


def config(**settings: Any) -> TrainConfig:
    return make_config({"photos": "photos", **settings})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos, weights and a run, which is the working folder."""
    folder = tmp_path / "project"
    for name in ("photos", "original", "runs/train"):
        (folder / name).mkdir(parents=True)
    (folder / "mine.safetensors").touch()
    monkeypatch.chdir(folder)
    made = config(reference="original/", model="mine.safetensors", arch="timm/resnet18")
    write_arguments(RunFolder(Path("runs/train")), made)
    return folder


SOURCES = {"photos": "photos", "reference": "original", "model": "mine.safetensors"}


@pytest.mark.parametrize("elsewhere", [".", "runs", "runs/train", ".."])
def test_the_paths_of_a_run_hold_in_every_folder(
    project: Path, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(elsewhere)
    values = read_config(project / "runs" / "train" / "args.toml")
    assert {name: values[name] for name in SOURCES} == {name: str(project / path) for name, path in SOURCES.items()}
    assert RELATIVE not in values
    assert photos_of(project / "runs" / "train" / "args.toml") == project / "photos"


def test_a_run_that_moves_with_its_photos_finds_them(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(project, moved)
    shutil.rmtree(project / "photos")
    values = read_config(moved / "runs" / "train" / "args.toml")
    assert Path(values["photos"]).samefile(moved / "photos")
    assert values["reference"] == str(project / "original")  # which is still there


def test_a_run_that_moves_alone_finds_its_photos(project: Path, tmp_path: Path) -> None:
    shutil.move(project / "runs" / "train", tmp_path / "alone")
    assert photos_of(tmp_path / "alone" / "args.toml") == project / "photos"


def test_the_name_of_a_model_is_no_path(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    write_arguments(folder, config(model="timm/resnet18"))
    written = tomllib.loads(folder.args.read_text("utf-8"))
    assert written["model"] == "timm/resnet18"
    assert written[RELATIVE].keys() == {"photos"}


def test_a_relative_path_starts_at_the_working_folder_or_at_the_file(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "mine.toml").write_text('photos = "photos"\nmodel = "timm/resnet18"\n')
    assert read_config(Path("mine.toml")) == {"photos": "photos", "model": "timm/resnet18"}
    monkeypatch.chdir(tmp_path)
    assert read_config(project / "mine.toml")["photos"] == str(project / "photos")
    (tmp_path / "photos").mkdir()
    assert read_config(project / "mine.toml")["photos"] == "photos"


def test_without_a_settings_file_the_photos_are_unknown(tmp_path: Path) -> None:
    assert photos_of(tmp_path / "args.toml") is None
    (tmp_path / "args.toml").write_text("photos = 3\n")
    assert photos_of(tmp_path / "args.toml") is None


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"lr": 1.5e-4, "depth": "blocks.5", "reference": "some/reference", "out": "runs/mine", "seed": 7},
        {"minutes": 12, "symmetry": "rotate", "reference": "there", "max_forgetting": 0.5},
        {"recipe": "classic", "head_lr": 3e-3, "bn": "train", "model": "timm/resnet18", "test_size": 0.25},
        {"model": 'C:\\weights\\"mine".pth', "arch": "timm/résnet"},
    ],
)
def test_a_configuration_survives_its_file(tmp_path: Path, settings: dict[str, Any]) -> None:
    original, folder = config(**settings), RunFolder(tmp_path)
    write_arguments(folder, original)
    absolute = {name: getattr(original, name) for name in ("photos", "reference")}
    absolute = {name: Path.cwd() / path for name, path in absolute.items() if path is not None}
    assert make_config(read_config(folder.args)) == original.model_copy(update={"out": None, **absolute})


def test_a_configuration_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = {"photos": "a b/ü", "epochs": 3, "lr": 1e-4}
    (tmp_path / "args.toml").write_text(tomli_w.dumps(values), "utf-8")
    assert read_config(tmp_path / "args.toml") == values


def test_a_configuration_that_cant_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("epochs = = 3")
    (tmp_path / "latin.toml").write_bytes(b'photos = "\xfc"')
    for name in ("bad.toml", "latin.toml", "gone.toml", "."):
        with pytest.raises(ConfigError, match="can't be read") as caught:
            read_config(tmp_path / name)
        assert caught.value.where == tmp_path / name


def test_former_names_in_a_file_are_todays_so_that_flags_win(tmp_path: Path) -> None:
    path = tmp_path / "args.toml"
    path.write_text('anchor = 0.5\nlight = "varied"\n', "utf-8")
    values = read_config(path) | {"distill": 1.0, "photos": "x"}
    config = make_config(values)
    assert (config.distill, config.color_jitter) == (1.0, "varied")
    assert make_config({"photos": "x", "fresh_views": 2}).new_views == 2


def test_a_setting_under_both_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "args.toml"
    path.write_text("anchor = 0.5\ndistill = 1\n", "utf-8")
    with pytest.raises(ConfigError, match="--anchor is the former name of --distill"):
        read_config(path)
    with pytest.raises(ConfigError, match="--anchor is the former name of --distill"):
        make_config({"photos": "x", "anchor": 0.5, "distill": 1.0})
