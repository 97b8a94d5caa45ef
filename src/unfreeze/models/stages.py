"""A network as an ordered list of stages, found from its own forward pass.

A boundary is only sound where one tensor alone crosses it: then everything below is a fixed function of the photo whose
output can be kept.  Rather than a table of architectures, the forward pass is traced (torch.fx) down to the network's own
building blocks, and cut where a block with weights begins and exactly one value is alive.  The stages share the modules of
the network: nothing is copied, and the blocks themselves are not traced, so dropout and BatchNorm keep their modes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from torch import Tensor, fx, nn

MINIMUM_STAGES = 5  # a ResNet's stem and four layers: containers are opened, largest first, until there are that many
MAXIMUM_OPENED = 6  # where so many opened containers give no more cuts, the network has none


@dataclass(frozen=True)
class Stage:
    """A block of layers between two possible boundaries.

    Attributes:
        name: The path of the stage's first block in the network, such as ``blocks.5`` or ``layer4``.
        module: Maps the tensor that crosses the stage's lower boundary to the one that crosses its upper boundary.
    """

    name: str
    module: nn.Module


@dataclass(frozen=True)
class StagedNetwork:
    """The stages in order, and what the network's own classifier does with the last one's output."""

    stages: tuple[Stage, ...]
    classifier: nn.Module


class _Whole(nn.Module):
    """The network as a child, so that its forward's optional arguments take their defaults while it is traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


class _BlockTracer(fx.Tracer):
    """Traces through the modules whose paths are ``opened`` and takes every other one as a block."""

    def __init__(self, opened: frozenset[str]) -> None:
        super().__init__()
        self._opened = opened

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self._opened


class _Opaque(nn.Module):
    """A whole timm network up to its classifier, for a forward pass that can't be traced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.steps(images)[-1]
        return features

    def steps(self, images: Tensor) -> list[Any]:
        features = self.network.forward_features(images)  # type: ignore[operator]
        return [features, self.network.forward_head(features, pre_logits=True)]  # type: ignore[operator]


class _Watched(fx.Interpreter):
    """Runs a stage node by node and keeps the values that are alone where they are made: all the rest comes from each."""

    def __init__(self, stage: fx.GraphModule) -> None:
        super().__init__(stage)
        steps, alive = _timeline(stage.graph)
        self._alone = {node for position, node in enumerate(steps, start=1) if alive(position) == [node]}
        self.passed: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n in self._alone:
            self.passed.append(value)
        return value


def find_stages(network: nn.Module, classifier: str) -> StagedNetwork:
    """Cut ``network`` into its stages and its classifier.

    Args:
        network: An image classifier in eval mode (where a forward depends on the mode, that branch is taken).
        classifier: Path of the network's last layer, such as ``fc`` or ``head.fc``.

    Returns:
        At least one stage.  A timm network whose forward can't be traced becomes a single stage named ``backbone``.

    Raises:
        ValueError: The forward pass can't be traced, and the network doesn't offer timm's ``forward_features`` either.
    """
    opened = frozenset(_ancestors(classifier))
    found = _cut(network, opened, classifier)
    if found is None:
        if not hasattr(network, "forward_features"):
            raise ValueError(f"{type(network).__name__} has a forward pass that can't be cut into stages")
        return StagedNetwork((Stage("backbone", _Opaque(network)),), network.get_submodule(classifier))
    closed: frozenset[str] = frozenset()
    for _ in range(MAXIMUM_OPENED):
        container = _largest_container(network, opened, closed, classifier)
        if len(found.stages) >= MINIMUM_STAGES or container is None:
            break
        finer = _cut(network, opened | {container}, classifier)
        if finer is None:
            closed |= {container}
        else:
            opened |= {container}
            found = max(found, finer, key=lambda cut: len(cut.stages))
    return found


def run_watched(stage: Stage, x: Tensor) -> list[Any]:
    """Run a stage on the tensor that crosses its lower boundary, and return what its output comes through on the way.

    Returns:
        Every value that is the only one alive where it is made, in order: tensors, in a few networks tuples of them.  The
        last one is the stage's output.
    """
    if isinstance(stage.module, _Opaque):
        return stage.module.steps(x)
    assert isinstance(stage.module, fx.GraphModule), "every other stage was cut from a traced graph"
    watched = _Watched(stage.module)
    watched.run(x)
    return watched.passed


def _ancestors(path: str) -> Iterator[str]:
    """Yield the paths of the modules around ``path``, from the network itself (an empty path) inwards."""
    parts = path.split(".")
    return (".".join(parts[:length]) for length in range(len(parts)))


def _has_weights(module: nn.Module) -> bool:
    """Tell a block from a mere norm, activation or pooling layer, which belongs to the block before it."""
    return any(parameter.dim() >= 2 for parameter in module.parameters())


def _largest_container(
    network: nn.Module, opened: frozenset[str], closed: frozenset[str], classifier: str
) -> str | None:
    """Return the path of the block with the most parameters among those that hold other blocks, or None."""
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
    """Trace the forward through the ``opened`` modules and cut it; None where it can't be traced."""
    tracer = _BlockTracer(frozenset(f"network.{path}".rstrip(".") for path in opened))
    try:
        whole = _Whole(network)
        graph = tracer.trace(whole)  # a tensor that the forward makes from nothing becomes an attribute of ``whole``
    except Exception:  # tracing runs foreign code on stand-ins for tensors: it may fail in any way
        return None
    steps, alive = _timeline(graph)

    def path(node: fx.Node) -> str:
        return str(node.target).removeprefix("network.") if node.op == "call_module" else ""

    last = next((position for position, node in enumerate(steps) if path(node) == classifier), None)
    if last is None:
        return None
    while len(alive(last)) != 1:  # two classifiers side by side, say: cut before the features part
        last -= 1
    weighty = [
        position
        for position, node in enumerate(steps[:last])
        if path(node) and _has_weights(network.get_submodule(path(node)))
    ]
    if not weighty:
        return None
    blocks = [weighty[0], *(position for position in weighty[1:] if len(alive(position)) == 1)]
    ends = [*blocks[1:], last]
    starts = [0, *ends[:-1]]
    stages = tuple(
        Stage(path(steps[block]), _piece(whole, steps[start:end], alive(start)[0], alive(end)[0]))
        for block, start, end in zip(blocks, starts, ends, strict=True)
    )
    (output,) = next(node for node in graph.nodes if node.op == "output").args
    if not isinstance(output, fx.Node):
        return None
    return StagedNetwork(stages, _piece(whole, steps[last:], alive(last)[0], output))


def _timeline(graph: fx.Graph) -> tuple[list[fx.Node], Callable[[int], list[fx.Node]]]:
    """Return a graph's steps, and what tells the values that are made before a position and used from there on."""
    steps = [node for node in graph.nodes if node.op not in ("placeholder", "get_attr", "output")]
    order = {node: position for position, node in enumerate(steps)}
    order |= {node: -1 for node in graph.nodes if node.op == "placeholder"}
    order |= {node: len(steps) for node in graph.nodes if node.op == "output"}
    needed = {node: max((order[user] for user in node.users if user in order), default=-1) for node in order}

    def alive(position: int) -> list[fx.Node]:
        return [node for node, made in order.items() if made < position <= needed[node]]

    return steps, alive


def _piece(whole: _Whole, steps: list[fx.Node], incoming: fx.Node, outgoing: fx.Node) -> nn.Module:
    """Return the module that runs ``steps`` on one tensor, sharing the network's own blocks and parameters."""
    graph = fx.Graph()
    copies = {incoming: graph.placeholder("x")}
    held: dict[str, object] = {}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copies:  # a parameter is fetched where it is used
            copies[node] = graph.node_copy(node, copy)
            if node.op in ("call_module", "get_attr"):
                target = str(node.target).removeprefix("network.")
                copies[node].target = target
                held[target] = attrgetter(str(node.target))(whole)
        return copies[node]

    for step in steps:
        copy(step)
    graph.output(copies[outgoing])
    return fx.GraphModule(held, graph)
