"""Outputs of the original classifier before and after fine-tuning, for held-out and for reference images."""

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
from unfreeze.models.backbone import Backbone
from unfreeze.models.pooling import pool
from unfreeze.models.state import PRETRAINED, ModelState, loaded
from unfreeze.predict import Logits, evaluation_mode, to_model_input
from unfreeze.scoring.held_out import EvaluationSet, Indices, evaluation_set
from unfreeze.training.features.demand import held_out_request
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult
from unfreeze.training.recipe import Recipe

MAX_DIAGNOSTIC_IMAGES = 2000  # images whose stage features and logits are stored
MIN_PROBE_IMAGES = 50  # images; a linear probe can't be fitted on fewer

Features = NDArray[np.float32]


@dataclass(frozen=True)
class OriginalOutputs:
    """Outputs of the original classifier for N images.

    Attributes:
        top1: The most probable class of each image (N,).
        ranks: The number of classes with a higher logit than the label (N,); None without labels.
        logits: Logits of the first M images, up to ``MAX_DIAGNOSTIC_IMAGES``, shape (M, classes of the original task).
        stages: Pooled outputs of each stage from the boundary up for the same M images, each of shape (M, D).
    """

    top1: Indices
    ranks: Indices | None
    logits: Logits
    stages: tuple[Features, ...]


BeforeAndAfter = tuple[OriginalOutputs, OriginalOutputs]


def original_outputs(
    backbone: Backbone, images: EvaluationSet, state: ModelState = PRETRAINED, n_diagnosed: int = MAX_DIAGNOSTIC_IMAGES
) -> OriginalOutputs:
    """Run the original classifier on ``state``'s backbone; store logits and stages of ``n_diagnosed`` images."""
    stages = backbone.stages[images.boundary :]
    top1: list[Indices] = []
    label_ranks: list[Indices] = []
    first_logits: list[Logits] = []
    stage_outputs: list[list[Features]] = [[] for _ in stages]
    done = 0
    with loaded(backbone, state), torch.inference_mode():
        evaluation_mode(backbone)
        for batch in images.batches("running the original classifier"):
            x = to_model_input(batch, backbone, images.boundary)
            diagnosed = done < n_diagnosed
            for stage, outputs in zip(stages, stage_outputs, strict=True):
                x = stage.module(x)
                if diagnosed:
                    outputs.append(pool(x).float().cpu().numpy())
            logits = backbone.classifier(x).float().cpu().numpy()
            top1.append(logits.argmax(1))
            if images.labels is not None:
                label_ranks.append(ranks(logits, images.labels[done : done + len(logits)]))
            if diagnosed:
                first_logits.append(logits)
            done += len(logits)
    return OriginalOutputs(
        np.concatenate(top1),
        np.concatenate(label_ranks) if images.labels is not None else None,
        np.concatenate(first_logits) if first_logits else np.empty((0, backbone.network.num_classes), np.float32),
        tuple(np.concatenate(outputs) for outputs in stage_outputs if outputs),
    )


@dataclass(frozen=True)
class ReferenceSet:
    """Images of the original task, with the original classifier's outputs on the pretrained backbone."""

    name: str
    images: EvaluationSet
    before: OriginalOutputs


@dataclass(frozen=True)
class ForgettingMeter:
    """Measures how much of the original task models have forgotten.

    Attributes:
        backbone: The pretrained backbone.
        boundary: Index of the first stage in which a model may differ from the pretrained backbone.
        reference: Images of the original task; None where none are given.
        test: The user's test images, with the original classifier's outputs on the pretrained backbone; None without
            test images or without an original classifier.
    """

    backbone: Backbone
    boundary: int
    reference: ReferenceSet | None = None
    test: tuple[EvaluationSet, OriginalOutputs] | None = None

    def drop(self, state: ModelState) -> float | None:
        """Return a model's loss of accuracy on the original task, a fraction; None without reference images."""
        if self.reference is None:
            return None
        after = original_outputs(self.backbone, self.reference.images, state, n_diagnosed=0)
        return _accuracy(self.reference.before) - _accuracy(after)

    def on_test_images(self, state: ModelState) -> list[BeforeAndAfter]:
        """Return the outputs for the test images on the pretrained and a model's backbone; empty without them."""
        if self.test is None:
            return []
        images, before = self.test
        return [(before, original_outputs(self.backbone, images, state))]

    def on_folds(self, folds: Sequence[tuple[ModelState, EvaluationSet]]) -> list[BeforeAndAfter]:
        """Return the outputs for the images of each fold on the pretrained backbone and on the fold's model's."""
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
            seed: Seed of the bootstrap.
            diagnose: Whether to fit linear probes and to compare stages, too.

        Returns:
            The measurements; None without an original classifier, or without both reference and own images.
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
            before, after_own = [pair[0] for pair in own], [pair[1] for pair in own]
            measured = measured.with_agreement(
                np.concatenate([outputs.top1 for outputs in before]),
                np.concatenate([outputs.top1 for outputs in after_own]),
                divergence(_log_probabilities(before), _log_probabilities(after_own)),
            )
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
            with_original_bn=self._ranks_with_original_bn(reference, state, after.ranks),
            num_classes=self.backbone.network.num_classes,
            seed=seed,
        )

    def _ranks_with_original_bn(self, reference: ReferenceSet, state: ModelState, after: Indices) -> Indices:
        """Return the ranks of the reference images with a model's weights and the pretrained BatchNorm statistics."""
        mixed = state.with_buffers_of(self.backbone)
        if all(torch.equal(a[k], b[k]) for a, b in zip(mixed.stages, state.stages, strict=True) for k in a):
            return after
        with_original_bn = original_outputs(self.backbone, reference.images, mixed, n_diagnosed=0).ranks
        assert with_original_bn is not None
        return with_original_bn


def forgetting_meter(inputs: Inputs, recipe: Recipe, renderer: Renderer, test: EvaluationSet | None) -> ForgettingMeter:
    """Run the original classifier on the pretrained backbone, for the user's test images and the reference images."""
    backbone, reference = inputs.backbone, inputs.reference
    has_classifier = backbone.network.num_classes > 0
    test_outputs = (test, original_outputs(backbone, test)) if has_classifier and test is not None else None
    if reference is None:
        return ForgettingMeter(backbone, recipe.boundary, None, test_outputs)
    labels = np.array([sample.label for sample in reference.samples])
    reference_renderer = renderer.for_samples(reference.samples)
    request = held_out_request(reference_renderer, recipe.boundary, description="reading reference photos")
    images = evaluation_set(inputs.cache, backbone, request, labels)
    reference_set = ReferenceSet(display_name(str(reference.root)), images, original_outputs(backbone, images))
    return ForgettingMeter(backbone, recipe.boundary, reference_set, test_outputs)


def measure_forgetting(
    meter: ForgettingMeter,
    features: TrainingFeatures,
    recipe: Recipe,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
) -> Forgetting | None:
    """Measure the forgetting of the last phase's model; cross-fitted, of each fold's model on the fold's images."""
    state = phase1.state if phase2 is None else phase2.state
    own = meter.on_test_images(state)
    if recipe.cross_fit and phase2 is not None:
        folds = zip(features.folds.validation, phase2.fold_states, strict=True)
        own = meter.on_folds(
            [
                (fold_state, EvaluationSet(features.of(fold).by_boundary[recipe.cache_boundary], fold.val))
                for fold, fold_state in folds
            ]
        )
    return meter.measure(state, own, features.seed)


def _accuracy(outputs: OriginalOutputs) -> float:
    assert outputs.ranks is not None
    return float((outputs.ranks == 0).mean())


def _with_probe(measured: Forgetting, reference: ReferenceSet, after: OriginalOutputs, seed: int) -> Forgetting:
    """Add the accuracy of linear probes on both backbones, if there are enough images to fit them."""
    before, labels = reference.before, reference.images.labels
    assert labels is not None
    if len(before.logits) < MIN_PROBE_IMAGES:
        return measured
    top1_before = top1_after = probe(before.stages[-1], before.logits)
    if not np.array_equal(before.stages[-1], after.stages[-1]):
        top1_after = probe(after.stages[-1], before.logits)
    return measured.with_probe(labels[: len(top1_before)], top1_before, top1_after, seed)


def _log_probabilities(outputs: Sequence[OriginalOutputs]) -> NDArray[np.float64]:
    logits = torch.from_numpy(np.concatenate([images.logits for images in outputs])).double()
    log_probabilities: NDArray[np.float64] = torch.log_softmax(logits, dim=1).numpy()
    return log_probabilities


def _cka_by_stage(backbone: Backbone, boundary: int, pairs: Sequence[BeforeAndAfter]) -> dict[str, float]:
    """Return the linear CKA of each stage's outputs before and after, averaged over the pairs."""
    by_stage: dict[str, float] = {}
    for index, stage in enumerate(backbone.stages[boundary:]):
        values = [linear_cka(before.stages[index], after.stages[index]) for before, after in pairs]
        defined = [value for value in values if value is not None]
        if defined:
            by_stage[stage.name] = float(np.mean(defined))
    return by_stage
