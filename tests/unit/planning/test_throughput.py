from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.support.backbones import tiny_cnn, tiny_vit
from tests.support.training import new_store, papers, planned

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.planning.throughput import FEW, WORTH_TIMING, Throughput, measure_throughput
from unfreeze.planning.timing import SystemClock
from unfreeze.planning.workload import Workload, count_workload
from unfreeze.training.features.activations import BATCH
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.finetune.loop import FineTuneResult, finetune
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipe import ByGradient, Recipe, Solved

pytestmark = pytest.mark.usefixtures("one_thread")

BACKBONES = pytest.mark.parametrize("make", [tiny_cnn, tiny_vit])
Planned = tuple[Renderer, TrainingSet, Recipe]


def work_of(store: FeatureCache, backbone: Backbone, given: Planned) -> Workload:
    own, data, recipe = given
    return count_workload(store, backbone, [own], data, recipe, papers(own))


def measured(store: FeatureCache, backbone: Backbone, given: Planned, work: Workload) -> Throughput:
    return measure_throughput(store, backbone, *given, work, SystemClock())


@BACKBONES
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"distill": 1.0},
        {"recipe": "head-only"},
        {"depth": "all"},
        {"recipe": "classic"},
        {"recipe": "classic", "bn": "train"},
    ],
)
def test_timing_leaves_the_backbone_and_torchs_generator_as_they_were(
    photos: tuple[Path, ...], make: Callable[[], Backbone], settings: dict[str, object]
) -> None:
    backbone, store = make(), new_store()
    given = planned(photos, backbone, **settings)
    before, drawn = backbone.fingerprint(), torch.get_rng_state()
    work = work_of(store, backbone, given)
    found = measured(store, backbone, given, work)
    assert backbone.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert found.s_per_forward > 0
    assert (found.s_per_view > 0) == (work.n_views > 0)
    assert (found.head_s > 0) == isinstance(given[2].head, Solved)
    assert (found.s_per_head_train > 0) == isinstance(given[2].head, ByGradient)
    assert len(found.s_per_train) == len(given[2].candidates)
    assert all(seconds > 0 for seconds in found.s_per_train)


def test_where_nothing_is_left_to_read_nothing_is_read(photos: tuple[Path, ...]) -> None:
    backbone = tiny_cnn()
    own, data, recipe = planned(photos, backbone)
    absent = replace(own, paths=tuple(Path("gone") / path.name for path in own.paths))
    work = replace(work_of(new_store(), backbone, (absent, data, recipe)), training=(), held_out=())
    found = measured(new_store(), backbone, (absent, data, recipe), work)
    assert (found.s_per_view, found.n_timed, found.s_per_heldout, found.compile_s) == (0, 0, 0, 0)


@pytest.mark.parametrize("settings", [{}, {"distill": 1.0}, {"recipe": "head-only"}, {"depth": "all"}])
def test_views_that_are_timed_are_some_that_the_run_asks_for_and_are_kept(
    photos: tuple[Path, ...], settings: dict[str, object]
) -> None:
    backbone, store = tiny_cnn(), new_store()
    given = planned(photos, backbone, **settings)
    before = work_of(store, backbone, given)
    found = measured(store, backbone, given, before)
    after = work_of(store, backbone, given)
    assert found.n_timed == 3 * BATCH
    assert (after.n_views, after.n_to_head) == (before.n_views - found.n_timed, before.n_to_head)


def test_held_out_images_are_timed_where_nothing_else_is_left_to_read(photos: tuple[Path, ...]) -> None:
    backbone, store = tiny_cnn(), new_store()
    given = planned(photos, backbone, recipe="head-only")
    work = replace(work_of(store, backbone, given), training=())
    found = measured(store, backbone, given, work)
    assert (found.s_per_view, found.n_timed) == (0, 0)
    assert found.s_per_heldout > 0
    assert work_of(store, backbone, given).n_heldout_pixels == 0


@pytest.mark.parametrize("n_images", [1, FEW, WORTH_TIMING])
def test_as_many_steps_are_timed_as_are_a_small_part_of_what_is_ahead(
    photos: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch, n_images: int
) -> None:
    trained: list[int] = []

    def counted(*arguments: object, **named: object) -> FineTuneResult:
        trained.append(len(named["train"]))  # type: ignore[arg-type]
        return finetune(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("unfreeze.planning.throughput.finetune", counted)
    backbone, store = tiny_cnn(), new_store()
    given = planned(photos, backbone, depth="layer3", batch_size=8)
    work = replace(work_of(store, backbone, given), n_train_steps_images=(n_images,))
    measured(store, backbone, given, work)
    assert trained[0] == 8 * {1: 1, FEW: 2, WORTH_TIMING: 3}[n_images]
