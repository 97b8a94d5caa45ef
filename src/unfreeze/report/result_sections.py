"""The report's sections on the run's results: verdict, scores, forgetting."""

from __future__ import annotations

from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.report import plots
from unfreeze.report.elements import ABSENT, Part, Plot, Points, Section, Table, Text, estimate, percent, points
from unfreeze.report.run_data import RunData
from unfreeze.verdict_sentences import counted

LOWER_IS_BETTER = ("log-loss", "calibration error")
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
