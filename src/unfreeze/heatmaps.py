"""Class-activation heatmaps: where in an image the evidence for a class is.

Grad-CAM (Selvaraju et al. 2017) at the deepest spatial features: each channel is weighted by the gradient of the
class's logit, averaged over positions, and the positive part of the weighted sum is taken.  Where the head directly
follows average pooling, this is the position's contribution to the logit (CAM, Zhou et al. 2016).

A head that reads several stages is linear in the mean and the maximum of each lower stage's maps, so that a position's
contribution is exact: the head's weights times the position's features, and times the maxima that lie there, less the
features' mean over training images.  The maps of all stages are added before the positive part is taken.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Backbone
from unfreeze.models.head import Head
from unfreeze.models.pooling import channels_last, pool
from unfreeze.models.stage_head import fold_standardisation
from unfreeze.models.stages import run_with_intermediates
from unfreeze.predict import evaluation_mode, to_model_input

Heatmaps = NDArray[np.float32]


def heatmaps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> Heatmaps:
    """Return heatmaps of the evidence for a class: 0 is no evidence or evidence against it, 1 the map's maximum.

    A map shows from where in the image the class's logit comes, to first order in these features.  It does not show

    - how confident the model is or how strong the evidence is: each map is scaled to its own maximum, so that only the
      shapes of two maps can be compared, and weak evidence is as bright as strong evidence;
    - evidence against the class (set to 0), or that the model would be wrong without the marked part;
    - details finer than a cell of the features, 32 pixels in most CNNs and 16 in most transformers (of a head on several
      stages, from 8 pixels on): the map is interpolated between cells.  Its features also depend on its neighbourhood,
      in a transformer on the whole image;
    - what a head on several stages reads from lower stages' class tokens, which have no place;
    - that the marked object causes the label: a model may be correct because of the background.

    Weights, gradients and ``requires_grad`` don't change.

    Args:
        backbone: Is put into eval mode, as by every prediction.
        head: The new classifier.
        images: Rendered views, uint8 or int32, or normalised ones, float32, shape (N, channels, H, W).
        classes: The class to explain of each image, int64, shape (N,).

    Returns:
        Values from 0 to 1, float32, shape (N, H, W).

    Raises:
        ModelError: The network has no spatial features.
    """
    size = images.shape[2], images.shape[3]
    maps = contributions(backbone, head, images, classes)
    finest = max((each.shape[1], each.shape[2]) for each in maps)
    heat = _resized(torch.stack([_resized(each, finest) for each in maps]).sum(dim=0).relu(), size)
    maximum = heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)
    scaled: Heatmaps = (heat / maximum).cpu().numpy()
    return scaled


def _resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of shape (N, h, w) interpolated to ``size``; unchanged if they have it."""
    return functional.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def contributions(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> list[Tensor]:
    """Return each stage's contribution to the class's logit by position, each (N, h, w): lower stages', then the last's.

    The mean of a lower stage's map is the logit's part from the stage's features, relative to the mean training image (if
    the head knows that: ``Head.center``); a channel's maximum counts where it is.  The last stage's map is Grad-CAM times
    the number of positions: its mean is the logit's part from the last stage, without the bias, where the head directly
    follows average pooling.

    Raises:
        ModelError: The network has no spatial features.
    """
    folded, blocks = fold_standardisation(head), backbone.stage_columns
    weights = folded["weight"][classes.to(head.weight.device)]
    center = folded.get("center", torch.zeros_like(weights[0]))
    evaluation_mode(backbone)
    maps, x = [], to_model_input(images, backbone, 0)
    with torch.no_grad():
        for index, stage in enumerate(backbone.stages[: max(backbone.head_stages, default=-1) + 1]):
            x = stage.module(x)
            if index not in backbone.head_stages:
                continue
            block = blocks[backbone.head_stages.index(index)]
            spatial = _as_maps(x, (images.shape[2], images.shape[3]))
            if spatial is None:
                continue
            channels = spatial.shape[1]
            # Of maps the means stand first and the maxima behind them; of tokens the patches' mean stands last.
            first = block.start if x.dim() == 4 else block.stop - channels
            means = slice(first, first + channels)
            heat = torch.einsum("nc,nchw->nhw", weights[:, means], spatial - center[means, None, None])
            if x.dim() == 4:
                maxima = slice(first + channels, block.stop)
                heat += _at_maximum(spatial, weights[:, maxima] * (spatial.amax(dim=(2, 3)) - center[maxima]))
            maps.append(heat)
    deepest = _deepest_maps(backbone, weights[:, blocks[-1]], images)
    if deepest is None:
        if not maps:
            raise ModelError(f"{backbone.name} has no features with a place in the photo: no heatmap can be drawn.")
        return maps
    features, gradients = deepest
    cam = (gradients.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1)
    return [*maps, cam * (cam.shape[1] * cam.shape[2])]


def _at_maximum(maps: Tensor, values: Tensor) -> Tensor:
    """Return maps (N, h, w) of mean ``values.sum(1)``: each channel's value (N, C) at the position of its maximum."""
    is_maximum = (maps == maps.amax(dim=(2, 3), keepdim=True)).to(maps)
    shares = is_maximum / is_maximum.sum(dim=(2, 3), keepdim=True)
    return torch.einsum("nc,nchw->nhw", values, shares) * (maps.shape[2] * maps.shape[3])


def _deepest_maps(backbone: Backbone, weights: Tensor, images: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the deepest maps with nonzero gradients, and the logits' gradients, each (N, channels, h, w); or None.

    The logits are those of the last stage's features alone: ``weights`` (N, D) are the head's, of each image's class.
    After a transformer's last block, the logit may depend on the class token alone: then the block's input is used.
    """
    size = images.shape[2], images.shape[3]
    for start in reversed(range(len(backbone.stages))):
        with torch.no_grad():
            below: object = backbone.run(to_model_input(images, backbone, 0), 0, start)
        if not isinstance(below, Tensor):  # several tensors: a lower start records what they are computed from
            continue
        with torch.enable_grad():
            below = below.detach().requires_grad_()
            recorded = [below] if start else []  # the image is no feature
            x = below.clone()  # a block may modify its input
            for stage in backbone.stages[start:]:
                steps = run_with_intermediates(stage, x)
                recorded += _tensors_in(steps)
                x = steps[-1]
            logits = (pool(x) * weights).sum(dim=1)
            gradients = torch.autograd.grad(logits.sum(), recorded, allow_unused=True)
        for features, gradient in zip(reversed(recorded), reversed(gradients), strict=True):
            maps = _as_maps(features.detach(), size)
            gradient_maps = _as_maps(gradient, size) if gradient is not None else None
            if maps is not None and gradient_maps is not None and gradient_maps.any():
                return _in_rows(maps, len(images)), _in_rows(gradient_maps, len(images))
    return None


def _in_rows(maps: Tensor, count: int) -> Tensor:
    """Return maps of groups of channels (N * groups, C, h, w) as those of their images, (N, groups * C, h, w)."""
    return maps.reshape(count, -1, *maps.shape[2:])


def _tensors_in(value: object) -> list[Tensor]:
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors_in(part)]
    return [value] if isinstance(value, Tensor) else []


def _as_maps(x: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Return features as maps (N, channels, h, w), or None if they aren't spatial.

    Features are maps, maps with channels last, or tokens after class tokens; the image's aspect ratio decides which.
    """
    height, width = size
    if x.dim() == 4:
        if channels_last((x.shape[1], x.shape[2], x.shape[3]), size):
            x = x.permute(0, 3, 1, 2)
    elif x.dim() == 3:
        tokens = x.shape[1]
        rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
        x = x[:, tokens - rows * columns :].transpose(1, 2)
        x = x.reshape(*x.shape[:2], rows, columns)
    else:
        return None
    return x if x.shape[2] * x.shape[3] > 1 else None
