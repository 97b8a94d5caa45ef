"""The command line as tests run it: in this process, or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from unfreeze.cli import main

PROGRAM = [sys.executable, "-c", "from unfreeze.cli import main; main()"]


def command(*words: str | Path) -> int:
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    return int(end.value.code or 0)


def start_server(
    words: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> tuple[subprocess.Popen[str], list[str]]:
    """Start a command that serves, and wait until it listens or has ended; return it with what it has said on stderr."""
    process = subprocess.Popen([*PROGRAM, *words], cwd=cwd, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "Ctrl-C" in line:
            break
    return process, said
