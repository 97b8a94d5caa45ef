"""The verdict: the scores, the gain and the forgetting of a run, put together."""

from __future__ import annotations

from unfreeze.config import TrainConfig
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.inputs import Inputs
from unfreeze.models.engine import engine_used
from unfreeze.scoring.evidence import Evidence, paired_gain, score_sheet, searched
from unfreeze.training.phase_one import PhaseOne
from unfreeze.training.phase_two import PhaseTwo, chosen
from unfreeze.training.training_features import TrainingFeatures
from unfreeze.verdict import Cost, Data, Model, Verdict, frozen_engine
from unfreeze.version import versions


def build_verdict(
    config: TrainConfig,
    inputs: Inputs,
    features: TrainingFeatures,
    first: PhaseOne,
    second: PhaseTwo | None,
    evidence: Evidence,
    forgotten: Forgetting | None,
    cost: Cost,
) -> Verdict:
    """Score both models' predictions, and say which model ships.

    Args:
        config: The run's.
        inputs: Its images and backbone.
        features: What it trained on.
        first: Phase 1.
        second: Phase 2; None where it didn't run.
        evidence: Both models' predictions for images that they were not trained on.
        forgotten: What was measured of the original task.
        cost: What the run took.
    """
    groups = [inputs.photos.samples[image].group for image in evidence.photos]
    shipped = chosen(first, second)
    augmentation = features.final.renderer.augmentation
    boundary = second.trial.candidate.boundary if second is not None else inputs.backbone.head_boundary
    return Verdict(
        shipped="two_phase" if shipped is second else "head_only",
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
            alpha=second.alpha if second is not None and shipped is second else 0.0,
            bn=config.bn,
            orientations=tuple(pose.name.lower() for pose in first.poses),
            symmetry=augmentation.symmetry if augmentation is not None else None,
        ),
        scores=score_sheet(evidence, groups, shipped.temperature, inputs.seed),
        gain=paired_gain(evidence, groups, inputs.seed),
        forgetting=forgotten,
        trials=searched(features.data, features.folds.validation, first, second) if second is not None else (),
        warnings=second.setbacks if second is not None else (),
        cost=cost,
        versions=versions(),
        frozen_engine=frozen_engine(engine_used(inputs.backbone)),
    )
