"""The home folder is meant by ``~`` in every path that people give: on the command line, in Python and in files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import unfreeze
from unfreeze.cli import app
from unfreeze.config import CompareConfig, TrainConfig, make_comparison, make_config
from unfreeze.config_file import read_config
from unfreeze.data.places import expand_globs, read_path_list
from unfreeze.data.sources import read_photos
from unfreeze.errors import ConfigError, UnfreezeError
from unfreeze.export import export
from unfreeze.paths import user_model, user_path
from unfreeze.runs.run import Run
from unfreeze.training.features.cache import open_cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home folder; the working folder is another one."""
    folder, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for made in (folder, elsewhere):
        made.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(elsewhere)
    return folder


def test_the_home_folder_stands_at_the_start_alone(home: Path) -> None:
    assert user_path("~") == home
    assert user_path("~/a/b") == user_path(Path("~/a/b")) == home / "a" / "b"
    for kept in ("a/~/b", "a~", "~no-such-user/x", "~draft.jpg", "/~", "C:/~", ""):
        assert user_path(kept) == Path(kept)
    assert user_path("./~/x") == user_path(user_path("./~/x")) == Path.cwd() / "~" / "x"
    assert user_model("timm/resnet18") == "timm/resnet18"
    assert user_model("~/mine.pth") == str(home / "mine.pth")


def test_without_a_home_folder_no_folder_of_that_name_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    assert user_path("a") == Path("a")
    with pytest.raises(ConfigError, match="no home folder"):
        user_path("~/x")


def arguments_with_paths(command: str) -> Iterator[Any]:
    """Yield the arguments of a command that are paths, those of settings included."""
    return (argument for argument in app[command].assemble_argument_collection() if "Path" in str(argument.hint))


def paths_in(value: object) -> Iterator[Path]:
    if isinstance(value, Path):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from paths_in(item)
    elif hasattr(value, "model_fields_set"):
        for name in value.model_fields_set:
            yield from paths_in(getattr(value, name))


COMMANDS = sorted(name for name in app if not name.startswith("-"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_path_on_the_command_line_may_be_in_the_home_folder(command: str, home: Path) -> None:
    words, expected = [command], []
    for argument in arguments_with_paths(command):
        name = str(argument.names[0]) if argument.names else ""
        words.append(f"{name}=~/{name.strip('-')}" if name.startswith("-") else f"~/{name}")
        expected.append(home / name.strip("-"))
    if command == "track":
        words.append("--to=mlflow")
    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    given = [path for value in bound.arguments.values() for path in paths_in(value)]
    assert sorted(given) == sorted(expected)
    assert command in ("demo", "doctor", "models") or given


@pytest.mark.parametrize(("config", "make"), [(TrainConfig, make_config), (CompareConfig, make_comparison)])
def test_every_path_among_the_settings_may_be_in_the_home_folder(config: Any, make: Any, home: Path) -> None:
    names = [name for name, field in config.model_fields.items() if "Path" in str(field.annotation)]
    assert {"photos", "out", "cache", "reference"} <= set(names)
    made = make({name: f"~/{name}" for name in (*names, "model")})
    assert {name: getattr(made, name) for name in names} == {name: home / name for name in names}
    assert made.model == str(home / "model")


CALLS: dict[tuple[str, str], Callable[[Run, str], object]] = {
    ("train", "photos"): lambda _, path: unfreeze.train(path),
    ("load", "folder"): lambda _, path: unfreeze.load(path),
    ("Run.predict", "photos"): lambda run, path: run.predict([path]),
    ("Run.stream", "photos"): lambda run, path: list(run.stream([path])),
    ("Run.predictions", "photos"): lambda run, path: list(run.stream([path])),
    ("Run.explain", "photos"): lambda run, path: list(run.explain([path])),
    ("Run.evaluate", "photos"): lambda run, path: run.evaluate(path),
    ("export", "photos"): lambda run, path: export(run, ["safetensors"], photos=path, out="exported"),
    ("export", "out"): lambda run, path: export(run, ["safetensors"], out=path),
}
"""Calls of everything in Python that takes a path."""


def test_every_parameter_with_a_path_in_python_is_tried() -> None:
    methods = [
        (f"Run.{name}", method) for name, method in inspect.getmembers(Run, inspect.isfunction) if name[0] != "_"
    ]
    functions: list[tuple[str, Callable[..., object]]] = [
        ("train", unfreeze.train),
        ("load", unfreeze.load),
        ("export", export),
        *methods,
    ]
    found = {
        (name, parameter)
        for name, function in functions
        for parameter, hint in inspect.get_annotations(function).items()
        if parameter != "return" and "Path" in str(hint)
    }
    assert found
    assert found <= set(CALLS)


@pytest.mark.parametrize("call", CALLS, ids=".".join)
def test_every_path_in_python_may_be_in_the_home_folder(call: tuple[str, str], run: Run, home: Path) -> None:
    (home / "model").mkdir()
    (home / "model" / "foreign.txt").touch()
    path = "~" if call == ("export", "out") else "~/missing"  # an export into it would overwrite the folder `model`
    with pytest.raises(UnfreezeError) as caught:
        CALLS[call](run, path)
    assert str(home) in str(caught.value)
    assert not Path("~").exists()


def test_paths_in_files_and_lists_may_be_in_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        Image.new("RGB", (4, 4)).save(home / f"{number}.png")
    rows = [f"~/{number}.png,{'ab'[number % 2]}" for number in range(4)]
    Path("table.csv").write_text("\n".join(["file_name,label", *rows]))
    assert [sample.path for sample in read_photos(Path("table.csv")).samples] == [home / f"{n}.png" for n in range(4)]
    assert expand_globs(["~/[01].png"]) == [home / "0.png", home / "1.png"]
    Path("list").write_bytes(b"~/2.png\n")
    with Path("list").open("rb") as file:
        assert list(read_path_list(file)) == [home / "2.png"]
    (home / "settings.toml").write_text('photos = "~/photos"\n')
    assert make_config(read_config(Path("~/settings.toml"))).photos == home / "photos"
    monkeypatch.setenv("XDG_CACHE_HOME", "~/kept")
    assert open_cache(None, 1).root == home / "kept" / "unfreeze"
