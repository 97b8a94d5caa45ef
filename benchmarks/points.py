"""What may ship between the phases: what the judges say of every point, and what it is worth on the test photos.

The rules are those of November 2026, which shipped nothing that was not significant; today's is in ``prior.py``.

    python -m benchmarks.points DATA [--sets magnetic_tile ...] [--a-class 20] [--seeds 20 21 ...] [--judges 120] > some.csv
    python -m benchmarks.points --rows benchmarks/points-2026-11-28.csv

DATA and the drawing of photos are those of peers/sets.py, seeds others than those of its results.  A way (--ways 0@3e-4) is
phase 2 from the first depth, held by so much (--distill) and at a topmost rate.  The tables compare rules by what they would
ship for each number of judges, in points of balanced accuracy over head-only.  None may lose over 2 points of the original
task.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from benchmarks.choices import begin, prepare
from benchmarks.peers.sets import SETS
from pydantic import TypeAdapter

from unfreeze.evaluation.calibration import paired_z, significantly_lower
from unfreeze.evaluation.selection import ModelSelector
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.training.folds import Folds, labels_by_fold
from unfreeze.training.phase_two import fine_tune
from unfreeze.training.recipes import MIN_VALIDATION_IMAGES, recipe_for

MAX_FORGETTING = 2.0  # points of the original task's accuracy
Z_95 = 1.645  # standard errors: 95 % of a normal distribution lie below


@dataclass(frozen=True)
class Point:
    """A point between the phases of one run.

    Attributes:
        set: Photos.
        a_class: To learn from, of each class.
        seed: Draws them.
        way: How phase 2 goes, ``anchor@rate``.
        judges: That were asked for.
        photos: That they came to.
        alpha: Where the point stands.
        before: The judges' log-loss of head-only, weighted by class where they do so.
        loss: That of the point.
        errors: By how many standard errors of the photos' differences it is lower.
        good: Whether it is good enough to ship.
        accuracy: Points of the test photos' that it gains over head-only.
        balanced: Points of balanced accuracy.
        lost: Points of the original task's accuracy.
    """

    set: str
    a_class: int
    seed: int
    way: str
    judges: int
    photos: int
    alpha: float
    before: float
    loss: float
    errors: float
    good: bool
    accuracy: float
    balanced: float
    lost: float


def measure(data: Path, name: str, a_class: int, seed: int, way: str, juries: Sequence[int]) -> Iterator[Point]:
    """Train as auto does, and yield what each jury says of every point."""
    task = prepare(data, name, a_class, seed)
    known = task.inputs.data
    anchor, rate = (float(value) for value in way.split("@"))
    config = task.config.model_copy(update={"distill": anchor or None, "lr": rate})
    recipe = recipe_for(config, task.inputs.backbone, len(known.train), known.n_classes)
    recipe = replace(recipe, candidates=recipe.candidates[:1], min_validation_images=max(juries))
    begun = begin(task, recipe)
    first = begun.first
    with deterministic(seed):
        trial = fine_tune(begun.features, first, recipe).trial
    before = np.array(begun.scored(first.state))
    for alpha in trial.val_logits_by_alpha:
        gained = np.array(begun.scored(begun.between(trial.fold_states[-1], alpha))) - before
        for judges in juries:
            rounds = Folds.of(known, judges).validation
            panel = ModelSelector.of(
                first.fold_logits[: len(rounds)], labels_by_fold(rounds, known), known.class_counts
            )
            old, new = (
                panel.losses(said, panel.all_folds) for said in (panel.head_only, trial.val_logits_by_alpha[alpha])
            )
            losses = float(old.mean()), float(new.mean())
            run = name, a_class, seed, way, judges, len(old)
            good = significantly_lower(new, old, Z_95)
            yield Point(*run, alpha, *losses, paired_z(new, old), good, *map(float, gained))


Rule = Callable[[Sequence[Point]], Point | None]


def within_budget(points: Sequence[Point]) -> list[Point]:
    """Return those that forget no more than they may."""
    return [point for point in points if point.lost <= MAX_FORGETTING]


def always(alpha: float) -> Rule:
    """Return the rule that ships a point, or what is nearer and within the budget, whatever the judges say."""

    def rule(points: Sequence[Point]) -> Point | None:
        nearer = [point for point in within_budget(points) if point.alpha <= alpha]
        return max(nearer, key=lambda point: point.alpha, default=None)

    return rule


def asked_alone(points: Sequence[Point]) -> Point | None:
    """Return the point of lowest log-loss, or what is nearer and within the budget, if that is good enough."""
    best = min(points, key=lambda point: point.loss)
    found = always(best.alpha)(points)
    return found if found and found.good else None


def all_asked(points: Sequence[Point]) -> Point | None:
    """Return the point of lowest log-loss among those within the budget that are significantly better than head-only."""
    good = [point for point in within_budget(points) if point.good]
    return min(good, key=lambda point: point.loss, default=None)


def in_hindsight(points: Sequence[Point]) -> Point | None:
    """Return the best on the test photos, where it gains something."""
    better_there = [point for point in within_budget(points) if point.balanced > 0]
    return max(better_there, key=lambda point: point.balanced, default=None)


RULES: Mapping[str, Rule] = {
    "lowest log-loss alone": asked_alone,
    "all that are good enough": all_asked,
    "a quarter, always": always(0.25),
    "half, always": always(0.5),
    "all the way, always": always(1.0),
    "in hindsight": in_hindsight,
}


def table(points: Sequence[Point]) -> Iterator[str]:
    """Yield, for each way and jury, a line a rule: what it gains in each set, and at worst."""
    for (a_class, way, judges), those in _by(points, "a_class", "way", "judges"):
        of_sets = _by(those, "set")
        yield f"\n{a_class} a class, {way}, {judges} judges wanted:\n"
        yield (
            "| rule | "
            + " | ".join(f"{name} ({len(_by(own, 'seed'))})" for (name,), own in of_sets)
            + " | mean | worst run |"
        )
        yield "| --- |" + " --- |" * (len(of_sets) + 2)
        for name, rule in RULES.items():
            gains = [[_gain(rule(run)) for _, run in _by(own, "seed")] for _, own in of_sets]
            means = [float(np.mean(of_set)) for of_set in gains]
            figures = (*means, float(np.mean(means)), min(map(min, gains)))
            yield f"| {name} | " + " | ".join(f"{figure:+.1f}" for figure in figures) + " |"


def _gain(shipped: Point | None) -> float:
    return shipped.balanced if shipped else 0.0


def _by(points: Sequence[Point], *names: str) -> list[tuple[tuple[object, ...], list[Point]]]:
    found: dict[tuple[object, ...], list[Point]] = {}
    for point in points:
        found.setdefault(tuple(getattr(point, name) for name in names), []).append(point)
    return list(found.items())


def read(paths: Sequence[Path]) -> list[Point]:
    """Return the rows that a run printed."""
    rows = [row for path in paths for row in csv.DictReader(path.read_text().splitlines())]
    return TypeAdapter(list[Point]).validate_python(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21])
    parser.add_argument("--ways", nargs="+", default=["0@3e-4"])
    parser.add_argument("--judges", type=int, nargs="+", default=[MIN_VALIDATION_IMAGES])
    parser.add_argument("--rows", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.rows:
        print("\n".join(table(read(arguments.rows))))
        return
    prepare_process()
    writer = csv.DictWriter(sys.stdout, list(Point.__dataclass_fields__))
    writer.writeheader()
    for name, seed, way in itertools.product(arguments.sets, arguments.seeds, arguments.ways):
        for point in measure(arguments.data, name, arguments.a_class, seed, way, arguments.judges):
            writer.writerow(asdict(point))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
