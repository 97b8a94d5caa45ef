"""The training loop of phase 2, and of every other training by gradient descent."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from unfreeze.acceleration.trainable import trainable_forward
from unfreeze.evaluation.calibration import calibrated_nll
from unfreeze.models.backbone import Backbone
from unfreeze.models.freezing import StagePlan, apply, parameter_groups
from unfreeze.models.lora import low_rank
from unfreeze.models.pooling import join
from unfreeze.models.state import ModelState, loaded, state_of
from unfreeze.predict import Logits, to_model_input
from unfreeze.runtime import generator, progress_bar
from unfreeze.training.features.activations import Activations, logits_from
from unfreeze.training.finetune.parallel import ProgressFn
from unfreeze.training.schedule import Schedule, view_schedule

Z_COLLAPSED = 2.0  # standard errors below the initial validation accuracy at which a training counts as collapsed
PATIENCE = 3  # collapsed epochs that end a training; only in the second half, as accuracy may dip at the peak rate
KD_TEMPERATURE = 2.0  # temperature of the distillation loss: Li and Hoiem (2016), section 3

Indices = NDArray[np.int64]
Failure = Literal["not finite", "collapsed"]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One row of a run's history.

    Losses are mean cross-entropies, ``val_loss`` with temperature scaling (see ``loss_and_accuracy``).  Validation
    values are None if there are no validation images.
    """

    phase: str
    epoch: int
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class FineTuneResult:
    """The result of a training.

    Attributes:
        state: The model after the last epoch: the stages from the plan's boundary on, and the head.
        history: One row for each epoch.
        val_logits: Logits of the validation images after the last epoch, shape (V, C).
        failure: Why the training was stopped early; None if it was completed.
    """

    state: ModelState
    history: tuple[EpochRow, ...]
    val_logits: Logits
    failure: Failure | None = None


def finetune(
    backbone: Backbone,
    init: ModelState,
    source: Activations,
    labels: Tensor,
    plan: StagePlan,
    schedule: Schedule,
    *,
    phase: str,
    train: Indices,
    val: Indices,
    seed: int,
    pretrained_features: Activations | None = None,
    baseline_logits: Logits | None = None,
    progress: ProgressFn = progress_bar,
) -> FineTuneResult:
    """Train the stages that ``plan`` unfreezes, and the head, on the activations of ``source``.

    Args:
        backbone: Pretrained; its weights are restored bit by bit after the training.
        init: Initial weights.
        source: Activations at or below the plan's boundary.
        labels: Class indices of all images, shape (images,).
        plan: The trainable stages and their learning rates.
        schedule: Epochs, batch size and the other settings of the loop.
        phase: Name of the training in the history.
        train: Indices of the training images.
        val: Indices of the images to validate on after every epoch; may be empty.
        seed: Determines the order of the images.
        pretrained_features: Pretrained features of every trained view, for distillation; None without distillation.
        baseline_logits: Logits of ``val`` before the training, shape (V, C): a training whose accuracy stays
            significantly below theirs is stopped, like one whose loss is not finite.
        progress: Wraps the steps to show progress.
    """
    assert source.boundary <= plan.boundary, "trainable stages must lie above the cached activations"
    assert (pretrained_features is not None) == bool(schedule.distill), "distillation needs the pretrained features"
    with loaded(backbone, init, trainable_from=plan.boundary) as head:
        with low_rank(plan, backbone):
            groups = parameter_groups(plan, backbone, head, schedule.weight_decay)
            optimizer_class = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
            optimizer = optimizer_class(groups, fused=backbone.device.type in ("cpu", "cuda"))
            parameters = [parameter for group in groups for parameter in group["params"]]
            learning_rates = [group["lr"] for group in groups]
            steps_per_epoch = -(-len(train) // schedule.batch_size)
            steps = progress(range(schedule.epochs * steps_per_epoch), phase, schedule.epochs * steps_per_epoch)
            val_labels = labels[torch.from_numpy(val)].numpy()
            history: list[EpochRow] = []
            val_logits = np.empty((0, head.out_features), np.float32)
            n_collapsed = 0
            failure: Failure | None = None
            forward: Callable[[Tensor], Tensor] | None = None

            for epoch in range(1, schedule.epochs + 1):
                started = time.perf_counter()
                apply(plan, backbone)
                train_loss = 0.0
                order = generator(seed, epoch).permutation(train)
                indices = torch.split(torch.from_numpy(order), schedule.batch_size)
                views = view_schedule(order, epoch, schedule)
                batch_args = order.tolist(), views, schedule.batch_size
                below = source.features_below(order.tolist(), views)
                below_batches = (
                    repeat(None, len(indices)) if below is None else iter(torch.split(below, schedule.batch_size))
                )
                pretrained_batches = (
                    repeat(None, len(indices))
                    if pretrained_features is None
                    else pretrained_features.batches(*batch_args)
                )
                for x, rows, pretrained, images in zip(
                    source.batches(*batch_args), below_batches, pretrained_batches, indices, strict=True
                ):
                    lr_factor = schedule.lr_factor(next(steps), schedule.epochs * steps_per_epoch)
                    for group, learning_rate in zip(optimizer.param_groups, learning_rates, strict=True):
                        group["lr"] = learning_rate * lr_factor
                    with torch.no_grad():
                        rows = None if rows is None else rows.to(backbone.device)
                        x = to_model_input(x, backbone, source.boundary)
                        x, rows = backbone.run_pooling(x, source.boundary, plan.boundary, rows)
                    forward = forward or trainable_forward(backbone, plan.boundary, x)
                    features = forward(x)
                    logits = head(join(rows, features))
                    target = labels[images].to(logits.device)
                    loss = functional.cross_entropy(logits, target, label_smoothing=schedule.smoothing)
                    train_loss += loss.item() * len(images) / len(train)
                    if pretrained is not None:
                        last = backbone.stage_dims[-1]  # the original classifier reads the last stage alone
                        distilled = distillation_loss(
                            backbone.classifier, features[:, -last:], pretrained[:, -last:].to(features)
                        )
                        loss = loss + schedule.distill * distilled
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    if schedule.clip is not None:
                        nn.utils.clip_grad_norm_(parameters, schedule.clip)
                    optimizer.step()

                val_logits = logits_from(backbone, head, source, val)
                finite = math.isfinite(train_loss) and bool(np.isfinite(val_logits).all())
                val_loss, val_accuracy = (
                    loss_and_accuracy(val_logits, val_labels) if finite and len(val) else (None, None)
                )
                history.append(
                    EpochRow(phase, epoch, train_loss, val_loss, val_accuracy, time.perf_counter() - started)
                )
                collapsed = (
                    finite
                    and epoch > schedule.epochs // 2
                    and baseline_logits is not None
                    and is_collapsed(baseline_logits, val_logits, val_labels)
                )
                n_collapsed = n_collapsed + 1 if collapsed else 0
                failure = "not finite" if not finite else "collapsed" if n_collapsed == PATIENCE else None
                if failure is not None:
                    break
            steps.close()
        state = state_of(backbone, head, plan.boundary)
    if not all(tensor.isfinite().all() for tensors in (*state.stages, state.head) for tensor in tensors.values()):
        failure = "not finite"
    return FineTuneResult(state, tuple(history), val_logits, failure)


def distillation_loss(classifier: nn.Module, features: Tensor, pretrained: Tensor) -> Tensor:
    """Return ``kd_loss`` between the original classifier's logits for current and for pretrained features, (N, D) each.

    It reduces forgetting without images of the original task (Li and Hoiem 2016, learning without forgetting): with
    their temperature, and their loss up to a constant.
    """
    with torch.no_grad():
        target_logits = classifier(pretrained)
    return kd_loss(classifier(features), target_logits)


def kd_loss(logits: Tensor, target_logits: Tensor) -> Tensor:
    """Return the KL divergence of ``logits`` from ``target_logits`` (N, C) at ``KD_TEMPERATURE``.

    It is scaled by the squared temperature (Hinton et al. 2015, section 2).
    """
    log_p, target = (functional.log_softmax(z / KD_TEMPERATURE, dim=1) for z in (logits, target_logits))
    return KD_TEMPERATURE**2 * functional.kl_div(log_p, target, log_target=True, reduction="batchmean")


def is_collapsed(baseline: Logits, logits: Logits, labels: Indices) -> bool:
    """Return whether ``logits`` are significantly less accurate than ``baseline``, both (N, C)."""
    drop = (baseline.argmax(axis=1) == labels).astype(float) - (logits.argmax(axis=1) == labels)
    return bool(len(drop)) and bool(drop.mean() > Z_COLLAPSED * drop.std() / math.sqrt(len(drop)))


def loss_and_accuracy(logits: Logits, labels: Indices) -> tuple[float, float]:
    """Return the mean ``calibrated_nll`` and the accuracy of logits (N, C)."""
    return float(calibrated_nll(logits, labels).mean()), float((logits.argmax(axis=1) == labels).mean())
