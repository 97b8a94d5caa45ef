"""Phase 2: ways to unfreeze are tried in rounds, each trained on every training photo, too; what the rounds like best ships.

Where there are several rounds, what is said of a round's photos is never chosen by them: the other rounds choose.  So with a
round for every fold, the answers are evidence as good as a test set's (``evidence.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.backbone import Backbone, new_head
from unfreeze.predict import Logits
from unfreeze.training.finetune import EpochRow, Weights
from unfreeze.training.gather import Sources
from unfreeze.training.interpolate import between
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData, joined, trainings_of, truth_of, truths_of, validation_rounds
from unfreeze.training.search import Bench, TimeLeft, Trial, search
from unfreeze.training.selection import Choice, Panel

Forgets = Callable[[Weights], float]


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

    final: Weights
    trial: Trial
    alpha: float
    validation: tuple[Logits, ...]
    temperature: float
    calibrated_on: int
    not_worse: bool
    rounds_not_worse: tuple[bool, ...]
    round_finals: tuple[Weights, ...]
    history: tuple[EpochRow, ...]
    trials: tuple[Trial, ...]
    setbacks: tuple[str, ...]


def phase_two(
    backbone: Backbone,
    sources: Sources,
    data: TrainingData,
    recipe: Recipe,
    first: PhaseOne,
    seed: int,
    *,
    forgets: Forgets | None = None,
    time_left: TimeLeft = lambda _tried: True,
) -> PhaseTwo:
    """Unfreeze and go on from phase 1; leaves the backbone as it was pretrained.

    Args:
        backbone: Pretrained.
        sources: Activations at the candidates' boundaries.
        data: The photos.
        recipe: What may be done.
        first: Phase 1.
        seed: Decides the order of photos.
        forgets: How much accuracy a model lost at the original task; None where that isn't known.
        time_left: Whether there is time for another candidate, after so many.
    """
    rounds = validation_rounds(data, recipe.judges)
    pretrained = backbone.snapshot(recipe.boundary)
    panel = Panel.of(first.validation, truths_of(rounds, data), data)
    trainings = trainings_of(data, recipe.judges)
    bench = Bench(
        backbone, new_head(backbone, data.classes, seed), pretrained, sources, data, first.poses,
        trainings, (*first.round_starts, first.start)[: len(trainings)], recipe.alphas, seed,
    )  # fmt: skip

    def within_budget(model: Weights) -> bool:
        return forgets is None or recipe.forget_at_most is None or forgets(model) * 100 <= recipe.forget_at_most

    def room_left(trial: Trial) -> bool:
        return not trial.finals or within_budget(trial.finals[-1])

    trials = search(bench, recipe.candidates, panel, time_left, room_left)
    setbacks = [setback for trial in trials for setback in trial.setbacks()]
    backbone.restore(pretrained)
    good = [trial for trial in trials if trial.answers]
    if not good:
        return _rolled_back(first, trials, setbacks)

    def model_at(choice: Choice) -> Weights:
        return between(pretrained, first.start, good[choice.trial].finals[-1], choice.alpha)

    heard = [trial.answers for trial in good]
    wanted = choice = panel.choose(heard, panel.everyone)
    while not within_budget(final := model_at(choice)):
        heard[choice.trial] = {a: said for a, said in heard[choice.trial].items() if a < choice.alpha}
        if not any(heard):
            setbacks.append(_forgot(wanted, recipe, "phase 1"))
            return _rolled_back(first, trials, setbacks)
        choice = panel.choose(heard, panel.everyone)
    if choice != wanted:
        setbacks.append(_forgot(wanted, recipe, f"alpha {choice.alpha:g}"))

    said, finals, ship = [], [], []
    for own in panel.everyone:
        others = panel.others(own)
        theirs = panel.choose(heard, others)
        answers = heard[theirs.trial][theirs.alpha]
        said.append(answers[own])
        finals.append(between(pretrained, first.round_starts[own], good[theirs.trial].finals[own], theirs.alpha))
        ship.append(panel.ships(answers, others))
    backbone.restore(pretrained)
    return PhaseTwo(
        final=final,
        trial=good[choice.trial],
        alpha=choice.alpha,
        validation=tuple(said),
        temperature=fit_temperature(joined(said, data.classes), truth_of(rounds, data)),
        calibrated_on=sum(len(each.val) for each in rounds),
        not_worse=panel.ships(heard[choice.trial][choice.alpha], panel.everyone),
        rounds_not_worse=tuple(ship),
        round_finals=tuple(finals),
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        setbacks=tuple(setbacks),
    )


def _forgot(wanted: Choice, recipe: Recipe, instead: str) -> str:
    return (
        f"at alpha {wanted.alpha:g} more than {recipe.forget_at_most:g} points of the original task were forgotten: "
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
