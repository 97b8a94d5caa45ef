"""Where in a photo the evidence for a class is: class-activation heatmaps, and how they are drawn.

Grad-CAM (Selvaraju et al. 2017) at the deepest features that have a place in the photo: each channel is weighted by how much
the class's logit rises with it, averaged over all places, and what speaks for the class is summed up.  Where averaged maps
go straight into the head, that is the class's own share of the logit at every place (CAM, Zhou et al. 2016).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from unfreeze.errors import ModelError
from unfreeze.models.backbone import Backbone, Head
from unfreeze.models.stages import run_watched
from unfreeze.predict import evaluation_mode, place

Heatmaps = NDArray[np.float32]

STRONGEST = 0.75  # of a blend that is heat where there is most of it: the photo still shows


def heatmaps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> Heatmaps:
    """Return where in each photo the features speak for a class: 0 is not at all or against it, 1 is where they do most.

    What a map says: with these features, this is where the logit of this class comes from, to first order.  What it doesn't:

    - how sure the model is, or how strong the evidence is: each map is scaled to its own maximum, so that two of them can be
      compared in their shapes alone, and a map of weak evidence is as bright as one of strong evidence;
    - what speaks against the class (that is cut off), or that the model would be wrong without what is marked;
    - anything finer than a cell of the features: 32 pixels in most CNNs and 16 in most transformers; between the middles of
      cells it is interpolated.  A cell also sees its neighbourhood, in a transformer the whole photo;
    - that the marked thing is the cause in the world: a model may be right by the background.

    The backbone and the head stay as they are, frozen or not; nothing is left behind.

    Args:
        backbone: Put into evaluation mode, as every prediction does.
        head: The new classifier.
        images: Rendered views, uint8, or normalised ones, float32, shape (N, 3, H, W).
        classes: Of each photo, the class to explain, int64, shape (N,).

    Returns:
        Values from 0 to 1, float32, shape (N, H, W).

    Raises:
        ModelError: No features of this network have a place in the photo.
    """
    features, slopes = _deepest_maps(backbone, head, images, classes)
    heat = (slopes.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1, keepdim=True).relu()
    heat = functional.interpolate(heat, size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    found: Heatmaps = (heat / heat.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny)).cpu().numpy()
    return found


def _deepest_maps(backbone: Backbone, head: Head, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the deepest maps whose places count for the logits, and the logits' slopes there, each (N, channels, h, w).

    Behind the last block of a transformer with a class token, no other token counts any more: it is the block's input then.
    """
    evaluation_mode(backbone)
    size = images.shape[2], images.shape[3]
    for start in reversed(range(len(backbone.stages))):
        with torch.no_grad():
            below = backbone.run(place(images, backbone, 0), 0, start)
        with torch.enable_grad():
            below = below.detach().requires_grad_()
            passed = [below] if start else []  # the photo itself is no feature
            x = below.clone()  # a block may work in place
            for stage in backbone.stages[start:]:
                steps = run_watched(stage, x)
                passed += steps
                x = steps[-1]
            logits = head(x).gather(1, classes.to(x.device)[:, None])
            slopes = torch.autograd.grad(logits.sum(), passed, allow_unused=True)
        for features, slope in zip(reversed(passed), reversed(slopes), strict=True):
            maps = _as_maps(features.detach(), size)
            own = _as_maps(slope, size) if slope is not None else None
            if maps is not None and own is not None and own.any():
                return maps, own
    raise ModelError(f"{backbone.name} has no features with a place in the photo: no heatmap can be drawn.")


def _as_maps(x: Tensor, size: tuple[int, int]) -> Tensor | None:
    """Return features as maps (N, channels, h, w): maps, maps with the channels last, or tokens, class token and such first.

    The photo's own height and width tell which it is; None where there are no places.
    """
    height, width = size
    if x.dim() == 4:

        def distortion(rows: int, columns: int) -> float:
            return abs(math.log(rows * width / (columns * height)))

        if distortion(x.shape[1], x.shape[2]) < distortion(x.shape[2], x.shape[3]):
            x = x.permute(0, 3, 1, 2)
    elif x.dim() == 3:
        tokens = x.shape[1]
        rows, columns = math.isqrt(tokens * height // width), math.isqrt(tokens * width // height)
        x = x[:, tokens - rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))
    else:
        return None
    return x if x.shape[2] * x.shape[3] > 1 else None


def overlay(photo: Image.Image, heatmap: Heatmaps) -> Image.Image:
    """Return a photo in grey with the heat in colour upon it, of the same size.

    The colours are viridis, whose lightness rises evenly with the heat and which the colour-blind read alike (Smith and
    van der Walt 2015); where there is no heat, the photo shows alone.

    Args:
        photo: The view that the heatmap belongs to.
        heatmap: Values from 0 to 1, shape (height, width) of the view.

    Raises:
        ValueError: They differ in size: a heatmap belongs to what the network saw, and not to the whole photo.
    """
    from matplotlib import colormaps

    if photo.size != heatmap.shape[::-1]:
        raise ValueError(f"a heatmap of {heatmap.shape[1]} x {heatmap.shape[0]} belongs to no photo of {photo.size}")
    grey = np.asarray(photo.convert("L"), np.float32)[..., None]
    colours = colormaps["viridis"](heatmap, bytes=True)[..., :3].astype(np.float32)
    share = STRONGEST * heatmap[..., None]
    return Image.fromarray((grey * (1 - share) + colours * share + 0.5).astype(np.uint8))
