from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.support.backbones import tiny_cnn
from tests.support.training import Task, at, new_store, task

from unfreeze.models.backbone import Backbone
from unfreeze.training.features.activations import CachedActivations, compute_or_load
from unfreeze.training.features.cache import FeatureCache
from unfreeze.training.head import head_cache
from unfreeze.training.head.head_cache import fit_head_cached, is_head_cached
from unfreeze.training.head.regularisation_path import HeadFit, Linear, fit_head

pytestmark = pytest.mark.usefixtures("one_thread")

SMOOTHING = 0.1


def solve(
    store: FeatureCache, backbone: Backbone, given: Task, views: tuple[int, ...] = (0, 1), smoothing: float = SMOOTHING
) -> HeadFit:
    at_head = at(backbone, given, backbone.head_boundary)
    assert isinstance(at_head, CachedActivations)
    return fit_head_cached(store, backbone, at_head, given.data, views, smoothing)


def numbers(fit: HeadFit) -> list[bytes]:
    heads: list[Linear] = [fit.head, fit.init_for_phase2, *fit.fold_heads, *fit.fold_inits]
    tensors = [tensor.numpy() for head in heads for tensor in (head.weight, head.bias)]
    return [array.tobytes() + str(array.dtype).encode() for array in (*tensors, fit.out_of_fold)]


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often a head was solved."""
    count: list[int] = []

    def counted(*given: Any, **named: Any) -> HeadFit:
        count.append(1)
        return fit_head(*given, **named)

    monkeypatch.setattr(head_cache, "fit_head", counted)
    return count


def test_a_head_is_solved_once(photos: tuple[Path, ...], solved: list[int]) -> None:
    backbone, given, store = tiny_cnn(), task(photos, train=24), new_store()
    asked = (store, backbone, given.renderer, given.data, (0, 1), SMOOTHING)
    assert not is_head_cached(*asked)
    first = solve(store, backbone, given)
    assert is_head_cached(*asked)
    again = solve(store, backbone, given)
    assert len(solved) == 1
    assert numbers(first) == numbers(again)
    assert (first.l2, first.path) == (again.l2, again.path)
    assert len(again.fold_heads) == len(again.fold_inits) == 3


def swapped(given: Task, backbone: Backbone) -> tuple[Task, Backbone]:
    labels = given.data.labels.clone()
    labels[[0, 1]] = labels[[1, 0]]
    return replace(given, data=replace(given.data, labels=labels)), backbone


def refolded(given: Task, backbone: Backbone) -> tuple[Task, Backbone]:
    return replace(given, data=replace(given.data, fold=(given.data.fold + np.arange(24)) % 3)), backbone


def edited(given: Task, backbone: Backbone) -> tuple[Task, Backbone]:
    return replace(given, renderer=replace(given.renderer, digests=("f" * 64, *given.renderer.digests[1:]))), backbone


def redrawn(given: Task, backbone: Backbone) -> tuple[Task, Backbone]:
    return replace(given, renderer=replace(given.renderer, seed=7)), backbone


def retrained(given: Task, backbone: Backbone) -> tuple[Task, Backbone]:
    with torch.no_grad():
        next(backbone.stages[2].module.parameters()).mul_(1.5)
    return given, backbone


@pytest.mark.parametrize("change", [swapped, refolded, edited, redrawn, retrained])
def test_what_a_head_depends_on(
    photos: tuple[Path, ...], solved: list[int], change: Callable[[Task, Backbone], tuple[Task, Backbone]]
) -> None:
    store, given = new_store(), task(photos, train=24)
    before = solve(store, tiny_cnn(), given)
    other, backbone = change(given, tiny_cnn())
    after = solve(store, backbone, other)
    assert len(solved) == 2
    assert change is edited or numbers(before) != numbers(after)


@pytest.mark.parametrize("how", [{"views": (0,)}, {"views": (0, 1, 0)}, {"smoothing": 0.0}])
def test_how_it_is_solved_matters_too(photos: tuple[Path, ...], solved: list[int], how: dict[str, Any]) -> None:
    store, given = new_store(), task(photos, train=24)
    solve(store, tiny_cnn(), given)
    solve(store, tiny_cnn(), given, **how)
    assert len(solved) == 2


def test_photos_that_are_not_learned_from_do_not_matter(photos: tuple[Path, ...], solved: list[int]) -> None:
    store, given = new_store(), task(photos, train=24, val=6)
    labels = given.data.labels.clone()
    labels[24:] = 0
    solve(store, tiny_cnn(), given)
    solve(store, tiny_cnn(), replace(given, data=replace(given.data, labels=labels, val=given.data.val[:3])))
    assert len(solved) == 1


def test_a_damaged_head_is_solved_anew(photos: tuple[Path, ...], solved: list[int]) -> None:
    backbone, given, store = tiny_cnn(), task(photos, train=24), new_store()
    first = solve(store, backbone, given)
    (index,) = (path for path in store.root.glob("*/*.json") if '"head"' in path.read_text("utf-8"))
    rows = index.with_suffix(".rows")
    content = bytearray(rows.read_bytes())
    content[len(content) // 2] ^= 1
    rows.write_bytes(content)
    again = solve(store, backbone, given)
    assert len(solved) == 2
    assert numbers(first) == numbers(again)


def test_kept_features_and_heads_share_a_store(photos: tuple[Path, ...], solved: list[int]) -> None:
    backbone, given, store = tiny_cnn(), task(photos, train=24), new_store()
    at_head = compute_or_load(
        store, backbone, at(backbone, given, 3), backbone.head_boundary, given.data.requested_views(2), "test"
    )
    first = fit_head_cached(store, backbone, at_head, given.data, (0, 1), SMOOTHING)
    assert numbers(first) == numbers(fit_head_cached(store, backbone, at_head, given.data, (0, 1), SMOOTHING))
    assert len(solved) == 1
