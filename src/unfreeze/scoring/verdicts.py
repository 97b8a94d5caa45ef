"""The verdict: the scores, the gain and the forgetting of a run, put together."""

from __future__ import annotations

from unfreeze.acceleration.frozen import engine_used
from unfreeze.config import TrainConfig
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.inputs import Inputs
from unfreeze.scoring.evidence import HeldOutPredictions, paired_gain, score_sheet, summarise_trials
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult, select_shipped
from unfreeze.verdict import Cost, Data, Model, Verdict, frozen_engine
from unfreeze.version import versions


def build_verdict(
    config: TrainConfig,
    inputs: Inputs,
    features: TrainingFeatures,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
    predictions: HeldOutPredictions,
    forgotten: Forgetting | None,
    cost: Cost,
) -> Verdict:
    """Score both models' predictions, and say which model ships.

    Args:
        config: The run's.
        inputs: Its images and backbone.
        features: What it trained on.
        phase1: Phase 1.
        phase2: Phase 2; None where it didn't run.
        predictions: Both models' predictions for images that they were not trained on.
        forgotten: What was measured of the original task.
        cost: What the run took.
    """
    groups = [inputs.photos.samples[image].group for image in predictions.image_ids]
    shipped = select_shipped(phase1, phase2)
    augmentation = features.final.renderer.augmentation
    boundary = phase2.trial.candidate.boundary if phase2 is not None else inputs.backbone.head_boundary
    return Verdict(
        shipped="two_phase" if shipped is phase2 else "head_only",
        data=Data(
            n_train=len(inputs.splits.train),
            n_test=len(inputs.splits.test),
            classes=inputs.photos.classes,
            left_out=len(inputs.photos.left_out),
        ),
        model=Model(
            name=inputs.backbone.name,
            boundary=boundary,
            depth=inputs.backbone.depths()[boundary],
            alpha=phase2.alpha if phase2 is not None and shipped is phase2 else 0.0,
            bn=config.bn,
            orientations=tuple(orientation.name.lower() for orientation in phase1.orientations),
            symmetry=augmentation.symmetry if augmentation is not None else None,
        ),
        scores=score_sheet(predictions, groups, shipped.temperature, inputs.seed),
        gain=paired_gain(predictions, groups, inputs.seed),
        forgetting=forgotten,
        trials=summarise_trials(features.data, features.folds.validation, phase1, phase2) if phase2 is not None else (),
        warnings=phase2.warnings if phase2 is not None else (),
        cost=cost,
        versions=versions(),
        frozen_engine=frozen_engine(engine_used(inputs.backbone)),
    )
