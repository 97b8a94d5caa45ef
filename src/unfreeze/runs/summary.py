"""The verdict on a terminal: its sentences, the scores of both models side by side, and the forgetting."""

from __future__ import annotations

from collections.abc import Iterator

from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.resampling import Interval
from unfreeze.verdict import ExpectedGain, Verdict
from unfreeze.verdict_sentences import untested

N_WEAKEST = 3  # classes with the lowest recall that are named
LABEL, CELL = 20, 26  # characters in the table's columns


def summary(verdict: Verdict) -> Iterator[str]:
    """Yield the last lines of ``unfreeze train``, fewer than 25."""
    yield from verdict.sentences()
    if verdict.data.no_score is None:
        yield from _scores(verdict)
    if verdict.model.n_views > 1:
        yield f"{'views':{LABEL}}{verdict.model.describe_views()} (--no-tta: one view)"
    if verdict.model.unseen is not None:
        yield f"{'not seen':{LABEL}}{verdict.model.unseen * 100:.0f} % of your photos' area (--fit squash: all is seen)"
    if verdict.model.head_stages:
        yield f"{'head':{LABEL}}reads {len(verdict.model.head_stages)} stages (--head last: the last one alone)"
    if verdict.trials:
        yield f"{'phase 2':{LABEL}}{_trials(verdict)}"
    if verdict.expected is not None and verdict.data.no_score is None:
        yield f"{'expected gain':{LABEL}}{expected_gain(verdict.expected)}"
    yield from (f"{'warning':{LABEL}}{warning}" for warning in verdict.warnings)
    if verdict.forgetting is not None:
        yield from _forgetting(verdict.forgetting)


def _scores(verdict: Verdict) -> Iterator[str]:
    """Yield the scores of both models side by side, the weakest classes and the calibration."""
    arms = {"head-only": verdict.scores.head_only}
    if verdict.scores.two_phase is not None:
        arms["two-phase"] = verdict.scores.two_phase
    if verdict.scores.shipped not in arms.values():  # cross-fitted, folds may select different models
        arms["as it is chosen"] = verdict.scores.shipped
    yield _row("", list(arms))
    cells = [{name: _value(value, interval) for name, value, interval in scores.rows()} for scores in arms.values()]
    for name in cells[0]:
        yield _row(name, [column.get(name, "-") for column in cells])
        if name == "balanced accuracy" and (n_untested := len(untested(verdict))):
            n_classes = len(verdict.data.classes)
            yield f"{'':{LABEL}}over {n_classes - n_untested} of {n_classes} classes: the others have no test photo"
    weakest = _weakest(verdict.scores.shipped, verdict.data.classes)
    if weakest:
        yield f"{'weakest classes':{LABEL}}{weakest}"
    calibration = verdict.scores.calibration
    if calibration is not None:
        yield (
            f"{'calibration':{LABEL}}temperature {calibration.temperature:.2f} (logits are divided by it): "
            f"calibration error {calibration.ece_before:.3f} -> {calibration.ece_after:.3f}"
        )


def expected_gain(expected: ExpectedGain) -> str:
    """Return the expected gain in accuracy for people, with its spread."""
    return (
        f"{expected.accuracy * 100:+.1f} points of accuracy, give or take {expected.spread * 100:.1f}; "
        f"worse than head-only with a probability of {expected.p_worse * 100:.0f} %"
    )


def _weakest(scores: Scores, classes: tuple[str, ...]) -> str:
    rows = zip(scores.per_class, classes, strict=False)
    recalls = [(row.recall, row.n, name) for row, name in rows if row.recall is not None and row.recall < 1]
    worst = sorted(recalls)[:N_WEAKEST]
    return ", ".join(f"{name} (recall {recall:.2f} of {n})" for recall, n, name in worst)


def _trials(verdict: Verdict) -> str:
    """Return the shipped depth and alpha, the candidates that were tried, and the symmetry of the views."""
    selected = (
        f"from {verdict.model.depth} up, alpha {verdict.model.alpha:g} (0: head-only's weights, 1: phase 2's)"
        if verdict.model.alpha
        else "does not ship"
    )
    tried = ", ".join(f"{trial.depth} at {trial.lr:g} ({trial.seconds:.0f} s)" for trial in verdict.trials)
    views_by_symmetry = {"rotate": "views turned every way", "flip": "views mirrored", "none": "views upright"}
    views = f"; {views_by_symmetry[verdict.model.symmetry]}" if verdict.model.symmetry else ""
    return f"{selected}; tried {tried}{views}"


def _forgetting(forgetting: Forgetting) -> Iterator[str]:
    if forgetting.drop is not None and forgetting.drop_ci95 is not None and forgetting.before is not None:
        low, high = forgetting.drop_ci95
        top5 = f"; top-5 lost {forgetting.top5_drop * 100:.1f}" if forgetting.top5_drop is not None else ""
        yield (
            f"{'original task':{LABEL}}{forgetting.before * 100:.1f} % before, lost {forgetting.drop * 100:.1f} "
            f"({low * 100:.1f} to {high * 100:.1f}): weights {(forgetting.weights_drop or 0) * 100:.1f}, "
            f"BatchNorm {(forgetting.batch_norm_drop or 0) * 100:.1f}{top5}"
        )
    if forgetting.probe_drop is not None and forgetting.probe_before is not None:
        yield (
            f"{'  by a new head':{LABEL}}{forgetting.probe_before * 100:.1f} % before, lost "
            f"{forgetting.probe_drop * 100:.1f}: what no linear head can find any more"
        )
    parts = []
    if forgetting.agreement is not None:
        parts.append(f"{forgetting.agreement * 100:.1f} % the same on {forgetting.agreement_n} of your photos")
    if forgetting.kl is not None:
        parts.append(f"KL {forgetting.kl:.3f} (0: as sure of the same)")
    if forgetting.cka:
        stages = ", ".join(f"{name} {value:.3f}" for name, value in list(forgetting.cka.items())[-3:])
        parts.append(f"CKA {stages} (1: the stage answers as before)")
    if parts:
        yield f"{'original answers':{LABEL}}{'; '.join(parts)}"


def _row(label: str, cells: list[str]) -> str:
    return (f"{label:{LABEL}}" + "".join(f"{cell:{CELL}}" for cell in cells)).rstrip()


def _value(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
