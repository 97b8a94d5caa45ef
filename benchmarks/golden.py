"""Whether a change of the code changes a bit: the weights and the figures of a grid of small runs, before and after.

    OMP_NUM_THREADS=2 python -m benchmarks.golden OUT.json [--only SUBSTRING] [--jobs 1]
    python -m benchmarks.golden --compare A.json B.json

Photos and backbones are drawn, the same every time; only efficientnet_lite0 has its packaged weights.  Each run has a
process and a cache of its own.  Bits depend on the machine, its versions and OMP_NUM_THREADS: compare what one machine
wrote with one number of threads.  On a busy machine OMP_WAIT_POLICY=passive saves most of the time, and changes no bit.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

CLASSES, A_CLASS, FEW, SIDE = 3, 12, 18, 32  # SIDE: pixels that the tiny backbones see
WNIDS = ("n01440764", "n01443537", "n01484850")
BACKBONES: dict[str, list[str]] = {
    "cnn": ["--model", "tiny_cnn"],
    "vit": ["--model", "tiny_vit"],
    "opaque": ["--model", "tiny_opaque"],
    "lite0": ["--model", "efficientnet_lite0"],
}
RECIPES: dict[str, list[str]] = {
    "head-only": ["--recipe", "head-only", "--views", "2"],
    "auto": ["--recipe", "auto", "--views", "2", "--epochs", "2", "--lr", "0.001"],
    "long": ["--recipe", "auto", "--views", "2", "--epochs", "6", "--lr", "0.003", "--seed", "1"],  # phase 2 ships
    "classic": ["--recipe", "classic", "--epochs", "2", "--head-epochs", "2"],
}
EVIDENCE: dict[str, list[str]] = {"test": ["--test-size", "0.25"], "crossed": ["--test-size", "0"]}
REFERENCE, WORDNET = ["--reference", "reference"], ["--reference", "wordnet"]
# A run's name, its photos, and what is added to the flags that the three words of the name stand for.
RUNS: list[tuple[str, str, list[str]]] = [
    *((f"{net} {recipe} {side}", "photos", [])
      for net in ("cnn", "vit") for recipe in ("head-only", "auto", "classic") for side in EVIDENCE),
    ("lite0 head-only crossed", "few", []),
    ("lite0 head-only test fp32", "few", ["--precision", "fp32"]),
    ("lite0 auto test reference", "few", ["--depth", "blocks.6", *WORDNET]),
    ("lite0 classic test", "few", []),
    ("cnn long test", "photos", []),
    ("cnn long crossed", "photos", []),
    ("vit long crossed", "photos", []),
    ("opaque auto crossed", "photos", []),
    ("opaque classic test", "photos", []),
    ("cnn auto test groups", "groups.csv", []),
    ("cnn auto crossed groups", "groups.csv", []),
    ("vit head-only crossed groups", "groups.csv", []),
    ("vit classic test groups", "groups.csv", []),
    ("cnn auto test table", "table.csv", []),
    ("vit head-only crossed table", "table.csv", []),
    ("cnn long test reference", "photos", REFERENCE),
    ("cnn auto crossed reference", "photos", REFERENCE),
    ("cnn head-only crossed reference", "photos", REFERENCE),
    ("vit auto test reference", "photos", REFERENCE),
    ("cnn long crossed norms", "photos", ["--subset", "norms"]),
    ("vit long crossed lora", "photos", ["--subset", "lora"]),
    ("cnn auto crossed distill", "photos", ["--distill", "0.5"]),
    ("vit auto test distill", "photos", ["--distill", "0.5"]),
    ("cnn auto crossed light", "photos", ["--color-jitter", "varied"]),
    ("vit head-only test light", "photos", ["--color-jitter", "varied"]),
    ("cnn auto crossed asymmetric", "photos", ["--symmetry", "none"]),
    ("cnn auto crossed plain", "photos", ["--no-tta"]),
    ("vit head-only crossed plain", "photos", ["--no-tta"]),
    ("cnn auto test bn", "photos", ["--bn", "train"]),
    ("cnn classic crossed bn", "photos", ["--bn", "train"]),
    ("cnn head-only crossed fp32", "photos", ["--precision", "fp32"]),
    ("cnn auto test seed", "photos", ["--seed", "7"]),
]  # fmt: skip
TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny_cnn": ("test_efficientnet", {}),
    "tiny_vit": ("vit_tiny_patch16_224", {"img_size": SIDE, "embed_dim": 32, "depth": 4, "num_heads": 2}),
    "tiny_opaque": ("test_vit", {"img_size": SIDE}),  # its forward can't be traced: it is a single stage
}
LIBRARIES = "timm", "scipy.optimize", "scipy.stats", "sklearn.linear_model", "cyclopts"  # slow to import
IGNORED = {"schema", "seconds", "cost", "versions"}  # keys of verdict.json, at whatever depth


def import_libraries() -> object:
    """Import what every run imports, once for all of them; return what must stay alive for it."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    try:
        importlib.import_module("torchvision")
    except RuntimeError:  # it was compiled for another build of torch; its Python files alone do
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    for name in LIBRARIES:
        importlib.import_module(name)
    return library


def words(name: str, photos: str, more: list[str]) -> list[str]:
    """Return a run's command line, but for its folder and its cache."""
    net, recipe, side = name.split()[:3]
    return ["train", photos, *BACKBONES[net], *RECIPES[recipe], *EVIDENCE[side], *more]


def draw(root: Path) -> None:
    """Draw photos (stripes that lie, stand or cross, in noise), tables of them, reference photos and tiny backbones."""
    rows = []
    for number in range(CLASSES * A_CLASS):
        random, label = np.random.default_rng(number), number % CLASSES
        height, width = 40 + number % 3, 44
        y, x = np.mgrid[:height, :width]
        lying, standing = np.sin(y * 0.9), np.sin(x * 0.9)
        wave = (lying, standing, lying * standing * 1.4)[label]
        pixels = 128 + 40 * wave[..., None] + random.normal(0, 25, (height, width, 3))
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        places = [root / "photos" / f"class {label}", root / "reference" / f"thing {label}"]
        places += [root / "few" / f"class {label}", root / "wordnet" / WNIDS[label]] if number < FEW else []
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{number:02}.png")
        rows.append((f"photos/class {label}/{number:02}.png", f"class {label}", f"g{label}-{number // CLASSES // 2}"))
    (root / "table.csv").write_text("file_name,label\n" + "".join(f"{a},{b}\n" for a, b, _ in rows), "utf-8")
    (root / "groups.csv").write_text("file_name,label,group\n" + "".join(f"{a},{b},{c}\n" for a, b, c in rows), "utf-8")
    import timm

    for name, (architecture, arguments) in TINY.items():
        torch.manual_seed(0)
        network = timm.create_model(architecture, num_classes=2 * CLASSES, **arguments)
        (root / name).mkdir()
        save_file(
            {key: value.contiguous() for key, value in network.state_dict().items()}, root / name / "model.safetensors"
        )
        own = {"input_size": [3, SIDE, SIDE], "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.25] * 3}
        config = {
            "architecture": architecture,
            "num_classes": 2 * CLASSES,
            "model_args": arguments,
            "pretrained_cfg": own,
        }
        config["label_names"] = [f"thing {number}" for number in range(2 * CLASSES)]
        (root / name / "config.json").write_text(json.dumps(config), "utf-8")


def train(name: str, photos: str, more: list[str]) -> None:
    """Run one training in this process, in the current folder; what it says goes to a file."""
    folder = Path(name)
    folder.mkdir()
    with (folder / "log").open("w", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    report = ModuleType("unfreeze.report")  # none is written: it would take a third of the time
    vars(report)["write_report"] = lambda folder: None
    sys.modules[report.__name__] = report
    from unfreeze.cli import main

    line = [*words(name, photos, more), "--out", f"{name}/run", "--cache", f"{name}/cache", "--device", "cpu"]
    main(line)


def found(name: str) -> dict[str, Any]:
    """Return the SHA-256 of a finished run's weights, and its figures by their place in ``verdict.json``."""
    run = Path(name, "run")
    verdict = json.loads((run / "verdict.json").read_text("utf-8"))
    weights = hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()
    return {"weights": weights, "figures": dict(leaves(verdict))}


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what stands at every place of a JSON value, times, memory and versions apart; an empty one, too."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not inner:
        yield place, value
        return
    for key, each in inner:
        if key not in IGNORED:
            yield from leaves(each, f"{place}.{key}" if place else str(key))


def run_all(out: Path, only: str, jobs: int) -> int:
    """Train every run whose name contains ``only``, each in a fork of this process, which has imported the libraries."""
    chosen = [each for each in RUNS if only in each[0]]
    home, started, _kept = Path.cwd(), time.perf_counter(), import_libraries()
    results: dict[str, Any] = {}
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        drawing = fork.Process(target=draw, args=(Path(folder),))  # as this process's threads would not fork
        drawing.start()
        drawing.join()
        waiting, at_work = list(chosen), dict[Any, tuple[str, Any]]()
        while waiting or at_work:
            while waiting and len(at_work) < jobs:
                process = fork.Process(target=train, args=waiting[0])
                process.start()
                at_work[process.sentinel] = (waiting.pop(0)[0], process)
            for sentinel in wait(list(at_work)):
                name, process = at_work.pop(sentinel)
                process.join()
                if process.exitcode:
                    print(f"{name}: ended with {process.exitcode}", Path(name, "log").read_text("utf-8"), sep="\n")
                    results[name] = {"weights": f"ended with {process.exitcode}", "figures": {}}
                else:
                    results[name] = found(name)
                    figures = results[name]["figures"]
                    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
                    took = f"{time.perf_counter() - started:.0f} s, {spent.ru_utime + spent.ru_stime:.0f} CPU s so far"
                    print(f"{name}: {figures.get('shipped')}, {results[name]['weights'][:12]}; {took}", flush=True)
        os.chdir(home)
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", ""), "torch": torch.__version__}
    ordered = {name: results[name] for name, _, _ in chosen}
    out.write_text(json.dumps({"where": threads, "runs": ordered}, indent=1) + "\n", "utf-8")
    return int(any(not each["figures"] for each in results.values()))


def compare(before: Path, after: Path) -> int:
    """Print the runs that differ and in what; where keys were renamed, figures are compared as a bag of numbers."""
    a, b = (json.loads(path.read_text("utf-8")) for path in (before, after))
    if a["where"] != b["where"]:
        print(f"not comparable to the bit: {a['where']} against {b['where']}")
    names = list(a["runs"] | b["runs"])
    different = [name for name in names if differs(name, a["runs"].get(name), b["runs"].get(name))]
    print(f"{len(different)} of {len(names)} runs differ")
    return int(bool(different))


def differs(name: str, a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Print how one run differs, and return whether it does; keys that were only renamed are told, but no difference."""
    if a is None or b is None:
        print(f"{name}: only in the {'second' if a is None else 'first'}")
        return True
    figures, others = a["figures"], b["figures"]
    said = [] if a["weights"] == b["weights"] else [f"weights {a['weights'][:16]} -> {b['weights'][:16]}"]
    changed = [key for key in figures if key in others and figures[key] != others[key]]
    gone, new = sorted(set(figures) - set(others)), sorted(set(others) - set(figures))
    bags = [Counter(value for value in each.values() if isinstance(value, int | float)) for each in (figures, others)]
    if gone or new:
        print(f"{name}: keys gone {gone}, keys new {new}")
        lost, won = (list((bags[i] - bags[1 - i]).elements()) for i in (0, 1))
        said += [f"as a bag of numbers: {sorted(lost)} -> {sorted(won)}"] if lost or won else []
    said += [f"{key}: {figures[key]!r} -> {others[key]!r}" for key in changed]
    for line in said:
        print(f"{name}: {line}")
    return bool(said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", help="where to write the JSON")
    parser.add_argument("--only", default="", help="only runs whose name contains this")
    parser.add_argument("--jobs", type=int, default=1, help="so many runs at a time")
    parser.add_argument("--compare", type=Path, nargs=2, help="two such files")
    given = parser.parse_args()
    if given.compare:
        return compare(*given.compare)
    if given.out is None:
        parser.error("OUT.json, or --compare")
    return run_all(given.out.absolute(), given.only, given.jobs)


if __name__ == "__main__":
    sys.exit(main())
