"""The first and the last step of a run: its folder is made, and its results are written."""

from __future__ import annotations

from unfreeze.config import TrainConfig
from unfreeze.files import write_text
from unfreeze.inputs import Inputs
from unfreeze.models.saved import Classifier, save_model
from unfreeze.models.state import loaded
from unfreeze.runs.folder import RunFolder, new_run
from unfreeze.runs.model_card import write_card
from unfreeze.runs.writers import (
    describe,
    write_arguments,
    write_checks,
    write_history,
    write_photos,
    write_predictions,
    write_splits,
)
from unfreeze.runtime import echo
from unfreeze.scoring.evidence import HeldOutPredictions
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult, select_shipped
from unfreeze.training.recipe import Recipe
from unfreeze.verdict import Verdict


def start_run(config: TrainConfig, inputs: Inputs, recipe: Recipe) -> RunFolder:
    """Make the run folder, write settings, checks and splits, and print the description of the run."""
    folder = new_run(config.out)
    write_arguments(folder, config)
    write_checks(folder, inputs.photos)
    write_splits(folder, inputs.photos, inputs.splits)
    write_photos(folder, inputs.photos)
    for line in describe(inputs.photos, inputs.splits, inputs.backbone, recipe, inputs.reference):
        echo(line)
    return folder


def write_run(
    folder: RunFolder,
    verdict: Verdict,
    inputs: Inputs,
    recipe: Recipe,
    phase1: HeadOnlyResult,
    phase2: TwoPhaseResult | None,
    predictions: HeldOutPredictions,
) -> None:
    """Write the shipped model, the tables, and last the verdict, whose presence means that the run is complete."""
    shipped = select_shipped(phase1, phase2)
    state = shipped.state.with_temperature(shipped.temperature)
    with loaded(inputs.backbone, state) as head:
        save_model(folder.model, Classifier(inputs.backbone, head, inputs.photos.classes, phase1.views))
    write_card(folder, verdict, recipe, inputs.backbone.architecture, inputs.photos, inputs.splits)
    write_predictions(folder, inputs.photos, predictions)
    write_history(folder, phase1, phase2)
    write_text(folder.verdict, verdict.to_json())
