"""What `prepare_process` saves: forward and training passes with and without it, each in a process of its own, in turn.

    python benchmarks/process.py [--rounds 3]

Prints images per second (median, smallest, largest) and the ratio of the medians.  Linux with glibc only.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

MEASURE = """
import sys, time, torch
from unfreeze.models.backbones import load_backbone
from unfreeze.models.freezing import apply, plan_from
from unfreeze.runtime import prepare_process
if sys.argv[1] == "prepared":
    prepare_process()
backbone = load_backbone("efficientnet_lite0")
images = torch.randn(16, 3, 224, 224).to(memory_format=torch.channels_last)

def rate(step, seconds=4.0):
    step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        done += len(images)
    return done / (time.perf_counter() - start)

def forward():
    with torch.inference_mode():
        backbone.run(images)

def train(scale):
    (backbone.run(images).sum() * scale).backward()

print(rate(forward))
apply(plan_from(backbone, 0, lr=0.0, head_lr=0.0), backbone)
print(rate(lambda: train(1.0)))
print(rate(lambda: train(1e-42)))
"""
ROWS = ("frozen forward", "forward and backward", "the same, vanished loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rates: dict[str, list[list[float]]] = {"plain": [], "prepared": []}
    for _ in range(rounds):
        for arm, found in rates.items():
            told = subprocess.run([sys.executable, "-c", MEASURE, arm], capture_output=True, text=True, check=True)
            found.append([float(line) for line in told.stdout.split()])
    print("| images per second | plain | prepared | ratio |\n| --- | --- | --- | --- |")
    for row, name in enumerate(ROWS):
        arms = {arm: [values[row] for values in found] for arm, found in rates.items()}
        cells = [f"{statistics.median(v):.1f} ({min(v):.1f} to {max(v):.1f})" for v in arms.values()]
        ratio = statistics.median(arms["prepared"]) / statistics.median(arms["plain"])
        print(f"| {name} | {cells[0]} | {cells[1]} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
