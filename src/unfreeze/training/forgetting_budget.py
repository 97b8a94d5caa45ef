"""The largest alpha within the user's forgetting budget, found by bisection along the selected candidate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from unfreeze.evaluation.selection import Choice, ModelSelector, TrialLogits
from unfreeze.predict import Logits
from unfreeze.training.search import Trial

ALPHA_STEPS = 64  # alpha is found to 1/64: a sixteenth of the distance between the alphas that the search validates
MAX_MEASUREMENTS = 2 + 6
"""Models of a candidate whose forgetting is measured at most: one at alpha 1 before a deeper candidate is tried, the
selected one, and those of a bisection of 64 steps."""

LogitsAt = Callable[[Trial, float], tuple[Logits, ...]]


@dataclass(frozen=True)
class Selection:
    """What was selected among the points that are within the forgetting budget.

    Attributes:
        choice: The point with the highest expected gain; None where every point forgets too much.
        preferred: The point that would be selected without a budget.
        trials: All trials, those that were bisected with their logits at the alpha that was found.
        options: The logits of each trial at the alphas that may ship.
    """

    choice: Choice | None
    preferred: Choice
    trials: tuple[Trial, ...]
    options: tuple[TrialLogits, ...]


def select_within_budget(
    trials: tuple[Trial, ...],
    considered: int,
    selector: ModelSelector,
    within_budget: Callable[[Choice], bool],
    logits_at: LogitsAt,
) -> Selection:
    """Select the point with the highest expected gain that is within the forgetting budget.

    Where the selected point forgets too much, the largest alpha of its trial that doesn't takes part in the choice instead.

    Args:
        trials: The trials of the search, at least one of those considered with logits.
        considered: The final model is one of the first so many trials.
        selector: Selects by the logits of all folds.
        within_budget: Whether the final model of a point is within the budget.
        logits_at: Computes the validation logits of a trial at an alpha that the search did not try.
    """
    known, options = list(trials), [trial.logits for trial in trials]
    largest: dict[int, float] = {}  # the largest alpha within the budget, by the number of the trial
    preferred = choice = selector.select(options[:considered], selector.all_folds)
    while choice.alpha > largest.get(choice.trial, 0.0) and not within_budget(choice):
        number = choice.trial
        alpha = _largest_alpha(choice, within_budget)
        if alpha and alpha not in options[number].by_alpha:
            known[number] = known[number].with_logits_at(alpha, logits_at(known[number], alpha))
        largest[number], options[number] = alpha, known[number].logits.up_to(alpha)
        if not any(option.by_alpha for option in options[:considered]):
            return Selection(None, preferred, tuple(known), tuple(options))
        choice = selector.select(options[:considered], selector.all_folds)
    return Selection(choice, preferred, tuple(known), tuple(options))


def _largest_alpha(above: Choice, within_budget: Callable[[Choice], bool]) -> float:
    """Return the largest multiple of 1/64 below an alpha that is within the budget, taking forgetting to rise with alpha."""
    low, high = 0, math.ceil(above.alpha * ALPHA_STEPS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within_budget(replace(above, alpha=middle / ALPHA_STEPS)) else (low, middle)
    return low / ALPHA_STEPS
