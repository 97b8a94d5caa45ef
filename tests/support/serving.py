"""A tiny model as it is served, and a server that listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn
from starlette.types import ASGIApp
from tests.support.backbones import new_head, tiny_cnn
from tests.support.runs import verdict

from unfreeze.models.backbone import Backbone
from unfreeze.models.saved import Classifier
from unfreeze.orientations import Orientation
from unfreeze.runs.folder import RunFolder
from unfreeze.runs.run import Run
from unfreeze.serve.model import Served
from unfreeze.serve.server import listen
from unfreeze.views import PLAIN, EvaluationView, Views

LOCAL = "http://localhost"

BOTH = (PLAIN, EvaluationView(Orientation.FLIPPED))


def served(
    root: Path,
    classes: tuple[str, ...],
    make: Callable[[], Backbone] = tiny_cnn,
    views: Views = BOTH,
) -> Served:
    """Return a tiny model whose answers differ from photo to photo, and from view to view."""
    backbone = make()
    head = new_head(backbone, len(classes), 0)
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    model = Classifier(backbone, head.eval().requires_grad_(False), classes, views)
    return Served(Run(RunFolder(root), verdict(classes), "cpu"), model)


@contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """Serve on a free port while the block runs, and yield the address."""
    with listen("127.0.0.1", 0) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
