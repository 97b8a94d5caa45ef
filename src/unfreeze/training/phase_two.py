"""Phase 2: fine-tune each candidate (depth, rate) on every fold and once on all training images, and select the best.

The candidate and alpha with the highest expected gain are selected.  Nested selection: choices that affect a fold's
predictions are made on the other folds, so that the predictions of all folds are evidence as good as a test set's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.evaluation.expected_gain import Posterior
from unfreeze.evaluation.selection import Choice, ModelSelector
from unfreeze.models.state import ModelState, interpolate
from unfreeze.predict import Logits
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow
from unfreeze.training.folds import concat_folds, fold_labels, labels_by_fold
from unfreeze.training.forgetting_budget import select_within_budget
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.recipe import Recipe
from unfreeze.training.search import SearchContext, TimeLeft, Trial, search

ForgettingFn = Callable[[ModelState], float | None]


@dataclass(frozen=True)
class TwoPhaseResult:
    """The two-phase models, and whether they are expected to be better than head-only.

    Attributes:
        state: The two-phase model, trained on all training images.
        trial: The selected candidate and its trainings.
        alpha: The weight of phase 2 in the interpolation: 0 is phase 1, 1 is phase 2.
        fold_logits: The logits (V, C) of each fold's images by the fold's two-phase model, which the other folds selected.
        temperature: Divides the logits so that the probabilities are calibrated (see ``calibration.py``).
        n_calibration: The number of images that it was fitted on: out-of-fold predictions.
        accepted: Whether the two-phase model ships.
        fold_accepted: For every fold, whether the other folds would ship it.
        fold_states: The two-phase model of every fold.
        history: One row per epoch.
        trials: All candidates that were tried.
        warnings: Sentences for the user on failures and their remedies.
        expected: For each trial, the expected gain over head-only at every alpha; empty where it is not known.
    """

    state: ModelState
    trial: Trial
    alpha: float
    fold_logits: tuple[Logits, ...]
    temperature: float
    n_calibration: int
    accepted: bool
    fold_accepted: tuple[bool, ...]
    fold_states: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]
    trials: tuple[Trial, ...]
    warnings: tuple[str, ...]
    expected: tuple[Mapping[float, Posterior], ...] = ()

    @property
    def expected_gain(self) -> Posterior | None:
        """The expected gain of the selected model over head-only; None where phase 2 failed, or forgot too much."""
        for trial, by_alpha in zip(self.trials, self.expected, strict=False):
            if trial is self.trial:
                return by_alpha.get(self.alpha)
        return None


def fine_tune(
    features: TrainingFeatures,
    phase1: HeadOnlyResult,
    recipe: Recipe,
    *,
    forgetting: ForgettingFn = lambda _state: None,
    time_left: TimeLeft = lambda _tried: True,
) -> TwoPhaseResult:
    """Continue training from phase 1 with unfrozen stages.

    Args:
        features: The training images and their activations.
        phase1: Phase 1's result.
        recipe: The candidates, the alphas and the forgetting budget.
        forgetting: The share of the original task's accuracy that a model lost; None where it is unknown.
        time_left: Given the number of trials so far, whether there is time for another candidate.
    """
    data, folds = features.data, features.folds.validation
    pretrained = features.backbone.snapshot(recipe.boundary)
    selector = ModelSelector.of(phase1.fold_logits, labels_by_fold(folds, data), data.class_counts, recipe.prior)

    def within_budget(model: ModelState) -> bool:
        lost = forgetting(model) if recipe.max_forgetting is not None else None
        return lost is None or recipe.max_forgetting is None or lost * 100 <= recipe.max_forgetting

    def trial_within_budget(trial: Trial) -> bool:
        return not trial.fold_states or within_budget(trial.fold_states[-1])

    context = SearchContext(features, phase1, pretrained, recipe.alphas)
    searched = search(context, recipe.candidates, selector, time_left, trial_within_budget, nested=recipe.cross_fit)
    trials = searched.trials
    warnings = [warning for trial in trials for warning in trial.warnings()]
    if not any(trial.val_logits_by_alpha for trial in trials[: searched.considered_by_all]):
        return _rolled_back(phase1, trials, warnings)

    def model_at(choice: Choice) -> ModelState:
        return interpolate(pretrained, phase1.phase2_init, trials[choice.trial].fold_states[-1], choice.alpha)

    by_all = searched.considered_by_all
    selection = select_within_budget(
        trials, by_all, selector, lambda choice: within_budget(model_at(choice)), context.val_logits_at
    )
    trials, options, choice = selection.trials, selection.options, selection.choice
    if choice is None:
        warnings.append(_over_budget(selection.preferred, recipe, "phase 1"))
        return _rolled_back(phase1, trials, warnings)
    if choice != selection.preferred:
        warnings.append(_over_budget(selection.preferred, recipe, f"alpha {choice.alpha:.3g}"))

    fold_logits, fold_states, fold_accepted = [], [], []
    for fold, considered in zip(selector.all_folds, searched.considered, strict=True):
        others, fold_options = selector.other_folds(fold), options[:considered]
        if not any(
            option.by_alpha for option in fold_options
        ):  # all candidates that the other folds would have tried failed, or forget too much
            fold_logits.append(phase1.fold_logits[fold])
            fold_states.append(phase1.fold_states[fold])
            fold_accepted.append(False)
            continue
        fold_choice = selector.select(fold_options, others)
        chosen = fold_options[fold_choice.trial]
        fold_logits.append(chosen.by_alpha[fold_choice.alpha][fold])
        tuned = trials[fold_choice.trial].fold_states[fold]
        fold_states.append(interpolate(pretrained, phase1.fold_inits[fold], tuned, fold_choice.alpha))
        fold_accepted.append(selector.accepts(chosen, fold_choice.alpha, others))
    return TwoPhaseResult(
        state=model_at(choice),
        trial=trials[choice.trial],
        alpha=choice.alpha,
        fold_logits=tuple(fold_logits),
        temperature=fit_temperature(concat_folds(fold_logits, data.n_classes), fold_labels(folds, data)),
        n_calibration=features.folds.n_validation,
        accepted=selector.accepts(options[choice.trial], choice.alpha, selector.all_folds),
        fold_accepted=tuple(fold_accepted),
        fold_states=tuple(fold_states),
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        warnings=tuple(warnings),
        expected=tuple(selector.expected(trial.logits, selector.all_folds) for trial in trials),
    )


def _over_budget(preferred: Choice, recipe: Recipe, instead: str) -> str:
    return (
        f"at alpha {preferred.alpha:g} more than {recipe.max_forgetting:g} points of the original task were forgotten: "
        f"{instead} it is"
    )


def _rolled_back(phase1: HeadOnlyResult, trials: tuple[Trial, ...], warnings: list[str]) -> TwoPhaseResult:
    """Return phase 1's models as the result of a phase 2 that failed at every rate, or forgot too much at every alpha."""
    return TwoPhaseResult(
        state=phase1.state,
        trial=trials[0],
        alpha=0.0,
        fold_logits=phase1.fold_logits,
        temperature=phase1.temperature,
        n_calibration=phase1.n_calibration,
        accepted=False,
        fold_accepted=tuple(False for _ in phase1.fold_logits),
        fold_states=phase1.fold_states,
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        warnings=tuple(warnings),
    )


def select_shipped(phase1: HeadOnlyResult, phase2: TwoPhaseResult | None) -> HeadOnlyResult | TwoPhaseResult:
    """Return the result of the phase whose model ships."""
    return phase2 if phase2 is not None and phase2.accepted else phase1
