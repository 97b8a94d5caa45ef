"""The report's sections on what came of the run: verdict, scores, what was tried, forgetting, training curves."""

from __future__ import annotations

import itertools
import math

from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.selection import IMBALANCE_RATIO, Z_95
from unfreeze.report import plots
from unfreeze.report.elements import ABSENT, Part, Plot, Points, Section, Table, Text, estimate, percent, points
from unfreeze.report.run_data import Epoch, RunData
from unfreeze.verdict import TrialSummary

LOWER_IS_BETTER = ("log-loss", "calibration error")
PANELS = 6  # of training curves
RULE = (
    "Standard errors: by how many the log-loss is below phase 1's, photo by photo; where one class has over "
    f"{IMBALANCE_RATIO:g} times the photos of another, they all weigh the same in it. To ship, a point must be below by more "
    f"than {Z_95:g}, not be clearly less often right, and not forget too much; of those that pass, the one with the "
    "lowest log-loss, so weighed, ships."
)
TESTS = {
    "mcnemar_exact": "McNemar's exact test",
    "group_sign_flip": "exact sign-flip test of the groups",
    "mcnemar_cross_fitted": "McNemar's test, corrected for folds that share training photos",
    "sign_flip_cross_fitted": "sign-flip test of the groups, corrected for folds that share training photos",
}


def verdict(run: RunData) -> Section:
    """What ships, what phase 2 gained and forgot, what went wrong on the way."""
    said = run.verdict
    first, *rest = said.sentences()
    parts: list[Part] = [Text(first, lead=True), *(Text(sentence) for sentence in rest)]
    model = said.model
    ships = f"Ships: {model.name}, {run.arm}"
    if said.shipped == "two_phase":
        ships += f", trained from {model.depth} up, alpha {model.alpha:g}, BatchNorm {model.bn}"
    parts.append(Text(ships + "."))
    if said.warnings:
        parts += [Text("Warnings:"), Points(said.warnings)]
    return Section("Verdict", tuple(parts))


def scores(run: RunData) -> Section:
    """Both models side by side, and the paired gain."""
    sheet = run.verdict.scores
    arms = {"head-only": sheet.head_only}
    if sheet.two_phase is not None:
        arms["two-phase"] = sheet.two_phase
    if sheet.shipped not in arms.values():
        arms["as it is chosen"] = sheet.shipped
    found = {arm: {name: (value, interval) for name, value, interval in of.rows()} for arm, of in arms.items()}
    names = list(dict.fromkeys(name for of in found.values() for name in of))
    table = Table(
        caption=f"On {run.seen}, with 95 % intervals",
        header=("score", *arms),
        rows=tuple((name, *(estimate(*of.get(name, (None, None))) for of in found.values())) for name in names),
    )
    rows = [(name, {arm: of[name] for arm, of in found.items() if name in of}) for name in names]
    high = [row for row in rows if row[0] not in LOWER_IS_BETTER]
    low = [row for row in rows if row[0] in LOWER_IS_BETTER]
    alt = "Scores with 95 % intervals; the table above has the same numbers."
    parts: list[Part] = [table, Plot("scores", alt, plots.intervals(high, low))]
    if "as it is chosen" in arms:
        parts.append(
            Text("“As it is chosen” counts the choice between the two as well: the folds did not all choose the same.")
        )
    return Section("Scores", (*parts, *_gain(run)))


def _gain(run: RunData) -> tuple[Part, ...]:
    gain = run.verdict.gain
    if gain is None:
        return (Text("Phase 2 did not run, so there is no gain to speak of."),)
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
    said = (
        f"Phase 2 answers {gain.fixed} rightly that head-only had wrong, and {gain.broken} the other way round. "
        f"p is of {TESTS[gain.test]}: the gain is {'proven' if gain.proven else 'not proven'}."
    )
    return table, Text(said)


def tried(run: RunData) -> Section | None:
    """Every way to unfreeze that was tried, and every point between the phases."""
    ways = run.verdict.trials
    if not ways:
        return None
    model = run.verdict.model
    ships = run.verdict.shipped == "two_phase"
    last = max((number for number, way in enumerate(ways) if way.depth == model.depth), default=None)

    def is_chosen(number: int, alpha: float) -> bool:
        return ships and number == last and alpha == model.alpha

    rows: list[tuple[str, ...]] = []
    marked = set()
    for number, way in enumerate(ways):
        own = (way.depth, f"{way.lr:g}", f"{way.seconds:.0f}")
        for point in way.points:
            if is_chosen(number, point.alpha):
                marked.add(len(rows))
            z = ABSENT if point.z is None or not point.alpha else f"{point.z:+.1f}"
            scores = point.accuracy, point.balanced_accuracy, point.log_loss
            rows.append((*own, f"{point.alpha:g}", *(f"{score:.3f}" for score in scores), z))
        if not way.points:
            rows.append((*own, *[ABSENT] * 5))
    judged = [(number, way) for number, way in enumerate(ways) if way.points]
    parts: list[Part] = [
        Text(f"{_ended(run)} Alpha says how far the weights stand from phase 1 (0) to phase 2 (1)."),
    ]
    if judged:
        parts.append(Text("The photos behind these numbers chose among them, so that what they say flatters a little."))
    if any(point.z is not None for way in ways for point in way.points):
        parts.append(Text(RULE))
    parts.append(
        Table(
            caption="From the head downwards; what ships is marked, and has a ring below"
            if marked
            else "From the head downwards",
            header=("from", "rate", "seconds", "alpha", "accuracy", "balanced accuracy", "log-loss", "standard errors"),
            rows=tuple(rows),
            marked=frozenset(marked),
        )
    )
    if judged:
        paths = {
            _way(way, number): [(point.alpha, point.accuracy, point.log_loss) for point in way.points]
            for number, way in judged
        }
        chosen = next(((_way(way, n), model.alpha) for n, way in judged if is_chosen(n, model.alpha)), None)
        ring = " A ring marks the point that ships." if marked else ""
        alt = (
            f"Accuracy and log-loss against alpha, a line for each way that was tried.{ring} The table has the numbers."
        )
        parts.append(Plot("tried", alt, plots.alphas(paths, chosen)))
    return Section("What was tried", tuple(parts))


def _way(way: TrialSummary, number: int) -> str:
    return f"{number + 1}: {plots.short(way.depth)} at {way.lr:g}"


def _ended(run: RunData) -> str:
    if run.verdict.shipped == "head_only":
        return "Phase 2 does not ship."
    return f"Phase 2 ships from {run.verdict.model.depth} up, at alpha {run.verdict.model.alpha:g}."


def forgetting(run: RunData) -> Section | None:
    """What the backbone lost of the original task: only what was measured."""
    found = run.verdict.forgetting
    if found is None or found == Forgetting():
        return None
    parts: list[Part] = []
    if run.verdict.gain is None:
        parts.append(Text("Phase 2 did not run: the backbone is the pretrained one."))
    elif run.verdict.shipped == "head_only":
        parts.append(Text("These figures are of the two-phase model, which does not ship."))
    rows = tuple(
        (name, percent(before), percent(after), points(drop, interval))
        for name, before, after, drop, interval in (
            ("original classifier", found.before, found.after, found.drop, found.drop_ci95),
            ("of it by moved weights", None, None, found.weights_drop, found.weights_drop_ci95),
            ("of it by BatchNorm's statistics", None, None, found.batch_norm_drop, found.batch_norm_drop_ci95),
            ("label among its first five", found.top5_before, found.top5_after, found.top5_drop, found.top5_drop_ci95),
            (
                "linear reader, fitted anew",
                found.probe_before,
                found.probe_after,
                found.probe_drop,
                found.probe_drop_ci95,
            ),
        )
        if drop is not None
    )
    if rows:
        where = f" ({found.reference})" if found.reference else ""
        caption = f"Accuracy on {found.n} reference photos{where}; points lost with 95 % intervals"
        parts.append(Table(caption, ("measured by", "before", "after", "lost"), rows))
    if found.probe_drop is not None:
        parts.append(
            Text("What the linear reader lost, no linear head can find any more; what it still finds is not lost.")
        )
    if found.agreement is not None:
        kl = "" if found.kl is None else f" Its answers moved by a KL divergence of {found.kl:.3f} (0: not at all)."
        said = f"On {found.agreement_n} of your photos, the original classifier says the same as before in "
        parts.append(Text(f"{said}{percent(found.agreement)}.{kl}"))
    if found.cka:
        numbers = ", ".join(f"{name} {value:.3f}" for name, value in found.cka.items())
        alt = f"How alike each trained stage's output is before and after (CKA, 1 is the same): {numbers}."
        parts.append(Plot("cka", alt, plots.bars(found.cka, "CKA of before and after: 1 is the same")))
    return Section("Forgetting", tuple(parts))


def training(run: RunData) -> Section | None:
    """Losses by epoch; a head that was solved has none."""
    panels: dict[str, list[plots.Curve]] = {}
    for name, epochs in itertools.groupby(run.history, key=lambda row: row.phase):
        phase, _, _ = name.partition(", validating")
        for part in _trainings(list(epochs)):
            held_out = any(row.val_loss is not None for row in part)
            panels.setdefault(
                f"{phase}, {'some photos held out' if held_out else 'on all training photos'}", []
            ).append(
                plots.Curve(
                    [row.epoch for row in part],
                    [_finite(row.train_loss) for row in part],
                    [_finite(row.val_loss) for row in part],
                )
            )
    if not panels:
        return None
    shown = dict(list(panels.items())[-PANELS:])
    alt = "Training and validation loss against the epoch, for " + "; ".join(shown) + "."
    parts: list[Part] = [
        Plot("training", alt, plots.curves(shown)),
        Text(
            "Training photos are augmented and their labels may be smoothed; validation photos are neither: the lines need "
            "not meet."
        ),
    ]
    if any(len(drawn) > 1 for drawn in shown.values()):
        parts.append(Text("A line for each part that was held out; each model learns from the rest."))
    if len(shown) < len(panels):
        parts.append(Text(f"The last {len(shown)} of {len(panels)} trainings; history.csv has all."))
    return Section("Training", tuple(parts))


def _trainings(epochs: list[Epoch]) -> list[list[Epoch]]:
    """Part where the epochs start anew: a training that went wrong is repeated under the same name."""
    parts: list[list[Epoch]] = []
    for row in epochs:
        if not parts or row.epoch <= parts[-1][-1].epoch:
            parts.append([])
        parts[-1].append(row)
    return parts


def _finite(loss: float | None) -> float | None:
    return loss if loss is not None and math.isfinite(loss) else None
