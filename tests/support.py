"""Tiny real things that the tests share: networks of a few thousand weights, drawn photos, and a task made of both."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from unfreeze.config import TrainConfig
from unfreeze.data.loaders import Renderer
from unfreeze.data.transforms import Augmentation
from unfreeze.models.backbone import Architecture, Backbone, Head, Network, Tensors, assemble, new_head
from unfreeze.models.freezing import StagePlan, plan_from
from unfreeze.preprocessing import Preprocessing
from unfreeze.training.activations import Activations, keep_or_render
from unfreeze.training.finetune import Indices, Schedule, Tuned, ModelState, finetune
from unfreeze.training.recipes import Candidate, Recipe, choose
from unfreeze.training.rounds import TrainingData
from unfreeze.training.store import Store, open_store

CLASSES = 3
SIZE = 16
CROPS = Augmentation(area=(0.5, 1.0), aspect=(4 / 5, 5 / 4), flip=0.5, jitter=0.1)
PREPROCESSING = Preprocessing((SIZE, SIZE), SIZE, (0.5, 0.4, 0.3), (0.25, 0.2, 0.3), "bilinear")
CPU = torch.device("cpu")


class TinyCnn(nn.Module):
    """A stem and four layers, each with BatchNorm; 5 stages."""

    def __init__(self, outputs: int, dropout: float) -> None:
        super().__init__()
        self.stem = _convolution(3, 6, stride=2, dropout=dropout)
        self.layer1 = _convolution(6, 8, dropout=dropout)
        self.layer2 = _convolution(8, 8, stride=2, dropout=dropout)
        self.layer3 = _convolution(8, 10, dropout=dropout)
        self.layer4 = _convolution(10, 12, dropout=dropout)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(12, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(images)))))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


class TinyVit(nn.Module):
    """A patch embedding, a class token, position embeddings and four blocks with LayerNorm; 5 stages."""

    def __init__(self, outputs: int, dropout: float) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIZE // 4) ** 2, 8))
        self.blocks = nn.Sequential(*(_Block(8, dropout) for _ in range(4)))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, outputs)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, width))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(query, key, value))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


def _convolution(incoming: int, outgoing: int, *, stride: int = 1, dropout: float = 0.0) -> nn.Sequential:
    layers = nn.Conv2d(incoming, outgoing, 3, stride, 1, bias=False), nn.BatchNorm2d(outgoing), nn.ReLU()
    return nn.Sequential(*layers, nn.Dropout(dropout))


def shake(module: nn.Module, seed: int = 0) -> None:
    """Draw all vectors anew (norms, biases, layer scales), so that no layer is close to the identity or to zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
            if value.is_floating_point() and value.numel() == max(value.shape, default=1):
                low, high = (-0.2, 0.2) if "bias" in name or "mean" in name else (0.5, 1.5)
                value.copy_(torch.rand(value.shape, generator=random) * (high - low) + low)


def _backbone(module: nn.Module, name: str, classifier: str, outputs: int) -> Backbone:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    shake(module)
    network = Network(module, classifier, outputs, (), PREPROCESSING)
    return assemble(name, Architecture("timm", name), network, CPU)


def tiny_cnn(*, dropout: float = 0.0, outputs: int = 7) -> Backbone:
    """Return a "pretrained" CNN: the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _backbone(TinyCnn(outputs, dropout), "tiny_cnn", "fc", outputs)


def tiny_vit(*, dropout: float = 0.0, outputs: int = 7) -> Backbone:
    """Return a "pretrained" transformer: the same random weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return _backbone(TinyVit(outputs, dropout), "tiny_vit", "head", outputs)


def draw(root: Path, count: int) -> tuple[Path, ...]:
    """Draw photos: number i is of class i % CLASSES, which a tint in the noise gives away."""
    root.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        noise = np.random.default_rng(number).integers(0, 200, (20 + number % 3, 24, 3), np.uint8)
        noise[..., number % CLASSES] += 40
        paths.append(root / f"{number}.png")
        Image.fromarray(noise).save(paths[-1])
    return tuple(paths)


def renderer(paths: Sequence[Path], seed: int = 0) -> Renderer:
    """Return what renders the photos with random crops; one that is missing fails when it is asked for."""
    contents = (path.read_bytes() if path.exists() else str(path).encode() for path in paths)
    digests = tuple(hashlib.sha256(content).hexdigest() for content in contents)
    return Renderer(tuple(paths), PREPROCESSING, CROPS, seed, digests)


def real_photos(name: str) -> Path:
    """Return a folder of real photos; without it the test is skipped, and on CI it fails."""
    folder = Path(os.environ.get("UNFREEZE_TEST_DATA") or "/nonexistent") / name
    if not folder.is_dir():
        message = f"UNFREEZE_TEST_DATA names no folder that holds {name}"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return folder


def new_store() -> Store:
    """Return an empty store of its own, which goes when it is let go of."""
    return open_store(None, 0)


@dataclass(frozen=True)
class Task:
    """Drawn photos and what training may know of them: the first ``train``, then ``val``; the rest is the test set."""

    renderer: Renderer
    data: TrainingData
    test: np.ndarray[tuple[int], np.dtype[np.int64]]


def task(paths: Sequence[Path], *, train: int, val: int = 0, folds: int = 3, seed: int = 0) -> Task:
    """Divide drawn photos."""
    indices = np.arange(len(paths))
    data = TrainingData(
        labels=torch.arange(len(paths)) % CLASSES,
        train=indices[:train],
        val=indices[train : train + val],
        fold=indices[:train] // CLASSES % folds,
        classes=CLASSES,
    )
    return Task(renderer(paths, seed), data, indices[train + val :])


def schedule(
    *,
    epochs: int = 3,
    batch_size: int = 5,
    views: int | None = 2,
    fresh: int = 0,
    weight_decay: float = 0.01,
    warmup: float = 0.2,
    cosine: bool = True,
    clip: float | None = 1.0,
    smoothing: float = 0.0,
) -> Schedule:
    """Return a short schedule."""
    return Schedule(
        epochs=epochs,
        batch_size=batch_size,
        views=views,
        fresh=fresh,
        optimizer="adamw",
        weight_decay=weight_decay,
        warmup=warmup,
        cosine=cosine,
        clip=clip,
        smoothing=smoothing,
    )


def candidate(backbone: Backbone, boundary: int = 3, *, lr: float = 0.02, how: Schedule | None = None) -> Candidate:
    """Return a way to unfreeze."""
    plan = plan_from(backbone, boundary, lr=lr, head_lr=lr, decay=0.8)
    return Candidate(backbone.depths()[boundary], boundary, plan, how or schedule(epochs=4))


def recipe(
    backbone: Backbone,
    *candidates: Candidate,
    solved: bool = True,
    judges: int = 100,
    alphas: tuple[float, ...] = (1.0,),
    forget_at_most: float | None = None,
    averages: bool = False,
) -> Recipe:
    """Return a recipe that tries the candidates (none given: one), and goes all the way unless ``alphas`` says otherwise."""
    candidates = candidates or (candidate(backbone),)
    return Recipe(
        name="test",
        augmentations=(CROPS,),
        views=2,
        head_plan=None if solved else plan_from(backbone, 5, lr=0.0, head_lr=0.02),
        head_schedule=None if solved else schedule(epochs=2),
        candidates=candidates,
        alphas=alphas,
        forget_at_most=forget_at_most,
        averages=averages,
        judges=judges,
        boundary=min(each.plan.boundary for each in candidates),
    )


def planned(photos: tuple[Path, ...], backbone: Backbone, **settings: object) -> tuple[Renderer, TrainingData, Recipe]:
    """Return what renders 30 photos, of which 24 are learned from, in 4 folds, and what ``auto`` does with them."""
    data = TrainingData(torch.arange(30) % 3, np.arange(24), np.arange(0), np.arange(24) % 4, 3)
    recipe = choose(TrainConfig(photos=Path(), **settings), backbone, 24, 3)  # type: ignore[arg-type]
    return replace(renderer(photos), augmentation=recipe.augmentations[0]), data, recipe


def papers(own: Renderer) -> Renderer:
    """Return what renders the 6 photos that ``planned`` leaves for testing."""
    return replace(own, paths=own.paths[24:], digests=own.digests[24:])


def at(backbone: Backbone, given: Task, boundary: int) -> Activations:
    """Return what crosses a boundary of a task's photos, of two views of each."""
    return keep_or_render(new_store(), backbone, given.renderer, boundary, given.data.views(2), "test")


def poison(monkeypatch: pytest.MonkeyPatch, which: Callable[[StagePlan, Indices], bool]) -> None:
    """Let the head of those trainings of phase 2 be no number, that a plan and validation photos tell from the others."""

    def poisoned(
        backbone: Backbone, head: Head, source: Activations, labels: Tensor, plan: StagePlan, how: Schedule, **rest: Any
    ) -> Tuned:
        if which(plan, rest["val"]):
            with torch.no_grad():
                head.bias[0] = torch.nan
        return finetune(backbone, head, source, labels, plan, how, **rest)

    monkeypatch.setattr("unfreeze.training.search.finetune", poisoned)


def bits(weights: ModelState) -> list[bytes]:
    """Return every weight and buffer, for comparing."""
    tables: list[Tensors] = [*weights.stages, weights.head]
    return [value.numpy().tobytes() for table in tables for value in table.values()]


__all__ = [
    "CLASSES", "CPU", "CROPS", "PREPROCESSING", "SIZE", "Task", "at", "bits", "candidate", "draw", "new_head", "new_store",
    "poison", "recipe", "renderer", "schedule", "shake", "task", "tiny_cnn", "tiny_vit",
]  # fmt: skip
