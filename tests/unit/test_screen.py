from __future__ import annotations

import io
import json
import sys

import pytest

from unfreeze.screen import echo, inert, inert_json, inert_name, is_terminal, tell

HOSTILE = [
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b2J",
    "a\u202egpj.exe",
    "over\rwritten",
    "\x7f",
    "\u2066x\u2069",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_commands_a_terminal(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    echo(f"left out: {name}")
    tell(f"weakest: {name}")
    line = inert_json(json.dumps({"label": name}, ensure_ascii=False), "utf-8")
    assert json.loads(line) == {"label": name}
    captured = capsys.readouterr()
    for shown in (captured.out, captured.err, inert_name(name) + "\n", line + "\n"):
        assert shown[:-1].isprintable()


def test_a_message_may_have_lines_and_a_name_may_not() -> None:
    assert inert("where: x\n  to do:\ty") == "where: x\n  to do:\ty"
    assert inert_name("a\nb\tc") == "a\\x0ab\\x09c"
    assert inert_name("Größe 圆 🦊 é") == "Größe 圆 🦊 é"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp437", None, "utf-8", "UTF8", "utf_16"])
def test_json_holds_the_same_names_in_every_encoding(encoding: str | None) -> None:
    text = json.dumps({"label": "圆 é 🦊 \x9b"}, ensure_ascii=False)
    line = inert_json(text, encoding)
    assert json.loads(line.encode(encoding or "utf-8").decode(encoding or "utf-8")) == json.loads(text)


def test_a_message_that_nobody_reads_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    closed = io.StringIO()
    closed.close()
    for stream in (Gone(), closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        echo("hello")
        assert not is_terminal()
