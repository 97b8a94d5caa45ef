"""`unfreeze serve` as a process: what it says, what it takes, how it ends."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import torch
from tests.support.backbones import CPU, new_head
from tests.support.commands import start_server
from tests.support.photos import noise, packed
from tests.support.runs import verdict

from unfreeze.cli import main
from unfreeze.files import write_text
from unfreeze.models.backbone import Architecture, assemble
from unfreeze.models.networks import build
from unfreeze.models.saved import Classifier, save_model
from unfreeze.orientations import Orientation
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import Run, load
from unfreeze.views import EvaluationView

CLASSES = ("ant", "bee", "wasp")
MIB = 2**20


@dataclass(frozen=True)
class Started:
    process: subprocess.Popen[str]
    address: str
    said: list[str]

    def memory(self, kind: str = "VmRSS") -> int:
        """Return the process's resident memory in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"{kind}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024


def start(folder: Path) -> Started:
    """Start a server on a free port, and wait until it says where."""
    words = ["serve", str(folder), "--port", "0", "--device", "cpu"]
    process, said = start_server(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = re.search(r"^page +(http://\S+)/$", "".join(said), re.MULTILINE)
    assert found is not None, said
    return Started(process, found[1], said)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of timm's smallest network."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "mine")
    torch.manual_seed(0)
    architecture = Architecture("timm", "test_efficientnet")
    backbone = assemble("timm/test_efficientnet", architecture, build(architecture), CPU)
    views = tuple(map(EvaluationView, (0, Orientation.ROT90, Orientation.ROT180, Orientation.ROT270)))
    save_model(folder.model, Classifier(backbone, new_head(backbone, len(CLASSES), 0), CLASSES, views))
    write_text(folder.verdict, verdict(CLASSES).to_json())
    return load(folder.root, "cpu")


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Started]:
    started = start(run.folder.root)
    with started.process:  # waits for it, and closes its pipes
        yield started
        started.process.kill()


def test_it_says_what_is_served_and_where(server: Started, run: Run) -> None:
    assert server.said[0] == f"serving  {run.folder.root}: tiny_cnn, the head-only model, 3 classes\n"
    assert server.address.startswith("http://127.0.0.1:")
    assert not any("warning" in line for line in server.said)


def test_the_api_answers_as_predict_does(server: Started, run: Run, tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(packed(noise(1, 500, 400), "JPEG"))
    (expected,) = run.predict([photo])
    with photo.open("rb") as file:
        reply = httpx.post(f"{server.address}/predict", files={"photos": file})
    (answer,) = reply.json()["photos"]
    assert answer["file_name"] == "a.jpg"
    assert answer["label"] == expected.label
    assert answer["probabilities"][0]["probability"] == pytest.approx(expected.probability, rel=1e-5)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("multipart/form-data; boundary=x", 413),
        ("application/x-www-form-urlencoded", 400),  # a field may not be long, either
        ("application/octet-stream", 422),  # it isn't even read
    ],
)
def test_a_gigabyte_in_pieces_takes_little_memory(server: Started, kind: str, status: int) -> None:
    """Without a Content-Length, as fast as the server takes it."""
    httpx.post(f"{server.address}/predict", files={"photos": packed(noise())})
    before, sent = server.memory(), 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a.jpg"\r\n\r\n'
        piece = bytes(MIB)
        for _ in range(1024):
            sent += len(piece)
            yield piece

    reply = httpx.post(f"{server.address}/predict", content=body(), headers={"content-type": kind}, timeout=60)
    assert "content-length" not in reply.request.headers
    assert reply.status_code == status
    assert status != 413 or "10 MB" in reply.json()["detail"]
    assert sent > 10 * MIB or status != 413
    assert server.memory("VmHWM") - before < 50 * MIB


def test_a_length_that_is_announced_is_refused_before_it_is_sent(server: Started) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(2**30))
    connection.putheader("Expect", "100-continue")
    connection.endheaders()
    reply = connection.getresponse()
    assert reply.status == 413
    assert "10 MB" in json.loads(reply.read())["detail"]
    connection.close()


def test_a_port_that_is_taken_ends_with_2(server: Started, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    port = str(urlsplit(server.address).port)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(run.folder.root), "--port", port])
    assert end.value.code == 2
    assert f"127.0.0.1 can't be listened on at port {port}" in capsys.readouterr().err


def test_interrupted_it_ends_in_good_order(server: Started) -> None:
    server.process.send_signal(signal.SIGINT)
    _, rest = server.process.communicate(timeout=30)
    assert server.process.returncode == 0
    assert rest == "ended\n"


def test_interrupted_as_soon_as_that_is_offered_it_ends_in_good_order(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def interrupted(line: str) -> None:
        said.append(line)
        if line.startswith("Ctrl-C"):
            raise KeyboardInterrupt

    monkeypatch.setattr("unfreeze.serve.server.echo", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(run.folder.root), "--port", "0", "--device", "cpu"])
    assert end.value.code == 0
    assert said[-2:] == ["Ctrl-C ends it", "ended"]


def test_open_to_others_it_warns(run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    with pytest.raises(SystemExit) as end:
        main(["serve", str(run.folder.root), "--host", "0.0.0.0", "--port", "0", "--device", "cpu"])
    assert end.value.code == 0
    assert "warning: anyone who can reach this machine can use it" in capsys.readouterr().err


def test_others_go_on_logging(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closes(logging.Handler):
        """As absl's, which TensorBoard brings along, closes its stream."""

        closed = False

        def close(self) -> None:
            self.closed = True
            super().close()

    others = Closes()
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    with pytest.raises(SystemExit):
        main(["serve", str(run.folder.root), "--port", "0", "--device", "cpu"])
    assert not others.closed
