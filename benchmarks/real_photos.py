"""Head-only, two-phase and classic on real photos: 20 a class, several seeds.

    python benchmarks/real_photos.py DATA [--sets aid150 ...] [--seeds 0 1 2] [--recipes auto classic] [--a-class 20]
    python benchmarks/real_photos.py --summarise a.csv b.csv

DATA holds hymenoptera/, magnetic_tile/, bccd_cells/, aid150/ and imagenet_train1k/ (the photos of the original task).
Every arm of a seed sees the same training and test photos.  Times are wall seconds of this machine: compare them within a
run only.  Rows are appended to --csv as they come, so that an interrupted run loses nothing.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
from pathlib import Path

import unfreeze
from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.runtime import generator
from unfreeze.verdict import Verdict

SETS = ("hymenoptera", "magnetic_tile", "bccd_cells", "aid150")
TEST_PHOTOS = 400
REFERENCE_PHOTOS = 500
FIELDS = ("set", "seed", "arm", "accuracy", "balanced", "original_before", "drop", "agreement", "seconds", "shipped")
Row = dict[str, str | int | float | None]


def draw(photos: PhotoSet, a_class: int, seed: int) -> list[tuple[str, str, str]]:
    """Return (path, class, split): ``a_class`` training photos of each class, and up to TEST_PHOTOS of the others.

    Where the set names a training and a test side, each is drawn from its own.
    """
    named = any(sample.split == "test" for sample in photos.samples)
    test_side = "test" if named else "val"
    train: list[tuple[str, str, str]] = []
    trains: set[Path] = set()
    taken = dict.fromkeys(range(len(photos.classes)), 0)
    for index in generator(seed, 2026).permutation(len(photos.samples)):
        sample = photos.samples[index]
        if sample.split in (None, "train") and taken[sample.label] < a_class:
            taken[sample.label] += 1
            trains.add(sample.path)
            train.append((str(sample.path), photos.classes[sample.label], "train"))
    # In the order above, small classes have all of their first photos trained on: test photos have an order of their own.
    order = [photos.samples[index] for index in generator(seed, 2027).permutation(len(photos.samples))]
    rest = [sample for sample in order if sample.split in (None, test_side) and sample.path not in trains]
    return train + [(str(sample.path), photos.classes[sample.label], "test") for sample in rest[:TEST_PHOTOS]]


def draw_table(data: Path, name: str, a_class: int, seed: int, work: Path) -> Path:
    """Write what ``draw`` gives of a set as a table, and return its place."""
    table = work / f"{name}-{seed}.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "split"])
        writer.writerows(draw(read_photos(data / name), a_class, seed))
    return table


def measure(
    name: str, data: Path, seed: int, a_class: int, recipes: list[str], classic_epochs: int, work: Path
) -> list[Row]:
    """Run the arms of one set and seed."""
    table = draw_table(data, name, a_class, seed, work)
    reference = some_of(data / "imagenet_train1k", work / "reference")
    rows: list[Row] = []
    if "auto" in recipes:
        auto = unfreeze.train(table, seed=seed, reference=reference, out=work / f"{name}-{seed}-auto").verdict
        rows.append(_row(name, seed, "head-only", auto, ("decode", "features", "head")))
        rows.append(_row(name, seed, "two-phase", auto, ("decode", "features", "head", "finetune")))
        rows.append(_row(name, seed, "shipped", auto, ("decode", "features", "head", "finetune")))
    if "classic" in recipes:
        classic = unfreeze.train(
            table, seed=seed, reference=reference, recipe="classic", epochs=classic_epochs, head_epochs=classic_epochs,
            out=work / f"{name}-{seed}-classic",
        ).verdict  # fmt: skip
        rows.append(_row(name, seed, "classic", classic, ("decode", "features", "head", "finetune")))
    return rows


def some_of(folder: Path, chosen: Path) -> Path:
    """Return a folder of links to ``REFERENCE_PHOTOS`` of the reference's classes, evenly spaced."""
    classes = sorted(folder.iterdir())
    step = max(1, len(classes) // REFERENCE_PHOTOS)
    chosen.mkdir(exist_ok=True)
    for place in classes[::step][:REFERENCE_PHOTOS]:
        link = chosen / place.name
        if not link.exists():
            link.symlink_to(place.resolve())
    return chosen


def _row(name: str, seed: int, arm: str, verdict: Verdict, parts: tuple[str, ...]) -> Row:
    scores = {
        "head-only": verdict.scores.head_only, "two-phase": verdict.scores.two_phase,
        "shipped": verdict.scores.shipped, "classic": verdict.scores.two_phase,
    }[arm]  # fmt: skip
    forgotten = verdict.forgetting
    assert scores is not None
    assert forgotten is not None
    kept = arm == "head-only" or (arm == "shipped" and verdict.shipped == "head_only")
    return {
        "set": name, "seed": seed, "arm": arm, "accuracy": scores.accuracy, "balanced": scores.balanced_accuracy,
        "original_before": forgotten.before, "drop": 0.0 if kept else forgotten.drop,
        "agreement": 1.0 if kept else forgotten.agreement,
        "seconds": sum(verdict.cost.seconds[part] for part in parts), "shipped": verdict.shipped,
    }  # fmt: skip


def summarise(rows: list[Row]) -> str:
    """Return the table: means over seeds, with the smallest and largest."""
    lines = [
        "| set | arm | accuracy | balanced | original head's drop | seconds | two-phase ships |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    names = [name for name in SETS if any(row["set"] == name for row in rows)]
    for name in [*names, "mean"]:
        for arm in ("head-only", "two-phase", "shipped", "classic"):
            chosen = [row for row in rows if row["arm"] == arm and name in (row["set"], "mean")]
            if not chosen:
                continue
            shipped = sum(row["shipped"] == "two_phase" for row in chosen)
            lines.append(
                f"| {name} | {arm} | {_spread(chosen, 'accuracy', 100)} | {_spread(chosen, 'balanced', 100)} "
                f"| {_spread(chosen, 'drop', 100)} | {_spread(chosen, 'seconds', 1)} | {shipped} of {len(chosen)} |"
            )
    return "\n".join(lines)


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                key: value if key in ("set", "arm", "shipped") else float(value) if value else None
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def _spread(rows: list[Row], field: str, factor: float) -> str:
    values = [float(value) * factor for row in rows if (value := row[field]) is not None]
    return spread(values)


def spread(values: list[float]) -> str:
    """Return the mean with the smallest and largest."""
    return f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summarise", type=Path, nargs="+", help="print the table of earlier runs' rows")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--recipes", nargs="+", default=["auto", "classic"], choices=["auto", "classic"])
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--classic-epochs", type=int, default=10)
    parser.add_argument("--csv", type=Path, default=Path("real_photos.csv"))
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise([row for path in arguments.summarise for row in _read(path)]))
        return
    if arguments.data is None:
        parser.error("Which folder holds the photos?")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work, arguments.csv.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for seed in arguments.seeds:
            for name in arguments.sets:
                print(f"== {name}, seed {seed}", file=sys.stderr, flush=True)
                found = measure(
                    name, arguments.data, seed, arguments.a_class, arguments.recipes, arguments.classic_epochs,
                    Path(work),
                )  # fmt: skip
                rows += found
                writer.writerows(found)
                file.flush()
    print(summarise(rows))


if __name__ == "__main__":
    main()
