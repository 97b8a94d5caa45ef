"""The verdict of a run, assembled from its scores, its gain, its forgetting and its cost."""

from __future__ import annotations

from dataclasses import asdict

from unfreeze.acceleration.frozen import engine_used
from unfreeze.config import TrainConfig
from unfreeze.data.rendering.coverage import MUCH_UNSEEN, seen_share
from unfreeze.evaluation.expected_gain import Posterior
from unfreeze.evaluation.forgetting import Forgetting
from unfreeze.inputs import Inputs
from unfreeze.planning.forecast import Forecast
from unfreeze.runtime import Stopwatch, peak_rss_mib
from unfreeze.scoring.evidence import HeldOutPredictions, paired_gain, score_sheet, summarise_trials
from unfreeze.training.features.training_features import TrainingFeatures
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult, select_shipped
from unfreeze.verdict import Cost, Data, ExpectedGain, InputChannel, Model, Verdict, View, frozen_engine
from unfreeze.version import versions
from unfreeze.views import framings_of


def measure_cost(watch: Stopwatch, forecast: Forecast, phase2: TwoPhaseResult | None) -> Cost:
    """Return the seconds of each part so far, the forecast for the candidates that were tried, and the peak memory."""
    n_tried = len(phase2.trials) if phase2 is not None else 0
    return Cost(seconds=watch.report(), forecast=forecast.seconds(n_tried), peak_rss_mib=peak_rss_mib())


def build_verdict(
    config: TrainConfig,
    inputs: Inputs,
    features: TrainingFeatures,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
    predictions: HeldOutPredictions,
    forgetting: Forgetting | None,
    cost: Cost,
) -> Verdict:
    """Score both models' predictions, and select the model that ships.

    Args:
        config: Settings of the run.
        inputs: Images, splits and backbone of the run.
        features: The training images, their activations and the folds.
        phase1: The head-only models.
        phase2: The two-phase models; None where phase 2 didn't run.
        predictions: Both models' predictions for images that they were not trained on.
        forgetting: The measured loss of the original task; None where it wasn't measured.
        cost: Seconds and memory of the run.
    """
    groups = [inputs.photos.samples[image].group for image in predictions.image_ids]
    shipped = select_shipped(phase1, phase2)
    augmentation = features.final.renderer.augmentation
    boundary = phase2.trial.candidate.boundary if phase2 is not None else inputs.backbone.head_boundary
    preprocessing = inputs.backbone.network.preprocessing
    reading = preprocessing.reading
    sizes = [sample.size for sample in inputs.training_samples]
    unseen = 1 - seen_share(sizes, preprocessing, framings_of(phase1.views))
    return Verdict(
        shipped="two_phase" if shipped is phase2 else "head_only",
        data=Data(
            n_train=len(inputs.splits.train),
            n_test=len(inputs.splits.test),
            classes=inputs.photos.classes,
            left_out=len(inputs.photos.left_out),
            no_score=inputs.photos.no_score or None,
        ),
        model=Model(
            name=inputs.backbone.name,
            boundary=boundary,
            depth=inputs.backbone.depths()[boundary],
            alpha=phase2.alpha if phase2 is not None and shipped is phase2 else 0.0,
            bn=config.bn,
            views=tuple(View(**view.to_dict()) for view in phase1.views),
            fit=preprocessing.fit if preprocessing.fit != "crop" else None,
            unseen=unseen if unseen > MUCH_UNSEEN else None,
            n_views=len(phase1.views),
            head_stages=inputs.backbone.head_stage_names or None,
            scaling=reading.scaling if reading.channels else None,
            channels=tuple(InputChannel(**asdict(channel)) for channel in reading.channels) or None,
            symmetry=augmentation.symmetry if augmentation is not None else None,
        ),
        scores=score_sheet(predictions, groups, shipped.temperature, inputs.seed),
        gain=paired_gain(predictions, groups, inputs.seed) if not inputs.photos.no_score else None,
        expected=_expected(phase2.expected_gain) if phase2 is not None else None,
        forgetting=forgetting,
        trials=summarise_trials(features.data, features.folds.validation, phase1, phase2) if phase2 is not None else (),
        warnings=phase2.warnings if phase2 is not None else (),
        cost=cost,
        versions=versions(),
        frozen_engine=frozen_engine(engine_used(inputs.backbone)),
    )


def _expected(gain: Posterior | None) -> ExpectedGain | None:
    if gain is None:
        return None
    return ExpectedGain(accuracy=gain.points / 100, spread=gain.points_spread / 100, p_worse=gain.p_worse)
