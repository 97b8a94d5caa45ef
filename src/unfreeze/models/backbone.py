"""A pretrained backbone: ordered stages, its original classifier and its preprocessing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unfreeze.errors import ConfigError, ModelError
from unfreeze.models.pooling import StagePooling, join, pool
from unfreeze.models.stages import Stage, find_stages, input_channels
from unfreeze.preprocessing import Preprocessing

Library = Literal["timm", "torchvision"]
BatchNorm = nn.modules.batchnorm._BatchNorm
Tensors = dict[str, Tensor]
Labels = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Architecture:
    """Library, model name and arguments from which a network is built."""

    library: Library
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.library}/{self.name}"


@dataclass(frozen=True)
class Network:
    """A library's network with the library's information about it.

    Attributes:
        module: The library's own module, original classifier included.
        classifier: The path of the classifier in ``module``.
        num_classes: Number of the original classifier's classes; 0 without a classifier.
        labels: All accepted names of each output, the canonical one first; empty if unknown.
        preprocessing: The network's evaluation preprocessing.
    """

    module: nn.Module
    classifier: str
    num_classes: int
    labels: Labels
    preprocessing: Preprocessing


@dataclass(frozen=True)
class Backbone:
    """A network without its classifier, cut into stages.

    Attributes:
        name: The user's name for it, such as ``efficientnet_lite0`` or ``timm/resnet50``.
        architecture: From which the network is built.
        network: The library's network, which owns all weights.
        stages: From the image to the features; ``classifier`` after them computes the network's output.
        classifier: The original classifier as a function of the last stage's output.
        stage_dims: Length of each stage's pooled output; 0 where it can't be pooled.
        n_poolings: The number of ways in which each stage's output is pooled, of the same length each.
        pooled: Whether the last stage's output is pooled, shape (N, D), as in most networks.
        batch_norm: Whether any layer is BatchNorm.
        precision: Data type of frozen stages and of their stored activations, and of other stages' training.
        n_class_tokens: The number of tokens before the patches' in a transformer's stages.
        head_stages: Stages below the last one whose pooled outputs the head reads, too, ascending (Head2Toe, Evci et
            al. 2022); empty: the head reads the last stage alone.
        n_groups: The number of groups of channels that the network reads one by one; see ``models/groups.py``.
        notes: What the user should know of how its weights were read.
        compiled: Compiled frozen stages (see ``acceleration/frozen.py``), by key; compiling takes about a second.
    """

    name: str
    architecture: Architecture
    network: Network
    stages: tuple[Stage, ...]
    classifier: nn.Module
    stage_dims: tuple[int, ...]
    n_poolings: tuple[int, ...]
    pooled: bool
    batch_norm: bool
    precision: torch.dtype = torch.float32
    n_class_tokens: int = 0
    head_stages: tuple[int, ...] = ()
    n_groups: int = 1
    notes: tuple[str, ...] = ()
    compiled: dict[tuple[object, ...], Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def head_boundary(self) -> int:
        """The boundary above all stages, where only the head trains."""
        return len(self.stages)

    @property
    def feature_dim(self) -> int:
        """The number of features that the head reads."""
        return sum(self.stage_dims[stage] for stage in self.all_head_stages)

    @property
    def all_head_stages(self) -> tuple[int, ...]:
        """The stages that the head reads, ascending, the last one included."""
        return (*self.head_stages, len(self.stages) - 1)

    @property
    def block_dims(self) -> tuple[int, ...]:
        """The number of features of each pooling of each stage that the head reads, in order."""
        return tuple(
            self.stage_dims[stage] // self.n_poolings[stage]
            for stage in self.all_head_stages
            for _ in range(self.n_poolings[stage])
        )

    @property
    def stage_columns(self) -> tuple[slice, ...]:
        """The columns of the features from each stage that the head reads."""
        dims = (self.stage_dims[stage] for stage in self.all_head_stages)
        return tuple(slice(start, end) for start, end in pairwise([0, *accumulate(dims)]))

    @property
    def head_stage_names(self) -> tuple[str, ...]:
        """The names of all stages that the head reads, the last one's at the end; empty: the last stage alone."""
        return tuple(self.stages[index].name for index in self.all_head_stages) if self.head_stages else ()

    def dim_below(self, boundary: int) -> int:
        """Return the number of features that the head reads from stages below ``boundary``; 0 at the head itself."""
        if boundary == self.head_boundary:
            return 0
        return sum(self.stage_dims[stage] for stage in self.head_stages if stage < boundary)

    @property
    def device(self) -> torch.device:
        """The weights' device."""
        return next(self.network.module.parameters()).device

    def depths(self) -> tuple[str, ...]:
        """Return the names of all boundaries, from ``all`` to ``head``."""
        return ("all", *(stage.name for stage in self.stages[1:]), "head")

    def boundary(self, depth: str) -> int:
        """Return the index of the first trainable stage for ``depth``: a stage's name, ``all`` or ``head``.

        Raises:
            ConfigError: There is no such stage.
        """
        names = self.depths()
        if depth in names:
            return names.index(depth)
        if depth == self.stages[0].name:
            return 0
        raise ConfigError(
            f"{self.name} has no stage called {depth!r}.", where="--depth", mend="Take one of: " + ", ".join(names)
        )

    def run(self, x: Tensor, start: int = 0, stop: int | None = None) -> Tensor:
        """Run stages ``start`` to ``stop`` (exclusive; None: all) on activations at boundary ``start``."""
        for stage in self.stages[start:stop]:
            x = stage.module(x)
        return x

    def features(self, x: Tensor, start: int = 0, below: Tensor | None = None) -> Tensor:
        """Return what the head reads, from activations at boundary ``start``.

        Args:
            x: Activations (N, ...); at the head's boundary, features (N, ``feature_dim``), which are returned as given.
            start: Their boundary.
            below: Features of the stages below ``start``, shape (N, ``dim_below(start)``); None: there are none.

        Returns:
            Shape (N, ``feature_dim``), the last stage's at the end; the last stage's output where the head reads only it.
        """
        if start == self.head_boundary:
            return x
        x, below = self.run_pooling(x, start, self.head_boundary, below)
        return join(below, x)

    def run_pooling(self, x: Tensor, start: int, stop: int, below: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run stages ``start`` to ``stop``, and add the features that the head reads from them to those ``below``."""
        pooled = [] if below is None else [below]
        for index in range(start, stop):
            x = self.stages[index].module(x)
            if index in self.head_stages:
                pooled.append(self.pooling(x))
        return x, torch.cat(pooled, dim=1) if pooled else None

    @property
    def pooling(self) -> StagePooling:
        """How a lower stage's output becomes features."""
        return StagePooling(self.network.preprocessing.size, self.n_class_tokens)

    def original_logits(self, x: Tensor, start: int = 0) -> Tensor:
        """Return the original classifier's logits with the current weights, shape (N, original classes)."""
        logits: Tensor = self.classifier(self.run(x, start))
        return logits

    def weights(self) -> Tensors:
        """Return all weights and buffers except the classifier's, by their names in the library."""
        prefix = f"{self.network.classifier}."
        return {name: value for name, value in self.network.module.state_dict().items() if not name.startswith(prefix)}

    def snapshot(self, boundary: int = 0) -> list[Tensors]:
        """Return copies of the weights and buffers of each stage from ``boundary`` on, for ``restore``."""
        return [
            {name: value.detach().clone() for name, value in stage.module.state_dict().items()}
            for stage in self.stages[boundary:]
        ]

    def restore(self, snapshot: Sequence[Tensors]) -> None:
        """Load a snapshot of the last ``len(snapshot)`` stages, bit for bit."""
        for stage, values in zip(self.stages[len(self.stages) - len(snapshot) :], snapshot, strict=True):
            stage.module.load_state_dict(values)

    def fingerprint(self, boundary: int | None = None) -> str:
        """Return the SHA-256 of all weights and buffers below ``boundary`` (None: of all stages)."""
        return self.fingerprints()[self.head_boundary if boundary is None else boundary]

    def fingerprints(self) -> tuple[str, ...]:
        """Return the fingerprints of all boundaries, from 0 up, in one pass over the weights."""
        digest = hashlib.sha256()
        fingerprints = [digest.hexdigest()]
        for stage in self.stages:
            for name, value in stage.module.state_dict().items():
                digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
            fingerprints.append(digest.hexdigest())
        return tuple(fingerprints)


def in_float32(backbone: Backbone) -> Backbone:
    """Return the backbone, weights shared, with frozen stages in float32: the precision of evaluation and use."""
    return replace(backbone, precision=torch.float32)


def assemble(name: str, architecture: Architecture, network: Network, device: torch.device) -> Backbone:
    """Cut a network into stages, and check on one input that these compute the network's output.

    Raises:
        ModelError: The network can't be cut, or the cut changes its output.
    """
    module = network.module.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    module.requires_grad_(False)
    refusal = ModelError(
        f"{architecture} can't be cut into stages that compute what the whole network does.",
        where=name,
        mend="Take another backbone: `unfreeze models` lists them.",
    )
    try:
        staged = find_stages(module, network.classifier)
        shape = 1, input_channels(module), *network.preprocessing.size
        probe = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        with torch.inference_mode():
            features, outputs = probe, []
            for stage in staged.stages:
                features = stage.module(features)
                outputs.append(features)
            equal = torch.allclose(staged.classifier(features), module(probe), rtol=1e-3, atol=1e-4)
    except (ValueError, RuntimeError, TypeError) as error:
        raise refusal from error
    if not equal:
        raise refusal
    backbone = Backbone(
        name=name,
        architecture=architecture,
        network=network,
        stages=staged.stages,
        classifier=staged.classifier,
        stage_dims=(),
        n_poolings=(),
        pooled=features.dim() == 2,
        batch_norm=any(isinstance(layer, BatchNorm) for layer in module.modules()),
        n_class_tokens=_n_class_tokens(module),
    )
    lower = [backbone.pooling.each(x) if isinstance(x, Tensor) and x.dim() in (2, 3, 4) else () for x in outputs[:-1]]
    return replace(
        backbone,
        stage_dims=(*(sum(each.shape[1] for each in poolings) for poolings in lower), pool(features).shape[1]),
        n_poolings=(*(max(1, len(poolings)) for poolings in lower), 1),
    )


def _n_class_tokens(module: nn.Module) -> int:
    """Return the number of class and register tokens, by timm's and torchvision's attributes."""
    known = getattr(module, "num_prefix_tokens", None)
    has_one = isinstance(getattr(module, "class_token", getattr(module, "cls_token", None)), Tensor)
    return known if isinstance(known, int) else int(has_one)
