"""What every option of a run gains, on the folds and on the test images: the rows that ``benchmarks/prior.py`` reads.

    python -m benchmarks.options DATA --rows options.csv --scores scores.csv [--sets magnetic_tile ...] [--a-class 20]
        [--seeds 0 1 ...] [--model efficientnet_lite0] [--test-limit 600]

Each run trains as ``unfreeze train`` does.  A row is an option: a set of views against the plain view, a head on several
stages against one on the last stage, phase 2 at a depth and an alpha against head-only.  The scores are those of the models
of each run in balanced accuracy: a head on the last stage in the plain view (the first edition's), ours with several stages,
phase 2, and what ships.  Runs that are in the file already are not measured again.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from benchmarks.choices import draw_sides
from benchmarks.peers.sets import SETS, TEST_LIMIT
from numpy.typing import NDArray

from unfreeze.config import TrainConfig
from unfreeze.data.splits import FOLDS
from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.evaluation.prior import phase2_option
from unfreeze.evaluation.selection import ModelSelector
from unfreeze.inputs import Inputs
from unfreeze.models.backbones import load_backbone
from unfreeze.models.state import ModelState, interpolate
from unfreeze.predict import Logits
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.scoring.held_out import open_test_set, predict_held_out
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.folds import labels_by_fold
from unfreeze.training.phase_one import head_state, solve_head, train_head
from unfreeze.training.phase_two import fine_tune, select_shipped
from unfreeze.training.recipes import head_stages_for, recipe_for
from unfreeze.training.view_sets import name_of, union
from unfreeze.views import PLAIN_ONLY, Views

COLUMNS = (
    "set", "a_class", "seed", "family", "option", "n_val", "fold_gain", "fold_se", "test_gain_nats", "test_gain_points",
    "test_se_nats", "test_se_points",
)  # fmt: skip
SCORES = ("set", "a_class", "seed", "model", "n_test", "balanced_accuracy", "accuracy", "log_loss", "seconds")
Cells = tuple[object, ...]
Array = NDArray[np.float64]


def option_row(
    name: str,
    selector: ModelSelector,
    of_folds: Sequence[Logits],
    before: Logits,
    after: Logits,
    labels: NDArray[np.int64],
) -> Cells:
    """Return the cells of an option from ``option`` on.

    Args:
        name: The option.
        selector: Has the baseline's validation logits.
        of_folds: The option's, of each fold (V, C).
        before: The baseline's logits of the test images (N, C).
        after: The option's.
        labels: The test images' labels (N,).
    """
    folds = selector.all_folds
    reductions = selector.losses(selector.head_only, folds) - selector.losses(of_folds, folds)
    gained = calibrated_nll(before, labels) - calibrated_nll(after, labels)
    right = [(logits.argmax(axis=1) == labels).astype(float) for logits in (before, after)]
    weights = 1 / np.bincount(labels)[labels] / len(np.unique(labels))  # every class counts the same
    points = weights * (right[1] - right[0]) * 100
    return (
        name, len(reductions), float(reductions.mean()), _error(reductions), float((weights * gained).sum()),
        float(points.sum()), _error(weights * gained * len(labels)), _error(points * len(labels)),
    )  # fmt: skip


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def measure(
    data: Path, name: str, a_class: int, seed: int, model: str, limit: int
) -> tuple[str, list[Cells], list[Cells]]:
    """Train on one drawing of a set, and return the family of the backbone, the options' cells, and the scores' cells."""
    drawn, splits = draw_sides(data, name, a_class, seed, limit)
    config = TrainConfig(photos=data, seed=seed)
    pretrained, cache = load_backbone(model), open_cache(None, 0)
    backbone = replace(pretrained, head_stages=head_stages_for(config, pretrained))
    inputs = Inputs(drawn, splits, backbone, None, cache, seed)
    known, labels = inputs.data, np.array([sample.label for sample in inputs.test_samples])
    sizes = [sample.size for sample in inputs.training_samples]
    recipe = recipe_for(config, backbone, len(known.train), known.n_classes, sizes)
    scores: list[Cells] = []
    started = time.perf_counter()

    def scored(of: str, logits: Logits) -> None:
        right = (logits.argmax(axis=1) == labels).astype(float)
        figures = balanced_accuracy(labels, right), float(right.mean()), float(calibrated_nll(logits, labels).mean())
        scores.append((of, len(labels), *(round(each, 5) for each in figures), round(time.perf_counter() - started, 1)))

    renderers = make_renderers(recipe, backbone, inputs.training_samples, seed)
    with deterministic(seed):
        features = compute_features(cache, backbone, renderers, known, recipe, seed)
        first = train_head(features, recipe)
        seconds_head = time.perf_counter() - started
        second = fine_tune(features, first, recipe) if recipe.candidates else None
    seconds_all = time.perf_counter() - started
    renderer = features.final.renderer
    test = open_test_set(inputs, recipe, renderer, union([recipe.evaluation_views(renderer)]))
    assert test is not None, "there are test images"

    def predict(state: ModelState, views: Views) -> Logits:
        return predict_held_out(backbone, state, test, views)

    cells: list[Cells] = []
    masks = [known.fold == fold for fold in range(FOLDS)]
    fold_labels = [known.train_labels[mask] for mask in masks]
    solution = solve_head(features, features.final, recipe)
    plain = predict(first.state, PLAIN_ONLY)

    def of_folds(logits: Logits) -> list[Logits]:
        return [logits[mask] for mask in masks]

    selector = ModelSelector.of(of_folds(solution.logits[0]), fold_labels, known.class_counts)
    scored("head on stages, plain view", plain)
    for views, logits in zip(solution.view_sets[1:], solution.logits[1:], strict=True):
        after = predict(first.state, views)
        scored(f"head on stages, {name_of(views)}", after)
        cells.append(option_row(f"views:{name_of(views)}", selector, of_folds(logits), plain, after, labels))
    before = predict(first.state, first.views)
    scored("head-only", before)
    if second is not None:
        selector = ModelSelector.of(
            first.fold_logits, labels_by_fold(features.folds.validation, known), known.class_counts
        )
        pretrained_stages = backbone.snapshot(recipe.boundary)
        for trial in second.trials:
            depth = trial.candidate.depth_class
            for alpha, val_logits in trial.val_logits_by_alpha.items():
                state = interpolate(pretrained_stages, first.phase2_init, trial.fold_states[-1], alpha)
                after = predict(state, first.views)
                scored(f"two-phase {depth} {alpha:g}", after)
                cells.append(option_row(phase2_option(depth, alpha), selector, val_logits, before, after, labels))
        scored("shipped", predict(select_shipped(first, second).state, first.views))
    single = replace(recipe, candidates=(), framings=(), allow_tta=False)
    with deterministic(seed):
        apart = compute_features(cache, pretrained, [renderer], known, single, seed)
        alone = solve_head(apart, apart.final, single)
    test_alone = open_test_set(replace(inputs, backbone=pretrained), single, renderer, PLAIN_ONLY)
    assert test_alone is not None, "there are test images"
    before = predict_held_out(pretrained, head_state(alone.fit.head), test_alone, PLAIN_ONLY)
    scored("head on the last stage, plain view", before)
    selector = ModelSelector.of(of_folds(alone.logits[0]), fold_labels, known.class_counts)
    cells.append(option_row("head:stages", selector, of_folds(solution.logits[0]), before, plain, labels))
    for of, seconds in (("seconds of phase 1", seconds_head), ("seconds of both", seconds_all)):
        scores.append((of, len(labels), "", "", "", round(seconds, 1)))
    return "batch norm" if backbone.batch_norm else "layer norm", cells, scores


def runs(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Yield set, images a class and seed of each run, seed by seed, so that any prefix covers all sets."""
    for seed in arguments.seeds:
        for a_class in arguments.a_class:
            for name in arguments.sets:
                if a_class in SETS[name].a_class:
                    yield name, a_class, seed


def main() -> None:
    """Measure, and append to both files after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--scores", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[name for name, one in SETS.items() if one.role == "accuracy"])
    parser.add_argument("--a-class", nargs="+", type=int, default=[20])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--test-limit", type=int, default=TEST_LIMIT)
    arguments = parser.parse_args()
    prepare_process()
    for path, columns in ((arguments.rows, COLUMNS), (arguments.scores, SCORES)):
        if not path.exists():
            path.write_text(",".join(columns) + "\n")
    with arguments.scores.open(newline="") as file:
        done = {(row["set"], int(row["a_class"]), int(row["seed"])) for row in csv.DictReader(file)}
    for name, a_class, seed in runs(arguments):
        if (name, a_class, seed) in done:
            continue
        family, cells, scores = measure(arguments.data, name, a_class, seed, arguments.model, arguments.test_limit)
        with arguments.rows.open("a", newline="") as file:
            csv.writer(file).writerows((name, a_class, seed, family, *row) for row in cells)
        with arguments.scores.open("a", newline="") as file:
            csv.writer(file).writerows((name, a_class, seed, *row) for row in scores)
        for row in scores:
            print(name, a_class, seed, *row, flush=True)


if __name__ == "__main__":
    main()
