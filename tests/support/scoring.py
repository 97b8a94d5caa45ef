"""What scoring is given: a run's inputs, its test set, and what measures forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tests.support.photos import CLASSES
from tests.support.training import Task, candidate, new_store, recipe

from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.data.splits import Splits
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone
from unfreeze.scoring.forgetting import ForgettingMeter, forgetting_meter
from unfreeze.scoring.held_out import EvaluationSet, open_test_set
from unfreeze.training.features.cache import FeatureCache
from unfreeze.views import PLAIN_ONLY


def inputs_of(
    backbone: Backbone,
    paths: Sequence[Path],
    given: Task,
    reference: PhotoSet | None = None,
    cache: FeatureCache | None = None,
) -> Inputs:
    """Return a run's inputs, of whose photos a task says which are tested on."""
    samples = tuple(
        Sample(path, path.name, number % CLASSES, digest=given.renderer.digests[number])
        for number, path in enumerate(paths)
    )
    fold = np.full(len(paths), -1)
    fold[given.data.train] = given.data.fold
    splits = Splits(given.data.train, given.data.val, given.test, fold)
    return Inputs(
        PhotoSet(paths[0].parent, tuple("abc"), samples), splits, backbone, reference, cache or new_store(), 0
    )


@dataclass(frozen=True)
class Evaluation:
    """The test set of a task, None where there is none, and what measures forgetting."""

    test: EvaluationSet | None
    meter: ForgettingMeter

    @property
    def held_out(self) -> EvaluationSet:
        assert self.test is not None, "the task has test photos"
        return self.test


def evaluation(
    backbone: Backbone, paths: Sequence[Path], given: Task, boundary: int, reference: PhotoSet | None = None
) -> Evaluation:
    """Set up what a run does whose models differ from the pretrained network from ``boundary`` up."""
    inputs, how = inputs_of(backbone, paths, given, reference), recipe(backbone, candidate(backbone, boundary))
    test = open_test_set(inputs, how, given.renderer, PLAIN_ONLY)
    return Evaluation(test, forgetting_meter(inputs, how, given.renderer, test))
