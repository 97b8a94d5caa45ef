"""What the tests of serving share: a tiny served model, photos as bytes, and a server that really listens."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image
from starlette.types import ASGIApp
from tests.support import new_head, tiny_cnn

from unfreeze.artifacts import RunFolder
from unfreeze.evaluation.metrics import score
from unfreeze.models.backbone import Backbone
from unfreeze.models.saved import Classifier
from unfreeze.poses import Pose
from unfreeze.run import Run
from unfreeze.serve.model import Served
from unfreeze.serve.server import listen
from unfreeze.verdict import Cost, Data, Model, ScoreSheet, Verdict

LOCAL = "http://localhost"


def verdict(classes: tuple[str, ...]) -> Verdict:
    """Return the verdict of a run on a few photos whose phase 2, from blocks.1 up, doesn't ship."""
    labels = np.arange(12) % len(classes)
    scores = score(labels, np.eye(len(classes))[labels] * 0.8 + 0.2 / len(classes))
    return Verdict(
        shipped="head_only",
        data=Data(n_train=30, n_test=12, classes=classes, left_out=0),
        model=Model(name="tiny_cnn", boundary=3, depth="blocks.1", alpha=0, bn="frozen"),
        scores=ScoreSheet(evidence="test", head_only=scores, shipped=scores),
        cost=Cost(seconds={"total": 1.0}),
    )


def served(
    root: Path,
    classes: tuple[str, ...],
    make: Callable[[], Backbone] = tiny_cnn,
    poses: tuple[Pose, ...] = (Pose.PLAIN, Pose.MIRRORED),
) -> Served:
    """Return a tiny model whose answers differ from photo to photo, and from pose to pose."""
    backbone = make()
    head = new_head(backbone, len(classes), 0)
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(0))
    model = Classifier(backbone, head.eval().requires_grad_(False), classes, poses)
    return Served(Run(RunFolder(root), verdict(classes), "cpu"), model)


def noise(seed: int = 0, width: int = 40, height: int = 30) -> Image.Image:
    """Return a photo of noise, brighter on one side."""
    pixels = np.random.default_rng(seed).integers(0, 160, (height, width, 3), np.uint8)
    pixels[:, : width // 2, seed % 3] += 90
    return Image.fromarray(pixels)


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """Return a photo as a file's content."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
