"""The tensors of a checkpoint that are a network's, whatever they are called there.

A checkpoint has the names of what was saved: a wrapper's (``module.``, ``_orig_mod.``), a training program's
(``state_dict.model.``), a second, averaged copy.  The network's own names and shapes decide where its tensors are, not a
list of such prefixes.  Its classifier is left out where it is missing or of other classes.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from torch import Tensor, nn

from unfreeze.models.backbone import Network, Tensors
from unfreeze.models.weights import with_current_names

WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Parts of names that wrappers of single layers leave within them."""
_COUNTER = "num_batches_tracked"  # old checkpoints have none, and nothing depends on it
_AUXILIARY = re.compile(r"aux", re.IGNORECASE)  # classifiers that only training uses, as in GoogLeNet
_AVERAGED = {"ema", "average", "averaged", "swa", "teacher", "shadow"}
_OPTIMIZER = re.compile(r"opt|optim\w*|\w*scheduler\w*|scaler|loops|callbacks", re.IGNORECASE)
_OF_TRAINING = re.compile(
    r"heads?|fc|classifier|linear|proj\w*|predictor\w*|decoder\w*|mask_token|queue\w*|prototypes?|criterion\w*|loss\w*|"
    r"\w*metrics?|(train|val|valid|test)_\w+|acc\w*|normali[sz]\w*|mean|std|aux\w*|total_(ops|params)|n_averaged|"
    r"optimizers?|optimizer_\w+|opt|(lr_)?schedulers?|scaler|ema\w*|\w*_ema|teacher\w*|student\w*",
    re.IGNORECASE,
)
"""Parts of names that a network without them computes the same without: other heads, losses, optimizers, counters."""


@dataclass(frozen=True)
class Fit:
    """How a checkpoint's tensors fit a network.

    Attributes:
        weights: By the network's names; the classifier's only if they fit.
        differences: What doesn't fit, a sentence's part each; empty: the network can be loaded.
        n_equal: The number of the network's tensors, its classifier's aside, that are in the checkpoint in their shape.
        n_needed: The number of its tensors, its classifier's aside.
        n_extra: The number of the checkpoint's tensors in the same table that the network should have.
        has_head: Whether the classifier fits.
        head_classes: The number of classes of the checkpoint's own head; None if there is no such head.
        notes: What else the user should know.
    """

    weights: Tensors
    differences: tuple[str, ...]
    n_equal: int
    n_needed: int
    n_extra: int
    has_head: bool
    head_classes: int | None
    notes: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """How many of all tensors, the network's and the checkpoint's, are in both; 1 only if the network is this one."""
        share = self.n_equal / max(1, self.n_needed + self.n_extra)
        return share if self.differences else 1.0


def fit(network: Network, tensors: Tensors) -> Fit:
    """Return how a checkpoint fits a network: by names, by names that timm converts, or by the places of layers.

    Args:
        network: The network.
        tensors: All tensors of the checkpoint, by their paths in it.
    """
    best = fit_by_name(network, tensors)
    if not best.differences:
        return best
    target = _Target.of(network)
    tensors = target.without_wrappers(with_current_names(tensors))
    for group in _groups(tensors, target.prefixes(tensors)[:2]):
        converted = target.compare(_converted(network.module, group))
        if not converted.differences:
            return _with_notes(converted, "timm converts its names or sizes")
        numbered = target.compare(target.by_place(group))
        if not numbered.differences:
            return _with_notes(numbered, "its layers have numbers, and are matched by their order")
    return best


def fit_by_name(network: Network, tensors: Tensors) -> Fit:
    """Return how a checkpoint fits a network by the names and shapes of its tensors, below any prefix."""
    target = _Target.of(network)
    tensors = target.without_wrappers(with_current_names(tensors))
    named = [(prefix, target.compare(_below(tensors, prefix))) for prefix in target.prefixes(tensors)]
    fitting = [(prefix, each) for prefix, each in named if not each.differences]
    if not fitting:
        return max((each for _, each in named), key=lambda each: each.n_equal, default=target.compare(tensors))
    prefix, best = min(fitting, key=lambda pair: not _is_averaged(pair[0]))  # the first of them, if any
    others = [repr(_described(other)) for other, _ in fitting if other != prefix]
    return _with_notes(
        best, *([f"{_described(prefix)!r} is taken; {', '.join(others[:3])} would fit, too"] if others else [])
    )


def _with_notes(fit: Fit, *notes: str) -> Fit:
    return replace(fit, notes=(*fit.notes, *notes))


@dataclass(frozen=True)
class _Target:
    """A network's tensors, and which of them are its classifiers'."""

    state: Tensors
    heads: tuple[str, ...]

    @classmethod
    def of(cls, network: Network) -> _Target:
        named = getattr(network.module, "pretrained_cfg", {}).get("classifier") or ()  # some have two
        heads = {network.classifier, *((named,) if isinstance(named, str) else named)}
        return cls(dict(network.module.state_dict()), tuple(f"{head}." for head in sorted(heads)))

    def needs(self, name: str) -> bool:
        return not (name.startswith(self.heads) or name.endswith(_COUNTER) or _AUXILIARY.match(name))

    def without_wrappers(self, tensors: Tensors) -> Tensors:
        """Return the tensors, with parts of names removed that wrappers left and that the network has not."""
        foreign = WRAPPERS - {part for name in self.state for part in name.split(".")}
        short: Tensors = {}
        for name, value in tensors.items():
            first, *rest = name.split(".")
            short.setdefault(".".join((first, *(part for part in rest if part not in foreign))), value)
        return short

    def prefixes(self, tensors: Tensors) -> list[str]:
        """Return what stands before the network's names in the checkpoint, the most frequent first."""
        counts: Counter[str] = Counter()
        for name, value in tensors.items():
            for start in (0, *(dot.end() for dot in re.finditer(r"\.", name))):
                expected = self.state.get(name[start:])
                if expected is not None and self.needs(name[start:]):
                    counts[name[:start]] += 1 + _same(value, expected)
        return [prefix for prefix, _ in counts.most_common(8)]

    def compare(self, group: Tensors) -> Fit:
        """Return how tensors under the network's own names fit it."""
        needed = {name: value for name, value in self.state.items() if self.needs(name)}
        weights = {name: group[name] for name in self.state if name in group and _same(group[name], self.state[name])}
        own = [name for name in self.state if name.startswith(self.heads)]
        has_head = all(name in weights for name in own)
        if not has_head:
            weights = {name: value for name, value in weights.items() if name not in own}
        classes = [len(value) for name, value in group.items() if name.startswith(self.heads) and value.dim()]
        differing = [name for name in needed if name not in weights]
        extra = [name for name in group if name not in self.state and not name.startswith(self.heads)]
        extra = [name for name in extra if not _is_of_training(name)]
        differences = zip_longest(
            (
                f"{name} is {_shape(group[name])} in the file and {_shape(needed[name])} in the network"
                for name in differing
                if name in group
            ),
            (f"{name} is not in the file" for name in differing if name not in group),
            (f"{name} is not in the network" for name in extra),
        )
        return Fit(
            weights,
            tuple(difference for each in differences for difference in each if difference),
            n_equal=len(needed) - len(differing),
            n_needed=len(needed),
            n_extra=len(extra),
            has_head=has_head,
            head_classes=classes[-1] if classes else None,
        )

    def by_place(self, group: Tensors) -> Tensors:
        """Return tensors of numbered layers, as in ``nn.Sequential(*network.children())``, by the network's names."""
        numbers = sorted({int(first) for name in group if (first := name.partition(".")[0]).isdecimal()})
        layers = dict(
            zip(map(str, numbers), dict.fromkeys(name.partition(".")[0] for name in self.state), strict=False)
        )
        parts = {name: name.partition(".") for name in group}
        return {f"{layers.get(first, first)}.{rest}": group[name] for name, (first, _, rest) in parts.items()}


def _same(value: Tensor, expected: Tensor) -> bool:
    return value.shape == expected.shape and value.is_floating_point() == expected.is_floating_point()


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _described(prefix: str) -> str:
    return prefix.removesuffix(".") or "the file's own table"


def _is_averaged(prefix: str) -> bool:
    return not _AVERAGED.isdisjoint(re.split(r"[._]", prefix.lower()))


def _is_of_training(name: str) -> bool:
    return any(_OF_TRAINING.fullmatch(part) for part in (name.partition(".")[0], _last(name))) or name.endswith(
        _COUNTER
    )


def _groups(tensors: Tensors, prefixes: Sequence[str]) -> Iterator[Tensors]:
    """Yield the tables in which a network under other names may be: below known prefixes, and below common ones."""
    tensors = {name: value for name, value in tensors.items() if not _OPTIMIZER.fullmatch(name.partition(".")[0])}
    common, tried = "", []
    while True:
        tried.append(common)
        firsts = Counter(name.removeprefix(common).partition(".")[0] for name in tensors if name.startswith(common))
        first, count = max(firsts.items(), key=itemgetter(1), default=("", 0))
        if 2 * count < firsts.total() or f"{common}{first}" in tensors or not count:
            break
        common += f"{first}."
    yield from (_below(tensors, prefix) for prefix in dict.fromkeys((*prefixes, *tried)))


def _converted(module: nn.Module, group: Tensors) -> Tensors:
    """Return the tensors with timm's names and sizes, by timm's own conversion for this network if it has one."""
    library = sys.modules[type(module).__module__]
    convert: Callable[..., Any] | None = getattr(library, "checkpoint_filter_fn", None)
    convert = convert or getattr(library, "_filter_fn", None)
    if not library.__name__.startswith("timm.") or convert is None:
        return group
    try:
        converted = convert(dict(group), module)
    except Exception:  # it is written for certain files, and raises any class on others
        return group
    tensors = {name: value for name, value in dict(converted).items() if isinstance(value, Tensor)}
    if any(
        name in group and group[name].numel() != value.numel() and "pos" not in name for name, value in tensors.items()
    ):
        return group  # resized layers, such as a patch embedding's, are another network's
    return tensors
