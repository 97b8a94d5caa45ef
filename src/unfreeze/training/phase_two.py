"""Phase 2: ways to unfreeze are tried in rounds, each trained on every training photo, too; what the rounds like best ships.

Where there are several rounds, what is said of a round's photos is never chosen by them: the other rounds choose.  So with a
round for every fold, the answers are evidence as good as a test set's (``evidence.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unfreeze.evaluation.calibration import fit_temperature
from unfreeze.models.backbone import Backbone
from unfreeze.predict import Logits
from unfreeze.training.finetune import EpochRow, Weights
from unfreeze.training.interpolate import between
from unfreeze.training.phase_one import PhaseOne, Sources, new_head
from unfreeze.training.recipes import Recipe
from unfreeze.training.rounds import TrainingData, joined, trainings_of, truth_of, validation_rounds
from unfreeze.training.search import Bench, TimeLeft, Trial, search
from unfreeze.training.selection import Choice, Judges, Panel

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
    bench = Bench(backbone, new_head(backbone, data.classes, seed), pretrained, sources, data, first.poses, seed)
    panel = Panel.of(first.validation, [truth_of((each,), data) for each in rounds], data)
    trainings = trainings_of(data, recipe.judges)
    starts = (*first.round_starts, first.start)[: len(trainings)]

    def within_budget(model: Weights) -> bool:
        return forgets is None or recipe.forget_at_most is None or forgets(model) * 100 <= recipe.forget_at_most

    def room_left(trial: Trial) -> bool:
        return not trial.finals or within_budget(trial.finals[-1])

    trials = search(bench, recipe.candidates, recipe.alphas, trainings, starts, panel, time_left, room_left)
    setbacks = [setback for trial in trials for setback in trial.setbacks()]
    backbone.restore(pretrained)
    good = [trial for trial in trials if trial.answers]
    if not good:
        return _rolled_back(first, trials, setbacks)

    heard = [trial.answers for trial in good]
    choice = panel.choose(heard, panel.everyone)
    models = {0.0: first.final}
    for alpha in recipe.alphas:
        if alpha <= choice.alpha:
            models[alpha] = between(pretrained, first.start, good[choice.trial].finals[-1], alpha)
    allowed = 1.0
    # Phase 1 forgets nothing.
    farthest = next(alpha for alpha in sorted(models, reverse=True) if not alpha or within_budget(models[alpha]))
    if farthest < choice.alpha:
        allowed = farthest
        setbacks.append(
            f"at alpha {choice.alpha:g} more than {recipe.forget_at_most:g} points of the original task were forgotten: "
            f"alpha {farthest:g} it is"
        )

    def ships(choice: Choice, judges: Judges) -> bool:
        alpha = min(choice.alpha, allowed)
        return alpha > 0 and panel.ships(heard[choice.trial][alpha], judges)

    reached = min(choice.alpha, allowed)
    said, finals, ship = [], [], []
    for own in panel.everyone:
        theirs = panel.choose(heard, panel.others(own))
        alpha, trial = min(theirs.alpha, allowed), good[theirs.trial]
        said.append(trial.answers[alpha][own] if alpha else first.validation[own])
        start = first.round_starts[own] if alpha else first.round_finals[own]
        finals.append(between(pretrained, start, trial.finals[own], alpha))
        ship.append(ships(theirs, panel.others(own)))
    backbone.restore(pretrained)
    return PhaseTwo(
        final=models[reached],
        trial=good[choice.trial],
        alpha=reached,
        validation=tuple(said),
        temperature=fit_temperature(joined(said, data.classes), truth_of(rounds, data)),
        calibrated_on=sum(len(each.val) for each in rounds),
        not_worse=ships(choice, panel.everyone),
        rounds_not_worse=tuple(ship),
        round_finals=tuple(finals),
        history=tuple(row for trial in trials for row in trial.history),
        trials=trials,
        setbacks=tuple(setbacks),
    )


def _rolled_back(first: PhaseOne, trials: tuple[Trial, ...], setbacks: list[str]) -> PhaseTwo:
    """Return phase 1 in the place of a phase 2 that went wrong at every rate."""
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
