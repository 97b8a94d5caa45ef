"""Phase 2: ways to unfreeze are tried in rounds, each trained on every training photo, too; what the rounds like best ships.

Where there are several rounds, what is said of a round's photos is never chosen by them: the other rounds choose.  So with a
round for every fold, the answers are evidence as good as a test set's (``evidence.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.evaluation.selection import Choice, ModelSelector
from unfreeze.models.state import ModelState, interpolate
from unfreeze.predict import Logits
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.finetune.loop import EpochRow
from unfreeze.training.folds import concat_folds, fold_labels, labels_by_fold
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.recipes import Recipe
from unfreeze.training.search import SearchContext, TimeLeft, Trial, search

ForgettingFn = Callable[[ModelState], float | None]


@dataclass(frozen=True)
class TwoPhaseResult:
    """The two-phase model, and whether it held its own against head-only on the rounds' photos.

    Attributes:
        state: The two-phase model.
        trial: What was unfrozen, and how it went in the rounds.
        alpha: Where the model stands between phase 1 (0) and phase 2 (1).
        fold_logits: What every round's two-phase model says of the round's photos, chosen by the other rounds.
        temperature: Makes the model as sure as it is right (see ``calibration.py``).
        n_calibration: Photos that it was fitted on: answers of models that never saw them.
        accepted: Whether it ships.
        fold_accepted: For every round, whether it would ship by what the other rounds say.
        fold_states: Every round's model.
        history: A row an epoch.
        trials: Everything that was tried.
        warnings: What went wrong on the way, and what was done about it.
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


def fine_tune(
    features: TrainingFeatures,
    phase1: HeadOnlyResult,
    recipe: Recipe,
    *,
    forgetting: ForgettingFn = lambda _state: None,
    time_left: TimeLeft = lambda _tried: True,
) -> TwoPhaseResult:
    """Unfreeze and go on from phase 1.

    Args:
        features: The images that training may see, and their activations.
        phase1: Phase 1.
        recipe: What may be done.
        forgetting: How much accuracy a model lost at the original task; None where that isn't known.
        time_left: Whether there is time for another candidate, after so many.
    """
    data, rounds = features.data, features.folds.validation
    pretrained = features.backbone.snapshot(recipe.boundary)
    panel = ModelSelector.of(phase1.fold_logits, labels_by_fold(rounds, data), data.class_counts)

    def within_budget(model: ModelState) -> bool:
        lost = forgetting(model) if recipe.max_forgetting is not None else None
        return lost is None or recipe.max_forgetting is None or lost * 100 <= recipe.max_forgetting

    def room_left(trial: Trial) -> bool:
        return not trial.fold_states or within_budget(trial.fold_states[-1])

    bench = SearchContext(features, phase1, pretrained, recipe.alphas)
    searched = search(bench, recipe.candidates, panel, time_left, room_left, nested=recipe.cross_fit)
    trials = searched.trials
    setbacks = [setback for trial in trials for setback in trial.warnings()]
    if not any(trial.val_logits_by_alpha for trial in trials[: searched.considered_by_all]):
        return _rolled_back(phase1, trials, setbacks)

    def model_at(choice: Choice) -> ModelState:
        return interpolate(pretrained, phase1.phase2_init, trials[choice.trial].fold_states[-1], choice.alpha)

    heard, by_all = [trial.val_logits_by_alpha for trial in trials], searched.considered_by_all
    wanted = choice = panel.select(heard[:by_all], panel.all_folds)
    while not within_budget(final := model_at(choice)):
        heard[choice.trial] = {a: said for a, said in heard[choice.trial].items() if a < choice.alpha}
        if not any(heard[:by_all]):
            setbacks.append(_over_budget(wanted, recipe, "phase 1"))
            return _rolled_back(phase1, trials, setbacks)
        choice = panel.select(heard[:by_all], panel.all_folds)
    if choice != wanted:
        setbacks.append(_over_budget(wanted, recipe, f"alpha {choice.alpha:g}"))

    said, finals, ship = [], [], []
    for own, considered in zip(panel.all_folds, searched.considered, strict=True):
        others, options = panel.other_folds(own), heard[:considered]
        if not any(options):  # all that the others would have tried went wrong, or forgets too much
            said.append(phase1.fold_logits[own])
            finals.append(phase1.fold_states[own])
            ship.append(False)
            continue
        theirs = panel.select(options, others)
        answers = options[theirs.trial][theirs.alpha]
        said.append(answers[own])
        tuned = trials[theirs.trial].fold_states[own]
        finals.append(interpolate(pretrained, phase1.fold_inits[own], tuned, theirs.alpha))
        ship.append(panel.accepts(answers, others))
    return TwoPhaseResult(
        state=final,
        trial=trials[choice.trial],
        alpha=choice.alpha,
        fold_logits=tuple(said),
        temperature=fit_temperature(concat_folds(said, data.n_classes), fold_labels(rounds, data)),
        n_calibration=features.folds.n_validation,
        accepted=panel.accepts(heard[choice.trial][choice.alpha], panel.all_folds),
        fold_accepted=tuple(ship),
        fold_states=tuple(finals),
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        warnings=tuple(setbacks),
    )


def _over_budget(wanted: Choice, recipe: Recipe, instead: str) -> str:
    return (
        f"at alpha {wanted.alpha:g} more than {recipe.max_forgetting:g} points of the original task were forgotten: "
        f"{instead} it is"
    )


def _rolled_back(first: HeadOnlyResult, trials: tuple[Trial, ...], setbacks: list[str]) -> TwoPhaseResult:
    """Return phase 1 in the place of a phase 2 that went wrong at every rate, or forgot too much at every alpha."""
    return TwoPhaseResult(
        state=first.state,
        trial=trials[0],
        alpha=0.0,
        fold_logits=first.fold_logits,
        temperature=first.temperature,
        n_calibration=first.n_calibration,
        accepted=False,
        fold_accepted=tuple(False for _ in first.fold_logits),
        fold_states=first.fold_states,
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        warnings=tuple(setbacks),
    )


def select_shipped(first: HeadOnlyResult, second: TwoPhaseResult | None) -> HeadOnlyResult | TwoPhaseResult:
    """Return the phase whose model ships."""
    return second if second is not None and second.accepted else first
