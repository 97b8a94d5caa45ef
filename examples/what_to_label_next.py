"""Of many photos without labels, which are worth a person's time?  Those of which a run is least sure, with its reasons.

    python examples/what_to_label_next.py RUN PHOTOS [--count 10] [--out to_label]

The probabilities are calibrated, so that a photo with 0.5 is wrong about every second time.  A picture of each says where
the evidence for the class was seen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import unfreeze
from unfreeze.predict import Prediction


def least_sure(answers: Iterable[Prediction], count: int) -> list[Prediction]:
    """Return the answers with the smallest lead of the first class over the second."""

    def lead(answer: Prediction) -> float:
        second, first = sorted(answer.probabilities)[-2:]
        return first - second

    return sorted(answers, key=lead)[:count]


def main() -> None:
    """Print the photos, the least sure first, and draw them."""
    parser = argparse.ArgumentParser(description="The photos that a run is least sure of.")
    parser.add_argument("run", type=Path)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("to_label"))
    asked = parser.parse_args()
    run = unfreeze.load(asked.run)
    chosen = least_sure(run.predict([asked.photos]), asked.count)
    asked.out.mkdir(parents=True, exist_ok=True)
    for answer, why in zip(chosen, run.explain([answer.path for answer in chosen]), strict=True):
        why.picture().save(asked.out / why.file_name)
        print(f"{answer.path}  {answer.label} {answer.probability:.2f}")
    print(f"pictures in {asked.out}")


if __name__ == "__main__":
    main()
