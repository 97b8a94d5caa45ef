"""Solved heads in the feature cache, found by the features they were fitted on, the labels and the folds."""

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
from unfreeze.training.head.regularisation_path import HeadFit, Linear, Standardisation, fit_head

FORMAT = "2"  # version of the stored content and of the solver; a new one invalidates stored heads
KEY = "head"  # the only key in a namespace


def fit_head_cached(
    cache: FeatureCache,
    backbone: Backbone,
    at_head: CachedActivations,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float = 0.0,
) -> HeadFit:
    """Return ``fit_head`` of the training images in the given views, loaded from the cache or solved and stored there.

    Args:
        cache: The feature cache; it may outlive the run.
        backbone: Computed the features.
        at_head: Pooled features.
        data: The images; those that are not trained on have no influence.
        views: Indices of the views, the plain view first.
        smoothing: Label smoothing of phase 2.

    Raises:
        CacheError: The head can't be stored.
    """
    namespace = _namespace(cache, backbone, at_head.renderer, data, views, smoothing)
    rows = namespace.load([KEY])
    if rows:
        return _deserialise(read_rows([rows[KEY]])[0])
    labels = data.labels[torch.from_numpy(data.train)]
    features = pooled_features(at_head, data.train.tolist(), views)
    fit = fit_head(features, labels, data.fold, data.n_classes, smoothing, standardise=bool(backbone.head_stages))
    with namespace.write() as writer:
        writer.append([KEY], _serialise(fit)[None])
    return fit


def is_head_cached(
    cache: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float,
) -> bool:
    """Return whether the cache lists that head; unlike ``fit_head_cached``, its content is not verified."""
    return bool(_namespace(cache, backbone, renderer, data, views, smoothing).cached_keys([KEY]))


def _namespace(
    cache: FeatureCache,
    backbone: Backbone,
    renderer: Renderer,
    data: TrainingSet,
    views: Sequence[int],
    smoothing: float,
) -> CacheNamespace:
    features = cache_key(cache, backbone, renderer, backbone.head_boundary, data.train.tolist(), views)
    labels, fold = data.train_labels.tolist(), data.fold.tolist()
    settings = f"{labels} {fold} {data.n_classes} {len(views)} {smoothing} {torch.get_num_threads()}"
    return cache.namespace("head", FORMAT, *features, settings)


def _serialise(fit: HeadFit) -> Tensor:
    heads = [fit.head, fit.init_for_phase2, *fit.fold_heads, *fit.fold_inits]
    tensors = {
        "weight": torch.stack([head.weight for head in heads]),
        "bias": torch.stack([head.bias for head in heads]),
        "strength": torch.tensor([fit.l2], dtype=torch.float64),
        "path": torch.tensor(fit.path, dtype=torch.float64),
        "out_of_fold": torch.from_numpy(fit.out_of_fold),
    }
    if fit.standardisation is not None:
        tensors |= {"center": fit.standardisation.center, "scale": fit.standardisation.scale}
    return torch.frombuffer(bytearray(save(tensors)), dtype=torch.uint8)


def _deserialise(content: Tensor) -> HeadFit:
    tensors = load(content.numpy().tobytes())
    head, init_for_phase2, *fold_heads = map(Linear, tensors["weight"], tensors["bias"])
    n_folds = len(fold_heads) // 2
    return HeadFit(
        head=head,
        init_for_phase2=init_for_phase2,
        fold_heads=tuple(fold_heads[:n_folds]),
        fold_inits=tuple(fold_heads[n_folds:]),
        l2=tensors["strength"].item(),
        path=tuple((l2, loss) for l2, loss in tensors["path"].tolist()),
        out_of_fold=tensors["out_of_fold"].numpy(),
        standardisation=Standardisation(tensors["center"], tensors["scale"]) if "scale" in tensors else None,
    )
