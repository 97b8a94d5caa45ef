"""What a training starts from, in the order in which mistakes in it should be found: photos, backbone, reference photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unfreeze.acceleration.frozen import choose_precision
from unfreeze.config import CompareConfig, TrainConfig
from unfreeze.data.checks import check, drop_unreadable
from unfreeze.data.reference import read_reference
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.data.splits import FOLDS, Splits, split
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.runtime import Stopwatch, choose_device, prepare_process
from unfreeze.training.features.cache import FeatureCache, open_cache
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipe import Recipe
from unfreeze.training.recipes import recipe_for

DecodeIndex = Mapping[str, int]  # the short side of photos that were read before, by digest


@dataclass(frozen=True)
class Inputs:
    """The images of a run and how they are split, its backbone, and the cache.

    Attributes:
        photos: All images that can be read.
        splits: Which of them train, validate and test.
        backbone: Pretrained.
        reference: Images of the original task; None where none are given.
        cache: Keeps activations and heads across runs.
        seed: Decides the split, the views, the order of images and random weights.
    """

    photos: PhotoSet
    splits: Splits
    backbone: Backbone
    reference: PhotoSet | None
    cache: FeatureCache
    seed: int

    @cached_property
    def data(self) -> TrainingSet:
        """The images that training may see; it knows no others."""
        return TrainingSet.of(self.training_samples, self.splits, len(self.photos.classes))

    @property
    def training_samples(self) -> list[Sample]:
        """The images that training may see: those to train on, then the user's validation set."""
        return [self.photos.samples[i] for i in self.splits.train_and_val]

    def held_out(self, renderer: Renderer) -> tuple[Renderer, Renderer | None]:
        """Return renderers of the test images and of the reference images, with the preprocessing of ``renderer``."""
        reference = renderer.for_samples(self.reference.samples) if self.reference is not None else None
        return renderer.for_samples(self.test_samples), reference

    @property
    def test_samples(self) -> list[Sample]:
        """The images that are held out."""
        return [self.photos.samples[i] for i in self.splits.test]


def open_inputs(config: TrainConfig, watch: Stopwatch) -> Inputs:
    """Read the photos, split them, load the backbone, and read the reference photos.

    Raises:
        UnfreezeError: Any mistake in them that the user can mend.
    """
    store, known, photos = open_photos(config, watch)
    with watch.measure("decode"):
        splits = split(photos, test_size=config.test_size, folds=FOLDS, seed=config.seed)
    backbone = open_backbone(config, watch)
    with watch.measure("evaluation"):
        reference = open_reference(config.reference, backbone, photos, store, known)
    return Inputs(photos, splits, backbone, reference, store, config.seed)


def choose_recipe(config: TrainConfig, inputs: Inputs) -> Recipe:
    """Return how to train; where there is no test set, every fold is validated on."""
    count = len(inputs.splits.train)
    recipe = recipe_for(config, inputs.backbone, count, len(inputs.photos.classes))
    return recipe if len(inputs.splits.test) else recipe.cross_fit_all(count)


def open_photos(config: TrainConfig | CompareConfig, watch: Stopwatch) -> tuple[FeatureCache, DecodeIndex, PhotoSet]:
    """Prepare the process and read the photos; the cache outlives the run."""
    prepare_process()
    store = open_cache(config.cache, config.cache_gib)
    known = store.decode_index()
    with watch.measure("decode"):
        return store, known, check(read_photos(config.photos), known)


def open_backbone(config: TrainConfig | CompareConfig, watch: Stopwatch) -> Backbone:
    """Load the backbone onto its device, in its precision."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with watch.measure("load"):
        return load_backbone(config.model, arch=config.arch, device=device, precision=precision)


def open_reference(
    folder: Path | None, backbone: Backbone, photos: PhotoSet, store: FeatureCache, known: DecodeIndex
) -> PhotoSet | None:
    """Read the photos of the original task that can be read (None: no folder), and remember all that was read.

    Raises:
        ConfigError: The original classes are unknown.
        PhotosError: See ``read_reference``.
    """
    reference = None
    if folder is not None:
        if not backbone.network.labels:
            raise ConfigError(
                "The classes of this model's original task are unknown.", where="--reference", mend="Leave it out."
            )
        reference = drop_unreadable(read_reference(folder, backbone.network.labels), known)
    read = (*photos.samples, *(reference.samples if reference is not None else ()))
    store.update_decode_index({sample.digest: sample.short_side for sample in read})
    return reference
