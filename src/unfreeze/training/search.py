"""The search over candidates: each is trained on every fold and on all training images, from the head downwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unfreeze.evaluation.selection import ModelSelector, TrialLogits
from unfreeze.models.backbone import Tensors
from unfreeze.models.state import ModelState, interpolate, loaded
from unfreeze.predict import Logits
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import Activations, logits_from
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow, Failure, FineTuneResult, Indices, finetune
from unfreeze.training.finetune.parallel import ProgressFn, n_parallel, run_parallel
from unfreeze.training.folds import Fold
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.recipe import LR_BACKOFF, Candidate
from unfreeze.views import PLAIN_ONLY, Views

TimeLeft = Callable[[int], bool]
FAILURE_TEXT: dict[Failure, str] = {
    "not finite": "the loss was no number",
    "collapsed": "validation fell far below where it had begun",
}


@dataclass(frozen=True)
class Trial:
    """A candidate, trained on every fold and on all training images.

    Attributes:
        candidate: The candidate as given, or after a failure with its learning rates times ``LR_BACKOFF``.
        val_logits_by_alpha: For every alpha, the validation logits of each fold's model, each of shape (V, C); empty where
            the lower rates failed, too.
        fold_states: Each training's model at alpha 1, in the order of ``Folds.trainings``.
        history: One row per epoch.
        failure: The failure at the given rates; None: they worked.
        seconds: The time that all trainings took, failed ones included.
    """

    candidate: Candidate
    val_logits_by_alpha: Mapping[float, tuple[Logits, ...]]
    fold_states: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]
    failure: Failure | None
    seconds: float

    @property
    def logits(self) -> TrialLogits:
        """The validation logits, with the class of the candidate's depth."""
        return TrialLogits(self.candidate.depth_class, self.val_logits_by_alpha)

    def with_logits_at(self, alpha: float, logits: tuple[Logits, ...]) -> Trial:
        """Return the trial with the validation logits at one more alpha."""
        return replace(self, val_logits_by_alpha=dict(sorted({**self.val_logits_by_alpha, alpha: logits}.items())))

    def warnings(self) -> Iterator[str]:
        """Yield a sentence for the user on the failure, if there was one."""
        if self.failure is not None:
            again = (
                "it was trained again at a tenth of that" if self.val_logits_by_alpha else "a tenth of it did no better"
            )
            lr = self.candidate.lr / LR_BACKOFF
            yield f"phase 2 from {self.candidate.depth} went wrong at {lr:g} ({FAILURE_TEXT[self.failure]}): {again}"


WithinBudget = Callable[[Trial], bool]


@dataclass(frozen=True)
class SearchContext:
    """The inputs that all trainings of phase 2 share.

    Attributes:
        features: The training images and their activations; its backbone is changed while a model is loaded.
        phase1: Phase 1's result, whose models the trainings start from.
        pretrained: The pretrained weights of the stages that any candidate trains.
        alphas: The interpolation weights to validate, in ascending order.
    """

    features: TrainingFeatures
    phase1: HeadOnlyResult
    pretrained: Sequence[Tensors]
    alphas: Sequence[float]

    @property
    def starts(self) -> tuple[ModelState, ...]:
        """The initial model of each training, in the order of ``Folds.trainings``."""
        return (*self.phase1.fold_inits, self.phase1.phase2_init)[: len(self.features.folds.trainings)]

    def train(
        self, candidate: Candidate, start: ModelState, fold: Fold, phase: str, progress: ProgressFn = progress_bar
    ) -> FineTuneResult:
        """Train a candidate on a fold from phase 1's model ``start``."""
        features, activations = self.features, self.features.of(fold)
        source = activations.by_boundary[candidate.plan.boundary]
        distilled = activations.by_boundary[features.backbone.head_boundary] if candidate.schedule.distill else None
        baseline = self.logits(start, source, fold.val, PLAIN_ONLY) if len(fold.val) else None
        return finetune(
            features.backbone, start, source, features.data.labels, candidate.plan, candidate.schedule,
            phase=phase, train=fold.train, val=fold.val, seed=features.seed,
            pretrained_features=distilled, baseline_logits=baseline, progress=progress,
        )  # fmt: skip

    def logits(self, state: ModelState, source: Activations, images: Indices, views: Views) -> Logits:
        """Return a model's logits for ``images``, shape (V, C): the mean over ``views``."""
        with loaded(self.features.backbone, state) as head:
            return logits_from(self.features.backbone, head, source, images, views)

    def logits_by_alpha(
        self, candidate: Candidate, start: ModelState, tuned: FineTuneResult, fold: Fold
    ) -> dict[float, Logits]:
        """Return, for every alpha, the logits (V, C) of the fold's validation images; empty where there are none."""
        if not len(fold.val) or tuned.failure is not None:
            return {}
        source = self.features.of(fold).by_boundary[candidate.plan.boundary]
        views = self.phase1.fold_views[fold.fold or 0]  # the user's validation set has no index
        by_alpha: dict[float, Logits] = {}
        for alpha in self.alphas:
            state = interpolate(self.pretrained, start, tuned.state, alpha)
            known = alpha == 1 and views == PLAIN_ONLY
            by_alpha[alpha] = tuned.val_logits if known else self.logits(state, source, fold.val, views)
        return by_alpha

    def val_logits_at(self, trial: Trial, alpha: float) -> tuple[Logits, ...]:
        """Return the validation logits of each fold's model at an alpha that the search did not try, each (V, C)."""
        folds, boundary = self.features.folds.validation, trial.candidate.plan.boundary
        return tuple(
            self.logits(
                interpolate(self.pretrained, start, tuned, alpha),
                self.features.of(fold).by_boundary[boundary],
                fold.val,
                self.phase1.fold_views[fold.fold or 0],
            )
            for fold, start, tuned in zip(folds, self.starts, trial.fold_states, strict=False)
        )

    def replicas(self, count: int) -> list[SearchContext]:
        """Return ``count`` contexts for parallel trainings, this one first.

        Each has its own copy of the weights from the lowest trained stage up, and shares the stages below.
        """
        return [self, *(self._replica() for _ in range(count - 1))]

    def _replica(self) -> SearchContext:
        backbone = self.features.backbone
        trained_stages = backbone.stages[len(backbone.stages) - len(self.pretrained) :]
        trained = {id(value) for stage in trained_stages for value in stage.module.parameters()}
        parameters = [value for value in backbone.network.module.parameters() if id(value) not in trained]
        shared = {id(value): value for value in (*parameters, backbone.compiled)}
        return replace(self, features=replace(self.features, backbone=copy.deepcopy(backbone, shared)))


@dataclass(frozen=True)
class Searched:
    """The trials of a search, and how many of them each fold may select from.

    Attributes:
        trials: In the order of the candidates.
        considered: For each validation fold, the number of trials that the other folds would have run.
        considered_by_all: The number of trials that all folds together would have run; the final model is one of these.
    """

    trials: tuple[Trial, ...]
    considered: tuple[int, ...]
    considered_by_all: int


def search(
    context: SearchContext,
    candidates: Sequence[Candidate],
    selector: ModelSelector,
    time_left: TimeLeft,
    within_forgetting_budget: WithinBudget,
    nested: bool,
) -> Searched:
    """Try candidates in order, until a deeper one promises no gain, time runs out, or the forgetting budget is spent.

    Args:
        context: The shared inputs of the trainings.
        candidates: From the head downwards; the first is always tried.
        selector: Decides whether to try a deeper candidate.
        time_left: Given the number of trials so far, whether there is time for another one.
        within_forgetting_budget: Whether a trial is within the forgetting budget; a deeper candidate forgets more.
        nested: Whether the other folds decide how many candidates a fold considers, because its predictions are evidence;
            otherwise all folds decide together.
    """
    trials: list[Trial] = []
    deciders = [selector.all_folds, *(selector.other_folds(fold) for fold in selector.all_folds if nested)]
    considered = [0 for _ in deciders]
    going = [True for _ in deciders]
    for candidate in candidates:
        if trials:
            logits = [trial.logits for trial in trials if trial.val_logits_by_alpha]
            if not (time_left(len(trials)) and within_forgetting_budget(trials[-1])):
                break
            going = [
                each and selector.should_continue(logits, candidate.depth_class, folds)
                for each, folds in zip(going, deciders, strict=True)
            ]
            if not any(going):
                break
        trials.append(run_trial(context, candidate, f"phase 2 from {candidate.depth}"))
        considered = [count + goes_on for count, goes_on in zip(considered, going, strict=True)]
    by_all, *by_others = considered
    return Searched(tuple(trials), tuple(by_others) if nested else (by_all,) * len(selector.all_folds), by_all)


def run_trial(context: SearchContext, candidate: Candidate, phase: str) -> Trial:
    """Train a candidate on every fold; if a training fails, train all of them once more at a tenth of the rates."""
    started = time.perf_counter()
    trial = _on_folds(context, candidate, phase)
    if trial.failure is None:
        return replace(trial, seconds=time.perf_counter() - started)
    slower = _on_folds(context, candidate.with_lr_scaled(), f"{phase}, slower")
    return replace(
        slower, history=trial.history + slower.history, failure=trial.failure, seconds=time.perf_counter() - started
    )


def _on_folds(context: SearchContext, candidate: Candidate, phase: str) -> Trial:
    features = context.features
    trainings, n_validations = features.folds.trainings, len(features.folds.validation)

    def train(replica: SearchContext, index: int, progress: ProgressFn) -> tuple[FineTuneResult, dict[float, Logits]]:
        fold, start = trainings[index], replica.starts[index]
        name = f"{phase}, validating {index + 1} of {n_validations}" if len(fold.val) else phase
        tuned = replica.train(candidate, start, fold, name, progress)
        return tuned, replica.logits_by_alpha(candidate, start, tuned, fold)

    history: list[EpochRow] = []
    states: list[ModelState] = []
    val_logits: dict[float, list[Logits]] = {alpha: [] for alpha in context.alphas}
    source, batch_size = features.final.by_boundary[candidate.plan.boundary], candidate.schedule.batch_size
    count = n_parallel(features.backbone, source, candidate.plan, batch_size, len(trainings))
    for tuned, by_alpha in run_parallel(context.replicas(count), range(len(trainings)), train):
        history.extend(tuned.history)
        if tuned.failure is not None:
            return Trial(candidate, {}, (), tuple(history), tuned.failure, 0.0)
        states.append(tuned.state)
        for alpha, logits in by_alpha.items():
            val_logits[alpha].append(logits)
    logits_by_alpha = {alpha: tuple(logits) for alpha, logits in val_logits.items()}
    return Trial(candidate, logits_by_alpha, tuple(states), tuple(history), None, 0.0)
