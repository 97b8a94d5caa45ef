"""unfreeze and its peers on the same photos, weights and machine, arm after arm; prints the tables.

    make bench BENCH_DATA=DATA [BENCH_ARGS="--sets hymenoptera --seeds 0 --a-class 20"]
    python -m benchmarks.peers.bench --summarise bench.csv ...

DATA is the folder that benchmarks/README.md describes.  Rows are appended to --csv as they come, and a row that is there
already isn't measured again, so that an interrupted benchmark goes on where it was.  An arm's clock starts after its imports
and stands still while the test photos are scored; wall and CPU seconds and peak memory are the whole process's.  Where the
machine does other things at the same time, --untimed keeps the scores alone.  Which arms there are, and of which rival each
is a variant, is in ``rivals``; what the tables make of them in ``tables``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.peers.rivals import ARMS, FAMILIES, Arm, arms_named
from benchmarks.peers.tables import FIELDS, SETS, TIMES, Row, read_rows, summarise

from unfreeze.data.reference import read_reference
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import generator

TEST_PHOTOS = 300
REFERENCE_PHOTOS = 200
LEFT_TO_TEST = 0.25  # at least so much of each class is not trained on
REPOSITORY = Path(__file__).parents[2]


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summarise", type=Path, nargs="+", help="print the tables of earlier rows")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--a-class", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="+", default=[name for name, arm in ARMS.items() if not arm.on_request],
        choices=list(dict.fromkeys([*FAMILIES, *ARMS])), metavar="ARM", help="variants, or rivals with all of theirs",
    )  # fmt: skip
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
            wanted = [arm for arm in arms_named(arguments.arms) if (name, str(a_class), str(seed), arm) not in done]
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
