"""The whole story of a run, top to bottom: photos in, a verdict and a model out."""

from __future__ import annotations

from unfreeze.artifacts import new_run, write_text
from unfreeze.card import write_card
from unfreeze.changes import write_changes
from unfreeze.config import TrainConfig
from unfreeze.data.splits import FOLDS, split
from unfreeze.evidence import cross_fitted, from_test, paired_gain, score_sheet, searched
from unfreeze.exam import set_exam
from unfreeze.inputs import open_backbone, open_photos, open_reference
from unfreeze.models.backbone import new_head
from unfreeze.models.engine import engine_used
from unfreeze.models.saved import Classifier, save_model
from unfreeze.records import (
    describe,
    versions,
    write_arguments,
    write_checks,
    write_history,
    write_predictions,
    write_splits,
)
from unfreeze.run import Run
from unfreeze.runtime import Stopwatch, deterministic, peak_rss_mib, say
from unfreeze.training.augmentation import render_with, suited
from unfreeze.training.gather import gather
from unfreeze.training.phase_one import phase_one
from unfreeze.training.phase_two import chosen, phase_two
from unfreeze.training.planner import Deadline, count_up
from unfreeze.training.recipes import choose
from unfreeze.training.rounds import TrainingData, validation_rounds
from unfreeze.training.speed import measure_reading, measure_speed
from unfreeze.training.work import count_work, likeliest_first
from unfreeze.verdict import Cost, Data, Model, Verdict, frozen_engine


def run(config: TrainConfig) -> Run:
    """Train as ``config`` says, and write the run folder.

    Raises:
        UnfreezeError: Any mistake that the user can mend; no folder is made before the inputs have been checked.
    """
    watch = Stopwatch()
    store, known, photos = open_photos(config, watch)
    with watch.measure("decode"):
        splits = split(photos, test_size=config.test_size, folds=FOLDS, seed=config.seed)
    backbone = open_backbone(config, watch)
    with watch.measure("exam"):
        reference = open_reference(config.reference, backbone, photos, store, known)
    recipe = choose(config, backbone, len(splits.train), len(photos.classes))
    if not len(splits.test):
        recipe = recipe.judged_by_all(len(splits.train))
    folder = new_run(config.out)
    write_arguments(folder, config)
    write_checks(folder, photos)
    write_splits(folder, photos, splits)
    for line in describe(photos, splits, backbone, recipe, reference):
        say(line)

    learning, test = ([photos.samples[i] for i in side] for side in (splits.learning, splits.test))
    data = TrainingData.of(learning, splits, len(photos.classes))  # training knows no other photo
    renderers = render_with(recipe, backbone, learning, config.seed)
    references = len(reference.samples) if reference is not None else 0
    papers = renderers[0].of(test)
    with deterministic(config.seed):
        with watch.measure("forecast"):
            likely = likeliest_first(store, backbone, renderers, data, recipe)
            work = count_work(store, backbone, likely, data, recipe, papers, references)
            speed = measure_speed(store, backbone, likely, data, recipe, work)
        with watch.measure("exam"):
            speed = measure_reading(store, backbone, papers, recipe, work, speed)
    planned = count_up(work, speed)
    deadline = Deadline(planned, config.minutes, watch)
    if recipe.candidates and not deadline.time_left(0):
        recipe, planned = recipe.without_phase_two(), planned.without_phase_two()
        say(f"there is no time for phase 2 in {config.minutes:g} minutes")
    say(planned.sentence())
    with deterministic(config.seed):
        with watch.measure("features"):
            renderer = suited(store, backbone, renderers, data, recipe)
            sources, at_head = gather(store, backbone, renderer, data, recipe)
        pretrained = backbone.snapshot(recipe.boundary)
        head = new_head(backbone, len(photos.classes), config.seed)
        rounds = validation_rounds(data, recipe.judges)
        with watch.measure("head"):
            first = phase_one(store, backbone, at_head, data, recipe, config.seed)
        with watch.measure("exam"):
            exam = set_exam(store, backbone, recipe.boundary, renderer, test, reference, first.poses)
            first.final.install(backbone, head, pretrained)
            head_only = exam.answers(backbone, head, first.poses)

        second, two_phase, tried = None, None, []
        if recipe.candidates:
            with watch.measure("finetune"):
                forgets = exam.forgets(backbone, head, pretrained)
                backbone.restore(pretrained)
                second = phase_two(
                    backbone, sources, data, recipe, first, config.seed, forgets=forgets, time_left=deadline.time_left
                )
            with watch.measure("exam"):
                second.final.install(backbone, head, pretrained)
                two_phase = exam.answers(backbone, head, first.poses)
                tried = [(weights, each.val) for weights, each in zip(second.round_finals, rounds, strict=True)]
        with watch.measure("exam"):
            own = exam.own_looks(backbone, sources[recipe.kept_from], pretrained, tried)
            forgotten = exam.forgetting(backbone, pretrained, own, config.seed)

    if test:
        evidence = from_test(splits.test, photos, head_only, two_phase, first, second)
    else:
        evidence = cross_fitted(data, rounds, first, second)
    if second is not None:
        with watch.measure("heatmaps"):
            write_changes(folder, backbone, head, pretrained, photos.samples, evidence, rounds, first, second)
    groups = [photos.samples[photo].group for photo in evidence.photos]
    ships = chosen(first, second)
    tuned_from = second.trial.candidate.boundary if second is not None else backbone.head_boundary
    ships.final.cooled(ships.temperature).install(backbone, head, pretrained)
    verdict = Verdict(
        shipped="two_phase" if ships is second else "head_only",
        data=Data(n_train=len(splits.train), n_test=len(test), classes=photos.classes, left_out=len(photos.left_out)),
        model=Model(
            name=backbone.name,
            boundary=tuned_from,
            depth=backbone.depths()[tuned_from],
            alpha=second.alpha if second is not None and ships is second else 0.0,
            bn=config.bn,
            poses=tuple(pose.name.lower() for pose in first.poses),
            symmetry=renderer.augmentation.symmetry if renderer.augmentation is not None else None,
        ),
        scores=score_sheet(evidence, groups, ships.temperature, config.seed),
        gain=paired_gain(evidence, groups, config.seed),
        forgetting=forgotten,
        tried=searched(data, rounds, first, second) if second is not None else (),
        setbacks=second.setbacks if second is not None else (),
        cost=Cost(
            seconds=watch.report(),
            forecast=planned.seconds(len(second.trials) if second is not None else 0),
            peak_rss_mib=peak_rss_mib(),
        ),
        versions=versions(),
        frozen_engine=frozen_engine(engine_used(backbone)),
    )
    save_model(folder, Classifier(backbone, head, photos.classes, first.poses))
    write_card(folder, verdict, recipe, backbone.architecture, photos, splits)
    write_predictions(folder, photos, evidence)
    write_history(folder, first, second)
    write_text(folder.verdict, verdict.to_json())
    return Run(folder, verdict, config.device)
