"""The steps of a run, from images to a verdict and a model."""

from __future__ import annotations

from unfreeze.acceleration.openvino import openvino_version
from unfreeze.config import TrainConfig
from unfreeze.inputs import choose_recipe, open_inputs
from unfreeze.planning.forecast import Deadline, openvino_tip
from unfreeze.runs.changed_heatmaps import write_changed_heatmaps
from unfreeze.runs.folder import refuse_used
from unfreeze.runs.run import Run
from unfreeze.runs.writing import start_run, write_run
from unfreeze.runtime import Stopwatch, deterministic, echo
from unfreeze.scoring.evidence import collect_predictions
from unfreeze.scoring.forgetting import forgetting_meter, measure_forgetting
from unfreeze.scoring.held_out import open_test_set
from unfreeze.scoring.verdicts import build_verdict, measure_cost
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune


def run(config: TrainConfig) -> Run:
    """Train with the settings of ``config``, and write the run folder.

    Raises:
        UnfreezeError: Any mistake that the user can mend; no folder is made before the inputs have been checked.
    """
    refuse_used(config.out)
    watch = Stopwatch()
    inputs = open_inputs(config, watch)
    recipe = choose_recipe(config, inputs)
    folder = start_run(config, inputs, recipe)
    renderers = make_renderers(recipe, inputs.backbone, inputs.training_samples, inputs.seed)
    with deterministic(inputs.seed), watch.measure("forecast"):
        forecast = inputs.forecast(renderers, recipe)
    deadline = Deadline(forecast, config.minutes, watch)
    if recipe.candidates and not deadline.time_left(0):
        recipe, forecast = recipe.without_phase_two(), forecast.without_phase_two()
        echo(f"there is no time for phase 2 in {config.minutes:g} minutes")
    echo(forecast.sentence())
    if tip := openvino_tip(forecast, inputs.backbone.device.type, openvino_version() is not None):
        echo(tip)

    phase2 = None
    with deterministic(inputs.seed):
        with watch.measure("features"):
            features = compute_features(inputs.cache, inputs.backbone, renderers, inputs.data, recipe, inputs.seed)
        with watch.measure("head"):
            phase1 = train_head(features, recipe)
        with watch.measure("evaluation"):
            test = open_test_set(inputs, recipe, features.final.renderer, phase1.views)
            meter = forgetting_meter(inputs, recipe, features.final.renderer, test)
        if recipe.candidates:
            with watch.measure("finetune"):
                phase2 = fine_tune(features, phase1, recipe, forgetting=meter.drop, time_left=deadline.time_left)
        with watch.measure("evaluation"):
            held_out = collect_predictions(inputs, features, test, phase1, phase2)
            forgetting = measure_forgetting(meter, features, recipe, phase1, phase2)

    if phase2 is not None:
        with watch.measure("heatmaps"):
            write_changed_heatmaps(folder, inputs, features, held_out, phase1, phase2)
    cost = measure_cost(watch, forecast, phase2)
    verdict = build_verdict(config, inputs, features, phase1, phase2, held_out, forgetting, cost)
    write_run(folder, verdict, inputs, recipe, phase1, phase2, held_out)
    return Run(folder, verdict, config.device)
