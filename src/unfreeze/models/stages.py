"""Division of a network into ordered stages, by tracing its forward pass.

A boundary is valid where a single tensor crosses it: this is then a function of the image, and can be cached.  There is
no table of architectures: the forward pass is traced (torch.fx) down to the network's building blocks, and cut where a
block with weights begins and exactly one value is alive.  The stages share the network's modules.  Blocks are not
traced, and their dropout and BatchNorm layers follow train and eval mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

MIN_STAGES = 5  # as a ResNet's stem and four layers; containers are opened, largest first, up to this number of stages
MAX_OPENED = 6  # containers to open at most


@dataclass(frozen=True)
class Stage:
    """A block of layers between two adjacent boundaries.

    Attributes:
        name: The path of the stage's first block in the network, such as ``blocks.5`` or ``layer4``.
        module: Maps the tensor at the stage's lower boundary to the tensor at its upper boundary.
    """

    name: str
    module: nn.Module


@dataclass(frozen=True)
class StagedNetwork:
    """The stages in order, and the original classifier as a function of the last stage's output."""

    stages: tuple[Stage, ...]
    classifier: nn.Module


class _ImagesOnly(nn.Module):
    """Wrapper that calls the network with images alone: traced optional arguments take their defaults."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class _BlockTracer(fx.Tracer):
    """Tracer into the modules whose paths are ``opened``; all others are leaves."""

    def __init__(self, opened: frozenset[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


class _SingleStage(nn.Module):
    """A timm network without its classifier as one stage, for a forward pass that can't be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.steps(images)[-1]
        return features

    def steps(self, images: Tensor) -> list[Any]:
        features = self.network.forward_features(images)  # type: ignore[operator]
        return [features, self.network.forward_head(features, pre_logits=True)]  # type: ignore[operator]


class InGroups(nn.Module):
    """A stage that is applied to each group of an image's channels; see ``models/groups.py``.

    Args:
        module: The stage's module.
        n_groups: The number of groups.
        input_axis: Which axis of the input the channels are: 1, or -1.
        output_axis: Which axis of the output.
    """

    def __init__(self, module: nn.Module, n_groups: int, input_axis: int, output_axis: int) -> None:
        super().__init__()
        self.module = module
        self.n_groups = n_groups
        self.input_axis = input_axis
        self.output_axis = output_axis

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs for all groups, one group's channels after the other's."""
        return self.join(self.module(self.divide(x)))

    def divide(self, x: Tensor) -> Tensor:
        """Return the groups of activations (N, ...) as images of their own, (N * groups, ...)."""
        axis = self.input_axis % x.dim()
        return torch.unflatten(x, axis, (self.n_groups, -1)).movedim(axis, 1).flatten(0, 1)

    def join(self, x: Tensor) -> Tensor:
        """Return the outputs (N * groups, ...) of all groups as those of the images, (N, ...)."""
        axis = self.output_axis % x.dim()
        return torch.unflatten(x, 0, (-1, self.n_groups)).movedim(1, axis).flatten(axis, axis + 1)


class _RecordingInterpreter(fx.Interpreter):
    """Interpreter that records the values on which all later nodes depend: the only value alive when computed."""

    def __init__(self, stage: fx.GraphModule) -> None:
        super().__init__(stage)
        steps, alive = _timeline(stage.graph)
        self._bottlenecks = {node for position, node in enumerate(steps, start=1) if alive(position) == [node]}
        self.recorded: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._bottlenecks:
            self.recorded.append(value)
        return value


def find_stages(network: nn.Module, classifier: str) -> StagedNetwork:
    """Cut ``network`` into its stages and its classifier.

    Args:
        network: An image classifier in eval mode; only its forward pass in eval mode is traced.
        classifier: Path of the network's last layer, such as ``fc`` or ``head.fc``.

    Returns:
        At least one stage.  A timm network that can't be traced is a single stage named ``backbone``.

    Raises:
        ValueError: The forward pass can't be traced, and the network has no ``forward_features`` as timm's have.
    """
    opened = frozenset(_ancestors(classifier))
    staged = _cut(network, opened, classifier)
    if staged is None:
        if not hasattr(network, "forward_features"):
            raise ValueError(f"{type(network).__name__} has a forward pass that can't be cut into stages")
        return StagedNetwork((Stage("backbone", _SingleStage(network)),), network.get_submodule(classifier))
    closed: frozenset[str] = frozenset()
    for _ in range(MAX_OPENED):
        container = _largest_container(network, opened, closed, classifier)
        if len(staged.stages) >= MIN_STAGES or container is None:
            break
        finer = _cut(network, opened | {container}, classifier)
        if finer is None:
            closed |= {container}
        else:
            opened |= {container}
            staged = max(staged, finer, key=lambda cut: len(cut.stages))
    return staged


def input_channels(network: nn.Module) -> int:
    """Return how many channels the images of a network have, by its first convolution."""
    convolution = next((each for each in network.modules() if isinstance(each, nn.Conv2d)), None)
    return 3 if convolution is None else convolution.in_channels


def run_with_intermediates(stage: Stage, x: Tensor) -> list[Any]:
    """Run a stage on the tensor at its lower boundary, and return the intermediate values on which its output depends.

    Returns:
        All values that are the only one alive when computed, in order: tensors, in a few networks tuples of them.  The
        last one is the stage's output.  Of a stage in groups, the others have a row for each group of each image.
    """
    if isinstance(stage.module, InGroups):
        steps = run_with_intermediates(Stage(stage.name, stage.module.module), stage.module.divide(x))
        return [*steps, stage.module.join(steps[-1])]
    if isinstance(stage.module, _SingleStage):
        return stage.module.steps(x)
    assert isinstance(stage.module, fx.GraphModule), "every other stage was cut from a traced graph"
    interpreter = _RecordingInterpreter(stage.module)
    interpreter.run(x)
    return interpreter.recorded


def _ancestors(path: str) -> Iterator[str]:
    """Yield the paths of the modules that contain ``path``, from the network (an empty path) inwards."""
    parts = path.split(".")
    return (".".join(parts[:length]) for length in range(len(parts)))


def _has_weights(module: nn.Module) -> bool:
    """Return whether a module is a block, and not a norm, activation or pooling layer of the block before it."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def _largest_container(
    network: nn.Module, opened: frozenset[str], closed: frozenset[str], classifier: str
) -> str | None:
    """Return the path of the block with the most parameters among those that contain other blocks, or None."""
    candidates = {
        path: sum(parameter.numel() for parameter in module.parameters())
        for path, module in network.named_modules()
        if path not in opened | closed
        and path != classifier
        and path.rpartition(".")[0] in opened
        and any(_has_weights(child) for child in module.children())
    }
    return max(candidates, key=lambda path: candidates[path], default=None)


def _cut(network: nn.Module, opened: frozenset[str], classifier: str) -> StagedNetwork | None:
    """Trace the forward pass through the ``opened`` modules and cut it; None if it can't be traced."""
    tracer = _BlockTracer(frozenset(f"network.{path}".rstrip(".") for path in opened))
    try:
        wrapped = _ImagesOnly(network)
        graph = tracer.trace(wrapped)  # tensors created in the forward pass become attributes of ``wrapped``
    except Exception:  # tracing runs foreign code on proxies, and may raise anything
        return None
    steps, alive = _timeline(graph)

    def path(node: fx.Node) -> str:
        return str(node.target).removeprefix("network.") if node.op == "call_module" else ""

    last = next((position for position, node in enumerate(steps) if path(node) == classifier), None)
    if last is None:
        return None
    while len(alive(last)) != 1:  # such as two parallel classifiers: cut before the branch
        last -= 1
    with_weights = [
        position
        for position, node in enumerate(steps[:last])
        if path(node) and _has_weights(network.get_submodule(path(node)))
    ]
    if not with_weights:
        return None
    blocks = [with_weights[0], *(position for position in with_weights[1:] if len(alive(position)) == 1)]
    ends = [*blocks[1:], last]
    starts = [0, *ends[:-1]]
    stages = tuple(
        Stage(path(steps[block]), _submodule(wrapped, steps[start:end], alive(start)[0], alive(end)[0]))
        for block, start, end in zip(blocks, starts, ends, strict=True)
    )
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    if not isinstance(output, fx.Node):
        return None
    return StagedNetwork(stages, _submodule(wrapped, steps[last:], alive(last)[0], output))


def _timeline(graph: fx.Graph) -> tuple[list[fx.Node], Callable[[int], list[fx.Node]]]:
    """Return a graph's steps, and a function to list the values computed before a position and used from there on."""
    steps = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    order = {node: position for position, node in enumerate(steps)}
    order |= {node: -1 for node in graph.nodes if node.op == "placeholder"}
    order |= {node: len(steps) for node in graph.nodes if node.op == "output"}
    last_use = {node: max((order[user] for user in node.users if user in order), default=-1) for node in order}

    def alive(position: int) -> list[fx.Node]:
        return [node for node, made in order.items() if made < position <= last_use[node]]

    return steps, alive


def _submodule(wrapped: _ImagesOnly, steps: list[fx.Node], incoming: fx.Node, outgoing: fx.Node) -> nn.Module:
    """Return a module that runs ``steps`` on one tensor and shares the network's blocks and parameters."""
    graph = fx.Graph()
    copies = {incoming: graph.placeholder("x")}
    attributes: dict[str, object] = {}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # parameters are copied on first use
            copies[node] = graph.node_copy(node, copy)
            if node.op in ("call_module", "get_attr"):
                target = str(node.target).removeprefix("network.")
                copies[node].target = target
                attributes[target] = attrgetter(str(node.target))(wrapped)
        return copies[node]

    for step in steps:
        copy(step)
    graph.output(copies[outgoing])
    return fx.GraphModule(attributes, graph)
