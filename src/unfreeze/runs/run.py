"""A finished run: its verdict, and its model ready to predict."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from unfreeze.errors import DecodeError
from unfreeze.paths import user_path
from unfreeze.runs.folder import RunFolder, open_run
from unfreeze.verdict import Verdict

if TYPE_CHECKING:
    from unfreeze.data.given import Photo, Photos
    from unfreeze.data.sources import Sample
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

    def in_any_folder(self) -> Run:
        """Return the run with its whole path, so that it can be used after the working folder changes."""
        return replace(self, folder=RunFolder(self.folder.root.absolute()))

    def predict(self, photos: Photos) -> list[Prediction]:
        """Predict photos.

        Args:
            photos: One or any iterable of: image files, folders to search for them, patterns such as
                ``photos/**/*.jpg``, open files, bytes, Pillow images, arrays (height, width, 3) and tensors
                (3, height, width), RGB, of 0 to 255 (uint8) or 0 to 1.

        Returns:
            One prediction for each image, in order.

        Raises:
            ArgumentError: It is something else.
            PhotosError: A file or folder doesn't exist, or a folder has no images.
            DecodeError: An image can't be decoded.
        """
        from unfreeze.data.given import photos_found

        return list(self.stream(photos_found(photos)))

    def stream(self, photos: Photos, *, skip_damaged: bool = False) -> Iterator[Prediction]:
        """Yield one prediction for each image, in order, in constant memory.

        Args:
            photos: As of ``predict``, asked for as they are needed; patterns are not expanded.
            skip_damaged: Skip an image that can't be decoded, with a line on stderr.

        Raises:
            ArgumentError: It is something else.
            DecodeError: An image can't be decoded, and ``skip_damaged`` is False.
        """
        from unfreeze.predict import Unread

        for prediction in self.predictions(photos):
            if not isinstance(prediction, Unread):
                yield prediction
            elif skip_damaged:
                _echo_left_out(prediction.error)
            else:
                raise prediction.error

    def predictions(self, photos: Photos) -> Iterator[Prediction | Unread]:
        """Yield a prediction or a decoding error for each image, in order; see ``stream``."""
        from unfreeze.data.given import photos_given
        from unfreeze.predict import predictions

        return predictions(self._model, photos_given(photos))

    def explain(self, photos: Photos, *, label: str | None = None, skip_damaged: bool = False) -> Iterator[Explanation]:
        """Yield the heatmap of a class for each image, in order; see ``heatmaps.heatmaps``.

        Args:
            photos: As of ``predict``.
            label: The class; None: the most probable class of each image.
            skip_damaged: Skip an image that can't be decoded, with a line on stderr.

        Raises:
            ArgumentError: ``photos`` is something else.
            PhotosError: A file or folder doesn't exist, or a folder has no images.
            ConfigError: The model has no such class.
            DecodeError: An image can't be decoded, and ``skip_damaged`` is False.
            ModelError: The network has no spatial features.
        """
        from unfreeze.data.folders import display_name
        from unfreeze.data.given import photos_found
        from unfreeze.errors import ConfigError
        from unfreeze.explain import explanations

        if isinstance(label, str) and label not in self.classes:
            label = display_name(label)
        if label is not None and label not in self.classes:
            mend = "It knows: " + ", ".join(self.classes)
            raise ConfigError(f"The model doesn't know the class {label!r}.", where="--label", mend=mend)
        found = photos_found(photos)
        if skip_damaged:
            found = [photo for photo in found if _is_photo(photo, self.reading)]
        model = self._model
        return explanations(model.backbone, model.head, found, self.classes, label, model.views)

    def evaluate(self, photos: Photos, labels: Iterable[str] | None = None, *, sides: str | None = None) -> Scores:
        """Score the shipped model on labelled images of its classes, whichever split they are in.

        Images of a folder or a table that can't be decoded are left out, with a line each on stderr.

        Args:
            photos: A folder or a table of labelled photos; with ``labels``, images as of ``predict``, but no folders
                or patterns.
            labels: The class of each image, where ``photos`` doesn't say it.
            sides: Which folders are sides and no classes, as for training; see ``data.sources.read_photos``.

        Raises:
            ArgumentError: ``photos`` or ``labels`` is something else, or they differ in number.
            PhotosError: No image can be decoded, or the model doesn't have one of their classes.
            DecodeError: An image with a label in ``labels`` can't be decoded.
        """
        import numpy as np

        from unfreeze.errors import PhotosError
        from unfreeze.evaluation.metrics import score
        from unfreeze.runs.photos import count_trained
        from unfreeze.runtime import echo

        labelled = _labelled(photos, labels, self.reading, sides)
        if labelled.samples and sum(trained := count_trained(self.folder, labelled.samples)):
            echo(f"note: {trained.sentence(len(labelled.samples))}")
        unknown = [name for name in labelled.names if name not in self.classes]
        if unknown:
            raise PhotosError(
                f"The model doesn't know the class {unknown[0]!r}.",
                where="labels" if labels is not None else str(photos),
                mend="It knows: " + ", ".join(self.classes),
            )
        rows = [prediction.probabilities for prediction in self.stream(labelled.photos)]
        return score(
            np.array([self.classes.index(name) for name in labelled.names]), np.array(rows), groups=labelled.groups
        )

    @property
    def reading(self) -> Reading:
        """How the model's training read files."""
        return self._model.backbone.network.preprocessing.reading

    @cached_property
    def _model(self) -> Classifier:
        from unfreeze.models.saved import load_model
        from unfreeze.runtime import choose_device

        return load_model(self.folder.model, choose_device(self.device), self.classes)


@dataclass(frozen=True)
class _Labelled:
    """Images with the names of their classes and their groups."""

    photos: Sequence[Photo]
    names: Sequence[str]
    groups: Sequence[str | None]
    samples: Sequence[Sample] = ()


def _labelled(photos: Photos, labels: Iterable[str] | None, reading: Reading, sides: str | None) -> _Labelled:
    """Return the labelled images of a folder or a table, or those that are given with their labels."""
    from unfreeze.data.checks import drop_unreadable
    from unfreeze.data.folders import display_name
    from unfreeze.data.given import photo_each
    from unfreeze.data.sources import read_photos
    from unfreeze.errors import ArgumentError, PhotosError
    from unfreeze.runtime import echo

    if labels is not None:
        if not isinstance(labels, Iterable):
            raise ArgumentError("labels is no list of classes.", where="labels", mend="Give the class of each photo.")
        each = photo_each(photos)
        names = [display_name(str(label)) for label in ([labels] if isinstance(labels, str) else labels)]
        if not each:
            raise PhotosError("No photo was found.", where="photos")
        if len(each) != len(names):
            raise ArgumentError(f"There are {len(each)} photos and {len(names)} labels.", where="labels")
        return _Labelled(each, names, [None] * len(each))
    if not isinstance(photos, str | os.PathLike):
        raise ArgumentError(
            "photos is no folder or table of labelled photos.",
            where="photos",
            mend="Give the path of one, or images with labels=[...], the class of each.",
        )
    dataset = drop_unreadable(read_photos(user_path(os.fspath(photos)), to_train=False, sides=sides), reading=reading)
    for note in dataset.notes:
        echo(f"note: {note}")
    for left in dataset.left_out:
        echo(f"left out: {left.file_name}: {left.reason}")
    samples = dataset.samples
    names = [dataset.classes[sample.label] for sample in samples]
    return _Labelled([sample.path for sample in samples], names, [sample.group for sample in samples], samples)


def _is_photo(photo: Photo, reading: Reading) -> bool:
    """Return whether the image can be decoded; print the error if it can't."""
    from unfreeze.data.given import decode_photo

    try:
        decode_photo(photo, min_side=1, reading=reading)
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
    run_folder = open_run(folder)
    verdict = Verdict.from_json(run_folder.verdict.read_text("utf-8", errors="replace"), str(run_folder.verdict))
    return Run(run_folder, verdict, device)
