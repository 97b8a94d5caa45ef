"""How plan, schedule and augmentation are chosen: readable tables, data in, recipe out.

The rates, decays and step counts of ``auto`` are where published sweeps agree (BiT's HyperRule, Kolesnikov et al. 2020,
table 1; BEiT and MAE for transformers' layer decay; LP-FT, Kumar et al. 2022, for the order of the phases).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from unfreeze.config import TrainConfig
from unfreeze.data.transforms import Augmentation
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, plan_from
from unfreeze.training.finetune import Schedule

SCARCE, PLENTIFUL = 45, 300  # photos a class: the geometric middles between 20, 100 and 1000
MILD = Augmentation(area=(0.5, 1.0), aspect=(4 / 5, 5 / 4), flip=0.5, jitter=0.1)
TEXTBOOK = Augmentation(
    area=(0.08, 1.0), aspect=(3 / 4, 4 / 3), flip=0.5, jitter=0.0
)  # torchvision's RandomResizedCrop
KEPT_VIEWS = 4  # the plain view and three augmented ones
STEPS = 80  # a scarce set is seen until it has taken so many steps, within the epochs below
EPOCHS = (10, 20)
JUDGES = 100  # validation photos that the choice between the phases rests on, where there are so many
CLASSIC_EPOCHS = 10
CLASSIC_HEAD_LR = 1e-3
CLASSIC_LR = 1e-5


@dataclass(frozen=True)
class Recipe:
    """Everything that the two phases need to know.

    Attributes:
        name: As asked for.
        augmentation: Of views other than the plain one.
        views: How many views of each training photo phase 1 sees, the plain one included.
        head_plan: Phase 1 by gradient, together with ``head_schedule``; None where the head is solved.
        head_schedule: See ``head_plan``.
        plan: Phase 2; None where the recipe ends with the head.
        schedule: See ``plan``.
        choose_epoch: Whether phase 2 may end before its end, where validation is clearly better there.
        judges: Validation photos that are wanted, rounded up to whole folds; 0 where nothing is to be chosen.
        boundary: Everything below is a fixed function throughout the run, and is computed once.
        tuned_from: The first stage that trains in phase 2; the number of stages where none does.
    """

    name: str
    augmentation: Augmentation
    views: int
    head_plan: StagePlan | None
    head_schedule: Schedule | None
    plan: StagePlan | None
    schedule: Schedule | None
    choose_epoch: bool
    judges: int
    boundary: int
    tuned_from: int

    def judged_by_all(self, photos: int) -> Recipe:
        """Return the same recipe with every fold of ``photos`` training photos held out in its turn."""
        return replace(self, judges=photos)

    @property
    def kept_views(self) -> int:
        """How many views of each training photo the two phases ask for together."""
        return max(self.views, self.schedule.kept_views if self.schedule is not None else 0)

    @property
    def kept_from(self) -> int:
        """Where training's activations are kept for both phases; 0 where phase 2 moves every stage, or there is none."""
        return self.boundary if self.plan is not None else 0

    @property
    def head_on_features(self) -> bool:
        """Whether phase 1 can train on features that were computed once: nothing below the head moves in it."""
        return self.head_plan is None or self.head_plan.boundary == len(self.head_plan.rows)


def _head_only(config: TrainConfig, backbone: Backbone, photos: int, classes: int) -> Recipe:
    return Recipe(
        name=config.recipe,
        augmentation=MILD,
        views=config.views or KEPT_VIEWS,
        head_plan=None,
        head_schedule=None,
        plan=None,
        schedule=None,
        choose_epoch=False,
        judges=0,
        boundary=backbone.head_boundary - 1,  # pooled features would not serve the original classifier
        tuned_from=backbone.head_boundary,
    )


def _auto(config: TrainConfig, backbone: Backbone, photos: int, classes: int) -> Recipe:
    views = config.views or KEPT_VIEWS
    fresh = config.fresh_views or 0
    if fresh > views:
        raise ConfigError(
            f"{fresh} of {views} views can't give way to new ones.", where="--fresh-views", mend="Raise --views."
        )
    boundary = backbone.boundary(config.depth) if config.depth else _usual_boundary(backbone, photos / classes)
    if boundary == backbone.head_boundary:
        return _head_only(config, backbone, photos, classes)
    lr = config.lr or (1e-4 if backbone.batch_norm else 3e-5)
    plan = plan_from(
        backbone,
        boundary,
        lr=lr,
        head_lr=lr,
        decay=0.8 if backbone.batch_norm else 0.75,
        bn=config.bn,
    )
    batch_size = config.batch_size or usual_batch_size(photos)
    per_epoch = math.ceil(photos / batch_size)
    schedule = Schedule(
        epochs=config.epochs or min(max(round(STEPS / per_epoch), EPOCHS[0]), EPOCHS[1]),
        batch_size=batch_size,
        views=None if plan.boundary == 0 else views,
        fresh=fresh,
        optimizer="adamw",
        weight_decay=1e-4 if photos / classes >= SCARCE else 0.0,
        warmup=0.2,
        cosine=True,
        clip=1.0,
        smoothing=0.1,  # phase 1 often ends with a training loss of 0: without it, no gradient is left to follow
    )
    return Recipe(
        name=config.recipe,
        augmentation=MILD,
        views=views,
        head_plan=None,
        head_schedule=None,
        plan=plan,
        schedule=schedule,
        choose_epoch=True,
        judges=JUDGES,
        boundary=plan.boundary,
        tuned_from=boundary,
    )


def _usual_boundary(backbone: Backbone, photos_a_class: float) -> int:
    """Train the top third of the stages, and all of them where photos are plentiful."""
    return 0 if photos_a_class >= PLENTIFUL else backbone.head_boundary - math.ceil(backbone.head_boundary / 3)


def usual_batch_size(photos: int) -> int:
    """Return the photos a step: fewer where there would be too few steps."""
    return 16 if photos < 320 else 32


def textbook_schedule(epochs: int, batch_size: int | None = None) -> Schedule:
    """Return the tutorials' schedule: plain Adam at a constant rate, a new view of each photo in every epoch."""
    return Schedule(
        epochs=epochs,
        batch_size=batch_size or 32,
        views=None,
        fresh=0,
        optimizer="adam",
        weight_decay=0.0,
        warmup=0.0,
        cosine=False,
        clip=None,
        smoothing=0.0,
    )


def _classic(config: TrainConfig, backbone: Backbone, photos: int, classes: int) -> Recipe:
    head_epochs = config.head_epochs or CLASSIC_EPOCHS
    head_lr = config.head_lr or CLASSIC_HEAD_LR
    lr = config.lr or CLASSIC_LR
    return Recipe(
        name=config.recipe,
        augmentation=TEXTBOOK,
        views=head_epochs + 1,
        head_plan=plan_from(backbone, backbone.head_boundary, lr=0.0, head_lr=head_lr, bn=config.bn),
        head_schedule=textbook_schedule(head_epochs, config.batch_size),
        plan=plan_from(backbone, 0, lr=lr, head_lr=lr, bn=config.bn),
        schedule=textbook_schedule(config.epochs or CLASSIC_EPOCHS, config.batch_size),
        choose_epoch=False,
        judges=1,
        boundary=0,
        tuned_from=0,
    )


RECIPES: dict[str, Callable[[TrainConfig, Backbone, int, int], Recipe]] = {
    "auto": _auto,
    "classic": _classic,
    "head-only": _head_only,
}


def choose(config: TrainConfig, backbone: Backbone, photos: int, classes: int) -> Recipe:
    """Return the recipe for ``photos`` training photos of ``classes`` classes."""
    return RECIPES[config.recipe](config, backbone, photos, classes)
