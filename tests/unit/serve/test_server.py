from __future__ import annotations

import importlib.util
import socket
from pathlib import Path

import pytest

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.serve.server import is_loopback, listen, serve


def test_a_port_that_is_taken_is_named_and_another_one_advised() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}") as refused:
            listen("127.0.0.1", port)
    assert "--port" in str(refused.value)


def test_answers_are_not_held_back() -> None:
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        connection, _ = listening.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("no.such.host.invalid", 0)])
def test_an_address_that_cant_be_is_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError):
        listen(host, port)


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("127.0.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.7", False), ("box.example", False)],
)  # fmt: skip
def test_what_other_machines_reach(host: str, inside: bool) -> None:
    assert is_loopback(host) == inside


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "unfreeze.serve.server.find_spec", lambda name: None if name == "python_multipart" else found(name)
    )
    with pytest.raises(MissingExtraError, match=r"unfreeze\[serve\]"):
        serve(tmp_path, "127.0.0.1", 0, "cpu")
