"""Recipes: plan, schedule and augmentation from tables, by the backbone and the number of images per class.

The rates, decays and step counts of ``auto`` are where published sweeps agree (BiT's HyperRule, Kolesnikov et al. 2020,
table 1; BEiT and MAE for transformers' layer decay; LP-FT, Kumar et al. 2022, for the order of the phases).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from unfreeze.config import TrainConfig
from unfreeze.data.rendering.transforms import Augmentation
from unfreeze.errors import ConfigError
from unfreeze.evaluation.prior import SCARCE, Family, PriorTable, Regime, packaged_prior, regime_of
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import plan_from
from unfreeze.models.lora import attention_layers
from unfreeze.training.recipe import ByGradient, Candidate, Recipe, Solved
from unfreeze.training.schedule import Schedule
from unfreeze.training.view_sets import candidate_framings

LIGHT_AUG = Augmentation(area=(0.5, 1.0), aspect=(4 / 5, 5 / 4), flip=0.5, jitter=0.1)
ROTATION_AUG = replace(LIGHT_AUG, rotate=True)
SYMMETRIES = {
    "none": (replace(LIGHT_AUG, flip=0.0),),
    "flip": (LIGHT_AUG,),
    "rotate": (ROTATION_AUG,),
    None: (LIGHT_AUG, ROTATION_AUG),
}
COLOR_JITTER = 0.3  # where the light varies; its gain and cost are in benchmarks/RESULTS.md
TEXTBOOK_AUG = Augmentation(area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, jitter=0.0)
"""The crops of torchvision's RandomResizedCrop."""
HEAD_VIEWS = 2
"""The plain view and one random view, besides other evaluation views; 4 gain no more (benchmarks/RESULTS.md)."""
CACHED_VIEWS = 8  # views per image in phase 2, which gains more from views; 16 gain no more (benchmarks/RESULTS.md)
STEPS = 80  # least number of steps, within the range of epochs below
EPOCHS = (15, 20)  # 10 are few for 100 images per class (benchmarks/RESULTS.md, "What could be added to phase 2")
MIN_VALIDATION_IMAGES = 40
"""Images that the search validates on, where there are as many: they calibrate the model and tell when phase 2 goes wrong.
Validating on all others, too, is expected to add under 0.1 points (``benchmarks/prior.py``), and multiplies the trainings."""
ALPHAS = (0.25, 0.5, 0.75, 1.0)
FIRST_HEAD_STAGE = 2  # counted from 0: all stages gain no more (benchmarks/RESULTS.md, "The head on several stages")
MAX_HEAD_STAGES = 6  # as many as EfficientNet-Lite0 has; of a transformer's blocks, neighbours say much the same
PEFT_LR_MULTIPLIER = 10
"""Factor on the rate for subsets of the weights: LoRA's is 10 to 20 times the full rate (Hu et al. 2022, appendix D)."""
Depths = tuple[tuple[float, float], ...]  # (share of the stages that train, topmost rate), from the head downwards
CANDIDATE_TABLE: dict[tuple[Family, Regime], Depths] = {
    ("batch norm", "scarce"): ((1 / 3, 3e-4),),
    ("batch norm", "middle"): ((1 / 3, 3e-4), (0.45, 3e-4)),
    ("batch norm", "plentiful"): ((1 / 3, 3e-4), (1.0, 3e-4)),
    ("layer norm", "scarce"): ((1 / 3, 3e-5),),
    ("layer norm", "middle"): ((1 / 3, 3e-5), (0.9, 3e-5)),
    ("layer norm", "plentiful"): ((1 / 3, 3e-5), (0.9, 3e-5)),
}
CLASSIC_EPOCHS = 10
CLASSIC_HEAD_LR = 1e-3
CLASSIC_LR = 1e-5


def _augmentations(config: TrainConfig) -> tuple[Augmentation, ...]:
    return tuple(
        replace(each, color_jitter=COLOR_JITTER if config.color_jitter == "varied" else 0.0)
        for each in SYMMETRIES[config.symmetry]
    )


def _head_only(config: TrainConfig, backbone: Backbone, n_images: int, n_classes: int) -> Recipe:
    return Recipe(
        name=config.recipe,
        augmentations=_augmentations(config),
        n_head_views=config.views or HEAD_VIEWS,
        head=Solved(),
        candidates=(),
        alphas=(),
        max_forgetting=None,
        allow_tta=config.tta,
        min_validation_images=0,
        boundary=backbone.head_boundary - 1,  # pooled features would not serve the original classifier
        prior=_prior(config, backbone, n_images / n_classes),
    )


def _auto(config: TrainConfig, backbone: Backbone, n_images: int, n_classes: int) -> Recipe:
    views = config.views or CACHED_VIEWS
    if (config.new_views or 0) > views:
        raise ConfigError(
            f"{config.new_views} of {views} views can't be replaced by new ones.",
            where="--new-views",
            mend="Raise --views.",
        )
    if config.depth == "head":
        return _head_only(config, backbone, n_images, n_classes)
    candidates = tuple(
        _candidate(config, backbone, boundary, lr, n_images, n_classes)
        for boundary, lr in _depths_and_rates(config, backbone, n_images / n_classes)
    )
    return Recipe(
        name=config.recipe,
        augmentations=_augmentations(config),
        n_head_views=config.views or HEAD_VIEWS,
        head=Solved(),
        candidates=candidates,
        alphas=ALPHAS,
        max_forgetting=config.max_forgetting,
        allow_tta=config.tta,
        min_validation_images=MIN_VALIDATION_IMAGES,
        boundary=min(each.plan.boundary for each in candidates),
        prior=_prior(config, backbone, n_images / n_classes),
    )


def _family(backbone: Backbone) -> Family:
    return "batch norm" if backbone.batch_norm else "layer norm"


def _prior(config: TrainConfig, backbone: Backbone, images_per_class: float) -> PriorTable:
    """Return the packaged prior; its gains of phase 2 are those of frozen BatchNorm."""
    prior = packaged_prior(regime_of(images_per_class), _family(backbone))
    return prior if config.bn == "frozen" else prior.without("phase2")


def _depths_and_rates(config: TrainConfig, backbone: Backbone, images_per_class: float) -> list[tuple[int, float]]:
    """Return (boundary, rate) of each candidate, from the head downwards; a depth of the user's is the only one."""
    user_boundary = None if config.depth is None else backbone.boundary(config.depth)
    pairs: list[tuple[int, float]] = []
    for share, lr in CANDIDATE_TABLE[_family(backbone), regime_of(images_per_class)]:
        boundary = (
            backbone.head_boundary - max(1, round(share * backbone.head_boundary))
            if user_boundary is None
            else user_boundary
        )
        pair = (boundary, config.lr or lr)
        if pair not in pairs and (user_boundary is None or not pairs):
            pairs.append(pair)
    return pairs


def _candidate(
    config: TrainConfig, backbone: Backbone, boundary: int, lr: float, n_images: int, n_classes: int
) -> Candidate:
    if config.subset == "lora" and not any(attention_layers(stage.module) for stage in backbone.stages[boundary:]):
        raise ConfigError(
            f"{backbone.name} has no attention layers from {backbone.depths()[boundary]} on.",
            where="--subset",
            mend="Take all or norms.",
        )
    plan = plan_from(
        backbone,
        boundary,
        lr=lr if config.lr or config.subset == "all" else PEFT_LR_MULTIPLIER * lr,
        head_lr=lr,
        decay=0.8 if backbone.batch_norm else 0.75,
        bn=config.bn,
        subset=config.subset,
    )
    batch_size = config.batch_size or usual_batch_size(n_images)
    per_epoch = math.ceil(n_images / batch_size)
    schedule = Schedule(
        epochs=config.epochs or min(max(round(STEPS / per_epoch), EPOCHS[0]), EPOCHS[1]),
        batch_size=batch_size,
        n_views=None if plan.boundary == 0 else config.views or CACHED_VIEWS,
        new_views_per_epoch=config.new_views or 0 if plan.boundary else 0,
        optimizer="adamw",
        weight_decay=1e-4 if n_images / n_classes >= SCARCE else 0.0,
        warmup=0.2,
        cosine=True,
        clip=1.0,
        distill=_distill(config, backbone) if plan.boundary else 0.0,  # at 0, no view is cached
        smoothing=0.1,  # phase 1 often ends with a training loss of 0: without smoothing, no gradient is left
    )
    return Candidate(backbone.depths()[boundary], boundary, plan, schedule)


def _distill(config: TrainConfig, backbone: Backbone) -> float:
    if config.distill and not (backbone.network.num_classes and backbone.pooled):
        raise ConfigError(
            f"{backbone.name} has no original classifier on pooled features to stay close to.",
            where="--distill",
            mend="Leave --distill out.",
        )
    return config.distill or 0.0


def usual_batch_size(n_images: int) -> int:
    """Return the number of images per step, which is smaller for small sets: they would have too few steps."""
    return 16 if n_images < 320 else 32


def textbook_schedule(epochs: int, batch_size: int | None = None) -> Schedule:
    """Return the tutorials' schedule: plain Adam at a constant rate, a new view of each image in every epoch."""
    return Schedule(
        epochs=epochs,
        batch_size=batch_size or 32,
        n_views=None,
        new_views_per_epoch=0,
        optimizer="adam",
        weight_decay=0.0,
        warmup=0.0,
        cosine=False,
        clip=None,
        smoothing=0.0,
    )


def _classic(config: TrainConfig, backbone: Backbone, n_images: int, n_classes: int) -> Recipe:
    head_epochs = config.head_epochs or CLASSIC_EPOCHS
    head_lr = config.head_lr or CLASSIC_HEAD_LR
    lr = config.lr or CLASSIC_LR
    head_plan = plan_from(backbone, backbone.head_boundary, lr=0.0, head_lr=head_lr, bn=config.bn)
    plan = plan_from(backbone, 0, lr=lr, head_lr=lr, bn=config.bn)
    schedule = textbook_schedule(config.epochs or CLASSIC_EPOCHS, config.batch_size)
    return Recipe(
        name=config.recipe,
        augmentations=(TEXTBOOK_AUG,),
        n_head_views=head_epochs + 1,
        head=ByGradient(head_plan, textbook_schedule(head_epochs, config.batch_size)),
        candidates=(Candidate("all", 0, plan, schedule),),
        alphas=(1.0,),
        max_forgetting=None,
        allow_tta=False,
        min_validation_images=1,
        boundary=0,
    )


RECIPES: dict[str, Callable[[TrainConfig, Backbone, int, int], Recipe]] = {
    "auto": _auto,
    "classic": _classic,
    "head-only": _head_only,
}


def head_stages_for(config: TrainConfig, backbone: Backbone) -> tuple[int, ...]:
    """Return the stages below the last one whose pooled outputs the head reads; empty: the last stage alone.

    Stages from the third on, as the first ones tell edges and colours alone; of many, ``MAX_HEAD_STAGES`` evenly spaced.
    """
    if config.head == "last" or config.recipe == "classic":
        return ()
    usable = [stage for stage in range(FIRST_HEAD_STAGE, len(backbone.stages) - 1) if backbone.stage_dims[stage]]
    count = min(len(usable), MAX_HEAD_STAGES)
    return tuple(usable[-1 - round(step * len(usable) / count)] for step in reversed(range(count)))


def recipe_for(
    config: TrainConfig, backbone: Backbone, n_images: int, n_classes: int, sizes: Sequence[tuple[int, int]] = ()
) -> Recipe:
    """Return the recipe for ``n_images`` training images of ``n_classes`` classes.

    Args:
        config: The user's settings.
        backbone: The pretrained backbone.
        n_images: The number of training images.
        n_classes: The number of classes.
        sizes: Width and height of each training image, which decide about framings; without them, images are shown in
            the centre crop alone.
    """
    recipe = RECIPES[config.recipe](config, backbone, n_images, n_classes)
    framings = candidate_framings(sizes, backbone.network.preprocessing) if recipe.allow_tta else ()
    return replace(recipe, framings=framings)
