"""Phase 1: the head on the frozen backbone, judged on held-out training photos, then trained on all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from unfreeze.data.device_views import choose_renderer
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import Sample
from unfreeze.evaluation.calibration import clearly_lower, fit_temperature, photo_losses
from unfreeze.evaluation.resampling import FloatArray
from unfreeze.models.backbone import Backbone, Head, Tensors
from unfreeze.poses import UPRIGHT, Pose
from unfreeze.predict import Logits
from unfreeze.training.activations import Activations, Cached, features, keep, keep_or_render
from unfreeze.training.finetune import EpochRow, Indices, Tuned, Weights, finetune
from unfreeze.training.fit_head import Linear
from unfreeze.training.kept_heads import kept_head
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import Round, TrainingData, joined, truth_of, validation_rounds
from unfreeze.training.selection import CERTAIN, Panel
from unfreeze.training.store import Store

TRIED = 2  # poses, the plain one included, that tell whether photos may be turned so
ENOUGH = 400  # photos to tell it by: 200 found it on all aerial photos, too, with less to spare (benchmarks/RESULTS.md)

Sources = Mapping[int, Activations]  # what crosses each boundary that a training starts from


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


def render_with(recipe: Recipe, backbone: Backbone, samples: Sequence[Sample], seed: int) -> list[Renderer]:
    """Return what renders the photos, for each way to augment that the recipe knows."""
    plain = Renderer((), backbone.network.preprocessing, None, seed).of(samples)
    return [
        choose_renderer(replace(plain, augmentation=augmentation), backbone.device, again=recipe.boundary == 0)
        for augmentation in recipe.augmentations
    ]


def gather(
    store: Store, backbone: Backbone, renderer: Renderer, data: TrainingData, recipe: Recipe
) -> tuple[Sources, Activations]:
    """Compute what the phases train on: activations at phase 2's boundaries, and what phase 1 trains on."""
    poses = recipe.poses(renderer)
    views = data.views(recipe.kept_views, poses)
    source = keep_or_render(store, backbone, renderer, recipe.kept_from, views, "reading training photos")
    sources = {recipe.kept_from: source}
    for boundary in sorted({each.plan.boundary for each in recipe.candidates} - {recipe.kept_from}):
        sources[boundary] = keep(
            store, backbone, source, boundary, views, f"computing up to {backbone.depths()[boundary]}"
        )
    if not recipe.head_on_features:
        return sources, source
    views = data.views(recipe.feature_views, poses)
    features = keep(store, backbone, source, backbone.head_boundary, views, "computing features")
    return {**sources, backbone.head_boundary: features}, features


def suited(
    store: Store, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingData, recipe: Recipe
) -> Renderer:
    """Return the renderer that serves a solved head best: the first, unless another is better for certain.

    Turned views pay in two ways, judged together: the head learns from them, and its answers are averaged over them.
    """
    best, *others = renderers
    if not others:
        return best
    some = data.at_most(ENOUGH)
    labels = some.labels[torch.from_numpy(some.train)].numpy()
    views = tried_views(renderers, data)  # plain poses, the same in the eyes of every renderer
    source = keep_or_render(store, backbone, best, recipe.kept_from, views, "reading training photos")
    at_head = keep(store, backbone, source, backbone.head_boundary, views, "computing features")

    def losses(renderer: Renderer) -> FloatArray:
        poses = renderer.poses[:TRIED]
        fit = kept_head(store, backbone, at_head, some, poses)
        return photo_losses(
            _asked_in_poses(fit.fold_heads, features(at_head, some.train.tolist(), poses), some), labels
        )

    lowest = losses(best)
    for renderer in others:
        found = losses(renderer)
        if clearly_lower(found, lowest, CERTAIN):
            best, lowest = renderer, found
    return best


def tried_views(renderers: Sequence[Renderer], data: TrainingData) -> dict[int, Sequence[int]]:
    """Return the views that ``suited`` judges by: of each renderer the plain one, and another that should mean the same."""
    poses = tuple(dict.fromkeys(pose for renderer in renderers for pose in renderer.poses[:TRIED]))
    return dict.fromkeys(data.at_most(ENOUGH).train.tolist(), poses) if len(renderers) > 1 else {}


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


def new_head(backbone: Backbone, classes: int, seed: int) -> Head:
    """Return a head with random weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Head(backbone.feature_dim, classes).to(backbone.device)


def _solved(
    store: Store, backbone: Backbone, at_head: Cached, data: TrainingData, rounds: tuple[Round, ...], recipe: Recipe
) -> PhaseOne:
    fit = kept_head(store, backbone, at_head, data, recipe.learned(at_head.renderer), recipe.smoothing)
    learned = data.labels[torch.from_numpy(data.train)].numpy()
    out_of_fold, poses = fit.out_of_fold.astype(np.float32), recipe.poses(at_head.renderer)
    averaged = _asked_in_poses(fit.fold_heads, features(at_head, data.train.tolist(), poses), data)
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


def _asked_in_poses(fold_heads: Sequence[Linear], found: Tensor, data: TrainingData) -> Logits:
    """Return each training photo's logits by the head of the other folds (N, C), the mean over its poses (N, poses, D)."""
    mean = found.mean(dim=1)  # the head is linear
    answers = np.empty((len(mean), data.classes), np.float32)
    for fold, head in enumerate(fold_heads):
        own = data.fold == fold
        answers[own] = head.logits(mean[torch.from_numpy(own)]).numpy()
    return answers


def head_weights(head: Linear) -> Tensors:
    """Return a solved head as a ``Head``'s state."""
    return {"weight": head.weight.float(), "bias": head.bias.float()}
