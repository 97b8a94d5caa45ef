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
    from unfreeze.reading import Reading


@dataclass(frozen=True)
class Run:
    """One training and its folder.

    Attributes:
        folder: The run folder.
        verdict: All figures of the run.
        device: The device that the model runs on: auto, cpu, cuda, mps.
    """

    folder: RunFolder
    verdict: Verdict
    device: str = "auto"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the probabilities."""
        return self.verdict.data.classes

    def predict(self, photos: Sequence[str | Path]) -> list[Prediction]:
        """Predict photos.

        Args:
            photos: Image files, folders to search for them, or patterns such as ``photos/**/*.jpg``.

        Returns:
            One prediction for each image, in order.

        Raises:
            PhotosError: A file or folder doesn't exist, or a folder has no images.
            DecodeError: An image can't be decoded.
        """
        from unfreeze.data.places import find_photos

        return list(self.stream(find_photos(photos)))

    def stream(self, paths: Iterable[Path], *, skip_damaged: bool = False) -> Iterator[Prediction]:
        """Yield one prediction for each image file, in order, in constant memory.

        Args:
            paths: The files.
            skip_damaged: Skip an image that can't be decoded, with a line on stderr.

        Raises:
            DecodeError: An image can't be decoded, and ``skip_damaged`` is False.
        """
        from unfreeze.predict import Unread

        for prediction in self.predictions(paths):
            if not isinstance(prediction, Unread):
                yield prediction
            elif skip_damaged:
                _echo_left_out(prediction.error)
            else:
                raise prediction.error

    def predictions(self, paths: Iterable[Path]) -> Iterator[Prediction | Unread]:
        """Yield a prediction or a decoding error for each image file, in order; see ``predict.predictions``."""
        from unfreeze.predict import predictions

        return predictions(self._model, paths)

    def explain(
        self, photos: Sequence[str | Path], *, label: str | None = None, skip_damaged: bool = False
    ) -> Iterator[Explanation]:
        """Yield the heatmap of a class for each image, in order; see ``heatmaps.heatmaps``.

        Args:
            photos: Image files, folders to search for them, or patterns.
            label: The class; None: the most probable class of each image.
            skip_damaged: Skip an image that can't be decoded, with a line on stderr.

        Raises:
            PhotosError: A file or folder doesn't exist, or a folder has no images.
            ConfigError: The model has no such class.
            DecodeError: An image can't be decoded, and ``skip_damaged`` is False.
            ModelError: The network has no spatial features.
        """
        from unfreeze.data.folders import display_name
        from unfreeze.data.places import find_photos
        from unfreeze.errors import ConfigError
        from unfreeze.explain import explanations

        if label is not None and label not in self.classes:
            label = display_name(label)
        if label is not None and label not in self.classes:
            mend = "It knows: " + ", ".join(self.classes)
            raise ConfigError(f"The model doesn't know the class {label!r}.", where="--label", mend=mend)
        paths = find_photos(photos)
        if skip_damaged:
            paths = [path for path in paths if _is_photo(path, self.reading)]
        model = self._model
        return explanations(model.backbone, model.head, paths, self.classes, label, model.views)

    def evaluate(self, photos: str | Path, *, sides: str | None = None) -> Scores:
        """Score the shipped model on labelled images of its classes, whichever split they are in.

        Images that can't be decoded are left out, with a line each on stderr.

        Args:
            photos: A folder or a table, as for training.
            sides: Which folders are sides and no classes, as for training; see ``data.sources.read_photos``.

        Raises:
            PhotosError: No image can be decoded, or the model doesn't have one of their classes.
        """
        import numpy as np

        from unfreeze.data.checks import drop_unreadable
        from unfreeze.data.sources import read_photos
        from unfreeze.errors import PhotosError
        from unfreeze.evaluation.metrics import score
        from unfreeze.runtime import echo

        dataset = drop_unreadable(read_photos(Path(photos), to_train=False, sides=sides), reading=self.reading)
        for note in dataset.notes:
            echo(f"note: {note}")
        for left in dataset.left_out:
            echo(f"left out: {left.file_name}: {left.reason}")
        unknown = [name for name in dataset.classes if name not in self.classes]
        if unknown:
            raise PhotosError(
                f"The model doesn't know the class {unknown[0]!r}.",
                where=photos,
                mend="It knows: " + ", ".join(self.classes),
            )
        labels = np.array([self.classes.index(dataset.classes[sample.label]) for sample in dataset.samples])
        probabilities = [
            prediction.probabilities for prediction in self.stream(sample.path for sample in dataset.samples)
        ]
        groups = [sample.group for sample in dataset.samples]
        return score(labels, np.array(probabilities), groups=groups)

    @property
    def reading(self) -> Reading:
        """How the model's training read files."""
        return self._model.backbone.network.preprocessing.reading

    @cached_property
    def _model(self) -> Classifier:
        from unfreeze.models.saved import load_model
        from unfreeze.runtime import choose_device

        return load_model(self.folder.model, choose_device(self.device))


def _is_photo(path: Path, reading: Reading) -> bool:
    """Return whether the file can be decoded; print the error if it can't."""
    from unfreeze.data.decode import decode

    try:
        decode(path, min_side=1, reading=reading)
    except DecodeError as error:
        _echo_left_out(error)
        return False
    return True


def _echo_left_out(reason: DecodeError) -> None:
    from unfreeze.runtime import echo

    echo(f"left out: {reason}")


def load(folder: str | Path, device: str = "auto") -> Run:
    """Open a finished run.

    Raises:
        RunError: ``folder`` has no run, the run never finished, or a later version wrote it.
    """
    run_folder = open_run(Path(folder))
    verdict = Verdict.from_json(run_folder.verdict.read_text("utf-8", errors="replace"), str(run_folder.verdict))
    return Run(run_folder, verdict, device)
