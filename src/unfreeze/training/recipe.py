"""A recipe: the settings of the two phases, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.rendering.transforms import Augmentation
from unfreeze.evaluation.prior import WEAK_PRIOR, PriorTable, depth_class
from unfreeze.models.freezing import StagePlan
from unfreeze.orientations import Orientation
from unfreeze.training.folds import Fold
from unfreeze.training.schedule import Schedule
from unfreeze.training.view_sets import MAX_VIEWS, candidate_views, union
from unfreeze.views import PLAIN_ONLY, EvaluationView, Framing, Views, framings_of

LR_BACKOFF = 0.1  # factor on the learning rates after a training failed


@dataclass(frozen=True)
class Candidate:
    """A depth and its learning rates, to be tried in phase 2.

    Attributes:
        depth: The name of the first stage that trains.
        boundary: The index of that stage.
        plan: Each stage's learning rate.
        schedule: The length of the training and its optimizer's settings.
    """

    depth: str
    boundary: int
    plan: StagePlan
    schedule: Schedule

    @property
    def lr(self) -> float:
        """The topmost stage's learning rate."""
        return self.plan.rows[-1].lr

    @property
    def depth_class(self) -> str:
        """The class of depths whose prior expects the candidate's gain: by the share of the stages that train."""
        return depth_class(1 - self.plan.boundary / len(self.plan.rows))

    def n_train_images(self, folds: Sequence[Fold]) -> int:
        """Return the number of images in the training steps of all ``folds``, if none fails."""
        return sum(self.schedule.n_images(len(fold.train)) for fold in folds)

    def n_val_images(self, folds: Sequence[Fold], alphas: Sequence[float], views: Views) -> int:
        """Return the number of forward passes of validation images: at first, after each epoch, and at every alpha.

        With the plain view alone, the last epoch's logits serve alpha 1.
        """
        n_val = sum(len(fold.val) for fold in folds)
        known = n_val if 1 in alphas and views == PLAIN_ONLY else 0
        return n_val + self.schedule.n_images(n_val) + len(alphas) * len(views) * n_val - known

    def with_lr_scaled(self) -> Candidate:
        """Return the same candidate with its learning rates times ``LR_BACKOFF``."""
        return replace(self, plan=self.plan.scaled(LR_BACKOFF))


@dataclass(frozen=True, slots=True)
class Solved:
    """Phase 1 solves the head: a logistic regression on cached features."""


@dataclass(frozen=True, slots=True)
class ByGradient:
    """Phase 1 trains the head by gradient descent."""

    plan: StagePlan
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    """The settings of the two phases.

    Attributes:
        name: The name in ``RECIPES``.
        augmentations: The options for random views; of several, the best for a solved head on the folds is used.
        n_head_views: The number of views of each training image in phase 1: the plain one, and random ones.
        head: How phase 1 fits the head.
        candidates: The depths and rates of phase 2, in the order in which they are tried; empty: there is no phase 2.
        alphas: The weights of phase 2 in the interpolations that may ship, ascending; 1 is phase 2.
        max_forgetting: The largest loss of the original task's accuracy, in percentage points; None: no limit.
        allow_tta: Whether logits may be averaged over several views of an image; phase 1 validates over which.
        min_validation_images: Images to validate on, rounded up to whole folds; 0: nothing is selected.
        boundary: The stages below are frozen throughout the run, and are computed once per view.
        cross_fit: Whether every fold is validated on, and its predictions replace a test set.
        framings: The framings beside the centre crop in which an image may be shown, see ``candidate_framings``.
        shows_plain: Whether predictions may be from the plain view; otherwise they are from ``framings`` alone.
        prior: The gains that are expected of the options before the folds are asked.
    """

    name: str
    augmentations: tuple[Augmentation, ...]
    n_head_views: int
    head: Solved | ByGradient
    candidates: tuple[Candidate, ...]
    alphas: tuple[float, ...]
    max_forgetting: float | None
    allow_tta: bool
    min_validation_images: int
    boundary: int
    cross_fit: bool = False
    framings: tuple[Framing, ...] = ()
    shows_plain: bool = True
    prior: PriorTable = WEAK_PRIOR

    def cross_fit_all(self, n_images: int) -> Recipe:
        """Return the same recipe with every fold of ``n_images`` training images validated on (full cross-fitting)."""
        return replace(self, min_validation_images=n_images, cross_fit=True)

    def without_phase_two(self) -> Recipe:
        """Return the same recipe without candidates."""
        return replace(self, candidates=(), alphas=())

    @property
    def n_cached_views(self) -> int:
        """The number of plain and random views of each training image that the two phases read."""
        return max(self.n_head_views, *(each.schedule.n_cached_views for each in self.candidates), 0)

    def view_sets(self, renderer: Renderer) -> tuple[Views, ...]:
        """Return the sets of views that logits may be averaged over: the plain view alone first, where it is one."""
        return self._view_sets(renderer.tta_orientations)

    def _view_sets(self, orientations: Sequence[Orientation]) -> tuple[Views, ...]:
        if not self.shows_plain:
            return (tuple(map(EvaluationView.of, self.framings)),)
        return candidate_views(orientations, self.framings, MAX_VIEWS if self.allow_tta else 1)

    @property
    def shown_framings(self) -> tuple[Framing, ...]:
        """The framings that predictions may be from: those of some of ``view_sets``."""
        return framings_of(union(self._view_sets((Orientation.IDENTITY,))))

    def evaluation_views(self, renderer: Renderer) -> Views:
        """Return the plain view, and the views of all ``view_sets``."""
        return union([PLAIN_ONLY, *self.view_sets(renderer)])

    def head_views(self, renderer: Renderer) -> tuple[int, ...]:
        """Return the views of each image that a solved head is fitted on, the plain one first."""
        return (*range(self.n_head_views), *self.evaluation_views(renderer)[1:])

    @property
    def cache_boundary(self) -> int:
        """The boundary of the activations cached for both phases; 0 where phase 2 trains all stages or is absent."""
        return self.boundary if self.candidates else 0

    @property
    def head_uses_features(self) -> bool:
        """Whether phase 1 trains on cached features: it changes no weight and no statistic below the head."""
        return isinstance(self.head, Solved) or self.head.plan.boundary == len(self.head.plan.rows)

    @property
    def n_feature_views(self) -> int:
        """The number of views of each training image with cached features: phase 1's, and those that distillation reads."""
        distilled = (each.schedule.n_cached_views for each in self.candidates if each.schedule.distill)
        return max(self.n_head_views, *distilled, 0)

    @property
    def smoothing(self) -> float:
        """The label smoothing of phase 2; 0 without it."""
        return self.candidates[0].schedule.smoothing if self.candidates else 0.0
