"""The story of a run, top to bottom: photos in, a verdict and a model out."""

from __future__ import annotations

from unfreeze.config import TrainConfig
from unfreeze.inputs import choose_recipe, open_inputs
from unfreeze.planning.forecast import Deadline, forecast_run
from unfreeze.runs.changed_heatmaps import write_changed_heatmaps
from unfreeze.runs.folder import refuse_used
from unfreeze.runs.run import Run
from unfreeze.runs.writing import start_run, write_run
from unfreeze.runtime import Stopwatch, deterministic, echo, peak_rss_mib
from unfreeze.scoring.evidence import collect_predictions
from unfreeze.scoring.forgetting import forgetting_meter, measure_forgetting
from unfreeze.scoring.held_out import open_test_set
from unfreeze.scoring.verdicts import build_verdict
from unfreeze.training.augmentation import make_renderers
from unfreeze.training.features.training_features import compute_features
from unfreeze.training.phase_one import train_head
from unfreeze.training.phase_two import fine_tune
from unfreeze.verdict import Cost


def run(config: TrainConfig) -> Run:
    """Train as ``config`` says, and write the run folder.

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
        planned = forecast_run(
            inputs.cache, inputs.backbone, renderers, inputs.data, recipe,
            *inputs.held_out(renderers[0]),
        )  # fmt: skip
    deadline = Deadline(planned, config.minutes, watch)
    if recipe.candidates and not deadline.time_left(0):
        recipe, planned = recipe.without_phase_two(), planned.without_phase_two()
        echo(f"there is no time for phase 2 in {config.minutes:g} minutes")
    echo(planned.sentence())

    second = None
    with deterministic(inputs.seed):
        with watch.measure("features"):
            features = compute_features(inputs.cache, inputs.backbone, renderers, inputs.data, recipe, inputs.seed)
        with watch.measure("head"):
            first = train_head(features, recipe)
        with watch.measure("evaluation"):
            test = open_test_set(inputs, recipe, features.final.renderer, first.orientations)
            meter = forgetting_meter(inputs, recipe, features.final.renderer, test)
        if recipe.candidates:
            with watch.measure("finetune"):
                second = fine_tune(features, first, recipe, forgetting=meter.drop, time_left=deadline.time_left)
        with watch.measure("evaluation"):
            evidence = collect_predictions(inputs, features, test, first, second)
            forgotten = measure_forgetting(meter, features, recipe, first, second)

    if second is not None:
        with watch.measure("heatmaps"):
            write_changed_heatmaps(folder, inputs, features, evidence, first, second)
    n_tried = len(second.trials) if second is not None else 0
    cost = Cost(seconds=watch.report(), forecast=planned.seconds(n_tried), peak_rss_mib=peak_rss_mib())
    verdict = build_verdict(config, inputs, features, first, second, evidence, forgotten, cost)
    write_run(folder, verdict, inputs, recipe, first, second, evidence)
    return Run(folder, verdict, config.device)
