"""The search for how to unfreeze: candidates are tried on the rounds, one after the other, from the head downwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from unfreeze.evaluation.selection import ModelSelector
from unfreeze.models.backbone import Tensors
from unfreeze.models.state import ModelState, interpolate, loaded
from unfreeze.orientations import IDENTITY_ONLY, Orientation
from unfreeze.predict import Logits
from unfreeze.runtime import progress_bar
from unfreeze.training.features.activations import Activations, logits_from
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow, Failure, FineTuneResult, Indices, finetune
from unfreeze.training.finetune.parallel import ProgressFn, n_parallel, run_parallel
from unfreeze.training.folds import Fold
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.recipes import LR_BACKOFF, Candidate

TimeLeft = Callable[[int], bool]
FAILURE_TEXT: dict[Failure, str] = {
    "not finite": "the loss was no number",
    "collapsed": "validation fell far below where it had begun",
}


@dataclass(frozen=True)
class Trial:
    """A candidate, trained on every round and on all photos.

    Attributes:
        candidate: As it was asked for, or, after trouble, at a tenth of its rates.
        val_logits_by_alpha: Of every alpha, what each round's model says of the round's photos, each of shape (V, C); none where it went
            wrong at the lower rates, too.
        fold_states: The model of every round, at alpha 1; the last one is that of all training photos.
        history: A row an epoch.
        failure: What went wrong at the rates that were asked for.
        seconds: What all of it took.
    """

    candidate: Candidate
    val_logits_by_alpha: Mapping[float, tuple[Logits, ...]]
    fold_states: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]
    failure: Failure | None
    seconds: float

    def warnings(self) -> Iterator[str]:
        """Yield what went wrong, for people."""
        if self.failure is not None:
            again = (
                "it was trained again at a tenth of that" if self.val_logits_by_alpha else "a tenth of it did no better"
            )
            asked = self.candidate.lr / LR_BACKOFF
            yield f"phase 2 from {self.candidate.depth} went wrong at {asked:g} ({FAILURE_TEXT[self.failure]}): {again}"


WithinBudget = Callable[[Trial], bool]


@dataclass(frozen=True)
class SearchContext:
    """What all trainings of phase 2 share.

    Attributes:
        features: The training images and their activations; its backbone is changed while a model is loaded.
        phase1: Phase 1's models, which trainings start from.
        pretrained: The stages that any candidate trains, as they were pretrained.
        alphas: Points between the phases, up to 1.
    """

    features: TrainingFeatures
    phase1: HeadOnlyResult
    pretrained: Sequence[Tensors]
    alphas: Sequence[float]

    @property
    def starts(self) -> tuple[ModelState, ...]:
        """What each training starts from, in the order of ``Folds.trainings``."""
        return (*self.phase1.fold_inits, self.phase1.phase2_init)[: len(self.features.folds.trainings)]

    def train(
        self, candidate: Candidate, start: ModelState, on: Fold, phase: str, progress: ProgressFn = progress_bar
    ) -> FineTuneResult:
        """Train a candidate from phase 1's model."""
        features, activations = self.features, self.features.of(on)
        source = activations.by_boundary[candidate.plan.boundary]
        distilled = activations.by_boundary[features.backbone.head_boundary] if candidate.schedule.distill else None
        baseline = self.logits(start, source, on.val, IDENTITY_ONLY) if len(on.val) else None
        return finetune(
            features.backbone, start, source, features.data.labels, candidate.plan, candidate.schedule,
            phase=phase, train=on.train, val=on.val, seed=features.seed,
            pretrained_features=distilled, baseline_logits=baseline, progress=progress,
        )  # fmt: skip

    def logits(
        self, state: ModelState, source: Activations, images: Indices, orientations: Sequence[Orientation]
    ) -> Logits:
        """Return a model's logits for ``images``, shape (V, C): the mean over ``orientations``."""
        with loaded(self.features.backbone, state) as head:
            return logits_from(self.features.backbone, head, source, images, orientations)

    def logits_by_alpha(
        self, candidate: Candidate, start: ModelState, tuned: FineTuneResult, on: Fold
    ) -> dict[float, Logits]:
        """Return, for every alpha, the logits (V, C) of the fold's validation images; empty where there are none."""
        if not len(on.val) or tuned.failure is not None:
            return {}
        source = self.features.of(on).by_boundary[candidate.plan.boundary]
        orientations = self.phase1.fold_orientations[on.fold or 0]  # a validation set of the user has no number
        by_alpha: dict[float, Logits] = {}
        for alpha in self.alphas:
            state = interpolate(self.pretrained, start, tuned.state, alpha)
            known = alpha == 1 and orientations == IDENTITY_ONLY
            by_alpha[alpha] = tuned.val_logits if known else self.logits(state, source, on.val, orientations)
        return by_alpha

    def replicas(self, count: int) -> list[SearchContext]:
        """Return this bench and others for trainings beside it, ``count`` in all.

        Their weights are their own from the lowest trained stage up; what lies below is shared.
        """
        return [self, *(self._replica() for _ in range(count - 1))]

    def _replica(self) -> SearchContext:
        backbone = self.features.backbone
        changed = backbone.stages[len(backbone.stages) - len(self.pretrained) :]
        own = {id(value) for stage in changed for value in stage.module.parameters()}
        parameters = [value for value in backbone.network.module.parameters() if id(value) not in own]
        shared = {id(value): value for value in (*parameters, backbone.compiled)}
        return replace(self, features=replace(self.features, backbone=copy.deepcopy(backbone, shared)))


@dataclass(frozen=True)
class Searched:
    """What was tried.

    Attributes:
        trials: In the order in which they were tried.
        considered: For each validation fold, how many of them the other folds would have tried.
        considered_by_all: How many of them all folds together would have tried: the final model is one of these.
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
    """Try candidates in order, until no further one is worth its time, or there is no time or no room for it.

    Args:
        context: What trains.
        candidates: From the head downwards; the first is always tried.
        selector: Decides whether a further candidate is worth trying.
        time_left: Whether there is time for another one, after so many.
        within_forgetting_budget: Whether the last one may forget more than it did: a deeper one will.
        nested: Whether the other folds decide how many candidates a fold considers, because its predictions are evidence;
            otherwise all folds decide together.
    """
    trials: list[Trial] = []
    deciders = [selector.all_folds, *(selector.other_folds(own) for own in selector.all_folds if nested)]
    considered = [0 for _ in deciders]
    going = [True for _ in deciders]
    for candidate in candidates:
        if trials:
            heard = [trial.val_logits_by_alpha for trial in trials if trial.val_logits_by_alpha]
            if not (time_left(len(trials)) and within_forgetting_budget(trials[-1])):
                break
            going = [
                each and selector.should_continue(heard, judges) for each, judges in zip(going, deciders, strict=True)
            ]
            if not any(going):
                break
        trials.append(run_trial(context, candidate, f"phase 2 from {candidate.depth}"))
        considered = [count + wants for count, wants in zip(considered, going, strict=True)]
    by_all, *by_others = considered
    return Searched(tuple(trials), tuple(by_others) if nested else (by_all,) * len(selector.all_folds), by_all)


def run_trial(bench: SearchContext, candidate: Candidate, phase: str) -> Trial:
    """Train a candidate on every round; where one goes wrong, all of them once more at a tenth of the rates."""
    started = time.perf_counter()
    asked = _on_folds(bench, candidate, phase)
    if asked.failure is None:
        return replace(asked, seconds=time.perf_counter() - started)
    slower = _on_folds(bench, candidate.with_lr_scaled(), f"{phase}, slower")
    return replace(
        slower, history=asked.history + slower.history, failure=asked.failure, seconds=time.perf_counter() - started
    )


def _on_folds(bench: SearchContext, candidate: Candidate, phase: str) -> Trial:
    features = bench.features
    trainings, judging = features.folds.trainings, len(features.folds.validation)

    def on_round(bench: SearchContext, number: int, progress: ProgressFn) -> tuple[FineTuneResult, dict[float, Logits]]:
        own, start = trainings[number], bench.starts[number]
        name = f"{phase}, validating {number + 1} of {judging}" if len(own.val) else phase
        tuned = bench.train(candidate, start, own, name, progress)
        return tuned, bench.logits_by_alpha(candidate, start, tuned, own)

    history: list[EpochRow] = []
    finals: list[ModelState] = []
    answers: dict[float, list[Logits]] = {alpha: [] for alpha in bench.alphas}
    source, batch_size = features.final.by_boundary[candidate.plan.boundary], candidate.schedule.batch_size
    count = n_parallel(features.backbone, source, candidate.plan, batch_size, len(trainings))
    for tuned, said in run_parallel(bench.replicas(count), range(len(trainings)), on_round):
        history.extend(tuned.history)
        if tuned.failure is not None:
            return Trial(candidate, {}, (), tuple(history), tuned.failure, 0.0)
        finals.append(tuned.state)
        for alpha, of_round in said.items():
            answers[alpha].append(of_round)
    return Trial(
        candidate, {alpha: tuple(said) for alpha, said in answers.items()}, tuple(finals), tuple(history), None, 0.0
    )
