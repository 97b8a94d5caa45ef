"""The report's sections on the run's results: verdict, scores, trials of phase 2, forgetting, training curves."""

from __future__ import annotations

import itertools
import math

from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.selection import IMBALANCE_RATIO
from unfreeze.report import plots
from unfreeze.report.elements import ABSENT, Part, Plot, Points, Section, Table, Text, estimate, percent, points
from unfreeze.report.run_data import Epoch, RunData
from unfreeze.verdict import Point, TrialSummary
from unfreeze.verdict_sentences import counted

LOWER_IS_BETTER = ("log-loss", "calibration error")
MAX_PANELS = 6  # of training curves
RULE = (
    "Standard errors: how far the log-loss is below phase 1's, paired photo by photo; where one class has over "
    f"{IMBALANCE_RATIO:g} times the photos of another, all classes weigh the same."
)
EXPECTED = (
    "What ships is the point with the highest expected gain, or head-only if none is expected to gain anything: what these "
    "photos show, weighed against what other data sets have taught. It is a bet and proves nothing."
)
TESTS = {
    "mcnemar_exact": "McNemar's exact test",
    "group_sign_flip": "exact sign-flip test of the groups",
    "mcnemar_cross_fitted": "McNemar's test, corrected for folds that share training photos",
    "sign_flip_cross_fitted": "sign-flip test of the groups, corrected for folds that share training photos",
}


def verdict(run: RunData) -> Section:
    """Return the verdict's sentences, the shipped model and the warnings."""
    lead, *rest = run.verdict.sentences()
    parts: list[Part] = [Text(lead, lead=True), *(Text(sentence) for sentence in rest)]
    model = run.verdict.model
    ships = f"Ships: {model.name}, {run.arm}"
    if run.verdict.shipped == "two_phase":
        ships += f", trained from {model.depth} up, alpha {model.alpha:g}, BatchNorm {model.bn}"
    parts.append(Text(f"{ships}. In predicting, {model.describe_views()}."))
    if run.verdict.warnings:
        parts += [Text("Warnings:"), Points(run.verdict.warnings)]
    return Section("Verdict", tuple(parts))


def scores(run: RunData) -> Section:
    """Return both models' scores side by side, and the paired gain."""
    all_scores = run.verdict.scores
    arms = {"head-only": all_scores.head_only}
    if all_scores.two_phase is not None:
        arms["two-phase"] = all_scores.two_phase
    if all_scores.shipped not in arms.values():
        arms["as it is chosen"] = all_scores.shipped
    by_arm = {arm: {name: (value, interval) for name, value, interval in of.rows()} for arm, of in arms.items()}
    names = list(dict.fromkeys(name for values in by_arm.values() for name in values))
    table = Table(
        caption=f"On {run.scored_on}, with 95 % intervals",
        header=("score", *arms),
        rows=tuple(
            (name, *(estimate(*values.get(name, (None, None))) for values in by_arm.values())) for name in names
        ),
    )
    rows = [(name, {arm: values[name] for arm, values in by_arm.items() if name in values}) for name in names]
    high = [row for row in rows if row[0] not in LOWER_IS_BETTER]
    low = [row for row in rows if row[0] in LOWER_IS_BETTER]
    alt = "Scores with 95 % intervals; the table above has the same numbers."
    parts: list[Part] = [table, Plot("scores", alt, plots.intervals(high, low))]
    if "as it is chosen" in arms:
        parts.append(
            Text("“As it is chosen” includes the choice between the two models: not all folds chose the same one.")
        )
    return Section("Scores", (*parts, *_gain(run)))


def _gain(run: RunData) -> tuple[Part, ...]:
    gain = run.verdict.gain
    if gain is None:
        return (Text("Phase 2 did not run, so there is no gain to report."),)
    low, high = gain.log_loss_ci95
    table = Table(
        caption="What phase 2 gained over head-only on the same photos, with 95 % intervals",
        header=("score", "gain", "p"),
        rows=(
            ("accuracy, points", points(gain.accuracy, gain.accuracy_ci95, sign=True), f"{gain.p_value:.2g}"),
            (
                "balanced accuracy, points",
                points(gain.balanced_accuracy, gain.balanced_accuracy_ci95, sign=True),
                ABSENT,
            ),
            ("log-loss (negative is better)", f"{gain.log_loss:+.3f} ({low:+.3f} to {high:+.3f})", ABSENT),
        ),
    )
    text = (
        f"Phase 2 fixed {counted(gain.fixed, 'photo')} that head-only got wrong, and broke {gain.broken} that it got "
        f"right. The gain is {'proven' if gain.proven else 'not proven'}; p is from {TESTS[gain.test]}."
    )
    return table, Text(text)


def trials(run: RunData) -> Section | None:
    """Return the validation scores of every trial of phase 2 at every alpha."""
    trials = run.verdict.trials
    if not trials:
        return None
    model = run.verdict.model
    ships = run.verdict.shipped == "two_phase"
    last = max((index for index, trial in enumerate(trials) if trial.depth == model.depth), default=None)

    def is_shipped(index: int, alpha: float) -> bool:
        return ships and index == last and alpha == model.alpha

    rows: list[tuple[str, ...]] = []
    marked = set()
    for index, trial in enumerate(trials):
        settings = (trial.depth, f"{trial.lr:g}", f"{trial.seconds:.0f}")
        for point in trial.points:
            if is_shipped(index, point.alpha):
                marked.add(len(rows))
            z = ABSENT if point.z is None or not point.alpha else f"{point.z:+.1f}"
            scores = point.accuracy, point.balanced_accuracy, point.log_loss
            rows.append((*settings, f"{point.alpha:.3g}", *(f"{score:.3f}" for score in scores), z, *_expected(point)))
        if not trial.points:
            rows.append((*settings, *[ABSENT] * 7))
    validated = [(index, trial) for index, trial in enumerate(trials) if trial.points]
    parts: list[Part] = [
        Text(f"{_outcome(run)} Alpha says where the weights stand between phase 1 (0) and phase 2 (1).")
    ]
    if validated:
        parts.append(
            Text(
                "These scores are on the validation photos that chose among the candidates, so they are slightly "
                "optimistic. The log-losses differ from those of the scores above: each is at the temperature (the number "
                "that logits are divided by) where it is lowest, so that alphas can be compared; above, it is that of the "
                "model's own temperature, on the photos that it is scored on."
            )
        )
    if any(point.z is not None for trial in trials for point in trial.points):
        parts.append(Text(RULE))
    if any(point.expected is not None for trial in trials for point in trial.points):
        parts.append(Text(EXPECTED))
    parts.append(
        Table(
            caption="From the head downwards; the model that ships is marked, and has a ring in the plot below"
            if marked
            else "From the head downwards",
            header=(
                "depth",
                "learning rate",
                "seconds",
                "alpha",
                "accuracy",
                "balanced accuracy",
                "log-loss",
                "standard errors",
                "expected gain, points",
                "worse",
            ),
            rows=tuple(rows),
            marked=frozenset(marked),
        )
    )
    if validated:
        curves = {_trial_name(trial, index): trial.points for index, trial in validated}
        shipped = next(
            ((_trial_name(trial, index), model.alpha) for index, trial in validated if is_shipped(index, model.alpha)),
            None,
        )
        ring = " A ring marks the model that ships." if marked else ""
        alt = f"Gain, accuracy and log-loss against alpha, a line for each trial.{ring} Numbers in the table above."
        parts.append(Plot("tried", alt, plots.alphas(curves, shipped)))
    return Section("What was tried", tuple(parts))


def _expected(point: Point) -> tuple[str, str]:
    if point.expected is None or point.expected_spread is None or point.p_worse is None:
        return ABSENT, ABSENT
    return f"{point.expected * 100:+.1f} ± {point.expected_spread * 100:.1f}", f"{point.p_worse * 100:.0f} %"


def _trial_name(trial: TrialSummary, index: int) -> str:
    return f"{index + 1}: {plots.short(trial.depth)} at {trial.lr:g}"


def _outcome(run: RunData) -> str:
    if run.verdict.shipped == "head_only":
        return "Phase 2 does not ship."
    return f"Phase 2 ships from {run.verdict.model.depth} up, at alpha {run.verdict.model.alpha:g}."


def forgetting(run: RunData) -> Section | None:
    """Return how much of the original task phase 2 lost, as far as it was measured."""
    found = run.verdict.forgetting
    if found is None or found == Forgetting():
        return None
    parts: list[Part] = []
    if run.verdict.gain is None:
        parts.append(Text("Phase 2 did not run: the backbone is the pretrained one."))
    elif run.verdict.shipped == "head_only":
        parts.append(Text("These figures are of the two-phase model, which does not ship."))
    measures = (
        ("original classifier", found.before, found.after, found.drop, found.drop_ci95),
        ("- by changed weights", None, None, found.weights_drop, found.weights_drop_ci95),
        ("- by BatchNorm statistics", None, None, found.batch_norm_drop, found.batch_norm_drop_ci95),
        ("original classifier, top-5", found.top5_before, found.top5_after, found.top5_drop, found.top5_drop_ci95),
        ("linear probe", found.probe_before, found.probe_after, found.probe_drop, found.probe_drop_ci95),
    )
    rows = tuple(
        (name, percent(before), percent(after), points(drop, interval))
        for name, before, after, drop, interval in measures
        if drop is not None
    )
    if rows:
        reference = f" ({found.reference})" if found.reference else ""
        caption = f"Accuracy on {found.n} reference photos{reference}; points lost with 95 % intervals"
        parts.append(Table(caption, ("measured by", "before", "after", "lost"), rows))
    if found.probe_drop is not None:
        parts.append(
            Text(
                "The linear probe is a new linear head for the original classes: no linear head can recover what it "
                "lost; the rest is still in the features."
            )
        )
    if found.agreement is not None:
        text = (
            f"The original classifier still gives the same answer on {percent(found.agreement)} of {found.agreement_n} "
            "of your photos."
        )
        kl = (
            ""
            if found.kl is None
            else f" Its probabilities moved by a KL divergence of {found.kl:.3f} (0: not at all)."
        )
        parts.append(Text(text + kl))
    if found.cka:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in found.cka.items())
        parts.append(
            Text(
                "CKA compares what each trained stage answers before and after, over all photos: 1 where the photos lie to "
                "one another as before, near 0 where nothing of that is left."
            )
        )
        alt = f"Similarity of each trained stage's output before and after (CKA, 1 is the same): {numbers}."
        parts.append(Plot("cka", alt, plots.bars(found.cka, "CKA of before and after: 1 is the same")))
    return Section("Forgetting", tuple(parts))


def training(run: RunData) -> Section | None:
    """Return the losses by epoch; None for a head that was fitted without epochs."""
    panels: dict[str, list[plots.Curve]] = {}
    for name, epochs in itertools.groupby(run.history, key=lambda row: row.phase):
        phase, _, _ = name.partition(", validating")
        for fit in _split_repeats(list(epochs)):
            validated = any(row.val_loss is not None for row in fit)
            title = f"{phase}, {'some photos held out' if validated else 'on all training photos'}"
            panels.setdefault(title, []).append(
                plots.Curve(
                    [row.epoch for row in fit],
                    [_finite(row.train_loss) for row in fit],
                    [_finite(row.val_loss) for row in fit],
                )
            )
    if not panels:
        return None
    shown = dict(list(panels.items())[-MAX_PANELS:])
    alt = "Training and validation loss against the epoch, for " + "; ".join(shown) + "."
    parts: list[Part] = [
        Plot("training", alt, plots.curves(shown)),
        Text(
            "Training photos are augmented and their labels may be smoothed, validation photos are not: the lines need "
            "not meet."
        ),
    ]
    if any(len(fits) > 1 for fits in shown.values()):
        parts.append(Text("One line per fold: each model trains on the other folds."))
    if len(shown) < len(panels):
        parts.append(Text(f"The last {len(shown)} of {len(panels)} trainings; history.csv has all."))
    return Section("Training", tuple(parts))


def _split_repeats(epochs: list[Epoch]) -> list[list[Epoch]]:
    """Split where the epoch number starts again: a failed training is repeated under the same name."""
    parts: list[list[Epoch]] = []
    for row in epochs:
        if not parts or row.epoch <= parts[-1][-1].epoch:
            parts.append([])
        parts[-1].append(row)
    return parts


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
