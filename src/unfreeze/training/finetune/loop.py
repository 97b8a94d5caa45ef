"""Phase 2, and every other training by gradient: one plain loop."""

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
from unfreeze.models.state import ModelState, loaded, state_of
from unfreeze.predict import Logits, to_model_input
from unfreeze.runtime import generator, progress_bar
from unfreeze.training.features.activations import Activations, logits_from
from unfreeze.training.finetune.parallel import ProgressFn
from unfreeze.training.schedule import Schedule, view_schedule

Z_COLLAPSED = 2.0  # standard errors by which validation must be below where it began to count as collapsed
PATIENCE = 3  # and for how many epochs of the second half: while the rate is high there is a dip, which is made good
KD_TEMPERATURE = 2.0  # the temperature of answers that are compared: Li and Hoiem (2016), section 3

Indices = NDArray[np.int64]
Failure = Literal["not finite", "collapsed"]


@dataclass(frozen=True, slots=True)
class EpochRow:
    """One line of a run's history; losses are mean cross-entropies (``val_loss`` at its best temperature, see ``judge``).

    Validation is absent where nothing was held out.
    """

    phase: str
    epoch: int
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class FineTuneResult:
    """How a training went.

    Attributes:
        state: The model after the last epoch: the stages from the plan's boundary on, and the head.
        history: A row an epoch.
        val_logits: Logits for the validation photos after the last epoch, shape (V, C).
        failure: Why it was broken off; None where it went to its end.
    """

    state: ModelState
    history: tuple[EpochRow, ...]
    val_logits: Logits
    failure: Failure | None = None


def finetune(
    backbone: Backbone,
    start: ModelState,
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
    """Train the stages that ``plan`` unfreezes, and the head, from ``source``'s activations.

    Args:
        backbone: Pretrained; it is again, to the bit, when training has ended.
        start: The model that training starts from.
        source: Activations at or below the plan's boundary.
        labels: Of every photo, indexed by photo.
        plan: Who learns, at which rate.
        schedule: How long.
        phase: What the history calls it.
        train: Photos to learn from.
        val: Photos to judge by after every epoch; may be empty.
        seed: Decides the order of the photos.
        pretrained_features: Pretrained features of every view that is trained on, for distillation; None without it.
        baseline_logits: What the given weights say of ``val``, shape (V, C): a training that stays clearly below it is broken off,
            like one whose loss is no number.
        progress: Shows how far it is.
    """
    assert source.boundary <= plan.boundary, "what trains must lie above the kept activations"
    assert (pretrained_features is not None) == bool(schedule.distill), "distillation needs the pretrained features"
    with loaded(backbone, start, trainable_from=plan.boundary) as head:
        with low_rank(plan, backbone):
            groups = parameter_groups(plan, backbone, head, schedule.weight_decay)
            rule = torch.optim.AdamW if schedule.optimizer == "adamw" else torch.optim.Adam
            optimizer = rule(groups, fused=backbone.device.type in ("cpu", "cuda"))
            parameters = [parameter for group in groups for parameter in group["params"]]
            rates = [group["lr"] for group in groups]
            per_epoch = -(-len(train) // schedule.batch_size)
            steps = progress(range(schedule.epochs * per_epoch), phase, schedule.epochs * per_epoch)
            truth = labels[torch.from_numpy(val)].numpy()
            history: list[EpochRow] = []
            predicted = np.empty((0, head.out_features), np.float32)
            below = 0
            trouble: Failure | None = None
            forward: Callable[[Tensor], Tensor] | None = None

            for epoch in range(1, schedule.epochs + 1):
                started = time.perf_counter()
                apply(plan, backbone)
                train_loss = 0.0
                order = generator(seed, epoch).permutation(train)
                drawn = order.tolist(), view_schedule(order, epoch, schedule), schedule.batch_size
                numbers = torch.split(torch.from_numpy(order), schedule.batch_size)
                before = (
                    repeat(None, len(numbers)) if pretrained_features is None else pretrained_features.batches(*drawn)
                )
                for x, pretrained, photos in zip(source.batches(*drawn), before, numbers, strict=True):
                    factor = schedule.lr_factor(next(steps), schedule.epochs * per_epoch)
                    for group, rate in zip(optimizer.param_groups, rates, strict=True):
                        group["lr"] = rate * factor
                    with torch.no_grad():
                        x = backbone.run(to_model_input(x, backbone, source.boundary), source.boundary, plan.boundary)
                    forward = forward or trainable_forward(backbone, plan.boundary, x)
                    now = forward(x)
                    logits = head(now)
                    target = labels[photos].to(logits.device)
                    loss = functional.cross_entropy(logits, target, label_smoothing=schedule.smoothing)
                    train_loss += loss.item() * len(photos) / len(train)
                    if pretrained is not None:
                        loss = loss + schedule.distill * distillation_loss(backbone.classifier, now, pretrained.to(now))
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    if schedule.clip is not None:
                        nn.utils.clip_grad_norm_(parameters, schedule.clip)
                    optimizer.step()

                predicted = logits_from(backbone, head, source, val)
                finite = math.isfinite(train_loss) and bool(np.isfinite(predicted).all())
                val_loss, val_accuracy = loss_and_accuracy(predicted, truth) if finite and len(val) else (None, None)
                history.append(
                    EpochRow(phase, epoch, train_loss, val_loss, val_accuracy, time.perf_counter() - started)
                )
                late = finite and epoch > schedule.epochs // 2
                below = (
                    below + 1
                    if late and baseline_logits is not None and is_collapsed(baseline_logits, predicted, truth)
                    else 0
                )
                trouble = "not finite" if not finite else "collapsed" if below == PATIENCE else None
                if trouble is not None:
                    break
            steps.close()
        state = state_of(backbone, head, plan.boundary)
    if not all(value.isfinite().all() for table in (*state.stages, state.head) for value in table.values()):
        trouble = "not finite"
    return FineTuneResult(state, tuple(history), predicted, trouble)


def distillation_loss(classifier: nn.Module, now: Tensor, before: Tensor) -> Tensor:
    """Return how far the original classifier's answers have gone from what they were, by features (N, D) now and before.

    No photo of the original task is needed to keep a model from forgetting it (Li and Hoiem 2016, learning without
    forgetting): their temperature, and their loss up to a constant.
    """
    with torch.no_grad():
        wanted = classifier(before)
    return kd_loss(classifier(now), wanted)


def kd_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Return the divergence of two answers (N, C) at a temperature, scaled as Hinton et al. (2015, section 2) do."""
    said, target = (functional.log_softmax(each / KD_TEMPERATURE, dim=1) for each in (logits, wanted))
    return KD_TEMPERATURE**2 * functional.kl_div(said, target, log_target=True, reduction="batchmean")


def is_collapsed(before: Logits, after: Logits, labels: Indices) -> bool:
    """Tell whether ``after`` answers so much worse than ``before``, both (N, C), that luck doesn't explain it."""
    worse = (before.argmax(axis=1) == labels).astype(float) - (after.argmax(axis=1) == labels)
    return bool(len(worse)) and bool(worse.mean() > Z_COLLAPSED * worse.std() / math.sqrt(len(worse)))


def loss_and_accuracy(predicted: Logits, labels: Indices) -> tuple[float, float]:
    """Return the mean of ``calibrated_nll``, and the accuracy, of logits that choose between epochs or phases."""
    return float(calibrated_nll(predicted, labels).mean()), float((predicted.argmax(axis=1) == labels).mean())
