"""The server process: its socket, what it says when it starts, and how it ends."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from importlib.util import find_spec
from pathlib import Path

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.runtime import say

CONNECTIONS = 128  # open at once: each may hold a megabyte of an upload in memory
LAST_PORT = 65535
GRACE = 3  # seconds for requests in progress when it ends


def serve(folder: Path, host: str, port: int, device: str) -> None:
    """Serve a finished run's model until it is interrupted.

    Args:
        folder: The run's.
        host: The address or name to listen on.
        port: 0 takes any free one.
        device: auto, cpu, cuda, mps.

    Raises:
        MissingExtraError: A package of the extra ``serve`` isn't installed.
        ConfigError: The address can't be listened on.
        RunError, ModelError: There is no finished run in ``folder``.
    """
    for package in ("fastapi", "uvicorn", "python_multipart"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "Serving a model")
    import uvicorn

    from unfreeze.serve.app import PREDICT, create_app
    from unfreeze.serve.guard import own_names
    from unfreeze.serve.model import open_model

    with listen(host, port) as listening:
        served = open_model(folder, device)
        found = served.run.verdict
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        arm = "two-phase" if found.shipped == "two_phase" else "head-only"
        config = uvicorn.Config(
            create_app(served, own_names(host)),
            log_config=None,  # uvicorn's own resets the whole process's logging, and closes what others log to
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
        )
        # As soon as Ctrl-C is offered it ends in good order; uvicorn does so, and then passes the signal on.
        with contextlib.suppress(KeyboardInterrupt):
            say(f"serving  {folder}: {found.model.name}, the {arm} model, {len(served.run.classes)} classes")
            say(f"page     {address}/")
            say(f"API      curl -F photos=@PHOTO {address}{PREDICT}; described in {address}/openapi.json")
            say("Ctrl-C ends it")
            if not is_loopback(host):
                say("warning: whoever can reach this machine can use it, for there is no authentication")
            uvicorn.Server(config).run(sockets=[listening])
        say("ended")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ConfigError: The port is taken, not allowed or none, or the host is none of this machine's.
    """
    if not 0 <= port <= LAST_PORT:
        raise ConfigError(f"There is no port {port}.", where="--port", mend=f"Take one from 0 to {LAST_PORT}.")
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{host} can't be listened on at port {port}: {error}.",
            where="--host, --port",
            mend="Take another --port; 0 takes any that is free.",
        ) from error
    # Connections inherit it.  Without, the body of an answer waits 40 ms for the client's word that it has the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def is_loopback(host: str) -> bool:
    """Return whether nothing outside this machine reaches a server on ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
