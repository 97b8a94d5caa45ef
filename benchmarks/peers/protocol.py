"""What every arm of the benchmark shares: the task, the clock, how a model is scored.  Needs torch and timm alone."""

from __future__ import annotations

import json
import random
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
        reference: Photos of the original task, and their outputs of the original classifier.
        classes: How many there are.
        weights: timm's state of the whole pretrained network.
        seed: Decides every random choice.
        epochs: Of one phase, or of each of two halves: 10 are 5 + 5 for the textbooks.
        table: The same photos as a table for unfreeze.
        reference_folder: The reference photos in folders by class.
        out: Where the arm's figures go.
    """

    train: Labelled
    test: Labelled
    reference: Labelled
    classes: int
    weights: str
    seed: int
    epochs: int
    table: str
    reference_folder: str
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
        points: Clock, accuracy and balanced accuracy wherever the arm was scored.
        original: The original classifier's accuracy on the tuned backbone.
    """

    task: Task
    clock: Clock = field(default_factory=Clock)
    points: list[tuple[float, float, float]] = field(default_factory=list)
    original: float | None = None

    def score(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Score a model on the test photos, off the clock."""
        seconds = self.clock.read()
        with self.clock.stopped():
            self.points.append((seconds, *scores(*answers(self.task.test, logits))))

    def score_original(self, logits: Callable[[Tensor], Tensor]) -> None:
        """Score the original classifier on the reference photos, off the clock."""
        with self.clock.stopped():
            self.original = scores(*answers(self.task.reference, logits))[0]

    def write(self) -> None:
        Path(self.task.out).write_text(json.dumps({"points": self.points, "original": self.original}), "utf-8")


def score_timm(report: Report, model: nn.Module) -> None:
    """Score timm's network with its new classifier, and put it back into training mode."""
    model.eval()
    report.score(model)
    model.train()


def score_timm_original(report: Report, features: Callable[[Tensor], Tensor]) -> None:
    """Score the original classifier on what ``features`` gives, shape (N, D)."""
    classifier = pretrained(report.task).get_submodule("classifier")
    report.score_original(lambda x: classifier(features(x)))


def pooled(model: Any) -> Callable[[Tensor], Tensor]:
    """Return timm's network without its classifier, for scoring."""
    model.eval()
    return lambda x: model.forward_head(model.forward_features(x), pre_logits=True)
