"""The exam: photos that training never sees, what the models answer on them, and what the original classifier says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.folders import printable
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import PhotoSet, Sample
from unfreeze.evaluation.forgetting import Forgetting, divergence, forgetting, ranks
from unfreeze.evaluation.similarity import linear_cka, probe
from unfreeze.models.backbone import Backbone, Head, Tensors, in_float32, pool
from unfreeze.poses import UPRIGHT, Pose
from unfreeze.predict import Logits, evaluation_mode, logits, place
from unfreeze.runtime import track
from unfreeze.training.activations import EVALUATION_BATCH, Activations, keep_or_render
from unfreeze.training.finetune import Weights
from unfreeze.training.store import Store

DIAGNOSED = 2000  # photos of which every stage's features and every class's logit are kept, for the diagnosis
PROBED = 50  # photos below which a refitted reader has too little to go by

Indices = NDArray[np.int64]
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """What the original classifier says of some photos, on the backbone as it is at one time.

    Attributes:
        top1: Its most probable class (N,).
        ranks: How many classes it finds likelier than the label (N,); None where there are no labels.
        logits: Of the first ``DIAGNOSED`` photos (M, classes of the original task).
        stages: What each stage from the boundary up gives of those, pooled, each of shape (M, D).
    """

    top1: Indices
    ranks: Indices | None
    logits: Logits
    stages: tuple[Features, ...]


@dataclass(frozen=True)
class Sheet:
    """Some photos at a boundary, with their labels in the original task where they have any."""

    source: Activations
    photos: Indices
    labels: Indices | None = None

    def batches(self, description: str, pose: Pose = Pose.PLAIN) -> Iterator[Tensor]:
        """Yield the photos in one pose, or what crosses the boundary of them."""
        chosen = self.photos.tolist()
        batches = self.source.batches(chosen, [pose] * len(chosen), EVALUATION_BATCH)
        return track(batches, description, total=-(-len(chosen) // EVALUATION_BATCH))

    def look(self, backbone: Backbone, diagnosed: int = DIAGNOSED) -> Look:
        """Ask the original classifier on the backbone as it is now, and keep what ``diagnosed`` photos give, too."""
        evaluation_mode(backbone)
        top1: list[Indices] = []
        found: list[Indices] = []
        kept: list[Logits] = []
        stages: list[list[Features]] = [[] for _ in backbone.stages[self.source.boundary :]]
        done = 0
        with torch.inference_mode():
            for x in self.batches("asking the original classifier"):
                x = place(x, backbone, self.source.boundary)
                kept_now = done < diagnosed
                for stage, outputs in zip(backbone.stages[self.source.boundary :], stages, strict=True):
                    x = stage.module(x)
                    if kept_now:
                        outputs.append(pool(x).float().cpu().numpy())
                said = backbone.classifier(x).float().cpu().numpy()
                top1.append(said.argmax(1))
                if self.labels is not None:
                    found.append(ranks(said, self.labels[done : done + len(said)]))
                if kept_now:
                    kept.append(said)
                done += len(said)
        return Look(
            np.concatenate(top1),
            np.concatenate(found) if self.labels is not None else None,
            np.concatenate(kept) if kept else np.empty((0, backbone.network.outputs), np.float32),
            tuple(np.concatenate(outputs) for outputs in stages if outputs),
        )


@dataclass(frozen=True)
class Exam:
    """The user's test photos, and photos of the original task where there are some.

    Attributes:
        boundary: Everything below is the same before and after.
        test: The test photos; None where every photo trains.
        before: What the original classifier said of them at first; None where there never was one.
        reference: The reference photos.
        reference_before: Likewise.
        reference_name: What the verdict calls them.
    """

    boundary: int
    test: Sheet | None
    before: Look | None
    reference: Sheet | None = None
    reference_before: Look | None = None
    reference_name: str | None = None

    def answers(self, backbone: Backbone, head: Head, poses: Sequence[Pose] = UPRIGHT) -> Logits:
        """Return the head's logits for the test photos, shape (N, C): the mean over ``poses``."""
        if self.test is None:
            return np.empty((0, head.out_features), dtype=np.float32)
        batches = (self.test.batches("answering test photos", pose) for pose in poses)
        said = np.stack([logits(backbone, head, batch, self.boundary) for batch in batches])
        found: Logits = said.mean(axis=0)
        return found

    def forgets(self, backbone: Backbone, head: Head, pretrained: list[Tensors]) -> Callable[[Weights], float] | None:
        """Return what measures how much accuracy a model lost at the original task; None without reference photos."""
        reference, before = self.reference, self.reference_before
        if reference is None or before is None:
            return None

        def drop(model: Weights) -> float:
            model.install(backbone, head, pretrained)
            after = reference.look(backbone, diagnosed=0)
            backbone.restore(pretrained)
            assert before.ranks is not None
            assert after.ranks is not None
            return float((before.ranks == 0).mean() - (after.ranks == 0).mean())

        return drop

    def own_looks(
        self,
        backbone: Backbone,
        source: Activations,
        pretrained: list[Tensors],
        rounds: Sequence[tuple[Weights, Indices]],
    ) -> list[tuple[Look, Look]]:
        """Return looks at the user's own held-out photos, before and on the backbone as it is now.

        Without test photos they are those that each round held out, on that round's own backbone.
        """
        if not backbone.network.outputs:
            return []
        if self.test is not None and self.before is not None:
            return [(self.before, self.test.look(backbone))]
        now = backbone.snapshot(self.boundary)
        pairs = []
        for weights, photos in rounds:
            sheet = Sheet(source, photos)
            backbone.restore(pretrained)
            before = sheet.look(backbone)
            backbone.restore(weights.stages)
            pairs.append((before, sheet.look(backbone)))
        backbone.restore(now)
        return pairs

    def forgetting(
        self,
        backbone: Backbone,
        pretrained: list[Tensors],
        own: Sequence[tuple[Look, Look]],
        seed: int,
        *,
        diagnose: bool = True,
    ) -> Forgetting | None:
        """Compare the original classifier on the backbone as it is now with what it said at first.

        Args:
            backbone: As phase 2 left it.
            pretrained: Its stages from the boundary on, as they were.
            own: Looks at the user's own photos, before and after.
            seed: Of the intervals.
            diagnose: Whether to refit a linear reader and to compare stages, too.
        """
        if not backbone.network.outputs:
            return None
        measured, pairs = Forgetting(), list(own)
        if self.reference is not None and self.reference_before is not None and self.reference_name is not None:
            before, after = self.reference_before, self.reference.look(backbone)
            pairs = [(before, after)]
            restored = self._restored(backbone, pretrained, after)
            assert before.ranks is not None
            assert after.ranks is not None
            measured = forgetting(
                reference=self.reference_name, before=before.ranks, after=after.ranks, restored=restored,
                outputs=backbone.network.outputs, seed=seed,
            )  # fmt: skip
            if diagnose:
                measured = _with_probe(measured, self.reference, before, after, seed)
        if own:
            first, last = (_answers([pair[place] for pair in own]) for place in (0, 1))
            top1 = [np.concatenate([pair[place].top1 for pair in own]) for place in (0, 1)]
            measured = measured.with_agreement(top1[0], top1[1], divergence(first, last))
        return measured.with_cka(_alike(backbone, self.boundary, pairs)) if diagnose else measured

    def _restored(self, backbone: Backbone, pretrained: list[Tensors], after: Look) -> Indices:
        """Return the reference photos' ranks with the original buffers: BatchNorm's statistics."""
        assert self.reference is not None
        assert after.ranks is not None
        tuned = backbone.snapshot(self.boundary)
        mixed = backbone.with_buffers_of(pretrained)
        if all(torch.equal(a[k], b[k]) for a, b in zip(mixed, tuned, strict=True) for k in a):
            return after.ranks
        backbone.restore(mixed)
        found = self.reference.look(backbone).ranks
        backbone.restore(tuned)
        assert found is not None
        return found


def set_exam(
    store: Store,
    backbone: Backbone,
    boundary: int,
    renderer: Renderer,
    test: Sequence[Sample],
    reference: PhotoSet | None,
    poses: tuple[Pose, ...] = UPRIGHT,
) -> Exam:
    """Compute what crosses ``boundary`` for the exam's photos, on the backbone as it was pretrained, in float32.

    The user's models may see the test photos in all ``poses``; the original classifier sees plain views.
    """
    backbone = in_float32(backbone)
    papers, before = None, None
    if test:
        papers = _sheet(store, backbone, renderer.of(test), boundary, "reading test photos", poses)
        before = papers.look(backbone) if backbone.network.outputs else None
    if reference is None:
        return Exam(boundary, papers, before)
    labels = np.array([sample.label for sample in reference.samples])
    theirs = _sheet(
        store, backbone, renderer.of(reference.samples), boundary, "reading reference photos", UPRIGHT, labels
    )
    return Exam(
        boundary=boundary,
        test=papers,
        before=before,
        reference=theirs,
        reference_before=theirs.look(backbone),
        reference_name=printable(str(reference.root)),
    )


def _sheet(
    store: Store,
    backbone: Backbone,
    renderer: Renderer,
    boundary: int,
    description: str,
    poses: Sequence[Pose],
    labels: Indices | None = None,
) -> Sheet:
    photos = np.arange(len(renderer.paths))
    wanted = dict.fromkeys(photos.tolist(), poses)
    return Sheet(keep_or_render(store, backbone, renderer, boundary, wanted, description), photos, labels)


def _with_probe(measured: Forgetting, sheet: Sheet, before: Look, after: Look, seed: int) -> Forgetting:
    """Add what a refitted linear reader finds on both backbones, where there are photos enough."""
    assert sheet.labels is not None
    if len(before.logits) < PROBED:
        return measured
    first = probe(before.stages[-1], before.logits)
    moved = not np.array_equal(before.stages[-1], after.stages[-1])
    last = probe(after.stages[-1], before.logits) if moved else first
    return measured.with_probe(sheet.labels[: len(first)], first, last, seed)


def _answers(looks: Sequence[Look]) -> NDArray[np.float64]:
    """Return log-probabilities."""
    found = torch.from_numpy(np.concatenate([look.logits for look in looks])).double()
    answers: NDArray[np.float64] = torch.log_softmax(found, dim=1).numpy()
    return answers


def _alike(backbone: Backbone, boundary: int, pairs: Sequence[tuple[Look, Look]]) -> dict[str, float]:
    """Return each stage's alignment before and after, the mean over the pairs of looks."""
    names = [stage.name for stage in backbone.stages[boundary:]]
    found: dict[str, float] = {}
    for place_, name in enumerate(names):
        values = [linear_cka(before.stages[place_], after.stages[place_]) for before, after in pairs]
        known = [value for value in values if value is not None]
        if known:
            found[name] = float(np.mean(known))
    return found
