"""unfreeze and its peers on the same photos, weights and machine, arm after arm; prints the tables.

    make bench BENCH_DATA=DATA [BENCH_ARGS="--sets hymenoptera --seeds 0 --a-class 20"]
    python benchmarks/peers/bench.py --summarise bench.csv ...

DATA is the folder that benchmarks/README.md describes.  Rows are appended to --csv as they come, and a row that is there
already isn't measured again, so that an interrupted benchmark goes on where it was.  An arm's clock starts after its imports
and stands still while the test photos are scored; wall and CPU seconds and peak memory are the whole process's.  Where the
machine does other things at the same time, --untimed keeps the scores alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from unfreeze.data.reference import read_reference
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import generator

SETS = ("hymenoptera", "magnetic_tile", "bccd_cells", "wbc5_tecom", "aid150")
TEST_PHOTOS = 300
REFERENCE_PHOTOS = 200
LEFT_TO_TEST = 0.25  # at least so much of each class is not trained on
REPOSITORY = Path(__file__).parents[2]
FIELDS = (
    "set", "a_class", "seed", "arm", "accuracy", "balanced", "original", "clock", "wall", "cpu", "peak_mib", "points",
)  # fmt: skip
TIMES = ("clock", "wall", "cpu")
Row = dict[str, str]


@dataclass(frozen=True)
class Arm:
    """One way to train: which environment's Python runs which script."""

    environment: str
    command: tuple[str, ...]


ARMS = {
    "unfreeze head-only": Arm("own", ("unfreeze_train", "head-only")),
    "unfreeze auto": Arm("own", ("unfreeze_train", "auto")),
    "uncached, everything": Arm("own", ("unfreeze_train", "uncached")),
    "tutorial": Arm("peers", ("tutorial", "train")),
    "tutorial, BatchNorm frozen": Arm("peers", ("tutorial", "frozen")),
    "fastai fine_tune": Arm("peers", ("fastai_fine_tune",)),
    "layer decay, one phase": Arm("peers", ("layer_decay",)),
    "Lightning BackboneFinetuning": Arm("peers", ("lightning_finetuning",)),
    "AutoGluon": Arm("autogluon", ("autogluon_fit",)),
}
OURS = ("unfreeze head-only", "unfreeze auto")
PEERS = {"fastai": "fastai fine_tune", "AutoGluon": "AutoGluon"}


def draw(photos: PhotoSet, a_class: int, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Return photos to train on and to test on, drawn per class, each from its own side where the set names sides.

    At most ``a_class`` of a class train, and of a set without sides at least ``LEFT_TO_TEST`` of it don't.
    """
    # What is left of a small class stands at the end of the order that training photos are taken from: test photos have
    # an order of their own.
    order = [photos.samples[index] for index in generator(seed, 2026).permutation(len(photos.samples))]
    sides = {sample.split for sample in order}
    test_side = next((side for side in ("test", "val") if side in sides), None)
    train: list[Sample] = []
    for label in range(len(photos.classes)):
        own = [sample for sample in order if sample.label == label and sample.split in (None, "train")]
        train += own[: min(a_class, len(own) if test_side else int(len(own) * (1 - LEFT_TO_TEST)))]
    taken = {sample.path for sample in train}
    again = [photos.samples[index] for index in generator(seed, 2027).permutation(len(photos.samples))]
    rest = [sample for sample in again if sample.split == test_side and sample.path not in taken]
    return train, rest[:TEST_PHOTOS]


def prepare(name: str, data: Path, a_class: int, seed: int, epochs: int, work: Path) -> Path:
    """Write what all arms of one set and seed are given, and return the task's file."""
    photos = read_photos(data / name)
    train, test = draw(photos, a_class, seed)
    table = work / "photos.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "label", "split"])
        writer.writerows((sample.path, photos.classes[sample.label], "train") for sample in train)
        writer.writerows((sample.path, photos.classes[sample.label], "test") for sample in test)
    weights = work / "weights.pth"
    backbone = load_backbone("efficientnet_lite0")
    torch.save(dict(backbone.network.module.state_dict()), weights)
    folder = work / "reference"
    folder.mkdir()
    places = sorted((data / "imagenet_train1k").iterdir())
    for place in places[:: max(1, len(places) // REFERENCE_PHOTOS)][:REFERENCE_PHOTOS]:
        (folder / place.name).symlink_to(place.resolve())
    reference = read_reference(folder, backbone.network.labels)
    task = {
        "train": [(str(sample.path), sample.label) for sample in train],
        "test": [(str(sample.path), sample.label) for sample in test],
        "reference": [(str(sample.path), sample.label) for sample in reference.samples],
        "classes": len(photos.classes), "weights": str(weights), "seed": seed, "epochs": epochs,
        "table": str(table), "reference_folder": str(folder), "out": str(work / "out.json"),
    }  # fmt: skip
    place = work / "task.json"
    place.write_text(json.dumps(task), "utf-8")
    return place


def run_arm(arm: Arm, python: str, task: Path) -> Row:
    """Run one arm as a process, and return its figures."""
    script, *arguments = arm.command
    out = task.parent / "out.json"
    out.unlink(missing_ok=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [python, "-m", f"benchmarks.peers.arms.{script}", str(task), *arguments],
        env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode or not out.exists():
        raise RuntimeError(f"{' '.join(arm.command)} failed:\n{errors[-3000:]}")
    return figures(json.loads(out.read_text("utf-8")), wall, used)


def figures(found: dict[str, list[list[float]]], wall: float, used: resource.struct_rusage) -> Row:
    clock, accuracy, balanced = found["points"][-1]
    numbers = {
        "accuracy": accuracy, "balanced": balanced, "original": found["original"], "clock": clock, "wall": wall,
        "cpu": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 2**10,
    }  # fmt: skip
    points = ";".join(" ".join(f"{value:.4f}" for value in point) for point in found["points"])
    return {key: f"{value:.4f}" for key, value in numbers.items()} | {"points": points}


def seconds_to(row: Row, accuracy: float) -> float | None:
    """Return the clock at the first point that is as accurate, or None where there is none."""
    points = [[float(value) for value in point.split()] for point in row["points"].split(";")]
    return next((seconds for seconds, reached, _ in points if reached >= accuracy), None)


def summarise(rows: list[Row]) -> str:
    """Return the tables: every arm of every set, then the ratios to each peer."""
    lines: list[str] = []
    for a_class in sorted({row["a_class"] for row in rows}, key=int):
        lines += _arms(a_class, [row for row in rows if row["a_class"] == a_class])
    for a_class in sorted({row["a_class"] for row in rows}, key=int):
        for peer, arm in PEERS.items():
            lines += _ratios(a_class, peer, arm, [row for row in rows if row["a_class"] == a_class])
    for a_class in sorted({row["a_class"] for row in rows}, key=int):
        lines += _margins(a_class, [row for row in rows if row["a_class"] == a_class])
    return "\n".join(lines)


def _margins(a_class: str, rows: list[Row]) -> list[str]:
    """Return by how many points of balanced accuracy auto is ahead of each arm, on the same set and seeds."""
    others = [arm for arm in ARMS if arm != "unfreeze auto"]
    header = ("set", *(f"{arm} (seeds)" for arm in others), "best arm of each seed", "time / fastai's")
    lines = [f"\n### auto's margin in points of balanced accuracy, {a_class} a class\n", _line(header)]
    lines.append(_line(["---"] * len(header)))
    found: dict[str, list[float]] = {}
    for name in SETS:
        by_arm = {(row["arm"], row["seed"]): row for row in rows if row["set"] == name}
        seeds = sorted({seed for arm, seed in by_arm if arm == "unfreeze auto"})
        if not seeds:
            continue
        cells = [name]
        for arm in others:
            cells.append(_margin(found.setdefault(arm, []), [
                _balanced(by_arm["unfreeze auto", seed]) - _balanced(by_arm[arm, seed])
                for seed in seeds if (arm, seed) in by_arm
            ]))  # fmt: skip
        best = [max(_balanced(row) for (_, own), row in by_arm.items() if own == seed) for seed in seeds]
        behind = [_balanced(by_arm["unfreeze auto", seed]) - top for seed, top in zip(seeds, best, strict=True)]
        cells.append(_margin(found.setdefault("best", []), behind))
        times = [
            float(by_arm["unfreeze auto", seed]["clock"]) / float(by_arm[PEERS["fastai"], seed]["clock"])
            for seed in seeds
            if (PEERS["fastai"], seed) in by_arm and _together(by_arm["unfreeze auto", seed], by_arm[PEERS["fastai"], seed])
        ]  # fmt: skip
        found.setdefault("time", []).extend([statistics.mean(times)] if times else [])
        lines.append(_line([*cells, f"{statistics.mean(times):.2f}" if times else "-"]))
    means = [f"{statistics.mean(found[arm]):+.1f}" if found.get(arm) else "-" for arm in (*others, "best")]
    time = f"{statistics.mean(found['time']):.2f}" if found.get("time") else "-"
    return [*lines, _line(["mean over sets", *means, time])] if found else []


def _timed(row: Row) -> bool:
    return bool(row["clock"])


def _together(one: Row, other: Row) -> bool:
    """Tell whether the seconds of two rows may be compared: a file is of one machine."""
    return _timed(one) and _timed(other) and one.get("file") == other.get("file")


def _balanced(row: Row) -> float:
    return 100 * float(row["balanced"])


def _margin(means: list[float], apart: list[float]) -> str:
    """Return a set's mean over its seeds, and add it to ``means``."""
    if not apart:
        return "-"
    means.append(statistics.mean(apart))
    return f"{means[-1]:+.1f} ({len(apart)})"


def _arms(a_class: str, rows: list[Row]) -> list[str]:
    header = (
        "set", "arm", "seeds", "accuracy", "balanced", "original head after", "clock, s", "wall, s", "CPU, s", "peak, MiB",
        *(f"s to {peer}'s accuracy" for peer in PEERS),
    )  # fmt: skip
    lines = [f"\n### {a_class} photos a class\n", _line(header), _line(["---"] * len(header))]
    for name in [name for name in SETS if any(row["set"] == name for row in rows)]:
        for arm in ARMS:
            own = [row for row in rows if row["set"] == name and row["arm"] == arm]
            if not own:
                continue
            cells = [name, arm, ", ".join(sorted({row["seed"] for row in own}))]
            cells += [_spread([100 * float(row[key]) for row in own]) for key in ("accuracy", "balanced", "original")]
            cells += [_spread([float(row[key]) for row in own if row[key]]) for key in (*TIMES, "peak_mib")]
            for peer in PEERS.values():
                goals = {row["seed"]: row for row in rows if (row["set"], row["arm"]) == (name, peer)}
                found = [
                    seconds_to(row, float(goals[row["seed"]]["accuracy"])) for row in own
                    if row["seed"] in goals and _together(row, goals[row["seed"]])
                ]  # fmt: skip
                cells.append(_reached(found))
            lines.append(_line(cells))
    return lines


def _ratios(a_class: str, peer: str, arm: str, rows: list[Row]) -> list[str]:
    """Return how many times sooner unfreeze is as accurate as the peer at its end, where both were timed."""
    header = ("set", "seed", f"{peer}: accuracy", f"{peer}: clock, s", "head-only", "auto", "the sooner")
    lines = [
        f"\n### Times sooner at {peer}'s accuracy, {a_class} a class\n",
        _line(header),
        _line(["---"] * len(header)),
    ]
    best: dict[str, list[float]] = {}
    for theirs in [row for row in rows if row["arm"] == arm]:
        ours = {
            row["arm"]: row for row in rows
            if row["arm"] in OURS and all(row[k] == theirs[k] for k in ("set", "seed")) and _together(row, theirs)
        }  # fmt: skip
        if not ours:
            continue
        reached = {own: seconds_to(row, float(theirs["accuracy"])) for own, row in ours.items()}
        ratios = {own: float(theirs["clock"]) / seconds if seconds else 0.0 for own, seconds in reached.items()}
        sooner = max(ratios.values())
        best.setdefault(theirs["set"], []).append(sooner)
        shown = [_times(ratios[own]) if own in ratios else "-" for own in OURS] + [_times(sooner)]
        accuracy = f"{100 * float(theirs['accuracy']):.1f}"
        lines.append(_line([theirs["set"], theirs["seed"], accuracy, f"{float(theirs['clock']):.0f}", *shown]))
    if best:
        middle = statistics.median(statistics.median(found) for found in best.values())
        lines.append(_line(["median over sets", "", "", "", "", "", f"{middle:.1f}x"]))
    return lines if best else []


def _times(ratio: float) -> str:
    return f"{ratio:.1f}x" if ratio else "never"


def _reached(found: list[float | None]) -> str:
    there = [seconds for seconds in found if seconds is not None]
    if not found:
        return "-"
    missed = f"; never in {len(found) - len(there)} of {len(found)}" if len(there) < len(found) else ""
    return (_spread(there) if there else "") + missed if there else "never"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def read_rows(paths: list[Path]) -> list[Row]:
    """Return the rows of all files, each with its file; of two that measure the same, the one of the later file."""
    rows: dict[tuple[str, ...], Row] = {}
    for path in paths:
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                found = ({**row, "file": str(path)} for row in csv.DictReader(file))
                rows |= {tuple(row[key] for key in FIELDS[:4]): row for row in found}
    return list(rows.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summarise", type=Path, nargs="+", help="print the tables of earlier rows")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--a-class", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--untimed", action="store_true", help="leave seconds out: the machine does other things")
    parser.add_argument("--python-peers", default=sys.executable)
    parser.add_argument("--python-autogluon", default=sys.executable)
    parser.add_argument("--csv", type=Path, default=Path("bench.csv"))
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise(read_rows(arguments.summarise)))
        return
    if arguments.data is None:
        parser.error("Which folder holds the photos?")
    pythons = {"own": sys.executable, "peers": arguments.python_peers, "autogluon": arguments.python_autogluon}
    new = not arguments.csv.exists()
    done = {tuple(row[key] for key in FIELDS[:4]) for row in read_rows([arguments.csv])}
    with arguments.csv.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS)
        if new:
            writer.writeheader()
        for a_class, seed, name in (
            (a, s, n) for a in arguments.a_class for s in arguments.seeds for n in arguments.sets
        ):
            wanted = [arm for arm in arguments.arms if (name, str(a_class), str(seed), arm) not in done]
            with tempfile.TemporaryDirectory() as work:
                task = prepare(name, arguments.data, a_class, seed, arguments.epochs, Path(work)) if wanted else Path()
                for arm in wanted:
                    print(f"== {name}, {a_class} a class, seed {seed}: {arm}", file=sys.stderr, flush=True)
                    row = run_arm(ARMS[arm], pythons[ARMS[arm].environment], task)
                    row |= dict.fromkeys(TIMES, "") if arguments.untimed else {}
                    writer.writerow({"set": name, "a_class": a_class, "seed": seed, "arm": arm} | row)
                    file.flush()
    print(summarise(read_rows([arguments.csv])))


if __name__ == "__main__":
    main()
