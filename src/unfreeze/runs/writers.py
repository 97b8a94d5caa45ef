"""What a run writes down: its tables, and what it says before it starts."""

from __future__ import annotations

from collections.abc import Iterator

import tomli_w

from unfreeze.config import Common
from unfreeze.data.sources import PhotoSet
from unfreeze.data.splits import Splits
from unfreeze.files import write_table, write_text
from unfreeze.models.backbone import Backbone
from unfreeze.runs.folder import RunFolder
from unfreeze.scoring.evidence import HeldOutPredictions
from unfreeze.training.phase_one import HeadOnlyResult
from unfreeze.training.phase_two import TwoPhaseResult
from unfreeze.training.recipe import Recipe


def describe(
    photos: PhotoSet, splits: Splits, backbone: Backbone, recipe: Recipe, reference: PhotoSet | None
) -> Iterator[str]:
    """Yield what the user should know before the work starts, a line each."""
    sides = f"{len(splits.train)} to train on, {len(splits.test)} to test on"
    if not len(splits.test):
        sides = f"all train, and each is scored by models of the {splits.fold.max() + 1} folds that never saw it"
    if len(splits.val):
        sides = f"{len(splits.train)} to train on, {len(splits.val)} to choose by, {len(splits.test)} to test on"
    yield f"{len(photos.samples)} photos of {len(photos.classes)} classes: {sides}"
    given = {sample.split for sample in photos.samples}
    if "val" in given and "test" not in given:
        yield "there is no test folder: val is held out as the test set, and validation is drawn from train"
    for note in photos.notes:
        yield f"note: {note}"
    if photos.left_out:
        yield f"{len(photos.left_out)} files were left out: checks.csv says which and why"
    if reference is not None:
        yield f"{len(reference.samples)} reference photos, {len(reference.left_out)} files left out"
        for note in reference.notes:
            yield f"note: {note}"
    tried = ", ".join(f"{each.depth} at {each.lr:g}" for each in recipe.candidates)
    anchored = ", anchored" * any(each.schedule.distill for each in recipe.candidates)
    phase_two = f"phase 2 from {tried}{anchored}" if recipe.candidates else "no phase 2"
    yield f"{backbone.name} on {backbone.device}, recipe {recipe.name}: {phase_two}"


def write_arguments(folder: RunFolder, config: Common) -> None:
    """Write what decides the run; ``unfreeze train --config args.toml`` runs it again."""
    places = {"out", "cache", "cache_gib"}
    write_text(folder.args, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True, exclude=places)))


def write_checks(folder: RunFolder, photos: PhotoSet) -> None:
    """Write what was left out, and why."""
    write_table(folder.checks, ["file_name", "reason"], [(left.file_name, left.reason) for left in photos.left_out])


def write_splits(folder: RunFolder, photos: PhotoSet, splits: Splits) -> None:
    """Write which photo is on which side."""
    side = {int(i): name for name in ("train", "val", "test") for i in getattr(splits, name)}
    rows = [
        (sample.file_name, photos.classes[sample.label], sample.group, side[i], int(fold) if fold >= 0 else None)
        for i, (sample, fold) in enumerate(zip(photos.samples, splits.fold, strict=True))
    ]
    write_table(folder.splits, ["file_name", "label", "group", "split", "fold"], rows)


def write_predictions(folder: RunFolder, photos: PhotoSet, evidence: HeldOutPredictions) -> None:
    """Write both arms' probabilities for every scored photo."""
    arms = {"head_only": evidence.head_only}
    if evidence.two_phase is not None:
        arms["two_phase"] = evidence.two_phase
    header = ["file_name", "label", *(f"{arm}:{name}" for arm in arms for name in photos.classes)]
    rows = [
        [
            photos.samples[photo].file_name,
            photos.classes[photos.samples[photo].label],
            *(round(float(value), 6) for answers in arms.values() for value in answers[row]),
        ]
        for row, photo in enumerate(evidence.image_ids)
    ]
    write_table(folder.predictions, header, rows)


def write_history(folder: RunFolder, first: HeadOnlyResult, second: TwoPhaseResult | None) -> None:
    """Write a row an epoch; a solved head has none."""
    rows = [*first.history, *(second.history if second is not None else ())]
    write_table(
        folder.history,
        ["phase", "epoch", "train_loss", "val_loss", "val_accuracy", "seconds"],
        [(row.phase, row.epoch, row.train_loss, row.val_loss, row.val_accuracy, round(row.seconds, 3)) for row in rows],
    )
