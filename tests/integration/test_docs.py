"""README and docs: every command and every Python block is run as it is printed, on drawn photos."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.commands import PROGRAM, lay_out, run_command, small, start_server

from unfreeze.cli import app

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {
    page.relative_to(ROOT).as_posix(): page
    for page in (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in page.parts
}
LANGUAGES = {"console", "python", "text", "toml", "json"}  # text, toml and json are shown, not run
PROGRAMS = {"curl", "find", "unfreeze"}  # what a page may ask a shell for, and nothing else
NOT_RUN = {
    "make demo": "minutes; `unfreeze demo` is tested in test_command_line.py",
    "unfreeze demo": "minutes; tested in test_command_line.py",
    "unfreeze track runs/train --to mlflow": "sets up a database, and warns of its own; tested in test_trackers.py",
    "unfreeze train tiles --recipe head-only": "many bands take long; whole runs on them are in test_numbers.py",
    "unfreeze train tiles --recipe head-only --bands 4,3,2": "the same",
    "unfreeze predict runs/train tiles/River": "the same",
    "make test": "runs this very test",
    "pip install -c constraints.txt .": "changes the environment that the tests run in; make does the same with .venv",
}


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int

    @property
    def commands(self) -> list[str]:
        return [line for line in self.text.splitlines() if shlex.split(line, comments=True)]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page; a directive's begins with a brace."""
    text = page.read_text("utf-8")
    fenced = re.finditer(r"^```(\S*)[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(found[1], found[2], text.count("\n", 0, found.start()) + 1) for found in fenced]


def plain(command: str) -> str:
    """Return a command without its comment and superfluous spaces."""
    return " ".join(re.sub(r"\s#\s.*", "", command).split())


RUN_BY: dict[str, str] = {}  # of every command, the last page that prints it: there, README's commands are explained
for name, page in PAGES.items():
    for block in blocks(page):
        if block.language == "console":
            RUN_BY |= dict.fromkeys(map(plain, block.commands), name)
RUNNABLE = [name for name, page in PAGES.items() if {block.language for block in blocks(page)} & {"console", "python"}]


@pytest.fixture(scope="module")
def desk(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("docs") / "desk")


@contextmanager
def server(folder: Path, command: str) -> Iterator[None]:
    """Run a server as long as the block does."""
    process, said = start_server(shlex.split(command, comments=True)[1:], folder)
    assert process.poll() is None, "".join(said)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_command_and_every_python_block_runs(name: str, desk: Path, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(desk, folder, symlinks=True)
    names: dict[str, object] = {"__name__": "__main__"}
    with ExitStack() as stack:
        stack.enter_context(small())
        for block in blocks(PAGES[name]):
            if block.language == "python":
                stack.enter_context(pytest.MonkeyPatch.context()).chdir(folder)
                exec(compile("\n" * block.line + block.text, PAGES[name], "exec"), names)
            elif block.language == "console":
                for command in block.commands:
                    if plain(command) in NOT_RUN or RUN_BY[plain(command)] != name:
                        continue
                    if "curl" in command and shutil.which("curl") is None:
                        pytest.skip("there is no curl here")
                    if command.startswith("unfreeze serve"):
                        stack.enter_context(server(folder, command))
                    elif command.startswith("unfreeze ") and not set("|><*") & set(plain(command)):
                        run_command(folder, command)
                    else:
                        in_a_shell(folder, command)


def in_a_shell(folder: Path, command: str) -> None:
    """Run a pipe or a program of others in a shell that finds ours."""
    for part in command.split("|"):
        assert shlex.split(part)[0] in PROGRAMS, f"{command}: neither ours, nor in PROGRAMS, nor in NOT_RUN"
    bin_ = folder.parent / "bin"
    bin_.mkdir(exist_ok=True)
    ours = bin_ / "unfreeze"
    ours.write_text(f'#!/bin/sh\nexec {shlex.join(PROGRAM)} "$@"\n', "utf-8")
    ours.chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def test_what_is_not_run_is_printed_somewhere() -> None:
    assert set(NOT_RUN) - set(RUN_BY) == set()


@pytest.mark.parametrize("name", PAGES)
def test_no_command_hides(name: str) -> None:
    """In a block of no language, in an indented one, or named in passing and not there."""
    text = PAGES[name].read_text("utf-8")
    languages = {block.language for block in blocks(PAGES[name])}
    assert {language for language in languages if not language.startswith("{")} - LANGUAGES == set()
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert re.findall(r"^ {4,}(?:unfreeze|make|pip|python3?|curl) .*", outside, re.MULTILINE) == []
    known = {name for name in app if not name.startswith("-")}
    assert set(re.findall(r"`unfreeze ([a-z]+)", outside)) - known == set()


def test_every_flag_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--help", "--version"}
    for command in (name for name in app if not name.startswith("-")):
        app([command, "--help"], exit_on_error=False, result_action="return_value")
        known |= set(re.findall(r"--[a-z][a-z0-9-]+", capsys.readouterr().out))
    ours = (re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S) for page in PAGES.values())
    named = {flag for text in ours for flag in re.findall(r"`(--[a-z][a-z0-9-]+)", text)}
    assert named - known == set()
