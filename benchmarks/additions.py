"""What could be added to phase 2 and is not, or is off: longer training, averages, mixup, pulls to what was, class priors.

    python -m benchmarks.additions DATA [--sets magnetic_tile ...] [--a-class 20] [--seeds 7 8] [--additions plain EMA ...]

Every addition trains auto's first candidate on all training photos, from the same solved head and the same kept activations,
in the same order, and is scored on the test photos at its end and half way from phase 1.  "plain" is what unfreeze does
(in RESULTS.md: what it did, with 10 epochs where it has 15 now).
DATA and the drawing of photos are those of peers/sets.py; seeds differ from those of the results.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmarks.choices import Begun, Scored, begin, gathered, prepare
from benchmarks.peers.sets import SETS
from torch import Tensor, nn
from torch.nn import functional

from unfreeze.models.freezing import apply, parameter_groups
from unfreeze.models.state import ModelState, loaded, state_of
from unfreeze.runtime import deterministic, generator, prepare_process
from unfreeze.training.features.activations import logits_from
from unfreeze.training.finetune.loop import distillation_loss, kd_loss
from unfreeze.training.recipe import Candidate
from unfreeze.training.recipes import recipe_for
from unfreeze.training.schedule import Schedule, view_schedule

POINTS = (0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Addition:
    """What differs from phase 2 as it is.

    Attributes:
        longer: Times the epochs.
        faster: Times the rates.
        average: Decay a step of an exponential mean of the weights, which is then the model (EMA); 0: the last weights.
        mixup: The parameter of the Beta distribution by which kept activations and labels are mixed (Zhang et al. 2018;
            manifold mixup, Verma et al. 2019); 0: none.
        anchor: Strength of the squared distance to phase 1's backbone in the loss (L2-SP, Li et al. 2018).
        distil: Weight of phase 1's own answers, softened by 2, in the loss (LwF, Li and Hoiem 2016).
        original: Weight of the original classifier's own answers on the same views: what ``--distill`` is.
        priors: Strength of the log of the classes' shares that is added to logits in training (Menon et al. 2021).
    """

    longer: float = 1.0
    faster: float = 1.0
    average: float = 0.0
    mixup: float = 0.0
    anchor: float = 0.0
    distil: float = 0.0
    original: float = 0.0
    priors: float = 0.0


ADDITIONS = {
    "plain": Addition(),
    "1.5 times the epochs": Addition(longer=1.5),
    "twice the epochs": Addition(longer=2),
    "EMA 0.98": Addition(average=0.98),
    "mixup 0.2": Addition(mixup=0.2),
    "mixup 0.2, twice the epochs": Addition(mixup=0.2, longer=2),
    "L2-SP 0.01": Addition(anchor=0.01),
    "distillation 0.5": Addition(distil=0.5),
    "original answers 0.5, twice the rates": Addition(original=0.5, faster=2),
    "original answers 2, twice the rates": Addition(original=2.0, faster=2),
    "original answers 0.5": Addition(original=0.5),
    "original answers 2": Addition(original=2.0),
    "logit adjustment in the loss": Addition(priors=1.0),
}


def train(begun: Begun, candidate: Candidate, schedule: Schedule, addition: Addition, seed: int) -> ModelState:
    """Train like ``finetune`` from phase 1's model, with an addition."""
    backbone, data, activations = begun.features.backbone, begun.features.data, begun.features.final
    plan, at_head = candidate.plan, activations.for_head
    source = activations.by_boundary[plan.boundary]
    with loaded(backbone, begun.first.phase2_init, trainable_from=plan.boundary) as head:
        groups = parameter_groups(plan, backbone, head, schedule.weight_decay)
        optimizer = torch.optim.AdamW(groups, fused=True)
        parameters = [parameter for group in groups for parameter in group["params"]]
        rates = [group["lr"] for group in groups]
        shares = torch.bincount(data.labels[torch.from_numpy(data.train)], minlength=data.n_classes) / len(data.train)
        soft = torch.from_numpy(
            logits_from(backbone, head, source, data.train)
        )  # photos to learn from have the first numbers
        apply(plan, backbone)
        tail = nn.ModuleList(stage.module for stage in backbone.stages[plan.boundary :])
        moved = [parameter for parameter in tail.parameters() if parameter.requires_grad]
        start = [parameter.detach().clone() for parameter in moved]
        model = nn.ModuleList([tail, head])
        mean = copy.deepcopy(model.state_dict())
        per_epoch = -(-len(data.train) // schedule.batch_size)
        step = 0
        dice = generator(seed, 99)
        for epoch in range(1, schedule.epochs + 1):
            order = generator(seed, epoch).permutation(data.train)
            drawn = order.tolist(), view_schedule(order, epoch, schedule), schedule.batch_size
            numbers = torch.split(torch.from_numpy(order), schedule.batch_size)
            for x, before, photos in zip(source.batches(*drawn), at_head.batches(*drawn), numbers, strict=True):
                factor = schedule.lr_factor(step, schedule.epochs * per_epoch)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                x = x.float()
                target = functional.one_hot(data.labels[photos], data.n_classes).float()
                if addition.mixup:
                    share = float(dice.beta(addition.mixup, addition.mixup))
                    other = torch.from_numpy(dice.permutation(len(x)))
                    x, target = share * x + (1 - share) * x[other], share * target + (1 - share) * target[other]
                with torch.no_grad():
                    x = backbone.run(x, source.boundary, plan.boundary)
                features = backbone.run(x, plan.boundary, len(backbone.stages))
                logits = head(features)
                loss = functional.cross_entropy(
                    logits + addition.priors * shares.log(), target, label_smoothing=schedule.smoothing
                )
                if addition.distil:
                    loss = loss + addition.distil * kd_loss(logits, soft[photos])
                if addition.original:
                    loss = loss + addition.original * distillation_loss(backbone.classifier, features, before)
                if addition.anchor:
                    pairs = zip(moved, start, strict=True)
                    loss = loss + addition.anchor / 2 * sum(((now - then) ** 2).sum() for now, then in pairs)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(parameters, schedule.clip or float("inf"))
                optimizer.step()
                step += 1
                follow(mean, model, min(addition.average, step / (step + 1)))
        model.load_state_dict(mean)
        return state_of(backbone, head, plan.boundary)


def follow(mean: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    """Let the mean go a step after the weights."""
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            mean[name].lerp_(value, 1 - decay)


def measure(data: Path, name: str, a_class: int, seed: int, named: list[str]) -> Iterator[tuple[str, Scored]]:
    """Yield what every addition is worth: accuracy, balanced accuracy and what is lost of the original task, in points."""
    task = prepare(data, name, a_class, seed)
    backbone, known = task.inputs.backbone, task.inputs.data
    keeping = task.config.model_copy(update={"distill": 1.0})  # features of every view
    recipe = recipe_for(keeping, backbone, len(known.train), known.n_classes)
    recipe = replace(recipe, augmentations=recipe.augmentations[:1])
    candidate = recipe.candidates[0]
    begun = begin(task, recipe)
    yield "head-only", begun.scored(begun.first.state)
    for label in named:
        addition = ADDITIONS[label]
        schedule = replace(candidate.schedule, epochs=round(addition.longer * candidate.schedule.epochs))
        with deterministic(seed):
            hurried = replace(candidate, plan=candidate.plan.scaled(addition.faster))
            tuned = train(begun, hurried, schedule, addition, seed)
        for alpha in POINTS:
            yield f"{label}, alpha {alpha:g}", begun.scored(begun.between(tuned, alpha))


def table(rows: list[tuple[str, list[Scored]]], plain: str = "plain") -> Iterator[str]:
    """Yield a line an addition: means over sets and seeds, and in how many of them it is better and worse than plain."""
    yield "| addition | accuracy | balanced | lost, original task | balanced: better, worse than plain |"
    yield "| --- | --- | --- | --- | --- |"
    found = dict(rows)
    for label, own in rows:
        beside = found.get(f"{plain}, {label.rpartition(', ')[2]}")
        apart = [mine[1] - theirs[1] for mine, theirs in zip(own, beside, strict=True)] if beside else []
        figures = " | ".join(f"{value:.1f}" for value in np.mean(own, axis=0))
        yield f"| {label} | {figures} | {sum(a > 0 for a in apart)}, {sum(a < 0 for a in apart)} of {len(apart)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=["magnetic_tile", "wbc5_tecom"], choices=SETS)
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--additions", nargs="+", default=list(ADDITIONS), choices=list(ADDITIONS))
    arguments = parser.parse_args()
    prepare_process()
    pairs = itertools.product(arguments.sets, arguments.seeds)
    found = gathered(
        (name, seed, measure(arguments.data, name, arguments.a_class, seed, arguments.additions))
        for name, seed in pairs
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
