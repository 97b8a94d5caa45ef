"""What the peers' arms share: the task, the clock, how a model is scored.  Needs torch and timm alone."""

from __future__ import annotations

import json
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

ARCHITECTURE = "tf_efficientnet_lite0"
SCORED_AT_ONCE = 32
Labelled = list[tuple[str, int]]


@dataclass(frozen=True)
class Task:
    """What the orchestrator hands to an arm.

    Attributes:
        train: Photo files and classes.
        test: Likewise; never trained on.
        reference: Photos of the original task, and their outputs of the original classifier; none: forgetting isn't
            measured.
        classes: How many there are.
        weights: timm's state of the whole pretrained network.
        seed: Decides every random choice.
        epochs: Of one phase, or of each of two halves: 10 are 5 + 5 for the textbooks.
        out: Where the arm's figures go.
    """

    train: Labelled
    test: Labelled
    reference: Labelled
    classes: int
    weights: str
    seed: int
    epochs: int
    out: str

    @property
    def batch_size(self) -> int:
        """For the peers that leave it open: 32, and 16 where that would give too few steps."""
        return 16 if len(self.train) < 320 else 32


def read_task() -> Task:
    """Return the task that the first argument names, with every library's random numbers seeded."""
    values = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    for name in ("train", "test", "reference"):
        values[name] = [(str(path), int(label)) for path, label in values[name]]
    task = Task(**values)
    random.seed(task.seed)
    np.random.seed(task.seed)  # the peers draw from it
    torch.manual_seed(task.seed)
    return task


@dataclass
class Clock:
    """Seconds since it was made, less those of scoring."""

    started: float = field(default_factory=time.perf_counter)
    scoring: float = 0.0

    def read(self) -> float:
        return time.perf_counter() - self.started - self.scoring

    @contextmanager
    def stopped(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.scoring += time.perf_counter() - begun


def pretrained(task: Task) -> Any:
    """Return timm's network with the packaged weights and its original classifier."""
    model = timm.create_model(ARCHITECTURE)
    model.load_state_dict(torch.load(task.weights, weights_only=True))
    return model


def rendering(*, training: bool, **options: Any) -> Callable[[Image.Image], Tensor]:
    """Return timm's transform for these weights."""
    data = resolve_data_config(model=timm.create_model(ARCHITECTURE))
    transform: Callable[[Image.Image], Tensor] = create_transform(**data, is_training=training, **options)
    return transform


class Photos(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Photo files as a data set, decoded whenever asked for."""

    def __init__(self, photos: Labelled, transform: Callable[[Image.Image], Tensor]) -> None:
        self.photos = photos
        self.transform = transform

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.photos[index]
        with Image.open(path) as image:
            return self.transform(image.convert("RGB")), label


def answers(photos: Labelled, logits: Callable[[Tensor], Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and the most probable outputs."""
    loader = torch.utils.data.DataLoader(Photos(photos, rendering(training=False)), SCORED_AT_ONCE, num_workers=2)
    found, labels = [], []
    with torch.inference_mode():
        for x, y in loader:
            found.append(logits(x).argmax(1))
            labels.append(y)
    return torch.cat(labels).numpy(), torch.cat(found).numpy()


def scores(labels: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Return accuracy and balanced accuracy."""
    right = labels == found
    return float(right.mean()), float(np.mean([right[labels == label].mean() for label in np.unique(labels)]))


@dataclass
class Report:
    """An arm's figures.

    Attributes:
        task: What was asked.
        clock: Starts when the report is made: after imports, before photos and weights are touched.
        seconds: Of training.
        scores: Accuracy and balanced accuracy on the test photos.
        original: The original classifier's accuracy on the tuned backbone; None where it isn't asked for.
        beside: Seconds and CPU seconds of what no user's command does: scoring the reference photos.
    """

    task: Task
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    scores: tuple[float, float] | None = None
    original: float | None = None
    beside: tuple[float, float] = (0.0, 0.0)

    def score(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Score the trained model on the test photos: the end of training, and off its clock."""
        self.seconds = self.clock.read()
        with self.clock.stopped():
            self.scores = scores(*answers(self.task.test, logits))

    def score_original(self, features: Callable[[Tensor], Tensor]) -> None:
        """Score the original classifier on what ``features`` gives of the reference photos, shape (N, D)."""
        if not self.task.reference:
            return
        begun, used = time.perf_counter(), _cpu_seconds()
        with self.clock.stopped():
            classifier = pretrained(self.task).get_submodule("classifier")
            self.original = scores(*answers(self.task.reference, lambda x: classifier(features(x))))[0]
        self.beside = (time.perf_counter() - begun, _cpu_seconds() - used)

    def write(self) -> None:
        figures = {"seconds": self.seconds, "scores": self.scores, "original": self.original, "beside": self.beside}
        Path(self.task.out).write_text(json.dumps(figures), "utf-8")


def _cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def score_timm(report: Report, model: nn.Module) -> None:
    """Score timm's network with its new classifier, and the original one on its backbone."""
    model.eval()
    report.score(model)
    report.score_original(pooled(model))


def pooled(model: Any) -> Callable[[Tensor], Tensor]:
    """Return timm's network without its classifier, for scoring."""
    model.eval()
    return lambda x: model.forward_head(model.forward_features(x), pre_logits=True)
