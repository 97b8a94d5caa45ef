"""Tables of the run folder, and the description of a run before it starts."""

from __future__ import annotations

from collections.abc import Iterator

from unfreeze.config import Common
from unfreeze.config_file import config_text
from unfreeze.data.rendering.coverage import describe_sight, seen_share, unseen_note
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
    """Yield the lines that describe the data and the training before it starts."""
    sides = f"{len(splits.train)} to train on, {len(splits.test)} to test on"
    if not len(splits.test):
        sides = f"all train, and each is scored by models of the {splits.fold.max() + 1} folds that never saw it"
    if len(splits.val):
        sides = f"{len(splits.train)} to train on, {len(splits.val)} to choose by, {len(splits.test)} to test on"
    yield f"{len(photos.samples)} photos of {len(photos.classes)} classes: {sides}"
    given = {sample.split for sample in photos.samples}
    if "val" in given and "test" not in given:
        yield "there is no test folder: val is held out as the test set, and photos to choose by are taken from train"
    for note in photos.notes:
        yield f"note: {note}"
    if photos.left_out:
        yield f"{len(photos.left_out)} files were left out: checks.csv says which and why"
    if reference is not None:
        yield f"{len(reference.samples)} reference photos, {len(reference.left_out)} files left out"
        for note in reference.notes:
            yield f"note: {note}"
    tried = ", ".join(f"{candidate.depth} at {candidate.lr:g}" for candidate in recipe.candidates)
    distilled = ", with distillation" * any(candidate.schedule.distill for candidate in recipe.candidates)
    phase2 = f"phase 2 from {tried}{distilled}" if recipe.candidates else "no phase 2"
    yield f"{backbone.name} on {backbone.device}, recipe {recipe.name}: {phase2}"
    sizes = [photos.samples[i].size for i in splits.train_and_val]
    preprocessing = backbone.network.preprocessing
    yield describe_sight(sizes, preprocessing, recipe.shown_framings)
    unseen = unseen_note(seen_share(sizes, preprocessing, recipe.shown_framings))
    if unseen is not None:
        yield f"note: {unseen}"


def write_arguments(folder: RunFolder, config: Common) -> None:
    """Write the settings of the run; ``unfreeze train --config args.toml`` runs it again."""
    write_text(folder.args, config_text(config, folder.root))


def write_checks(folder: RunFolder, photos: PhotoSet) -> None:
    """Write the files that were left out, with reasons."""
    write_table(
        folder.checks, ["file_name", "reason"], [(skipped.file_name, skipped.reason) for skipped in photos.left_out]
    )


def write_splits(folder: RunFolder, photos: PhotoSet, splits: Splits) -> None:
    """Write the split and the fold of every image."""
    split_of = {int(i): name for name in ("train", "val", "test") for i in getattr(splits, name)}
    rows = [
        (sample.file_name, photos.classes[sample.label], sample.group, split_of[i], int(fold) if fold >= 0 else None)
        for i, (sample, fold) in enumerate(zip(photos.samples, splits.fold, strict=True))
    ]
    write_table(folder.splits, ["file_name", "label", "group", "split", "fold"], rows)


def write_photos(folder: RunFolder, photos: PhotoSet) -> None:
    """Write the SHA-256 and the fingerprint of every image."""
    rows = [(sample.file_name, sample.digest, sample.fingerprint) for sample in photos.samples]
    write_table(folder.photos, ["file_name", "sha256", "fingerprint"], rows)


def write_predictions(folder: RunFolder, photos: PhotoSet, predictions: HeldOutPredictions) -> None:
    """Write both models' probabilities for every scored image."""
    arms = {"head_only": predictions.head_only}
    if predictions.two_phase is not None:
        arms["two_phase"] = predictions.two_phase
    header = ["file_name", "label", *(f"{arm}:{name}" for arm in arms for name in photos.classes)]
    rows = [
        [
            photos.samples[index].file_name,
            photos.classes[photos.samples[index].label],
            *(round(float(value), 6) for probabilities in arms.values() for value in probabilities[row]),
        ]
        for row, index in enumerate(predictions.image_ids)
    ]
    write_table(folder.predictions, header, rows)


def write_history(folder: RunFolder, phase1: HeadOnlyResult, phase2: TwoPhaseResult | None) -> None:
    """Write the training history, a row an epoch; a solved head has none."""
    rows = [*phase1.history, *(phase2.history if phase2 is not None else ())]
    write_table(
        folder.history,
        ["phase", "epoch", "train_loss", "val_loss", "val_accuracy", "seconds"],
        [(row.phase, row.epoch, row.train_loss, row.val_loss, row.val_accuracy, round(row.seconds, 3)) for row in rows],
    )
