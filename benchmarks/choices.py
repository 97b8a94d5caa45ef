"""What auto's choices rest on: phase 2 at several depths and rates, on several kept views, mirrored or freely turned.

    python -m benchmarks.choices DATA [--sets magnetic_tile ...] [--a-class 20] [--seeds 7 8] [--ways blocks.5@3e-4 ...]

DATA and the drawing of photos are those of peers/bench.py.  Every way starts from the same solved head of its set, seed and
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
from benchmarks.peers.bench import draw
from benchmarks.peers.tables import SETS
from numpy.typing import NDArray
from unfreeze.exam import Exam, set_exam
from unfreeze.training.interpolate import between

from unfreeze.config import TrainConfig
from unfreeze.data.checks import check, readable
from unfreeze.data.loaders import Renderer
from unfreeze.data.reference import read_reference
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.data.splits import FOLDS, split
from unfreeze.evaluation.metrics import balanced_accuracy
from unfreeze.models.backbone import Backbone, Head, Tensors, new_head
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import deterministic, prepare_process
from unfreeze.training.activations import Activations
from unfreeze.training.augmentation import render_with
from unfreeze.training.finetune import ModelState
from unfreeze.training.gather import Sources, gather
from unfreeze.training.phase_one import PhaseOne, phase_one
from unfreeze.training.recipes import MILD, TURNED, Recipe, choose
from unfreeze.training.rounds import Round, TrainingData
from unfreeze.training.search import Bench
from unfreeze.training.store import Store, open_store

POINTS = (0.5, 0.75, 1.0)
Scored = tuple[float, float, float]


def ways(config: TrainConfig, named: list[str], backbone: Backbone, data: TrainingData) -> list[Recipe]:
    """Return a recipe for each ``depth@rate``."""
    settings = [(depth, float(rate)) for depth, _, rate in (way.partition("@") for way in named)]
    configs = [config.model_copy(update={"depth": depth, "lr": rate}) for depth, rate in settings]
    return [choose(each, backbone, len(data.train), data.classes) for each in configs]


@dataclass(frozen=True)
class Task:
    """One drawing of a set's photos, and what they are trained and judged with.

    Attributes:
        train: Photos to learn from.
        test: Photos to be scored on.
        known: The former, as training sees them.
        truth: Labels of the latter.
        backbone: Pretrained.
        reference: A third of the reference photos.
        config: The defaults.
    """

    train: list[Sample]
    test: list[Sample]
    known: TrainingData
    truth: NDArray[np.int64]
    backbone: Backbone
    reference: PhotoSet
    config: TrainConfig


def prepare(data: Path, name: str, a_class: int, seed: int) -> Task:
    """Draw the photos of a set, and load the backbone."""
    photos = read_photos(data / name)
    train, test = draw(photos, a_class, seed)
    sided = (*(replace(one, split="train") for one in train), *(replace(one, split="test") for one in test))
    drawn = check(PhotoSet(photos.root, photos.classes, sided))
    splits = split(drawn, test_size=None, folds=FOLDS, seed=seed)
    train, test = ([drawn.samples[i] for i in side] for side in (splits.learning, splits.test))
    backbone = load_backbone("efficientnet_lite0")
    reference = readable(read_reference(data / "imagenet_train1k", backbone.network.labels), {})
    return Task(
        train, test, TrainingData.of(train, splits, len(photos.classes)), np.array([sample.label for sample in test]),
        backbone, replace(reference, samples=reference.samples[::3]), TrainConfig(photos=data, seed=seed),
    )  # fmt: skip


@dataclass(frozen=True)
class Begun:
    """A task whose phase 1 has been.

    Attributes:
        task: Its photos and the backbone.
        head: Of the right shape, for any model.
        pretrained: The stages that phase 2 may move, as they were.
        sources: Activations at the candidates' boundaries.
        at_head: Features.
        first: Phase 1.
        exam: Test and reference photos.
    """

    task: Task
    head: Head
    pretrained: list[Tensors]
    sources: Sources
    at_head: Activations
    first: PhaseOne
    exam: Exam

    def between(self, tuned: ModelState, alpha: float) -> ModelState:
        """Return the model at ``alpha`` of the way from phase 1 to ``tuned``."""
        return between(self.pretrained, self.first.start, tuned, alpha)

    def scored(self, model: ModelState) -> Scored:
        """Return a model's scores; leaves the backbone as it was."""
        backbone, truth = self.task.backbone, self.task.truth
        model.install(backbone, self.head, self.pretrained)
        right = (self.exam.answers(backbone, self.head).argmax(1) == truth).astype(float)
        forgets = self.exam.forgets(backbone, self.head, self.pretrained)
        assert forgets is not None, "there are reference photos"
        lost = forgets(model)
        return 100 * float(right.mean()), 100 * balanced_accuracy(truth, right), 100 * lost


def begin(store: Store, task: Task, recipe: Recipe, renderer: Renderer) -> Begun:
    """Compute what a recipe needs, and do phase 1."""
    backbone, known, seed = task.backbone, task.known, task.config.seed
    sources, at_head = gather(store, backbone, renderer, known, recipe)
    exam = set_exam(store, backbone, recipe.boundary, renderer, task.test, task.reference, recipe.poses(renderer))
    pretrained, head = backbone.snapshot(recipe.boundary), new_head(backbone, known.classes, seed)
    with deterministic(seed):
        first = phase_one(store, backbone, at_head, known, recipe, seed)
    return Begun(task, head, pretrained, sources, at_head, first, exam)


def measure(data: Path, name: str, a_class: int, seed: int, named: list[str]) -> Iterator[tuple[str, Scored]]:
    """Yield what every way is worth: accuracy, balanced accuracy and what is lost of the original task, in points."""
    task = prepare(data, name, a_class, seed)
    backbone, known = task.backbone, task.known
    everything = Round(known.train, known.train[:0], None)
    for label, augmentation, views in (
        ("4 views", MILD, 4), ("8 views", MILD, 8), ("16 views", MILD, 16), ("8 turned views", TURNED, 8),
    ):  # fmt: skip
        store = open_store(None, 0)
        for number, recipe in enumerate(ways(task.config.model_copy(update={"views": views}), named, backbone, known)):
            own = replace(recipe, augmentations=(augmentation,), views=4)
            (renderer,) = render_with(own, backbone, task.train, seed)
            begun = begin(store, task, own, renderer)
            start = begun.first.start
            bench = Bench(
                backbone, begun.head, begun.pretrained, begun.sources, known, begun.first.poses,
                (everything,), (start,), POINTS, seed,
            )  # fmt: skip
            with deterministic(seed):
                tuned = bench.train(own.candidates[0], start, everything, "phase 2").weights
            if not number:
                yield f"head, {label}", begun.scored(begun.first.final)
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
