"""Ways to fine-tune, side by side: the same photos, the same test set, several seeds, and a paired test of every gain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from unfreeze.artifacts import RunFolder, new_run, write_table, write_text
from unfreeze.comparison import Comparison, Row, judge, plot
from unfreeze.config import CompareConfig, TrainConfig
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import FOLDS, TEST_SIZE, Splits, split
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.exam import Exam, set_exam
from unfreeze.inputs import open_backbone, open_photos, open_reference
from unfreeze.models.backbone import Backbone, new_head
from unfreeze.poses import Pose
from unfreeze.records import write_arguments
from unfreeze.runtime import Stopwatch, deterministic, say
from unfreeze.training.augmentation import render_with, suited
from unfreeze.training.baselines import classic, layer_decay, naive
from unfreeze.training.finetune import Weights
from unfreeze.training.gather import gather
from unfreeze.training.phase_one import phase_one
from unfreeze.training.phase_two import chosen, phase_two
from unfreeze.training.recipes import Recipe, choose
from unfreeze.training.rounds import TrainingData
from unfreeze.training.store import Store, open_store

HEAD_ONLY = "head-only"

Indices = NDArray[np.int64]
Poses = tuple[Pose, ...]


@dataclass(frozen=True)
class Contender:
    """A recipe, and what to call the models that it ends with.

    Attributes:
        recipe: How.
        first: The name of phase 1's model; None where nobody would use it by itself.
        second: The name of phase 2's model; None where there is no phase 2.
        ships: The name of the one of both that would ship; None where nothing chooses.
    """

    recipe: Recipe
    first: str | None
    second: str | None
    ships: str | None = None


def contenders(
    config: TrainConfig, epochs: int, backbone: Backbone, photos: int, classes: int
) -> tuple[Contender, ...]:
    """Return everything that is compared, ours first.

    Args:
        config: A run with our defaults.
        epochs: Of every other recipe.
        backbone: What they fine-tune.
        photos: Photos to train on.
        classes: How many there are.
    """
    halves = {"recipe": "classic", "head_epochs": epochs // 2, "epochs": epochs - epochs // 2}
    textbook = config.model_copy(update=halves)
    found = [
        Contender(choose(config, backbone, photos, classes), HEAD_ONLY, "two-phase", "auto"),
        Contender(classic(textbook, backbone, photos, classes, "frozen"), None, "classic, BatchNorm frozen"),
        Contender(classic(textbook, backbone, photos, classes, "train"), None, "classic, as in textbooks"),
        Contender(naive(backbone, epochs), "naive: all at 1e-3", None),
        Contender(layer_decay(backbone, epochs, photos), "layer decay, one phase", None),
    ]
    if not backbone.batch_norm:
        found.pop(2)  # both classics are the same
        found[1] = replace(found[1], second="classic, as in textbooks")
    return tuple(found)


def compare(config: CompareConfig) -> Comparison:
    """Train every contender with every seed, and write the comparison's folder.

    Raises:
        UnfreezeError: Any mistake that the user can mend; no folder is made before the inputs have been checked.
    """
    watch = Stopwatch()
    store, known, photos = open_photos(config, watch)
    backbone = open_backbone(config, watch)
    reference = open_reference(config.reference, backbone, photos, store, known)
    divided = [_divide(photos, config.test_size, seed) for seed in range(config.seeds)]
    folder = new_run(config.out, "compare")
    write_arguments(folder, config)
    first = divided[0]
    sides = f"{len(first.train)} to train on, {len(first.test)} to test on"
    say(f"{len(photos.samples)} photos of {len(photos.classes)} classes: {sides}")

    rows: list[Row] = []
    for seed, splits in enumerate(divided):
        for row in _one_seed(store, backbone, photos, splits, reference, config, seed):
            say(f"seed {seed}: {row.arm}: {row.accuracy * 100:.1f} % right, {row.seconds:.0f} s")
            rows.append(row)
            _write_rows(folder, rows)  # an interrupted comparison keeps what it measured
    groups = [[photos.samples[i].group for i in splits.test] for splits in divided]
    comparison = judge(folder, rows, [splits.test for splits in divided], groups, len(first.train), HEAD_ONLY)
    _write(folder, comparison)
    return comparison


def _divide(photos: PhotoSet, test_size: float | None, seed: int) -> Splits:
    return split(photos, test_size=test_size or TEST_SIZE, folds=FOLDS, seed=seed)


def _one_seed(
    store: Store,
    backbone: Backbone,
    photos: PhotoSet,
    splits: Splits,
    reference: PhotoSet | None,
    config: CompareConfig,
    seed: int,
) -> Iterator[Row]:
    """Yield a row for every model of every contender."""
    learning, test = ([photos.samples[i] for i in side] for side in (splits.learning, splits.test))
    data = TrainingData.of(learning, splits, len(photos.classes))
    ours = TrainConfig(photos=config.photos, model=config.model, seed=seed)
    truth = np.array([sample.label for sample in test])
    exams: dict[int, Exam] = {}
    for each in contenders(ours, config.epochs, backbone, len(data.train), data.classes):
        recipe = each.recipe
        renderers = render_with(recipe, backbone, learning, seed)
        if recipe.boundary not in exams:
            poses = tuple(dict.fromkeys(pose for renderer in renderers for pose in recipe.poses(renderer)))
            exams[recipe.boundary] = set_exam(store, backbone, recipe.boundary, renderers[0], test, reference, poses)
        with deterministic(seed):
            exam = exams[recipe.boundary]
            for name, weights, poses, seconds in _models(backbone, renderers, data, each, exam, seed):
                yield _row(backbone, exam, weights, poses, truth, seed, name, seconds)


def _models(
    backbone: Backbone, renderers: Sequence[Renderer], data: TrainingData, contender: Contender, exam: Exam, seed: int
) -> Iterator[tuple[str, Weights, Poses, float]]:
    """Train a contender, from photos on with nothing kept from before, and yield its models with the seconds they took."""
    recipe, watch = contender.recipe, Stopwatch()
    with watch.measure("one"):
        store = open_store(None, 0)
        renderer = suited(store, backbone, renderers, data, recipe)
        sources, at_head = gather(store, backbone, renderer, data, recipe)
        first = phase_one(store, backbone, at_head, data, recipe, seed)
    if contender.first is not None:
        yield contender.first, first.final, first.poses, watch.seconds["one"]
    if contender.second is not None:
        with watch.measure("two"):
            forgets = exam.forgets(backbone, new_head(backbone, data.classes, seed), backbone.snapshot(recipe.boundary))
            second = phase_two(backbone, sources, data, recipe, first, seed, forgets=forgets)
        took = watch.seconds["one"] + watch.seconds["two"]
        yield contender.second, second.final, first.poses, took
        if contender.ships is not None:
            yield contender.ships, chosen(first, second).final, first.poses, took


def _row(
    backbone: Backbone, exam: Exam, weights: Weights, poses: Poses, truth: Indices, seed: int, arm: str, seconds: float
) -> Row:
    """Return a model's scores; leaves the backbone as it was."""
    pretrained = backbone.snapshot(exam.boundary)
    head = new_head(backbone, len(weights.head["bias"]), seed)
    weights.install(backbone, head, pretrained)
    right = exam.answers(backbone, head, poses).argmax(1) == truth
    assert exam.test is not None, "a comparison is scored on test photos"
    own = exam.own_looks(backbone, exam.test.source, pretrained, [])
    forgotten = exam.forgetting(backbone, pretrained, own, seed, diagnose=False) or Forgetting()
    backbone.restore(pretrained)
    return Row(
        seed=seed,
        arm=arm,
        seconds=seconds,
        accuracy=float(right.mean()),
        balanced_accuracy=balanced_accuracy(truth, right.astype(float)),
        drop=forgotten.drop,
        batch_norm_drop=forgotten.batch_norm_drop,
        agreement=forgotten.agreement,
        right=right.astype(np.int64),
    )


def _write_rows(folder: RunFolder, rows: Sequence[Row]) -> None:
    cells = [
        (
            row.seed, row.arm, row.accuracy, row.balanced_accuracy, row.drop, row.batch_norm_drop, row.agreement,
            round(row.seconds, 3),
        )
        for row in rows
    ]  # fmt: skip
    write_table(
        folder.rows,
        ["seed", "arm", "accuracy", "balanced_accuracy", "drop", "batch_norm_drop", "agreement", "seconds"],
        cells,
    )


def _write(folder: RunFolder, comparison: Comparison) -> None:
    plot(comparison, folder.plot)
    figures = {"schema": 1, "n_test": comparison.n_test, "seeds": comparison.seeds, "test": comparison.test}
    lines = [asdict(line) for line in comparison.lines]
    write_text(folder.comparison, json.dumps(figures | {"arms": lines}, indent=2) + "\n")
