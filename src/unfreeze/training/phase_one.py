"""Phase 1: the head on the frozen backbone, judged on held-out training photos, then trained on all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.backbone import Backbone, Tensors, new_head
from unfreeze.poses import UPRIGHT, Pose
from unfreeze.predict import Logits
from unfreeze.training.activations import Activations, Cached, features
from unfreeze.training.augmentation import out_of_fold_tta_logits
from unfreeze.training.finetune import EpochRow, Indices, Tuned, Weights, finetune
from unfreeze.training.fit_head import Linear
from unfreeze.training.kept_heads import kept_head
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import Round, TrainingData, joined, truth_of, validation_rounds
from unfreeze.training.selection import Panel
from unfreeze.training.store import Store


@dataclass(frozen=True)
class PhaseOne:
    """How phase 1 went.

    Attributes:
        final: The head-only model.
        poses: In which poses a photo is shown to every model of this run, to average what it says.
        validation: What every round's head-only model says of the round's photos: logits, each of shape (V, C).
        temperature: Makes the model as sure as it is right (see ``calibration.py``).
        calibrated_on: Photos that it was fitted on: answers of models that never saw them.
        round_finals: The head-only model of every round.
        start: The model that phase 2 goes on from.
        round_starts: The same for every round.
        history: A row an epoch; a solved head has none.
    """

    final: Weights
    poses: tuple[Pose, ...]
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    round_finals: tuple[Weights, ...]
    start: Weights
    round_starts: tuple[Weights, ...]
    history: tuple[EpochRow, ...]


def phase_one(
    store: Store, backbone: Backbone, source: Activations, data: TrainingData, recipe: Recipe, seed: int
) -> PhaseOne:
    """Train the head on the frozen backbone: solved, or by gradient where the recipe says so.

    Args:
        store: Keeps a solved head, which another run finds there.
        backbone: Pretrained.
        source: Pooled features of the training and validation photos; activations at or below the boundary of the
            recipe's ``head_plan`` where that moves more than the head.
        data: The photos.
        recipe: How.
        seed: Decides the order of photos, where there is one.
    """
    rounds = validation_rounds(data, recipe.judges)
    if recipe.head_plan is None or recipe.head_schedule is None:
        assert isinstance(source, Cached), "a solved head is fitted on kept features"
        return _solved(store, backbone, source, data, rounds, recipe)
    head_plan, head_schedule = recipe.head_plan, recipe.head_schedule
    pretrained = backbone.snapshot(head_plan.boundary)

    def train(train: Indices, val: Indices) -> Tuned:
        backbone.restore(pretrained)
        head = new_head(backbone, data.classes, seed)
        return finetune(
            backbone, head, source, data.labels, head_plan, head_schedule,
            phase="phase 1", train=train, val=val, seed=seed,
        )  # fmt: skip

    tried = [train(each.train, each.val) for each in rounds]
    final = tried[0] if tried and len(data.val) else train(data.train, data.train[:0])
    backbone.restore(pretrained)
    validation = tuple(tuned.validation for tuned in tried)
    finals = tuple(tuned.weights for tuned in tried)
    return PhaseOne(
        final=final.weights,
        poses=UPRIGHT,
        validation=validation,
        temperature=fit_temperature(joined(validation, data.classes), truth_of(rounds, data)),
        calibrated_on=sum(len(each.val) for each in rounds),
        round_finals=finals,
        start=final.weights,
        round_starts=finals,
        history=final.history,
    )


def _solved(
    store: Store, backbone: Backbone, at_head: Cached, data: TrainingData, rounds: tuple[Round, ...], recipe: Recipe
) -> PhaseOne:
    fit = kept_head(store, backbone, at_head, data, recipe.learned(at_head.renderer), recipe.smoothing)
    learned = data.labels[torch.from_numpy(data.train)].numpy()
    out_of_fold, poses = fit.out_of_fold.astype(np.float32), recipe.poses(at_head.renderer)
    averaged = out_of_fold_tta_logits(fit.fold_heads, features(at_head, data.train.tolist(), poses), data)
    panel = Panel.of((out_of_fold,), (learned,), data)
    if panel.ships(
        (averaged,), panel.everyone
    ):  # twice the work for every photo to come: as good a reason as phase 2 needs
        out_of_fold = averaged
    else:
        poses = UPRIGHT
    if rounds and len(data.val):
        seen = features(at_head, data.val.tolist(), poses).mean(dim=1)
        validation, finals, starts = [fit.head.logits(seen).numpy()], [fit.head], [fit.start]
    else:
        validation = [out_of_fold[data.fold == fold] for fold in range(len(rounds))]
        finals, starts = list(fit.fold_heads[: len(rounds)]), list(fit.fold_starts[: len(rounds)])
    return PhaseOne(
        final=Weights([], head_weights(fit.head)),
        poses=poses,
        validation=tuple(validation),
        temperature=fit_temperature(out_of_fold, learned),
        calibrated_on=len(learned),
        round_finals=tuple(Weights([], head_weights(head)) for head in finals),
        start=Weights([], head_weights(fit.start)),
        round_starts=tuple(Weights([], head_weights(head)) for head in starts),
        history=(),
    )


def head_weights(head: Linear) -> Tensors:
    """Return a solved head as a ``Head``'s state."""
    return {"weight": head.weight.float(), "bias": head.bias.float()}
