"""Tiny backbones, of a few thousand random weights that are the same every time."""

from __future__ import annotations

from typing import Any

import torch
from tests.support.photos import PREPROCESSING, SIZE
from torch import Tensor, nn

from unfreeze.acceleration.frozen import choose_engine
from unfreeze.models.backbone import Architecture, Backbone, Network, Tensors, assemble
from unfreeze.models.head import new_head as new_head
from unfreeze.models.state import ModelState

CPU = torch.device("cpu")
SHARES_COMPILED = True
"""Whether tiny networks of the same weights share what computes their frozen stages; see the fixture ``compiled_anew``."""
COMPILED: dict[str, dict[Any, Any]] = {}


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
    backbone = assemble(name, Architecture("timm", name), network, CPU)
    if SHARES_COMPILED:
        compiled = COMPILED.setdefault(backbone.fingerprint(), {})
        if not compiled:
            choose_engine(backbone)
            compiled.update(backbone.compiled)
        backbone.compiled.update(compiled)
    return backbone


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


def bits(weights: ModelState) -> list[bytes]:
    """Return every weight and buffer, for comparing."""
    tables: list[Tensors] = [*weights.stages, weights.head]
    return [value.numpy().tobytes() for table in tables for value in table.values()]
