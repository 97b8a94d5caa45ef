"""What the original classifier predicts before and after: on the user's own held-out images, and on reference images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unfreeze.data.folders import display_name
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.evaluation.forgetting import Forgetting, divergence, forgetting, ranks
from unfreeze.evaluation.similarity import linear_cka, probe
from unfreeze.inputs import Inputs
from unfreeze.models.backbone import Backbone, pool
from unfreeze.models.state import ModelState, loaded
from unfreeze.predict import Logits, evaluation_mode, to_model_input
from unfreeze.scoring.held_out import EvaluationSet, Indices, evaluation_set
from unfreeze.training.features.demand import held_out_request
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult
from unfreeze.training.recipe import Recipe

MAX_DIAGNOSTIC_IMAGES = 2000  # of so many, every stage's features and every class's logit are kept
MIN_PROBE_IMAGES = 50  # with fewer, a linear probe can't be fitted

Features = NDArray[np.float32]


@dataclass(frozen=True)
class OriginalOutputs:
    """What the original classifier predicts for some images.

    Attributes:
        top1: Its most probable class (N,).
        ranks: How many classes it finds likelier than the label (N,); None where there are no labels.
        logits: Of the first ``MAX_DIAGNOSTIC_IMAGES`` images (M, classes of the original task).
        stages: The pooled outputs of each stage from the boundary up for those, each of shape (M, D).
    """

    top1: Indices
    ranks: Indices | None
    logits: Logits
    stages: tuple[Features, ...]


BeforeAndAfter = tuple[OriginalOutputs, OriginalOutputs]
PRETRAINED = ModelState([], {})


def original_outputs(
    backbone: Backbone, images: EvaluationSet, state: ModelState = PRETRAINED, n_diagnosed: int = MAX_DIAGNOSTIC_IMAGES
) -> OriginalOutputs:
    """Run the original classifier on the backbone of ``state``; keep logits and stages of the first ``n_diagnosed``."""
    stages = backbone.stages[images.boundary :]
    top1: list[Indices] = []
    label_ranks: list[Indices] = []
    kept: list[Logits] = []
    outputs: list[list[Features]] = [[] for _ in stages]
    done = 0
    with loaded(backbone, state), torch.inference_mode():
        evaluation_mode(backbone)
        for batch in images.batches("running the original classifier"):
            x = to_model_input(batch, backbone, images.boundary)
            diagnosed = done < n_diagnosed
            for stage, of_stage in zip(stages, outputs, strict=True):
                x = stage.module(x)
                if diagnosed:
                    of_stage.append(pool(x).float().cpu().numpy())
            logits = backbone.classifier(x).float().cpu().numpy()
            top1.append(logits.argmax(1))
            if images.labels is not None:
                label_ranks.append(ranks(logits, images.labels[done : done + len(logits)]))
            if diagnosed:
                kept.append(logits)
            done += len(logits)
    return OriginalOutputs(
        np.concatenate(top1),
        np.concatenate(label_ranks) if images.labels is not None else None,
        np.concatenate(kept) if kept else np.empty((0, backbone.network.num_classes), np.float32),
        tuple(np.concatenate(of_stage) for of_stage in outputs if of_stage),
    )


@dataclass(frozen=True)
class ReferenceSet:
    """Images of the original task, and what the original classifier predicts for them at first."""

    name: str
    images: EvaluationSet
    before: OriginalOutputs


@dataclass(frozen=True)
class ForgettingMeter:
    """Measures what models have lost of the original task.

    Attributes:
        backbone: Pretrained.
        boundary: No model differs from the pretrained network below.
        reference: Images of the original task; None where none are given.
        test: The user's test images, with what the original classifier predicts for them at first; None where there are no
            test images, or no original classifier.
    """

    backbone: Backbone
    boundary: int
    reference: ReferenceSet | None = None
    test: tuple[EvaluationSet, OriginalOutputs] | None = None

    def drop(self, state: ModelState) -> float | None:
        """Return how much accuracy a model lost at the original task, a fraction; None without reference images."""
        if self.reference is None:
            return None
        after = original_outputs(self.backbone, self.reference.images, state, n_diagnosed=0)
        return _accuracy(self.reference.before) - _accuracy(after)

    def on_test_images(self, state: ModelState) -> list[BeforeAndAfter]:
        """Return the outputs for the user's test images on the pretrained backbone and on a model's; none without them."""
        if self.test is None:
            return []
        images, before = self.test
        return [(before, original_outputs(self.backbone, images, state))]

    def on_folds(self, folds: Sequence[tuple[ModelState, EvaluationSet]]) -> list[BeforeAndAfter]:
        """Return the same for the images of each fold, on the backbone of the fold's own model."""
        if not self.backbone.network.num_classes:
            return []
        return [
            (original_outputs(self.backbone, images), original_outputs(self.backbone, images, state))
            for state, images in folds
        ]

    def measure(
        self, state: ModelState, own: Sequence[BeforeAndAfter], seed: int, *, diagnose: bool = True
    ) -> Forgetting | None:
        """Compare the original classifier on a model's backbone with the pretrained one.

        Args:
            state: The model.
            own: Outputs for the user's own held-out images, before and after.
            seed: Of the bootstrap.
            diagnose: Whether to fit linear probes and to compare stages, too.

        Returns:
            What was measured; None where nothing could be: no original classifier, or neither reference nor own images.
        """
        if self.reference is None and not own:
            return None
        measured, pairs = Forgetting(), list(own)
        if self.reference is not None:
            after = original_outputs(self.backbone, self.reference.images, state)
            pairs = [(self.reference.before, after)]
            measured = self._on_reference(self.reference, state, after, seed)
            if diagnose:
                measured = _with_probe(measured, self.reference, after, seed)
        if own:
            first, last = (_log_probabilities([pair[side] for pair in own]) for side in (0, 1))
            top1 = [np.concatenate([pair[side].top1 for pair in own]) for side in (0, 1)]
            measured = measured.with_agreement(top1[0], top1[1], divergence(first, last))
        return measured.with_cka(_cka_by_stage(self.backbone, self.boundary, pairs)) if diagnose else measured

    def _on_reference(
        self, reference: ReferenceSet, state: ModelState, after: OriginalOutputs, seed: int
    ) -> Forgetting:
        assert reference.before.ranks is not None
        assert after.ranks is not None
        return forgetting(
            reference=reference.name,
            before=reference.before.ranks,
            after=after.ranks,
            restored=self._ranks_with_original_bn(reference, state, after.ranks),
            outputs=self.backbone.network.num_classes,
            seed=seed,
        )

    def _ranks_with_original_bn(self, reference: ReferenceSet, state: ModelState, after: Indices) -> Indices:
        """Return the reference images' ranks with a model's weights, but the pretrained buffers: BatchNorm's statistics."""
        mixed = state.with_buffers_of(self.backbone)
        if all(torch.equal(a[k], b[k]) for a, b in zip(mixed.stages, state.stages, strict=True) for k in a):
            return after
        restored = original_outputs(self.backbone, reference.images, mixed, n_diagnosed=0).ranks
        assert restored is not None
        return restored


def forgetting_meter(inputs: Inputs, recipe: Recipe, renderer: Renderer, test: EvaluationSet | None) -> ForgettingMeter:
    """Run the original classifier on the pretrained backbone, for the user's test images and for reference images."""
    backbone, reference = inputs.backbone, inputs.reference
    known = test is not None and backbone.network.num_classes > 0
    with_outputs = (test, original_outputs(backbone, test)) if known and test is not None else None
    if reference is None:
        return ForgettingMeter(backbone, recipe.boundary, None, with_outputs)
    labels = np.array([sample.label for sample in reference.samples])
    of_reference = renderer.for_samples(reference.samples)
    request = held_out_request(of_reference, recipe.boundary, description="reading reference photos")
    images = evaluation_set(inputs.cache, backbone, request, labels)
    reference_set = ReferenceSet(display_name(str(reference.root)), images, original_outputs(backbone, images))
    return ForgettingMeter(backbone, recipe.boundary, reference_set, with_outputs)


def measure_forgetting(
    meter: ForgettingMeter,
    features: TrainingFeatures,
    recipe: Recipe,
    first: HeadOnlyResult,
    second: TwoPhaseResult | None,
) -> Forgetting | None:
    """Measure what the last phase's model has lost; cross-fitted, on each fold's images by the fold's own model."""
    state = first.state if second is None else second.state
    own = meter.on_test_images(state)
    if recipe.cross_fit and second is not None:
        folds = zip(features.folds.validation, second.fold_states, strict=True)
        own = meter.on_folds(
            [
                (of_fold, EvaluationSet(features.of(fold).by_boundary[recipe.cache_boundary], fold.val))
                for fold, of_fold in folds
            ]
        )
    return meter.measure(state, own, features.seed)


def _accuracy(outputs: OriginalOutputs) -> float:
    assert outputs.ranks is not None
    return float((outputs.ranks == 0).mean())


def _with_probe(measured: Forgetting, reference: ReferenceSet, after: OriginalOutputs, seed: int) -> Forgetting:
    """Add the accuracy of linear probes on both backbones, where there are enough images to fit them."""
    before, labels = reference.before, reference.images.labels
    assert labels is not None
    if len(before.logits) < MIN_PROBE_IMAGES:
        return measured
    first = probe(before.stages[-1], before.logits)
    moved = not np.array_equal(before.stages[-1], after.stages[-1])
    last = probe(after.stages[-1], before.logits) if moved else first
    return measured.with_probe(labels[: len(first)], first, last, seed)


def _log_probabilities(outputs: Sequence[OriginalOutputs]) -> NDArray[np.float64]:
    logits = torch.from_numpy(np.concatenate([each.logits for each in outputs])).double()
    log_probabilities: NDArray[np.float64] = torch.log_softmax(logits, dim=1).numpy()
    return log_probabilities


def _cka_by_stage(backbone: Backbone, boundary: int, pairs: Sequence[BeforeAndAfter]) -> dict[str, float]:
    """Return each stage's linear CKA before and after, the mean over the pairs."""
    by_stage: dict[str, float] = {}
    for index, stage in enumerate(backbone.stages[boundary:]):
        values = [linear_cka(before.stages[index], after.stages[index]) for before, after in pairs]
        known = [value for value in values if value is not None]
        if known:
            by_stage[stage.name] = float(np.mean(known))
    return by_stage
