"""``unfreeze predict`` end to end: what is asked about, what is said, and how it ends."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.commands import PROGRAM, command

import unfreeze
from unfreeze.predict import Prediction, Unread
from unfreeze.runs.run import Run


@pytest.fixture
def photos(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Five photos in the working folder, of which the third was cut short."""
    names = [f"{number}.jpg" for number in range(5)]
    for source, name in zip(sorted(drawn.glob("*/00[01].jpg")), names, strict=False):
        shutil.copy(source, tmp_path / name)
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:900])
    monkeypatch.chdir(tmp_path)
    return names


def process(*words: str | Path) -> list[str]:
    """Return what runs the command line in a process of its own."""
    return [*PROGRAM, *map(str, words)]


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


GOOD = ["0.jpg", "1.jpg", "3.jpg", "4.jpg"]


def test_a_damaged_photo_in_the_middle_spoils_no_other(
    run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("predict", run.folder.root, *photos) == 2
    told = capsys.readouterr()
    rows = [line.split("\t") for line in told.out.splitlines()]
    assert [row[0] for row in rows] == GOOD
    assert all(row[1] in run.classes and 0 < float(row[2]) <= 1 for row in rows)
    assert "1 of 5 photos can't be read" in told.err
    assert "left out: The photo can't be read" in told.err
    assert "2.jpg" in told.err
    assert command("predict", run.folder.root, *GOOD) == 0


def test_patterns_are_expanded_and_one_that_matches_nothing_is_named(
    run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("2.jpg").rename("2[1].jpg")
    shutil.copy("1.jpg", "2[1].jpg")
    shutil.copy("1.jpg", "21.jpg")
    assert command("predict", run.folder.root, "[0-9].jpg", "2[1].jpg") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [*GOOD, "2[1].jpg"]
    assert command("predict", run.folder.root, "*.png") == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "*.png" in told.err
    assert "Traceback" not in told.err


@pytest.mark.parametrize("words", [["predict", "{}"], ["predict", "-"], ["explain", "{}"], ["eval", "{}"]])
def test_what_a_folder_holds_besides_is_said_by_every_command(
    run: Run, photos: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inside = Path("folder", run.classes[0])
    for name in (inside / "1.jpg", inside / "2", inside / ".dark" / "3.jpg"):
        name.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy("1.jpg", name)
    (inside / "4.CR2").write_bytes(b"II*\0")
    stdin(monkeypatch, b"folder\n")
    assert command(words[0], run.folder.root, words[1].format("folder")) == 0
    told = capsys.readouterr()
    assert "1 without suffix" in told.err
    assert "1 '.cr2'" in told.err
    assert "3.jpg" not in told.out
    assert ".dark' (1 photo)" in told.err


@pytest.mark.parametrize("null", [False, True])
def test_a_list_comes_on_stdin(
    run: Run, photos: list[str], null: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, ("\0" if null else "\n").join(["4.jpg", "gone.jpg", "0.jpg", "4.jpg"]).encode())
    assert command("predict", run.folder.root, "-", *(["-0"] if null else [])) == 2
    told = capsys.readouterr()
    assert [line.split("\t")[0] for line in told.out.splitlines()] == ["4.jpg", "0.jpg", "4.jpg"]
    assert "1 of 4 photos can't be read" in told.err
    assert "gone.jpg" in told.err


def test_an_empty_list_is_a_mistake(
    run: Run, photos: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stdin(monkeypatch, b"\n")
    assert command("predict", run.folder.root, "-", "--csv", "out.csv") == 2
    assert "No photo was found" in capsys.readouterr().err
    assert not list(Path().glob("*out*"))


def test_files_hold_every_probability_and_the_most_probable_classes(
    run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--csv", "made/out.csv", "--json", "out.jsonl", "--top", "2"]
    assert command("predict", run.folder.root, *photos, *words) == 2
    told = capsys.readouterr()
    assert told.out.splitlines() == ["4 predictions in made/out.csv", "4 predictions in out.jsonl"]
    with Path("made/out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == GOOD
    objects = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [each["file_name"] for each in objects] == photos
    assert set(objects[2]) == {"file_name", "error"}
    assert "can't be read" in objects[2]["error"]
    for row, each in zip(rows, objects[:2] + objects[3:], strict=True):
        assert set(row) == {"file_name", "label", *run.classes}
        ranked = sorted(run.classes, key=lambda name: -float(row[name]))
        assert [best["label"] for best in each["top"]] == ranked[:2]
        assert [best["probability"] for best in each["top"]] == [float(row[name]) for name in ranked[:2]]
        assert {"label": each["label"], "probability": each["probability"]} == each["top"][0]
        assert row["label"] == each["label"]


@pytest.mark.parametrize("kind", ["--csv", "--json"])
def test_what_a_file_would_hold_can_be_printed(
    run: Run, photos: list[str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("predict", run.folder.root, *photos, kind, "-") == 2
    printed = capsys.readouterr().out
    assert command("predict", run.folder.root, *photos, kind, "file") == 2
    assert Path("file").read_bytes().decode() == printed
    assert len(printed.splitlines()) == 5
    assert not Path("-").exists()


def test_as_many_classes_are_named_as_are_asked_for(
    run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for top, named in (("1", 1), ("3", 3), ("99", len(run.classes))):
        assert command("predict", run.folder.root, "0.jpg", "--top", top) == 0
        _, *cells = capsys.readouterr().out.rstrip("\n").split("\t")
        assert len(cells) == 2 * named
        assert len(set(cells[::2])) == named
        assert [float(cell) for cell in cells[1::2]] == sorted(map(float, cells[1::2]), reverse=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["0.jpg", "--top", "0"], "--top"),
        (["0.jpg", "--top", "2", "--csv", "-"], "--top has no meaning"),
        (["0.jpg", "--csv", "-", "--json", "-"], "Only one of them"),
        (["0.jpg", "-0"], "--null has no meaning"),
        (["0.jpg", "--tops", "3"], "no such option"),
        (["0.jpg", "--csv", "--top", "3"], "no such option"),
        (["-", "0.jpg"], "takes all photos from stdin"),
        (["0.jpg", "--csv", "0.jpg/out.csv"], "can't be written"),
        ([], "PLACES"),
    ],
)
def test_what_can_not_be_asked_is_refused(
    run: Run, photos: list[str], words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("predict", run.folder.root, *words) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""
    assert sorted(path.name for path in Path().iterdir()) == photos


def test_names_run_no_formula_end_no_line_and_command_no_terminal(
    run: Run, photos: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    if sys.platform == "win32":
        pytest.skip("no such names there")
    for name in ("=1+1.jpg", "a\tb\nc\x1b[31m.jpg"):
        shutil.copy("0.jpg", name)
    assert command("predict", run.folder.root, "=1+1.jpg", "a*.jpg") == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == [
        "=1+1.jpg", "a\\x09b\\x0ac\\x1b[31m.jpg",
    ]  # fmt: skip
    assert command("predict", run.folder.root, "=1+1.jpg", "a*.jpg", "--csv", "-") == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert [row[0] for row in rows] == ["file_name", "'=1+1.jpg", "a\tb\nc\x1b[31m.jpg"]
    assert command("predict", run.folder.root, "=1+1.jpg", "a*.jpg", "--json", "-") == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["file_name"] for each in objects] == ["=1+1.jpg", "a\tb\nc\x1b[31m.jpg"]


def test_both_engines_give_the_same_answers(run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(drawn.glob("*/*.jpg"))
    plain = list(run.stream(paths))
    monkeypatch.setattr("unfreeze.predict.MIN_COMPILED_IMAGES", len(paths))
    built = list(unfreeze.load(run.folder.root).stream(iter(paths)))
    assert [answer.path for answer in built] == [answer.path for answer in plain] == paths
    assert [answer.label for answer in built] == [answer.label for answer in plain]
    for one, other in zip(built, plain, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)


def test_python_gets_a_reason_for_each_damaged_photo(run: Run, photos: list[str]) -> None:
    answers = list(run.predictions(map(Path, photos)))
    assert [type(answer) for answer in answers] == [Prediction, Prediction, Unread, Prediction, Prediction]
    assert [answer.path.name for answer in run.predict(["[013].jpg"])] == ["0.jpg", "1.jpg", "3.jpg"]


def test_a_reader_that_goes_away_gets_no_traceback(run: Run, photos: list[str]) -> None:
    listed = "\n".join(GOOD * 50).encode()
    with subprocess.Popen(
        process("predict", run.folder.root, "-"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as child:  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(listed)
        child.stdin.close()
        assert child.stdout.readline().startswith(b"0.jpg\t")
        child.stdout.close()
        said = child.stderr.read()
    assert child.returncode == 0  # it has read what it wanted
    assert said == b""


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals there")
def test_a_terminal_shows_a_table_and_the_bar_takes_nothing_from_a_pipe(run: Run, photos: list[str]) -> None:
    import pty

    shutil.copy("0.jpg", "[bold]x.jpg")
    words = process("predict", run.folder.root, "0.jpg", "[bold]x.jpg")
    own, terminal = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while piece := os.read(own, 2**16):
                shown.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    environment = {**os.environ, "COLUMNS": "100", "TERM": "xterm", "NO_COLOR": "1"}
    # Whoever of the two is no terminal gets a pipe.
    quiet = subprocess.run(words, stdout=terminal, stderr=subprocess.PIPE, env=environment, timeout=300, check=True)
    piped = subprocess.run(words, stdout=subprocess.PIPE, stderr=terminal, env=environment, timeout=300, check=True)
    os.close(terminal)
    reader.join()
    os.close(own)
    assert quiet.stderr == b""
    assert [line.split("\t")[0] for line in piped.stdout.decode().splitlines()] == ["0.jpg", "[bold]x.jpg"]
    screen = b"".join(shown).decode()
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", screen)
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen).splitlines() if line.strip()]
    assert lines[0].split() == ["photo", "class", "probability"]
    assert [row.split()[0] for row in lines[2:4]] == ["0.jpg", "[bold]x.jpg"]
    assert len(lines[2].rstrip()) == len(lines[3].rstrip())
