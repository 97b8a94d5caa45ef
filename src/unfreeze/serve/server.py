"""The server process: opens the socket, prints the addresses, runs uvicorn and shuts down."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from importlib.util import find_spec
from pathlib import Path

from unfreeze.errors import ConfigError, MissingExtraError
from unfreeze.runtime import echo

CONNECTIONS = 128  # concurrent connections; each may hold a megabyte of an upload in memory
LAST_PORT = 65535
GRACE = 3  # seconds that running requests get at shutdown


def serve(folder: Path, host: str, port: int, device: str) -> None:
    """Serve a finished run's model until it is interrupted.

    Args:
        folder: The run folder.
        host: The address or name to listen on.
        port: The TCP port; 0 takes any free one.
        device: auto, cpu, gpu, cuda, cuda:1 (or 1) or mps.

    Raises:
        MissingExtraError: A package of the extra ``serve`` isn't installed.
        ConfigError: The address can't be listened on.
        RunError, ModelError: There is no finished run in ``folder``.
    """
    for package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
        if find_spec(package) is None:
            raise MissingExtraError(package, "serve", "Serving a model")
    import uvicorn

    from unfreeze.serve.app import PREDICT, create_app
    from unfreeze.serve.guard import own_names
    from unfreeze.serve.model import open_model

    with listen(host, port) as listener:
        served = open_model(folder, device)
        verdict = served.run.verdict
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        arm = "two-phase" if verdict.shipped == "two_phase" else "head-only"
        config = uvicorn.Config(
            create_app(served, own_names(host)),
            log_config=None,  # uvicorn's default resets the logging of the process and closes other handlers
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
        )
        # From here on Ctrl-C ends without a traceback; uvicorn shuts down first, then raises the signal again.
        with contextlib.suppress(KeyboardInterrupt):
            echo(f"serving  {folder}: {verdict.model.name}, the {arm} model, {len(served.run.classes)} classes")
            echo(f"page     {address}/")
            echo(f"API      curl -F photos=@PHOTO {address}{PREDICT}; described in {address}/openapi.json")
            echo("Ctrl-C ends it")
            if not is_loopback(host):
                echo("warning: anyone who can reach this machine can use it: there is no authentication")
            uvicorn.Server(config).run(sockets=[listener])
        echo("ended")


def listen(host: str, port: int) -> socket.socket:
    """Return a listening TCP socket.

    Raises:
        ConfigError: The port is taken, forbidden or out of range, or the host isn't an address of this machine.
    """
    if not 0 <= port <= LAST_PORT:
        raise ConfigError(f"There is no port {port}.", where="--port", mend=f"Take one from 0 to {LAST_PORT}.")
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(
            f"{host} can't be listened on at port {port}: {error}.",
            where="--host, --port",
            mend="Take another --port; 0 takes any that is free.",
        ) from error
    # Connections inherit it.  Without it, a response's body waits 40 ms for the client's delayed ACK of the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def is_loopback(host: str) -> bool:
    """Return whether a server on ``host`` is reachable from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
