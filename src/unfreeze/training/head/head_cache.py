"""A head is solved once: kept beside the features it was fitted on, and found again by them, the labels and the folds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from safetensors.torch import load, save
from torch import Tensor

from unfreeze.data.rendering.renderer import Renderer
from unfreeze.models.backbone import Backbone
from unfreeze.training.features.activations import CachedActivations, cache_key, pooled_features
from unfreeze.training.features.cache import CacheNamespace, FeatureCache
from unfreeze.training.features.cache_files import read_rows
from unfreeze.training.folds import TrainingSet
from unfreeze.training.head.regularisation_path import HeadFit, Linear, fit_head

FORMAT = "2"  # of what is kept, and of how it is solved; another one makes older heads unfindable
KEY = "head"  # a shelf holds one


def fit_head_cached(
    store: FeatureCache,
    backbone: Backbone,
    at_head: CachedActivations,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float = 0.0,
) -> HeadFit:
    """Return ``fit_head`` of the photos to learn from, of so many views each: found in the store, or solved and kept there.

    Args:
        store: Outlives the run.
        backbone: What the features come from.
        at_head: Pooled features.
        data: The photos; what isn't learned from doesn't matter.
        views: The plain one first.
        smoothing: As ``fit_head`` has it.

    Raises:
        CacheError: It can't be kept.
    """
    shelf = _namespace(store, backbone, at_head.renderer, data, views, smoothing)
    found = shelf.load([KEY])
    if found:
        return _unpacked(read_rows([found[KEY]])[0])
    labels = data.labels[torch.from_numpy(data.train)]
    fit = fit_head(pooled_features(at_head, data.train.tolist(), views), labels, data.fold, data.n_classes, smoothing)
    with shelf.write() as draft:
        draft.append([KEY], _packed(fit)[None])
    return fit


def is_head_cached(
    store: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float,
) -> bool:
    """Tell whether the store holds that head; unlike ``fit_head_cached`` it doesn't look whether it is whole."""
    return bool(_namespace(store, backbone, renderer, data, views, smoothing).cached_keys([KEY]))


def _namespace(
    store: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float,
) -> CacheNamespace:
    photos = cache_key(store, backbone, renderer, backbone.head_boundary, data.train.tolist(), views)
    labels, fold = data.labels[torch.from_numpy(data.train)].tolist(), data.fold.tolist()
    how = f"{labels} {fold} {data.n_classes} {len(views)} {smoothing} {torch.get_num_threads()}"
    return store.namespace("head", FORMAT, *photos, how)


def _packed(fit: HeadFit) -> Tensor:
    heads = [fit.head, fit.init_for_phase2, *fit.fold_heads, *fit.fold_inits]
    parts = {
        "weight": torch.stack([head.weight for head in heads]),
        "bias": torch.stack([head.bias for head in heads]),
        "strength": torch.tensor([fit.l2], dtype=torch.float64),
        "path": torch.tensor(fit.path, dtype=torch.float64),
        "out_of_fold": torch.from_numpy(fit.out_of_fold),
    }
    return torch.frombuffer(bytearray(save(parts)), dtype=torch.uint8)


def _unpacked(packed: Tensor) -> HeadFit:
    parts = load(packed.numpy().tobytes())
    head, start, *others = map(Linear, parts["weight"], parts["bias"])
    folds = len(others) // 2
    return HeadFit(
        head=head,
        init_for_phase2=start,
        fold_heads=tuple(others[:folds]),
        fold_inits=tuple(others[folds:]),
        l2=parts["strength"].item(),
        path=tuple((strength, loss) for strength, loss in parts["path"].tolist()),
        out_of_fold=parts["out_of_fold"].numpy(),
    )
