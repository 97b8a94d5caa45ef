"""The exam: photos that training never sees, and what the models of both phases answer on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unfreeze.data.folders import printable
from unfreeze.data.loaders import Renderer
from unfreeze.data.sources import PhotoSet
from unfreeze.evaluation.forgetting import Forgetting, forgetting
from unfreeze.models.backbone import Backbone, Head, exact
from unfreeze.predict import Probabilities, original_top1, probabilities
from unfreeze.runtime import track
from unfreeze.training.activations import EVALUATION_BATCH, Activations, keep_or_render, plain_views
from unfreeze.training.store import Store

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Sheet:
    """Some photos at a boundary, and what the original classifier said of them before anything was trained."""

    source: Activations
    photos: Indices
    original: NDArray[np.int64] | None

    def batches(self, description: str) -> Iterator[Tensor]:
        """Yield the photos' plain views, or what crosses the boundary of them."""
        chosen = self.photos.tolist()
        batches = self.source.batches(chosen, plain_views(chosen), EVALUATION_BATCH)
        return track(batches, description, total=-(-len(chosen) // EVALUATION_BATCH))

    def original_now(self, backbone: Backbone) -> NDArray[np.int64] | None:
        """Return what the original classifier says on the backbone as it is now; None where there never was one."""
        if not backbone.network.outputs:
            return None
        return original_top1(backbone, self.batches("asking the original classifier"), self.source.boundary)


@dataclass(frozen=True)
class Exam:
    """The user's test photos, and photos of the original task where there are some.

    Attributes:
        test: The test photos.
        reference: The reference photos.
        reference_labels: Their classes in the original task.
        reference_name: What the verdict calls them.
    """

    test: Sheet
    reference: Sheet | None = None
    reference_labels: Indices | None = None
    reference_name: str | None = None

    def answers(self, backbone: Backbone, head: Head) -> Probabilities:
        """Return class probabilities for the test photos, shape (N, C)."""
        return probabilities(backbone, head, self.test.batches("answering test photos"), self.test.source.boundary)

    def forgetting(self, backbone: Backbone, seed: int) -> Forgetting | None:
        """Compare the original classifier on the backbone as it is now with what it said at first."""
        now = self.test.original_now(backbone)
        if now is None or self.test.original is None:
            return None
        measured = Forgetting()
        if self.reference is not None and self.reference_labels is not None and self.reference_name is not None:
            after = self.reference.original_now(backbone)
            assert after is not None
            assert self.reference.original is not None
            measured = forgetting(
                reference=self.reference_name,
                labels=self.reference_labels,
                before_top1=self.reference.original,
                after_top1=after,
                seed=seed,
            )
        return measured.with_agreement(self.test.original, now)


def set_exam(
    store: Store, backbone: Backbone, boundary: int, renderer: Renderer, test: Indices, reference: PhotoSet | None
) -> Exam:
    """Compute what crosses ``boundary`` for the exam's photos, on the backbone as it was pretrained, in float32."""
    backbone = exact(backbone)
    papers = _sheet(store, backbone, renderer, boundary, test, "reading test photos")
    if reference is None:
        return Exam(papers)
    photos = np.arange(len(reference.samples))
    own = renderer.of(reference.samples)
    return Exam(
        test=papers,
        reference=_sheet(store, backbone, own, boundary, photos, "reading reference photos"),
        reference_labels=np.array([sample.label for sample in reference.samples]),
        reference_name=printable(str(reference.root)),
    )


def _sheet(
    store: Store, backbone: Backbone, renderer: Renderer, boundary: int, photos: Indices, description: str
) -> Sheet:
    source = keep_or_render(store, backbone, renderer, boundary, dict.fromkeys(photos.tolist(), (0,)), description)
    sheet = Sheet(source, photos, original=None)
    return replace(sheet, original=sheet.original_now(backbone))
