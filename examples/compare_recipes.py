"""Which recipe is right for these photos?  Every arm of `unfreeze compare` from Python, and what may be concluded.

python examples/compare_recipes.py PHOTOS [--seeds 5] [--epochs 10]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from unfreeze.compare.arms import compare
from unfreeze.compare.results import Comparison
from unfreeze.config import make_comparison

SIGNIFICANT = 0.05


def conclusions(comparison: Comparison) -> list[str]:
    """Say what the table allows to be said: an arm that isn't proven to differ is not called better."""
    said = []
    for arm in comparison.summaries:
        if arm.p_value is None or arm.gain_ci95 is None:
            continue
        if arm.p_value < SIGNIFICANT:
            word = "better" if arm.gain > 0 else "worse"
            said.append(f"{arm.arm} is {word} than {comparison.baseline} by {abs(arm.gain) * 100:.1f} points")
        else:
            low, high = (end * 100 for end in arm.gain_ci95)
            said.append(f"{arm.arm} can't be told from {comparison.baseline}: {low:+.1f} to {high:+.1f} points")
    return said


def main() -> None:
    """Compare, print the table, and what follows from it."""
    parser = argparse.ArgumentParser(description="Every recipe on the same photos.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=10, help="of every arm but ours")
    comparison = compare(make_comparison(vars(parser.parse_args())))
    print(*comparison.table(), sep="\n")
    print(*conclusions(comparison), sep="\n")
    print(f"accuracy against forgetting: {comparison.folder.plot}")


if __name__ == "__main__":
    main()
