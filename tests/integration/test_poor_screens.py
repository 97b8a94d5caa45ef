"""The whole command line where the screen is poor: few characters, few columns, nobody who reads."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.support.commands import command, small

CLASSES = ("圆", "é\x1b[31m", "🦊")
TRAIN = ("--recipe", "head-only", "--views", "1", "--cache-gib", "0")


class Terminal(io.TextIOWrapper):
    """A terminal of 20 columns."""

    def isatty(self) -> bool:
        return True


@contextmanager
def screen(encoding: str | None, *, columns: int | None = None) -> Iterator[io.BytesIO]:
    """Let stdout and stderr be pipes or, with columns, a terminal; yield the bytes of stdout."""
    out, err = io.BytesIO(), io.BytesIO()
    kind = Terminal if columns else io.TextIOWrapper
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("PYTHONIOENCODING", "COLUMNS", "FORCE_COLOR"):
            patch.delenv(variable, raising=False)
        if encoding is not None:
            patch.setenv("PYTHONIOENCODING", encoding)
        if columns is not None:
            patch.setenv("COLUMNS", str(columns))
        streams = [kind(each, encoding=encoding or "cp1252", newline="\n") for each in (out, err)]
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        yield out
        streams[0].flush()
        streams[1].flush()
    assert b"Traceback" not in err.getvalue()
    assert b"\x1b[31m" not in err.getvalue()
    for stream in streams:
        stream.detach()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of noise, of which some class will be weak and be named; a run on them, made on a screen of ASCII."""
    folder = tmp_path_factory.mktemp("poor")
    for kind, name in enumerate(CLASSES):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(6):
            noise = np.random.default_rng(10 * kind + number).integers(0, 255, (40, 60, 3), np.uint8)
            Image.fromarray(noise).save(folder / "photos" / name / f"ö {number}.png")
    with small(), screen("ascii") as out:
        assert command("train", folder / "photos", *TRAIN, "--out", folder / "run") == 0
    assert (folder / "run" / "report.html").exists()
    assert b"weakest classes" in out.getvalue()
    assert b"\x1b" not in out.getvalue()
    out.getvalue().decode("ascii")
    return folder


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", None])
def test_every_command_ends_well_in_every_encoding(desk: Path, encoding: str | None) -> None:
    run, photos = desk / "run", desk / "photos"
    for words in (
        ("predict", run, photos),
        ("predict", run, photos, "--top", "2"),
        ("eval", run, photos),
        ("explain", run, photos / "圆", "--out", desk / "explained"),
        ("report", run),
        ("models",),
        ("doctor",),
        ("--help",),
        ("train", "--help"),
    ):
        with screen(encoding) as out:
            assert command(*words) == 0
        assert out.getvalue()
        out.getvalue().decode(encoding or "utf-8")
    with screen(encoding):
        assert command("predict", run, desk / "圆🦊") == 2  # the error names it


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", None])
def test_what_other_programs_read_holds_the_names(desk: Path, encoding: str | None) -> None:
    with screen(encoding) as out:
        assert command("predict", desk / "run", desk / "photos", "--json", "-") == 0
    rows = [json.loads(line) for line in out.getvalue().decode(encoding or "utf-8").splitlines()]
    assert {row["label"] for row in rows} <= set(CLASSES)
    assert len(rows) == 18
    with screen(encoding) as out:
        assert command("predict", desk / "run", desk / "photos", "--csv", "-") == 0
    header, *table = csv.reader(io.StringIO(out.getvalue().decode(encoding or "utf-8")))
    assert len(table) == 18
    assert encoding is not None or set(header[2:]) == set(CLASSES)
    assert command("predict", desk / "run", desk / "photos", "--csv", desk / "answers.csv") == 0
    assert "圆" in (desk / "answers.csv").read_text("utf-8")


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
@pytest.mark.parametrize("extra", [(), ("--csv", "-"), ("--json", "-")])
def test_a_narrow_terminal_shows_all_and_obeys_no_name(desk: Path, encoding: str, extra: tuple[str, ...]) -> None:
    with screen(encoding, columns=20) as out:
        assert command("predict", desk / "run", desk / "photos", *extra) == 0
    assert b"\x1b[31m" not in out.getvalue()
    for words in (("eval", desk / "run", desk / "photos"), ("train", "--help"), ("models",)):
        with screen(encoding, columns=20) as out:
            assert command(*words) == 0
        assert out.getvalue()


def test_a_narrow_table_cuts_no_number_and_breaks_no_header(desk: Path) -> None:
    for columns, header in ((20, False), (43, False), (44, True), (80, True)):
        with screen("utf-8", columns=columns) as out:
            assert command("predict", desk / "run", desk / "photos" / "圆") == 0
        shown = out.getvalue().decode()
        assert ("probability" in shown) == header
        assert len(re.findall(r"\b[01]\.\d{3}\b", shown)) == 6
