"""unfreeze and its peers on the same photos, weights and machine, arm after arm; prints the tables.

    make bench BENCH_DATA=DATA [BENCH_ARGS="--sets magnetic_tile --seeds 0 --a-class 20"]
    python -m benchmarks.peers.bench --summarise bench.csv ...

DATA is the folder that benchmarks/README.md describes.  Rows are appended to --csv as they come, and a row that is there
already isn't measured again, so that an interrupted benchmark goes on where it was; an arm that fails is named, and the
others go on.  Each row has two clocks.  Training: what an arm trains for, after its imports, test photos not scored.  Whole
command: what a user waits for, from the start of the process to its end, imports and the scoring of all test photos
included; ours is `unfreeze train TABLE`, the report included.  CPU seconds and peak memory are the whole process's, its
helpers' included.  Where the machine does other things at the same time, --shared says so in each row, and the tables
compare CPU seconds alone.  Which arms there are, and of which rival each is a variant, is in ``rivals``; which photos they
are given in ``sets``; what the tables make of them in ``tables``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers.rivals import FAMILIES, FAMILY_OF, VARIANTS, Arm, variants_named
from benchmarks.peers.rows import FIELDS, Row, key, read_rows
from benchmarks.peers.sets import SETS, TEST_LIMIT, Drawn, draw, read_set
from benchmarks.peers.tables import summarise

from unfreeze.data.reference import read_reference
from unfreeze.models.backbones import load_backbone

REFERENCE_PHOTOS = 200
REPOSITORY = Path(__file__).parents[2]
# What `unfreeze` itself runs, with modules that the arm does without.
OWN = "import sys; sys.modules.update(dict.fromkeys({without!r})); from unfreeze.cli import main; main()"


def prepare(drawn: Drawn, data: Path, seed: int, epochs: int, *, reference: bool, work: Path) -> None:
    """Write what all arms of one set and seed are given into the folder ``work``."""
    grouped = any(sample.group for sample in drawn.train)
    columns = ["file_name", "label", "split", *(["group"] if grouped else [])]
    with (work / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for side, samples in (("train", drawn.train), ("test", drawn.test)):
            for sample in samples:
                cells = (sample.path, drawn.classes[sample.label], side, sample.group)
                writer.writerow(cells[: len(columns)])
    backbone = load_backbone("efficientnet_lite0")
    torch.save(dict(backbone.network.module.state_dict()), work / "weights.pth")
    photos = _reference(data, backbone.network.labels, work) if reference else []
    task = {
        "train": [(str(sample.path), sample.label) for sample in drawn.train],
        "test": [(str(sample.path), sample.label) for sample in drawn.test],
        "reference": photos,
        "classes": len(drawn.classes), "weights": str(work / "weights.pth"), "seed": seed, "epochs": epochs,
        "out": str(work / "out.json"),
    }  # fmt: skip
    (work / "task.json").write_text(json.dumps(task), "utf-8")


def _reference(data: Path, labels: Any, work: Path) -> list[tuple[str, int]]:
    folder = work / "reference"
    folder.mkdir()
    places = sorted((data / "imagenet_train1k").iterdir())
    for place in places[:: max(1, len(places) // REFERENCE_PHOTOS)][:REFERENCE_PHOTOS]:
        (folder / place.name).symlink_to(place.resolve())
    return [(str(sample.path), sample.label) for sample in read_reference(folder, labels).samples]


def command(arm: Arm, python: str, seed: int, work: Path) -> list[str]:
    """Return the command line of an arm: ours is the user's own."""
    if arm.environment != "own":
        script, *arguments = arm.command
        return [python, "-m", f"benchmarks.peers.arms.{script}", str(work / "task.json"), *arguments]
    reference = ["--reference", str(work / "reference")] if (work / "reference").exists() else []
    places = ["--out", str(work / "run"), "--cache", str(work / "cache"), *reference]
    return [
        python,
        "-c",
        OWN.format(without=arm.without),
        "train",
        str(work / "photos.csv"),
        "--seed",
        str(seed),
        *places,
        *arm.command,
    ]


def run_arm(arm: Arm, python: str, seed: int, work: Path) -> Row:
    """Run one arm as a process, and return its figures.

    Raises:
        RuntimeError: It failed; the end of what it wrote.
    """
    (work / "out.json").unlink(missing_ok=True)
    for left in ("run", "cache"):
        shutil.rmtree(work / left, ignore_errors=True)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command(arm, python, seed, work),
        env=environment, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    found = work / ("run/verdict.json" if arm.environment == "own" else "out.json")
    if process.returncode or not found.exists():
        raise RuntimeError(f"{' '.join(arm.command)} failed:\n{errors[-3000:]}")
    values = json.loads(found.read_text("utf-8"))
    return own_figures(values, arm.shown, wall, used) if arm.environment == "own" else figures(values, wall, used)


def figures(found: dict[str, Any], wall: float, used: resource.struct_rusage) -> Row:
    """Return the cells of a peer's row from what its arm wrote."""
    accuracy, balanced = found["scores"]
    beside_wall, beside_cpu = found["beside"]
    return _cells(
        {
            "accuracy": accuracy,
            "balanced_accuracy": balanced,
            "original": found["original"],
            "train_seconds": found["seconds"],
            "command_seconds": wall - beside_wall,
            "cpu_seconds": used.ru_utime + used.ru_stime - beside_cpu,
            "peak_mib": used.ru_maxrss / 2**10,
        }
    )


def own_figures(verdict: dict[str, Any], shown: str, wall: float, used: resource.struct_rusage) -> Row:
    """Return the cells of a row of ours from its verdict; ``options`` has the scores of every model in it."""
    scores = {name: found for name, found in verdict["scores"].items() if "balanced_accuracy" in (found or ())}
    seconds, forgetting = verdict["cost"]["seconds"], verdict.get("forgetting") or {}
    changed = shown == "two_phase" or verdict["shipped"] != "head_only"
    cells = _cells(
        {
            "accuracy": scores[shown]["accuracy"],
            "balanced_accuracy": scores[shown]["balanced_accuracy"],
            "original": forgetting.get("after" if changed else "before"),
            "train_seconds": seconds["total"] - seconds.get("evaluation", 0.0),
            "command_seconds": wall,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_mib": used.ru_maxrss / 2**10,
        }
    )
    options = ";".join(f"{name} {found['balanced_accuracy']:.4f}" for name, found in scores.items())
    return cells | {"shipped": verdict["shipped"], "options": options}


def _cells(numbers: dict[str, float | None]) -> Row:
    return {name: "" if value is None else f"{value:.4f}" for name, value in numbers.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--summarise", type=Path, nargs="+", help="print the tables of earlier rows")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--a-class", type=int, nargs="+", default=[20, 100], choices=[20, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--arms", nargs="+", default=[name for name, arm in VARIANTS.items() if not arm.on_request],
        choices=list(dict.fromkeys([*FAMILIES, *VARIANTS])), metavar="ARM", help="variants, or rivals with all of theirs",
    )  # fmt: skip
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--test-limit", type=int, default=TEST_LIMIT, help="test photos of a set, evenly drawn; 0: all")
    parser.add_argument("--reference", action="store_true", help="measure forgetting, too; ours has it on its clocks")
    parser.add_argument(
        "--shared", action="store_true", help="the machine does other things: compare CPU seconds alone"
    )
    parser.add_argument("--python-peers", default=sys.executable)
    parser.add_argument("--python-autogluon", default=sys.executable)
    parser.add_argument("--csv", type=Path, default=Path("bench.csv"))
    arguments = parser.parse_args()
    if arguments.summarise:
        print(summarise(read_rows(arguments.summarise)))
        return
    if arguments.data is None:
        parser.error("Which folder holds the photos?")
    failed = measure(arguments)
    print(summarise(read_rows([arguments.csv])))
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


def measure(arguments: argparse.Namespace) -> list[str]:
    """Measure what has no row yet and append it to the file of rows; return what failed."""
    pythons = {"own": sys.executable, "peers": arguments.python_peers, "autogluon": arguments.python_autogluon}
    new = not arguments.csv.exists()
    done = {key(row) for row in read_rows([arguments.csv])}
    failed: list[str] = []
    with arguments.csv.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, FIELDS, restval="")
        if new:
            writer.writeheader()
        for a_class, seed, name in (
            (a, s, n)
            for a in arguments.a_class
            for s in arguments.seeds
            for n in arguments.sets
            if a in SETS[n].a_class
        ):
            places = {"set": name, "a_class": str(a_class), "seed": str(seed)}
            wanted = [
                arm for arm in variants_named(arguments.arms)
                if key(places | {"variant": arm}) not in done
            ]  # fmt: skip
            if not wanted:
                continue
            drawn = draw(read_set(name, arguments.data), a_class, seed, arguments.test_limit)
            counts = {"n_train": len(drawn.train), "n_test": len(drawn.test), "left_over": drawn.left_over}
            with tempfile.TemporaryDirectory() as folder:
                work = Path(folder)
                prepare(drawn, arguments.data, seed, arguments.epochs, reference=arguments.reference, work=work)
                for arm in wanted:
                    what = f"{name}, {a_class} a class, seed {seed}: {arm}"
                    print(f"== {what}", file=sys.stderr, flush=True)
                    try:
                        row = run_arm(VARIANTS[arm], pythons[VARIANTS[arm].environment], seed, work)
                    except RuntimeError as error:
                        print(error, file=sys.stderr, flush=True)
                        failed.append(what)
                        continue
                    shared = {"shared": "yes" if arguments.shared else "no"}
                    writer.writerow(places | {"arm": FAMILY_OF[arm], "variant": arm} | counts | row | shared)
                    file.flush()
    return failed


if __name__ == "__main__":
    main()
