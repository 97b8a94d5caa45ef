"""Photos whose numbers are data: all bands against red, green and blue, and one recorded scaling against each photo's own.

    python benchmarks/domains.py DATA [--seeds 5] [--sets eurosat_ms20 siim_ct]

DATA holds real sets in folders with a table labels.csv; SETS says which are compared and how.  Every run is head-only and
cross-fitted: each photo is answered by models of the folds that never saw it (nor its patient).  The arms of a set take the
same seeds, and so the same folds; a gain is the mean over seeds of the difference, in points of accuracy.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
from pathlib import Path
from typing import Any

import unfreeze

SETS: dict[str, dict[str, dict[str, Any]]] = {
    "eurosat_ms20": {  # Sentinel-2, 20 photos of each of 10 classes; the first arm is what the others are compared with
        "red, green, blue": {"bands": "4,3,2"},
        "red, green, blue, each photo's own scaling": {"bands": "4,3,2", "scaling": "image"},
        "all 13 bands": {},
    },
    "siim_ct": {  # CT with and without contrast agent, 27 patients
        "each photo's own scaling": {"scaling": "image"},
        "one scaling": {},
        "soft-tissue window": {"window": "soft-tissue"},
        "three windows": {"window": "lung+soft-tissue+bone"},
    },
}


def table_of(folder: Path, where: Path) -> Path:
    """Write a table as ``unfreeze train`` reads it, with whole paths, and return its path."""
    with (folder / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with where.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "group"])
        writer.writerows([(folder / row["file"]).absolute(), row["label"], row["group"]] for row in rows)
    return where


def accuracy(photos: Path, out: Path, settings: dict[str, Any], seed: int) -> float:
    run = unfreeze.train(photos, recipe="head-only", test_size=0.0, seed=seed, out=out, **settings)
    return 100 * run.verdict.scores.shipped.accuracy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    arguments = parser.parse_args()
    lines = [
        "| set | arm | accuracy, mean over seeds | least to most | against the first arm |",
        "| --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.sets:
            photos, first = table_of(arguments.data / name, Path(folder, f"{name}.csv")), None
            for number, (arm, settings) in enumerate(SETS[name].items()):
                found = [
                    accuracy(photos, Path(folder, f"{name}-{number}-{seed}"), settings, seed)
                    for seed in range(arguments.seeds)
                ]
                first = first or found
                gains = [a - b for a, b in zip(found, first, strict=True)]
                spread = f" ({min(gains):+.1f} to {max(gains):+.1f})" if number else ""
                lines.append(
                    f"| {name} | {arm} | {statistics.mean(found):.1f} | {min(found):.1f} to {max(found):.1f} | "
                    f"{statistics.mean(gains):+.1f}{spread} |"
                )
                print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
