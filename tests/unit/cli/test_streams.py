from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tests.support.commands import PROGRAM, command

from unfreeze.cli.streams import quiet_packages, settle_streams


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


def written(to: io.TextIOWrapper) -> bytes:
    assert isinstance(to.buffer, io.BytesIO)
    return to.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "latin-1"])
def test_a_file_is_utf8_and_an_encoding_that_is_asked_for_loses_no_print(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for asked, expected in ((None, "圆\n".encode()), (encoding, b"\\u5706\n"), (f"{encoding}:strict", b"\\u5706\n")):
        out = stream(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.delenv("PYTHONIOENCODING", raising=False)
        if asked is not None:
            monkeypatch.setenv("PYTHONIOENCODING", asked)
        settle_streams()
        print("圆")
        assert written(out).replace(os.linesep.encode(), b"\n") == expected


def test_what_is_no_valid_unicode_is_printed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    out = stream("utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    settle_streams()
    print("a\udce9")
    assert b"\\udce9" in written(out)


def test_no_colour_is_forced_into_a_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    assert command("--help") == command("predict", "--help") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_other_packages_words_stay_off_the_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    before = warnings.showwarning
    with quiet_packages():
        logging.getLogger("torch.somewhere").warning("raw words")
        warnings.showwarning("raw words", UserWarning, "x.py", 1)
        with pytest.raises(UserWarning):  # tests make them errors, and so may others
            warnings.warn("an error", UserWarning, stacklevel=1)
    assert warnings.showwarning is before
    assert logging.root.manager.disable == 0
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with quiet_packages():
        assert warnings.showwarning is before
    assert "raw words" not in capsys.readouterr().err


def run_in_shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    shell = f'unfreeze() {{ {" ".join(map(repr, PROGRAM))} "$@"; }}; {line}'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    return subprocess.run(
        ["bash", "-c", shell], cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("unfreeze --help >&-", 0, ""),
        ("unfreeze --version >&- 2>&- <&-", 0, ""),
        ("unfreeze nonsense 2>&-", 2, ""),
        ("set -o pipefail; unfreeze --version | true", 0, ""),
        pytest.param(
            "unfreeze --version >/dev/full", 2, "the output can't be written: No space left",
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device"),
        ),
    ],
)  # fmt: skip
def test_a_stream_that_is_closed_or_full_is_no_crash(line: str, code: int, says: str, tmp_path: Path) -> None:
    done = run_in_shell(line, tmp_path)
    assert done.returncode == code
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("train", "; an unfinished run has no verdict.json"),
        ("compare", "; an unfinished comparison has no compare.json"),
        ("predict", ""),
        ("export", ""),
    ],
)
def test_interrupted_it_says_what_the_command_leaves(
    name: str, left: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("unfreeze.cli.app", interrupted)
    assert command(name, "photos") == 130
    assert capsys.readouterr().err == f"unfreeze: interrupted{left}\n"
