"""Phase 2: ways to unfreeze are tried in rounds, each trained on every training photo, too; what the rounds like best ships.

Where there are several rounds, what is said of a round's photos is never chosen by them: the other rounds choose.  So with a
round for every fold, the answers are evidence as good as a test set's (``evidence.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.state import ModelState, interpolate
from unfreeze.predict import Logits
from unfreeze.training.finetune import EpochRow
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import joined, truth_of, truths_of
from unfreeze.training.search import Bench, TimeLeft, Trial, search
from unfreeze.training.selection import Choice, Panel
from unfreeze.training.training_features import TrainingFeatures

Forgets = Callable[[ModelState], float | None]


@dataclass(frozen=True)
class PhaseTwo:
    """The two-phase model, and whether it held its own against head-only on the rounds' photos.

    Attributes:
        final: The two-phase model.
        trial: What was unfrozen, and how it went in the rounds.
        alpha: Where the model stands between phase 1 (0) and phase 2 (1).
        validation: What every round's two-phase model says of the round's photos, chosen by the other rounds.
        temperature: Makes the model as sure as it is right (see ``calibration.py``).
        calibrated_on: Photos that it was fitted on: answers of models that never saw them.
        not_worse: Whether it ships.
        rounds_not_worse: For every round, whether it would ship by what the other rounds say.
        round_finals: Every round's model.
        history: A row an epoch.
        trials: Everything that was tried.
        setbacks: What went wrong on the way, and what was done about it.
    """

    final: ModelState
    trial: Trial
    alpha: float
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    not_worse: bool
    rounds_not_worse: tuple[bool, ...]
    round_finals: tuple[ModelState, ...]
    history: tuple[EpochRow, ...]
    trials: tuple[Trial, ...]
    setbacks: tuple[str, ...]


def phase_two(
    features: TrainingFeatures,
    first: PhaseOne,
    recipe: Recipe,
    *,
    forgets: Forgets = lambda _state: None,
    time_left: TimeLeft = lambda _tried: True,
) -> PhaseTwo:
    """Unfreeze and go on from phase 1.

    Args:
        features: The images that training may see, and their activations.
        first: Phase 1.
        recipe: What may be done.
        forgets: How much accuracy a model lost at the original task; None where that isn't known.
        time_left: Whether there is time for another candidate, after so many.
    """
    data, rounds = features.data, features.folds.validation
    pretrained = features.backbone.snapshot(recipe.boundary)
    panel = Panel.of(first.validation, truths_of(rounds, data), data.class_counts)

    def within_budget(model: ModelState) -> bool:
        lost = forgets(model) if recipe.max_forgetting is not None else None
        return lost is None or recipe.max_forgetting is None or lost * 100 <= recipe.max_forgetting

    def room_left(trial: Trial) -> bool:
        return not trial.finals or within_budget(trial.finals[-1])

    bench = Bench(features, first, pretrained, recipe.alphas)
    searched = search(bench, recipe.candidates, panel, time_left, room_left, nested=recipe.cross_fit)
    trials = searched.trials
    setbacks = [setback for trial in trials for setback in trial.setbacks()]
    if not any(trial.answers for trial in trials[: searched.considered_by_all]):
        return _rolled_back(first, trials, setbacks)

    def model_at(choice: Choice) -> ModelState:
        return interpolate(pretrained, first.start, trials[choice.trial].finals[-1], choice.alpha)

    heard, by_all = [trial.answers for trial in trials], searched.considered_by_all
    wanted = choice = panel.choose(heard[:by_all], panel.everyone)
    while not within_budget(final := model_at(choice)):
        heard[choice.trial] = {a: said for a, said in heard[choice.trial].items() if a < choice.alpha}
        if not any(heard[:by_all]):
            setbacks.append(_forgot(wanted, recipe, "phase 1"))
            return _rolled_back(first, trials, setbacks)
        choice = panel.choose(heard[:by_all], panel.everyone)
    if choice != wanted:
        setbacks.append(_forgot(wanted, recipe, f"alpha {choice.alpha:g}"))

    said, finals, ship = [], [], []
    for own, considered in zip(panel.everyone, searched.considered, strict=True):
        others, options = panel.others(own), heard[:considered]
        if not any(options):  # all that the others would have tried went wrong, or forgets too much
            said.append(first.validation[own])
            finals.append(first.round_finals[own])
            ship.append(False)
            continue
        theirs = panel.choose(options, others)
        answers = options[theirs.trial][theirs.alpha]
        said.append(answers[own])
        tuned = trials[theirs.trial].finals[own]
        finals.append(interpolate(pretrained, first.round_starts[own], tuned, theirs.alpha))
        ship.append(panel.ships(answers, others))
    return PhaseTwo(
        final=final,
        trial=trials[choice.trial],
        alpha=choice.alpha,
        validation=tuple(said),
        temperature=fit_temperature(joined(said, data.classes), truth_of(rounds, data)),
        calibrated_on=features.folds.n_validation,
        not_worse=panel.ships(heard[choice.trial][choice.alpha], panel.everyone),
        rounds_not_worse=tuple(ship),
        round_finals=tuple(finals),
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        setbacks=tuple(setbacks),
    )


def _forgot(wanted: Choice, recipe: Recipe, instead: str) -> str:
    return (
        f"at alpha {wanted.alpha:g} more than {recipe.max_forgetting:g} points of the original task were forgotten: "
        f"{instead} it is"
    )


def _rolled_back(first: PhaseOne, trials: tuple[Trial, ...], setbacks: list[str]) -> PhaseTwo:
    """Return phase 1 in the place of a phase 2 that went wrong at every rate, or forgot too much at every alpha."""
    return PhaseTwo(
        final=first.final,
        trial=trials[0],
        alpha=0.0,
        validation=first.validation,
        temperature=first.temperature,
        calibrated_on=first.calibrated_on,
        not_worse=False,
        rounds_not_worse=tuple(False for _ in first.validation),
        round_finals=first.round_finals,
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        setbacks=tuple(setbacks),
    )


def chosen(first: PhaseOne, second: PhaseTwo | None) -> PhaseOne | PhaseTwo:
    """Return the phase whose model ships."""
    return second if second is not None and second.not_worse else first
