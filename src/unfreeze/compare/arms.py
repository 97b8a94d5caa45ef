"""Ways to fine-tune, side by side: the same photos, the same test set, several seeds, and a paired test of every gain."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from unfreeze.compare.baselines import classic, layer_decay, naive
from unfreeze.compare.results import ArmResult, Comparison, plot_accuracy_vs_forgetting, summarise
from unfreeze.config import CompareConfig, TrainConfig
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import FOLDS, TEST_SIZE, Splits, split
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.files import write_table, write_text
from unfreeze.inputs import Inputs, open_backbone, open_photos, open_reference
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState
from unfreeze.orientations import Orientation
from unfreeze.runs.folder import RunFolder, new_run, refuse_used
from unfreeze.runs.writers import write_arguments
from unfreeze.runtime import Stopwatch, deterministic, echo
from unfreeze.scoring.forgetting import ForgettingMeter, forgetting_meter
from unfreeze.scoring.held_out import EvaluationSet, open_test_set, predict_held_out
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune, select_shipped
from unfreeze.training.recipe import Recipe
from unfreeze.training.recipes import recipe_for

HEAD_ONLY = "head-only"


@dataclass(frozen=True)
class Arm:
    """A recipe, and what to call the models that it ends with.

    Attributes:
        recipe: How.
        phase1_name: The name of phase 1's model; None where nobody would use it by itself.
        phase2_name: The name of phase 2's model; None where there is no phase 2.
        shipped_name: The name of the one of both that would ship; None where nothing chooses.
    """

    recipe: Recipe
    phase1_name: str | None
    phase2_name: str | None
    shipped_name: str | None = None


def all_arms(config: TrainConfig, epochs: int, backbone: Backbone, photos: int, classes: int) -> tuple[Arm, ...]:
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
        Arm(recipe_for(config, backbone, photos, classes), HEAD_ONLY, "two-phase", "auto"),
        Arm(classic(textbook, backbone, photos, classes, "frozen"), None, "classic, BatchNorm frozen"),
        Arm(classic(textbook, backbone, photos, classes, "train"), None, "classic, as in textbooks"),
        Arm(naive(backbone, epochs), "naive: all at 1e-3", None),
        Arm(layer_decay(backbone, epochs, photos), "layer decay, one phase", None),
    ]
    if not backbone.batch_norm:
        found.pop(2)  # both classics are the same
        found[1] = replace(found[1], phase2_name="classic, as in textbooks")
    return tuple(found)


def compare(config: CompareConfig) -> Comparison:
    """Train every contender with every seed, and write the comparison's folder.

    Raises:
        UnfreezeError: Any mistake that the user can mend; no folder is made before the inputs have been checked.
    """
    refuse_used(config.out)
    watch = Stopwatch()
    store, known, photos = open_photos(config, watch)
    backbone = open_backbone(config, watch)
    reference = open_reference(config.reference, backbone, photos, store, known)
    by_seed = [
        Inputs(photos, _split(photos, config.test_size, seed), backbone, reference, store, seed)
        for seed in range(config.seeds)
    ]
    folder = new_run(config.out, "compare")
    write_arguments(folder, config)
    first = by_seed[0].splits
    sides = f"{len(first.train)} to train on, {len(first.test)} to test on"
    echo(f"{len(photos.samples)} photos of {len(photos.classes)} classes: {sides}")

    rows: list[ArmResult] = []
    for inputs in by_seed:
        for row in _one_seed(inputs, config):
            echo(f"seed {inputs.seed}: {row.arm}: {row.accuracy * 100:.1f} % right, {row.seconds:.0f} s")
            rows.append(row)
            _write_rows(folder, rows)  # an interrupted comparison keeps what it measured
    tests = [inputs.splits.test for inputs in by_seed]
    groups = [[photos.samples[i].group for i in test] for test in tests]
    comparison = summarise(folder, rows, tests, groups, len(first.train), HEAD_ONLY)
    _write(folder, comparison)
    return comparison


def _split(photos: PhotoSet, test_size: float | None, seed: int) -> Splits:
    return split(photos, test_size=test_size or TEST_SIZE, folds=FOLDS, seed=seed)


def _one_seed(inputs: Inputs, config: CompareConfig) -> Iterator[ArmResult]:
    """Yield a row for every model of every contender."""
    backbone, data, seed = inputs.backbone, inputs.data, inputs.seed
    defaults = TrainConfig(photos=config.photos, model=config.model, seed=seed)
    evaluations: dict[int, Evaluation] = {}
    for each in all_arms(defaults, config.epochs, backbone, len(data.train), data.n_classes):
        recipe = each.recipe
        renderers = make_renderers(recipe, backbone, inputs.training_samples, seed)
        if recipe.boundary not in evaluations:
            orientations = tuple(
                dict.fromkeys(orientation for renderer in renderers for orientation in recipe.orientations(renderer))
            )
            test = open_test_set(inputs, recipe, renderers[0], orientations)
            assert test is not None, "a comparison has a test set"
            evaluations[recipe.boundary] = Evaluation(test, forgetting_meter(inputs, recipe, renderers[0], test))
        with deterministic(seed):
            evaluation = evaluations[recipe.boundary]
            for model in _models(inputs, renderers, each, evaluation.meter):
                yield _row(inputs, evaluation, model)


@dataclass(frozen=True)
class Evaluation:
    """What every model of a seed is scored on."""

    test: EvaluationSet
    meter: ForgettingMeter


@dataclass(frozen=True)
class Model:
    """A trained model, what the comparison calls it, and the seconds that it took from photos on."""

    arm: str
    state: ModelState
    orientations: tuple[Orientation, ...]
    seconds: float


def _models(inputs: Inputs, renderers: Sequence[Renderer], contender: Arm, meter: ForgettingMeter) -> Iterator[Model]:
    """Train a contender, from photos on with nothing cached from before, and yield its models."""
    recipe, watch = contender.recipe, Stopwatch()
    with watch.measure("one"):
        cache = open_cache(None, 0)
        features = compute_features(cache, inputs.backbone, renderers, inputs.data, recipe, inputs.seed)
        first = train_head(features, recipe)
    if contender.phase1_name is not None:
        yield Model(contender.phase1_name, first.state, first.orientations, watch.seconds["one"])
    if contender.phase2_name is not None:
        with watch.measure("two"):
            second = fine_tune(features, first, recipe, forgetting=meter.drop)
        took = watch.seconds["one"] + watch.seconds["two"]
        yield Model(contender.phase2_name, second.state, first.orientations, took)
        if contender.shipped_name is not None:
            yield Model(contender.shipped_name, select_shipped(first, second).state, first.orientations, took)


def _row(inputs: Inputs, evaluation: Evaluation, model: Model) -> ArmResult:
    """Return a model's scores."""
    truth = np.array([sample.label for sample in inputs.test_samples])
    right = predict_held_out(inputs.backbone, model.state, evaluation.test, model.orientations).argmax(1) == truth
    own = evaluation.meter.on_test_images(model.state)
    forgotten = evaluation.meter.measure(model.state, own, inputs.seed, diagnose=False) or Forgetting()
    return ArmResult(
        seed=inputs.seed,
        arm=model.arm,
        seconds=model.seconds,
        accuracy=float(right.mean()),
        balanced_accuracy=balanced_accuracy(truth, right.astype(float)),
        drop=forgotten.drop,
        batch_norm_drop=forgotten.batch_norm_drop,
        agreement=forgotten.agreement,
        right=right.astype(np.int64),
    )


def _write_rows(folder: RunFolder, rows: Sequence[ArmResult]) -> None:
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
    plot_accuracy_vs_forgetting(comparison, folder.plot)
    figures = {"schema": 1, "n_test": comparison.n_test, "seeds": comparison.seeds, "test": comparison.test}
    lines = [asdict(line) for line in comparison.lines]
    write_text(folder.comparison, json.dumps(figures | {"arms": lines}, indent=2) + "\n")
