"""What auto's choices rest on: phase 2 at several depths and rates, on several kept views, mirrored or freely turned.

    python -m benchmarks.choices DATA [--sets magnetic_tile ...] [--a-class 20] [--seeds 7 8] [--ways blocks.5@3e-4 ...]

DATA and the drawing of photos are those of peers/sets.py.  Every way starts from the same solved head of its set, seed and
augmentation, trains on all training photos, and is scored on the test photos at several points between the phases; "lost" is
what the original classifier loses on a third of the reference photos.  Seeds differ from those of the results.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from benchmarks.peers.sets import SETS, TEST_LIMIT, draw, read_set
from numpy.typing import NDArray

from unfreeze.config import TrainConfig
from unfreeze.data.checks import check, drop_unreadable
from unfreeze.data.reference import read_reference
from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import FOLDS, Splits, split
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone, Tensors
from unfreeze.models.backbones import load_backbone
from unfreeze.models.state import ModelState, interpolate
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.scoring.forgetting import ForgettingMeter, forgetting_meter
from unfreeze.scoring.held_out import EvaluationSet, open_test_set, predict_held_out
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.cache import open_cache
from unfreeze.training.features.training_features import TrainingFeatures, compute_features
from unfreeze.training.folds import Fold, TrainingSet
from unfreeze.training.phase_one import HeadOnlyResult, train_head
from unfreeze.training.recipe import Recipe
from unfreeze.training.recipes import LIGHT_AUG, ROTATION_AUG, recipe_for
from unfreeze.training.search import SearchContext

POINTS = (0.5, 0.75, 1.0)
Scored = tuple[float, float, float]


def ways(config: TrainConfig, named: list[str], backbone: Backbone, data: TrainingSet) -> list[Recipe]:
    """Return a recipe for each ``depth@rate``."""
    settings = [(depth, float(rate)) for depth, _, rate in (way.partition("@") for way in named)]
    configs = [config.model_copy(update={"depth": depth, "lr": rate}) for depth, rate in settings]
    return [recipe_for(each, backbone, len(data.train), data.n_classes) for each in configs]


@dataclass(frozen=True)
class Task:
    """One drawing of a set's photos, and what they are trained and judged with.

    Attributes:
        inputs: The photos, how they are split, the backbone, and a third of the reference photos.
        config: The defaults.
    """

    inputs: Inputs
    config: TrainConfig

    def uncached(self) -> Task:
        """Return the same task with an empty cache of its own."""
        return replace(self, inputs=replace(self.inputs, cache=open_cache(None, 0)))

    @property
    def truth(self) -> NDArray[np.int64]:
        """Labels of the test photos."""
        return np.array([sample.label for sample in self.inputs.test_samples])


def draw_sides(data: Path, name: str, a_class: int, seed: int, limit: int = TEST_LIMIT) -> tuple[PhotoSet, Splits]:
    """Draw the photos of a set to train and to test on, read them, and split them into folds."""
    photos = read_set(name, data)
    given = draw(photos, a_class, seed, limit)
    sided = (
        *(replace(one, split="train") for one in given.train),
        *(replace(one, split="test") for one in given.test),
    )
    drawn = check(PhotoSet(photos.root, photos.classes, sided))
    return drawn, split(drawn, test_size=None, folds=FOLDS, seed=seed)


def prepare(data: Path, name: str, a_class: int, seed: int) -> Task:
    """Draw the photos of a set, and load the backbone."""
    drawn, splits = draw_sides(data, name, a_class, seed)
    backbone = load_backbone("efficientnet_lite0")
    reference = drop_unreadable(read_reference(data / "imagenet_train1k", backbone.network.labels), {})
    third = replace(reference, samples=reference.samples[::3])
    return Task(Inputs(drawn, splits, backbone, third, open_cache(None, 0), seed), TrainConfig(photos=data, seed=seed))


@dataclass(frozen=True)
class Begun:
    """A task whose phase 1 has been.

    Attributes:
        task: Its photos and the backbone.
        features: What the phases train on.
        first: Phase 1.
        pretrained: The stages that phase 2 may move, as they were.
        test: The test photos.
        meter: Measures what models lost of the original task.
    """

    task: Task
    features: TrainingFeatures
    first: HeadOnlyResult
    pretrained: list[Tensors]
    test: EvaluationSet
    meter: ForgettingMeter

    def between(self, tuned: ModelState, alpha: float) -> ModelState:
        """Return the model at ``alpha`` of the way from phase 1 to ``tuned``."""
        return interpolate(self.pretrained, self.first.phase2_init, tuned, alpha)

    def scored(self, model: ModelState) -> Scored:
        """Return a model's scores."""
        truth = self.task.truth
        said = predict_held_out(self.features.backbone, model, self.test, self.first.views)
        right = (said.argmax(axis=1) == truth).astype(float)
        lost = self.meter.drop(model)
        assert lost is not None, "there are reference photos"
        return 100 * float(right.mean()), 100 * balanced_accuracy(truth, right), 100 * lost


def begin(task: Task, recipe: Recipe) -> Begun:
    """Compute what a recipe needs, and do phase 1."""
    inputs, backbone = task.inputs, task.inputs.backbone
    renderers = make_renderers(recipe, backbone, inputs.training_samples, inputs.seed)
    with deterministic(inputs.seed):
        features = compute_features(inputs.cache, backbone, renderers, inputs.data, recipe, inputs.seed)
        first = train_head(features, recipe)
    test = open_test_set(inputs, recipe, features.final.renderer, first.views)
    assert test is not None, "there are test photos"
    meter = forgetting_meter(inputs, recipe, features.final.renderer, test)
    return Begun(task, features, first, backbone.snapshot(recipe.boundary), test, meter)


def measure(data: Path, name: str, a_class: int, seed: int, named: list[str]) -> Iterator[tuple[str, Scored]]:
    """Yield what every way is worth: accuracy, balanced accuracy and what is lost of the original task, in points."""
    task = prepare(data, name, a_class, seed)
    backbone, known = task.inputs.backbone, task.inputs.data
    everything = Fold(known.train, known.train[:0], None)
    for label, augmentation, views in (
        ("4 views", LIGHT_AUG, 4), ("8 views", LIGHT_AUG, 8), ("16 views", LIGHT_AUG, 16),
        ("8 turned views", ROTATION_AUG, 8),
    ):  # fmt: skip
        task = task.uncached()
        for number, recipe in enumerate(ways(task.config.model_copy(update={"views": views}), named, backbone, known)):
            begun = begin(task, replace(recipe, augmentations=(augmentation,), n_head_views=4))
            start = begun.first.phase2_init
            bench = SearchContext(begun.features, begun.first, begun.pretrained, POINTS)
            with deterministic(seed):
                tuned = bench.train(recipe.candidates[0], start, everything, "phase 2").state
            if not number:
                yield f"head, {label}", begun.scored(begun.first.state)
            for alpha in POINTS:
                yield f"{named[number]}, {label}, alpha {alpha:g}", begun.scored(begun.between(tuned, alpha))


def gathered(measured: Iterable[tuple[str, int, Iterable[tuple[str, Scored]]]]) -> list[tuple[str, list[Scored]]]:
    """Print what was measured of each set and seed as it comes, and return it by label."""
    found: dict[str, list[Scored]] = {}
    for name, seed, rows in measured:
        for label, figures in rows:
            print(name, seed, label, *(f"{value:.1f}" for value in figures), flush=True)
            found.setdefault(label, []).append(figures)
    return list(found.items())


def table(rows: list[tuple[str, list[Scored]]]) -> Iterator[str]:
    """Yield a line a way: means over the sets and seeds."""
    yield "| way | accuracy | balanced | lost, original task |"
    yield "| --- | --- | --- | --- |"
    for label, found in rows:
        yield f"| {label} | " + " | ".join(f"{value:.1f}" for value in np.mean(found, axis=0)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--a-class", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--ways", nargs="+", default=["blocks.6@1e-3", "blocks.5@3e-4", "blocks.5@1e-3"])
    arguments = parser.parse_args()
    prepare_process()
    pairs = itertools.product(arguments.sets, arguments.seeds)
    found = gathered(
        (name, seed, measure(arguments.data, name, arguments.a_class, seed, arguments.ways)) for name, seed in pairs
    )
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
