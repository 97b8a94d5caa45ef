"""Images of more channels than a pretrained network reads: it reads them in groups, and the head reads all answers.

A network that was pretrained on RGB takes three channels.  Widening its first convolution by copies of its filters adds
bands up before the network has seen any of them; with a frozen backbone, 13 bands of a satellite were then told apart worse
than red, green and blue alone (benchmarks/RESULTS.md).  In groups of three, neighbouring bands are looked at as a picture
each, by filters that fit, and every stage's output has the channels of all groups, one group after the other.  One group
is the network as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unfreeze.models.backbone import Backbone
from unfreeze.models.pooling import channels_last
from unfreeze.models.stages import InGroups, Stage
from unfreeze.reading import Reading


def read_by(backbone: Backbone, reading: Reading) -> Backbone:
    """Return the backbone for files that are read in this way, weights shared.

    Args:
        backbone: In one group.
        reading: Its channels are a multiple of those that the network takes, or none.
    """
    preprocessing = backbone.network.preprocessing.read_by(reading)
    n_groups = preprocessing.n_channels // backbone.network.preprocessing.n_channels
    return in_groups(replace(backbone, network=replace(backbone.network, preprocessing=preprocessing)), n_groups)


def in_groups(backbone: Backbone, n_groups: int) -> Backbone:
    """Return the backbone for images of so many groups of channels; its original classifier has no use for them."""
    if n_groups == 1:
        return backbone
    size = backbone.network.preprocessing.size
    n_channels = backbone.network.preprocessing.n_channels // n_groups
    x = torch.zeros(1, n_channels, *size, device=backbone.device)
    stages, axis = [], 1
    with torch.inference_mode():
        for stage in backbone.stages:
            x = stage.module(x)
            before, axis = axis, _channel_axis(x, size)
            stages.append(Stage(stage.name, InGroups(stage.module, n_groups, before, axis)))
    return replace(
        backbone,
        network=replace(backbone.network, num_classes=0, labels=()),
        stages=tuple(stages),
        stage_dims=tuple(n_groups * dim for dim in backbone.stage_dims),
        n_groups=n_groups,
    )


def _channel_axis(x: Tensor, size: tuple[int, int]) -> int:
    is_maps = x.dim() == 4 and not channels_last((x.shape[1], x.shape[2], x.shape[3]), size)
    return 1 if is_maps else -1
