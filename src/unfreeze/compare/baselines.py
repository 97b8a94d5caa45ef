"""Common recipes that ``unfreeze compare`` trains beside its own; ``unfreeze train`` doesn't offer them all.

classic      Adam 1e-3 on the head, then Adam 1e-5 on everything (the transfer-learning tutorials of Keras and PyTorch)
naive        Adam 1e-3 on everything from a random head on: no phase 1, no low rate
layer decay  AdamW on everything from a random head on, lower rates for lower layers, one phase (BEiT, Bao et al. 2022,
             table 8; timm's --layer-decay)
"""

from __future__ import annotations

from dataclasses import replace

from unfreeze.config import TrainConfig
from unfreeze.data.rendering.transforms import Augmentation
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import BatchNormMode, plan_from
from unfreeze.training.recipe import ByGradient, Recipe
from unfreeze.training.recipes import (
    CLASSIC_HEAD_LR,
    LIGHT_AUG,
    TEXTBOOK_AUG,
    recipe_for,
    textbook_schedule,
    usual_batch_size,
)
from unfreeze.training.schedule import Schedule

LAYER_DECAY = 0.7  # BEiT's and MAE's are 0.65 to 0.75 for a network of this size
LAYER_DECAY_LR = 5e-4
LAYER_DECAY_WEIGHT_DECAY = 0.05


def classic(config: TrainConfig, backbone: Backbone, photos: int, classes: int, bn: BatchNormMode) -> Recipe:
    """Return the two phases of textbooks; ``bn`` changes the mode of BatchNorm and nothing else."""
    return replace(recipe_for(config.model_copy(update={"bn": bn}), backbone, photos, classes), min_validation_images=0)


def naive(backbone: Backbone, epochs: int) -> Recipe:
    """Return a recipe that trains every layer at the head's rate at once, BatchNorm in train mode: a common mistake."""
    plan = plan_from(backbone, 0, lr=CLASSIC_HEAD_LR, head_lr=CLASSIC_HEAD_LR, bn="train")
    return _one_phase("naive", TEXTBOOK_AUG, ByGradient(plan, textbook_schedule(epochs)))


def layer_decay(backbone: Backbone, epochs: int, photos: int) -> Recipe:
    """Return the strongest one-phase recipe; BatchNorm is frozen, so that it differs from ours in the phases alone."""
    schedule = Schedule(
        epochs=epochs,
        batch_size=usual_batch_size(photos),
        n_views=None,
        new_views_per_epoch=0,
        optimizer="adamw",
        weight_decay=LAYER_DECAY_WEIGHT_DECAY,
        warmup=0.2,
        cosine=True,
        clip=1.0,
        smoothing=0.1,
    )
    plan = plan_from(backbone, 0, lr=LAYER_DECAY_LR, head_lr=LAYER_DECAY_LR, decay=LAYER_DECAY)
    return _one_phase("layer decay", LIGHT_AUG, ByGradient(plan, schedule))


def _one_phase(name: str, augmentation: Augmentation, head: ByGradient) -> Recipe:
    return Recipe(
        name=name,
        augmentations=(augmentation,),
        n_head_views=1,
        head=head,
        candidates=(),
        alphas=(),
        max_forgetting=None,
        allow_tta=False,
        min_validation_images=0,
        boundary=0,
    )
