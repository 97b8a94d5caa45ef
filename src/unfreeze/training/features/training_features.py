"""The inputs of the two phases: the backbone, the training images' activations, and the folds; no test image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.augmentation import select_augmentation
from unfreeze.training.features.activations import Activations
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.features.gather import compute_activations
from unfreeze.training.folds import Fold, Folds, TrainingSet
from unfreeze.training.recipe import Recipe


@dataclass(frozen=True)
class FoldActivations:
    """Activations of all training images in the views of one augmentation.

    Attributes:
        renderer: What renders the views.
        by_boundary: The activations at every boundary that a training of phase 2 starts from.
        for_head: The activations that phase 1 trains on: pooled features, unless it changes more than the head.
    """

    renderer: Renderer
    by_boundary: Mapping[int, Activations]
    for_head: Activations


@dataclass(frozen=True)
class TrainingFeatures:
    """The inputs of phase 1 and phase 2.

    Attributes:
        cache: Stores activations and solved heads across runs.
        backbone: The pretrained backbone.
        data: The images that training may see, with their labels.
        folds: The trainings: images to train and to validate on.
        final: Activations in the augmentation that all training images choose.
        by_fold: For each cross-validation fold, those in the augmentation that the other folds choose; often the same.
        seed: Decides the order of images, and random initial weights.
    """

    cache: FeatureCache
    backbone: Backbone
    data: TrainingSet
    folds: Folds
    final: FoldActivations
    by_fold: tuple[FoldActivations, ...]
    seed: int

    def of(self, fold: Fold) -> FoldActivations:
        """Return the activations of a fold's training; those of the final fit where ``fold`` has no index."""
        return self.final if fold.fold is None else self.by_fold[fold.fold]


def compute_features(
    cache: FeatureCache, backbone: Backbone, renderers: Sequence[Renderer], data: TrainingSet, recipe: Recipe, seed: int
) -> TrainingFeatures:
    """Choose the augmentation, and compute the activations of all training images in its views, or load them.

    Args:
        cache: Outlives the run.
        backbone: The pretrained backbone.
        renderers: One for each augmentation of the recipe; the first is taken unless another is significantly better.
        data: The images that training may see.
        recipe: The settings of the phases.
        seed: See ``TrainingFeatures``.
    """
    selected = select_augmentation(cache, backbone, renderers, data, recipe)
    gathered: dict[int, FoldActivations] = {}
    for renderer in (selected.final, *selected.by_fold):
        if id(renderer) not in gathered:
            gathered[id(renderer)] = FoldActivations(
                renderer, *compute_activations(cache, backbone, renderer, data, recipe)
            )
    return TrainingFeatures(
        cache=cache,
        backbone=backbone,
        data=data,
        folds=Folds.of(data, recipe.min_validation_images),
        final=gathered[id(selected.final)],
        by_fold=tuple(gathered[id(renderer)] for renderer in selected.by_fold),
        seed=seed,
    )
