"""A finished run: its verdict, and its model ready to predict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.errors import DecodeError
from unfreeze.runs.folder import RunFolder, open_run
from unfreeze.verdict import Verdict

if TYPE_CHECKING:
    from unfreeze.evaluation.metrics import Scores
    from unfreeze.explain import Explanation
    from unfreeze.models.saved import Classifier
    from unfreeze.predict import Prediction, Unread


@dataclass(frozen=True)
class Run:
    """One training and its folder.

    Attributes:
        folder: Where everything of the run is.
        verdict: What it found out.
        device: Where the model runs: auto, cpu, cuda, mps.
    """

    folder: RunFolder
    verdict: Verdict
    device: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.verdict.data.classes

    def predict(self, places: Sequence[str | Path]) -> list[Prediction]:
        """Predict photos.

        Args:
            places: Photos, folders to search for them, or patterns such as ``photos/**/*.jpg``.

        Returns:
            One prediction a photo, in order; a photo that can't be read is an error.

        Raises:
            PhotosError: A place doesn't exist, or holds no photos.
            DecodeError: A photo can't be read.
        """
        from unfreeze.data.places import find_photos

        return list(self.stream(find_photos(places)))

    def stream(self, paths: Iterable[Path], *, skip_damaged: bool = False) -> Iterator[Prediction]:
        """Yield one prediction a photo file, in order, in constant memory.

        Args:
            paths: The files.
            skip_damaged: Pass over a photo that can't be read, with a line on stderr.

        Raises:
            DecodeError: A photo can't be read, and none may be passed over.
        """
        from unfreeze.predict import Unread

        for answer in self.answers(paths):
            if not isinstance(answer, Unread):
                yield answer
            elif skip_damaged:
                _say_left_out(answer.error)
            else:
                raise answer.error

    def answers(self, paths: Iterable[Path]) -> Iterator[Prediction | Unread]:
        """Yield one prediction a photo file, or why it can't be read, in order; see ``predict.predictions``."""
        from unfreeze.predict import predictions

        return predictions(self._model, paths)

    def explain(
        self, places: Sequence[str | Path], *, label: str | None = None, skip_damaged: bool = False
    ) -> Iterator[Explanation]:
        """Yield, for one photo after the other, where in it the evidence for a class is; see ``explain.heatmaps``.

        Args:
            places: Photos, folders to search for them, or patterns.
            label: The class; None: each photo's most probable one.
            skip_damaged: Pass over a photo that can't be read, with a line on stderr.

        Raises:
            PhotosError: A place doesn't exist, or holds no photos.
            ConfigError: The model doesn't know the class.
            DecodeError: A photo can't be read, and none may be passed over.
            ModelError: The network has no features with a place in the photo.
        """
        from unfreeze.data.folders import display_name
        from unfreeze.data.places import find_photos
        from unfreeze.errors import ConfigError
        from unfreeze.explain import explanations

        label = display_name(label) if label is not None else None
        if label is not None and label not in self.classes:
            mend = "It knows: " + ", ".join(self.classes)
            raise ConfigError(f"The model doesn't know the class {label!r}.", where="--label", mend=mend)
        paths = find_photos(places)
        if skip_damaged:
            paths = [path for path in paths if _is_photo(path)]
        model = self._model
        return explanations(model.backbone, model.head, paths, self.classes, label, model.orientations)

    def evaluate(self, photos: str | Path) -> Scores:
        """Score the shipped model on labelled photos of its classes, whichever split they are in.

        Photos that can't be read are left out, with a line each on stderr.

        Raises:
            PhotosError: None can be read, or they are of classes that the model doesn't know.
        """
        import numpy as np

        from unfreeze.data.checks import drop_unreadable
        from unfreeze.data.sources import read_photos
        from unfreeze.errors import PhotosError
        from unfreeze.evaluation.metrics import score
        from unfreeze.runtime import echo

        found = drop_unreadable(read_photos(Path(photos), to_train=False))
        for left in found.left_out:
            echo(f"left out: {left.file_name}: {left.reason}")
        strangers = [name for name in found.classes if name not in self.classes]
        if strangers:
            raise PhotosError(
                f"The model doesn't know the class {strangers[0]!r}.",
                where=photos,
                mend="It knows: " + ", ".join(self.classes),
            )
        labels = np.array([self.classes.index(found.classes[sample.label]) for sample in found.samples])
        answers = [answer.probabilities for answer in self.stream(sample.path for sample in found.samples)]
        groups = [sample.group for sample in found.samples]
        return score(labels, np.array(answers), groups=groups)

    @cached_property
    def _model(self) -> Classifier:
        from unfreeze.models.saved import load_model
        from unfreeze.runtime import choose_device

        return load_model(self.folder.model, choose_device(self.device))


def _is_photo(path: Path) -> bool:
    """Return whether the file can be decoded; say why where it can't."""
    from unfreeze.data.decode import decode

    try:
        decode(path, min_side=1)
    except DecodeError as error:
        _say_left_out(error)
        return False
    return True


def _say_left_out(reason: DecodeError) -> None:
    from unfreeze.runtime import echo

    echo(f"left out: {reason}")


def load(folder: str | Path, device: str = "auto") -> Run:
    """Open a finished run.

    Raises:
        RunError: There is none in ``folder``, it never finished, or a later version wrote it.
    """
    place = open_run(Path(folder))
    return Run(place, Verdict.from_json(place.verdict.read_text("utf-8"), str(place.verdict)), device)
