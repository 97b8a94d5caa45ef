"""Whether the search can be trusted: on photos from another camera, where there is nothing to learn, and with its time.

    python -m benchmarks.trust shift SOURCE TARGET [--a-class 20] [--seeds 0 1 2 3 4] [--arms auto ...]
    python -m benchmarks.trust shuffled PHOTOS [--a-class 20] [--seeds 0 ... 19]
    python -m benchmarks.trust budget PHOTOS [--a-class 20] [--seeds 0] [--budgets 0.1 0.25 0.5 0.75 1]

``shift`` trains on photos of SOURCE and tests on all photos of TARGET, of the classes that have more than ``--a-class``
photos in SOURCE: head-only and auto, in steady and in varied light, and the textbook's recipe with frozen BatchNorm.
``shuffled`` trains auto on labels in random order: head-only should ship, and no gain be proven.  ``budget`` trains auto
with all the time that it likes, and then in shares of that time.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import unfreeze
from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.runtime import generator
from unfreeze.verdict import Verdict

TESTED = 300  # photos with shuffled labels to test on
ARMS: dict[str, dict[str, Any]] = {
    "head-only": {"recipe": "head-only"},
    "head-only, varied light": {"recipe": "head-only", "color_jitter": "varied"},
    "auto": {},
    "auto, varied light": {"color_jitter": "varied"},
    "classic, BatchNorm frozen": {"recipe": "classic"},
}
Figures = tuple[float, float, float]


def draw(
    photos: PhotoSet, classes: Sequence[str], a_class: int, seed: int
) -> tuple[list[tuple[Path, str]], list[Path]]:
    """Return ``a_class`` photos of each of ``classes`` with their labels, and the rest of the photos."""
    order = [photos.samples[index] for index in generator(seed, 2026).permutation(len(photos.samples))]
    taken: list[tuple[Path, str]] = []
    rest: list[Path] = []
    for name in classes:
        own = [sample.path for sample in order if photos.classes[sample.label] == name]
        taken += [(path, name) for path in own[:a_class]]
        rest += own[a_class:]
    return taken, rest


def write(table: Path, train: Sequence[tuple[Path, str]], test: Sequence[tuple[Path, str]]) -> Path:
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "split"])
        writer.writerows((path, label, "train") for path, label in train)
        writer.writerows((path, label, "test") for path, label in test)
    return table


def shift(source: Path, target: Path, a_class: int, seeds: Sequence[int], arms: Sequence[str], work: Path) -> None:
    """Print balanced accuracy on the other camera, of every arm and seed, and on photos of the own one of what ships."""
    known, strange = read_photos(source), read_photos(target)
    counts = {name: sum(known.classes[sample.label] == name for sample in known.samples) for name in known.classes}
    classes = [name for name in known.classes if counts[name] > a_class and name in strange.classes]
    test = [(each.path, strange.classes[each.label]) for each in strange.samples]
    test = [(path, label) for path, label in test if label in classes]
    truth = {sample.path: known.classes[sample.label] for sample in known.samples}
    print(f"{len(test)} photos to test on: {', '.join(classes)}\n")
    print("| seed | arm | accuracy | balanced | own camera: balanced |\n| --- | --- | --- | --- | --- |")
    found: dict[str, list[Figures]] = {}
    for seed in seeds:
        train, rest = draw(known, classes, a_class, seed)
        table = write(work / f"{seed}.csv", train, test)
        others = write(work / f"{seed} others.csv", [], [(path, truth[path]) for path in rest])
        for arm in arms:
            run = unfreeze.train(table, seed=seed, out=work / f"{arm} {seed}", **ARMS[arm])
            own, ships = run.evaluate(others).balanced_accuracy, run.verdict.shipped
            scores = run.verdict.scores.shipped
            if arm.startswith("classic"):
                assert run.verdict.scores.two_phase is not None
                scores, own = run.verdict.scores.two_phase, own if ships == "two_phase" else math.nan
            found.setdefault(arm, []).append((scores.accuracy, scores.balanced_accuracy, own))
            print(_row(str(seed), f"{arm} ({ships})" if arm.startswith("auto") else arm, found[arm][-1:]), flush=True)
    for arm, each in found.items():
        print(_row("mean", arm, each))


def _row(seed: str, arm: str, figures: Sequence[Figures]) -> str:
    means = (100 * statistics.mean(values) for values in zip(*figures, strict=True))
    return f"| {seed} | {arm} | " + " | ".join("" if math.isnan(mean) else f"{mean:.1f}" for mean in means) + " |"


def shuffled(place: Path, a_class: int, seeds: Sequence[int], work: Path) -> None:
    """Print what ships where labels say nothing."""
    photos = read_photos(place)
    print("| seed | ships | tried | gain, points | p | proven |\n| --- | --- | --- | --- | --- | --- |")
    good = 0
    for seed in seeds:
        train, rest = draw(photos, photos.classes, a_class, seed)
        random = generator(seed, 2028)
        labels = [train[place][1] for place in random.permutation(len(train))]
        wrong = [(path, label) for (path, _), label in zip(train, labels, strict=True)]
        test = [
            (rest[place], photos.classes[int(random.integers(len(photos.classes)))])
            for place in random.permutation(len(rest))[:TESTED]
        ]
        verdict = unfreeze.train(write(work / f"{seed}.csv", wrong, test), seed=seed, out=work / str(seed)).verdict
        assert verdict.gain is not None
        good += verdict.shipped == "head_only" and not verdict.gain.proven
        gain = verdict.gain
        print(
            f"| {seed} | {verdict.shipped} | {len(verdict.trials)} | {gain.accuracy * 100:+.1f} | {gain.p_value:.2f} "
            f"| {'yes' if gain.proven else 'no'} |",
            flush=True,
        )
    print(f"\nhead-only ships and nothing is proven in {good} of {len(seeds)} seeds")


def budget(place: Path, a_class: int, seeds: Sequence[int], shares: Sequence[float], work: Path) -> None:
    """Print how long runs take that are given so much of the time that they would like."""
    photos = read_photos(place)
    truth = {sample.path: photos.classes[sample.label] for sample in photos.samples}
    print("| seed | minutes given | taken | of them | tried | ships |\n| --- | --- | --- | --- | --- | --- |")
    for seed in seeds:
        train, rest = draw(photos, photos.classes, a_class, seed)
        table = write(work / f"{seed}.csv", train, [(path, truth[path]) for path in rest[:TESTED]])
        usual, verdict = within(None, table, seed, work / f"{seed}")
        print(
            f"| {seed} | as many as it likes | {usual:.2f} |  | {len(verdict.trials)} | {verdict.shipped} |", flush=True
        )
        for share in shares:
            minutes = share * usual
            took, verdict = within(minutes, table, seed, work / f"{seed}-{share}")
            print(
                f"| {seed} | {minutes:.2f} | {took:.2f} | {took / minutes:.2f} | {len(verdict.trials)} "
                f"| {verdict.shipped} |",
                flush=True,
            )


def within(minutes: float | None, table: Path, seed: int, out: Path) -> tuple[float, Verdict]:
    """Train auto with nothing kept from before, and return the minutes that it took and its verdict."""
    started = time.perf_counter()
    verdict = unfreeze.train(table, seed=seed, minutes=minutes, cache_gib=0, out=out).verdict
    return (time.perf_counter() - started) / 60, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["shift", "shuffled", "budget"])
    parser.add_argument("photos", type=Path, nargs="+")
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--budgets", type=float, nargs="+", default=(0.1, 0.25, 0.5, 0.75, 1.0))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if arguments.part == "shift":
            source, target = arguments.photos
            shift(source, target, arguments.a_class, arguments.seeds or range(5), arguments.arms, Path(work))
        else:
            (place,) = arguments.photos
            if arguments.part == "shuffled":
                shuffled(place, arguments.a_class, arguments.seeds or range(20), Path(work))
            else:
                budget(place, arguments.a_class, arguments.seeds or [0], arguments.budgets, Path(work))


if __name__ == "__main__":
    main()
