"""Train and score every arm of a comparison: the same images and test set for all, several seeds, paired tests."""

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
from unfreeze.errors import PhotosError
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.files import write_table, write_text
from unfreeze.inputs import Inputs, open_backbone, open_photos, open_reference, read_in_channels
from unfreeze.models.backbone import Backbone
from unfreeze.models.state import ModelState
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
from unfreeze.training.recipes import head_stages_for, recipe_for
from unfreeze.training.view_sets import union
from unfreeze.views import Views

HEAD_ONLY = "head-only"


@dataclass(frozen=True)
class Arm:
    """A recipe, and the names of the models that it produces.

    Attributes:
        recipe: The recipe.
        phase1_name: Name of phase 1's model; None where it is not scored.
        phase2_name: Name of phase 2's model; None where there is no phase 2.
        shipped_name: Name of the one of both that would ship; None where the recipe does not choose.
        head_stages: The lower stages that its head reads; every other recipe's reads the last stage alone.
    """

    recipe: Recipe
    phase1_name: str | None
    phase2_name: str | None
    shipped_name: str | None = None
    head_stages: tuple[int, ...] = ()


def all_arms(
    config: TrainConfig,
    epochs: int,
    backbone: Backbone,
    photos: int,
    classes: int,
    sizes: Sequence[tuple[int, int]] = (),
) -> tuple[Arm, ...]:
    """Return all arms of a comparison, ours first.

    Args:
        config: Settings of a run with our defaults.
        epochs: Epochs of every other recipe.
        backbone: The backbone to fine-tune.
        photos: Number of training images.
        classes: Number of classes.
        sizes: Width and height of each training image.
    """
    halves = {"recipe": "classic", "head_epochs": epochs // 2, "epochs": epochs - epochs // 2}
    textbook = config.model_copy(update=halves)
    arms = [
        Arm(
            recipe_for(config, backbone, photos, classes, sizes),
            HEAD_ONLY,
            "two-phase",
            "auto",
            head_stages_for(config, backbone),
        ),
        Arm(classic(textbook, backbone, photos, classes, "frozen"), None, "classic, BatchNorm frozen"),
        Arm(classic(textbook, backbone, photos, classes, "train"), None, "classic, as in textbooks"),
        Arm(naive(backbone, epochs), "naive: all at 1e-3", None),
        Arm(layer_decay(backbone, epochs, photos), "layer decay, one phase", None),
    ]
    if not backbone.batch_norm:
        arms.pop(2)  # without BatchNorm, both classics are the same
        arms[1] = replace(arms[1], phase2_name="classic, as in textbooks")
    return tuple(arms)


def compare(config: CompareConfig) -> Comparison:
    """Train every arm with every seed, and write the comparison's folder.

    Raises:
        UnfreezeError: Any mistake that the user can mend; no folder is made before the inputs are checked.
    """
    refuse_used(config.out)
    watch = Stopwatch()
    cache, index, photos = open_photos(config, watch)
    if photos.no_score:
        raise PhotosError(
            photos.no_score, where=photos.root, mend="Add photos of other groups: a comparison is its scores."
        )
    backbone = open_backbone(config, watch)
    splits = [_split(photos, config.test_size, seed) for seed in range(config.seeds)]
    photos, backbone = read_in_channels(config, photos, backbone, splits[0], 0, watch)
    reference = open_reference(config.reference, backbone, photos, cache, index)
    by_seed = [Inputs(photos, each, backbone, reference, cache, seed) for seed, each in enumerate(splits)]
    folder = new_run(config.out, "compare")
    write_arguments(folder, config)
    n_train, n_test = len(by_seed[0].splits.train), len(by_seed[0].splits.test)
    echo(f"{len(photos.samples)} photos of {len(photos.classes)} classes: {n_train} for training, {n_test} for testing")

    results: list[ArmResult] = []
    for inputs in by_seed:
        for result in _run_seed(inputs, config):
            accuracy = f"{result.accuracy * 100:.1f} % accuracy"
            echo(f"seed {inputs.seed}: {result.arm}: {accuracy}, {result.seconds:.0f} s")
            results.append(result)
            _write_rows(folder, results)  # after every result, so that an interrupted comparison keeps its results
    tests = [inputs.splits.test for inputs in by_seed]
    groups = [[photos.samples[i].group for i in test] for test in tests]
    comparison = summarise(folder, results, tests, groups, n_train, HEAD_ONLY)
    _write(folder, comparison)
    return comparison


def _split(photos: PhotoSet, test_size: float | None, seed: int) -> Splits:
    return split(photos, test_size=test_size or TEST_SIZE, folds=FOLDS, seed=seed)


def _run_seed(inputs: Inputs, config: CompareConfig) -> Iterator[ArmResult]:
    """Yield the result of every model of every arm."""
    pretrained, data, seed = inputs.backbone, inputs.data, inputs.seed
    defaults = TrainConfig(photos=config.photos, model=config.model, seed=seed, fit=config.fit)
    evaluations: dict[tuple[int, tuple[int, ...]], Evaluation] = {}
    sizes = [sample.size for sample in inputs.training_samples]
    for arm in all_arms(defaults, config.epochs, pretrained, len(data.train), data.n_classes, sizes):
        recipe, backbone = arm.recipe, replace(pretrained, head_stages=arm.head_stages)
        inputs, key = replace(inputs, backbone=backbone), (recipe.boundary, arm.head_stages)
        renderers = make_renderers(recipe, backbone, inputs.training_samples, seed)
        if key not in evaluations:
            views = union([recipe.evaluation_views(renderer) for renderer in renderers])
            test = open_test_set(inputs, recipe, renderers[0], views)
            assert test is not None, "a comparison has a test set"
            evaluations[key] = Evaluation(test, forgetting_meter(inputs, recipe, renderers[0], test))
        with deterministic(seed):
            evaluation = evaluations[key]
            for model in _train_models(inputs, renderers, arm, evaluation.meter):
                yield _score(inputs, evaluation, model)


@dataclass(frozen=True)
class Evaluation:
    """The test set and the forgetting meter of a seed, a boundary and the stages that the head reads."""

    test: EvaluationSet
    meter: ForgettingMeter


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, its name in the comparison, and the seconds from image files to its weights."""

    name: str
    state: ModelState
    views: Views
    seconds: float


def _train_models(
    inputs: Inputs, renderers: Sequence[Renderer], arm: Arm, meter: ForgettingMeter
) -> Iterator[TrainedModel]:
    """Train an arm with an empty feature cache, and yield its models."""
    recipe, watch = arm.recipe, Stopwatch()
    with watch.measure("phase1"):
        cache = open_cache(None, 0)
        features = compute_features(cache, inputs.backbone, renderers, inputs.data, recipe, inputs.seed)
        phase1 = train_head(features, recipe)
    if arm.phase1_name is not None:
        yield TrainedModel(arm.phase1_name, phase1.state, phase1.views, watch.seconds["phase1"])
    if arm.phase2_name is not None:
        with watch.measure("phase2"):
            phase2 = fine_tune(features, phase1, recipe, forgetting=meter.drop)
        seconds = watch.seconds["phase1"] + watch.seconds["phase2"]
        yield TrainedModel(arm.phase2_name, phase2.state, phase1.views, seconds)
        if arm.shipped_name is not None:
            yield TrainedModel(arm.shipped_name, select_shipped(phase1, phase2).state, phase1.views, seconds)


def _score(inputs: Inputs, evaluation: Evaluation, model: TrainedModel) -> ArmResult:
    """Return a model's scores on the test images, and its forgetting."""
    labels = np.array([sample.label for sample in inputs.test_samples])
    correct = predict_held_out(inputs.backbone, model.state, evaluation.test, model.views).argmax(1) == labels
    on_test_images = evaluation.meter.on_test_images(model.state)
    forgetting = evaluation.meter.measure(model.state, on_test_images, inputs.seed, diagnose=False) or Forgetting()
    return ArmResult(
        seed=inputs.seed,
        arm=model.name,
        seconds=model.seconds,
        accuracy=float(correct.mean()),
        balanced_accuracy=balanced_accuracy(labels, correct.astype(float)),
        drop=forgetting.drop,
        batch_norm_drop=forgetting.batch_norm_drop,
        agreement=forgetting.agreement,
        correct=correct.astype(np.int64),
    )


def _write_rows(folder: RunFolder, results: Sequence[ArmResult]) -> None:
    cells = [
        (
            result.seed, result.arm, result.accuracy, result.balanced_accuracy, result.drop, result.batch_norm_drop,
            result.agreement, round(result.seconds, 3),
        )
        for result in results
    ]  # fmt: skip
    write_table(
        folder.rows,
        ["seed", "arm", "accuracy", "balanced_accuracy", "drop", "batch_norm_drop", "agreement", "seconds"],
        cells,
    )


def _write(folder: RunFolder, comparison: Comparison) -> None:
    plot_accuracy_vs_forgetting(comparison, folder.plot)
    figures = {"schema": 1, "n_test": comparison.n_test, "seeds": comparison.seeds, "test": comparison.test}
    arms = [asdict(summary) for summary in comparison.summaries]
    write_text(folder.comparison, json.dumps(figures | {"arms": arms}, indent=2) + "\n")
