"""The verdict on a terminal: its sentences, the scores of both models side by side, and what was forgotten."""

from __future__ import annotations

from collections.abc import Iterator

from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import Scores
from unfreeze.evaluation.resampling import Interval
from unfreeze.verdict import Verdict

WEAKEST = 3  # classes that are named
LABEL, CELL = 20, 26  # widths of the table's columns


def summary(verdict: Verdict) -> Iterator[str]:
    """Yield the lines that ``unfreeze train`` ends with, fewer than 25."""
    yield from verdict.sentences()
    arms = {"head-only": verdict.scores.head_only}
    if verdict.scores.two_phase is not None:
        arms["two-phase"] = verdict.scores.two_phase
    if verdict.scores.shipped not in arms.values():  # cross-fitted, its score counts the choice between the two as well
        arms["as it is chosen"] = verdict.scores.shipped
    yield _row("", list(arms))
    cells = [{name: _value(value, interval) for name, value, interval in scores.rows()} for scores in arms.values()]
    for name in cells[0]:
        yield _row(name, [column.get(name, "-") for column in cells])
    weakest = _weakest(verdict.scores.shipped, verdict.data.classes)
    if weakest:
        yield f"{'weakest classes':{LABEL}}{weakest}"
    calibration = verdict.scores.calibration
    if calibration is not None:
        yield (
            f"{'calibration':{LABEL}}temperature {calibration.temperature:.2f}: calibration error "
            f"{calibration.ece_before:.3f} -> {calibration.ece_after:.3f}"
        )
    if len(verdict.model.orientations) > 1:
        orientations = ", ".join(verdict.model.orientations)
        yield f"{'orientations':{LABEL}}{orientations}: their logits are averaged (--no-tta: the plain view alone)"
    if verdict.trials:
        yield f"{'phase 2':{LABEL}}{_searched(verdict)}"
    yield from (f"{'warning':{LABEL}}{warning}" for warning in verdict.warnings)
    if verdict.forgetting is not None:
        yield from _forgotten(verdict.forgetting)


def _weakest(scores: Scores, classes: tuple[str, ...]) -> str:
    rows = zip(scores.per_class, classes, strict=False)
    known = [(row.recall, row.n, name) for row, name in rows if row.recall is not None and row.recall < 1]
    worst = sorted(known)[:WEAKEST]
    return ", ".join(f"{name} (recall {recall:.2f} of {n})" for recall, n, name in worst)


def _searched(verdict: Verdict) -> str:
    """Return what phase 2 ended with, and what else was tried."""
    ended = f"from {verdict.model.depth} up, alpha {verdict.model.alpha:g}" if verdict.model.alpha else "does not ship"
    tried = ", ".join(f"{each.depth} at {each.lr:g} ({each.seconds:.0f} s)" for each in verdict.trials)
    shown = {"rotate": "views turned every way", "flip": "views mirrored", "none": "views upright"}
    views = f"; {shown[verdict.model.symmetry]}" if verdict.model.symmetry else ""
    return f"{ended}; tried {tried}{views}"


def _forgotten(forgotten: Forgetting) -> Iterator[str]:
    if forgotten.drop is not None and forgotten.drop_ci95 is not None and forgotten.before is not None:
        low, high = forgotten.drop_ci95
        top5 = f"; top-5 lost {forgotten.top5_drop * 100:.1f}" if forgotten.top5_drop is not None else ""
        yield (
            f"{'original task':{LABEL}}{forgotten.before * 100:.1f} % before, lost {forgotten.drop * 100:.1f} "
            f"({low * 100:.1f} to {high * 100:.1f}): weights {(forgotten.weights_drop or 0) * 100:.1f}, "
            f"BatchNorm {(forgotten.batch_norm_drop or 0) * 100:.1f}{top5}"
        )
    if forgotten.probe_drop is not None and forgotten.probe_before is not None:
        yield (
            f"{'  by a new reader':{LABEL}}{forgotten.probe_before * 100:.1f} % before, lost "
            f"{forgotten.probe_drop * 100:.1f}: what no linear head can find any more"
        )
    parts = []
    if forgotten.agreement is not None:
        parts.append(f"{forgotten.agreement * 100:.1f} % the same on {forgotten.agreement_n} of your photos")
    if forgotten.kl is not None:
        parts.append(f"KL {forgotten.kl:.3f}")
    if forgotten.cka:
        parts.append("CKA " + ", ".join(f"{name} {value:.3f}" for name, value in list(forgotten.cka.items())[-3:]))
    if parts:
        yield f"{'original answers':{LABEL}}{'; '.join(parts)}"


def _row(label: str, cells: list[str]) -> str:
    return (f"{label:{LABEL}}" + "".join(f"{cell:{CELL}}" for cell in cells)).rstrip()


def _value(value: float, interval: Interval) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
