"""The inputs of a run, opened in the order in which mistakes should be reported: images, backbone, reference images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from unfreeze.acceleration.precision import choose_precision
from unfreeze.config import CompareConfig, TrainConfig
from unfreeze.data.checks import check, drop_unreadable, with_trait_notes
from unfreeze.data.decode import Facts, facts_key
from unfreeze.data.reference import read_reference
from unfreeze.data.rendering.renderer import Renderer
from unfreeze.data.scaling import choose_reading
from unfreeze.data.sources import PhotoSet, Sample, read_photos
from unfreeze.data.splits import FOLDS, Splits, split
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.groups import read_by
from unfreeze.planning.forecast import Forecast, forecast_run
from unfreeze.runtime import Stopwatch, choose_device, echo, prepare_process
from unfreeze.scratch import prepare_folders
from unfreeze.training.features.cache import FeatureCache, open_cache
from unfreeze.training.folds import TrainingSet
from unfreeze.training.recipe import Recipe
from unfreeze.training.recipes import head_stages_for, recipe_for

DecodeIndex = Mapping[str, Facts]  # what is known of every image that was decoded before, by ``facts_key``


@dataclass(frozen=True)
class Inputs:
    """The images of a run and how they are split, its backbone, and the cache.

    Attributes:
        photos: All images that can be read.
        splits: Indices of those to train on, to validate on and to test on, and the folds.
        backbone: The pretrained backbone.
        reference: Images of the original task; None where none are given.
        cache: Activations and solved heads, stored across runs.
        seed: Seed of the split, the views, the order of images and random weights.
    """

    photos: PhotoSet
    splits: Splits
    backbone: Backbone
    reference: PhotoSet | None
    cache: FeatureCache
    seed: int

    @cached_property
    def data(self) -> TrainingSet:
        """The images that training may see, without the held-out ones."""
        return TrainingSet.of(self.training_samples, self.splits, len(self.photos.classes))

    @property
    def training_samples(self) -> list[Sample]:
        """The samples that training may see: those to train on, then the user's validation set."""
        return [self.photos.samples[i] for i in self.splits.train_and_val]

    def held_out(self, renderer: Renderer) -> tuple[Renderer, Renderer | None]:
        """Return renderers of the test images and of the reference images, with the preprocessing of ``renderer``."""
        reference = renderer.for_samples(self.reference.samples) if self.reference is not None else None
        return renderer.for_samples(self.test_samples), reference

    @property
    def test_samples(self) -> list[Sample]:
        """The samples that are held out for testing."""
        return [self.photos.samples[i] for i in self.splits.test]

    def forecast(self, renderers: Sequence[Renderer], recipe: Recipe) -> Forecast:
        """Forecast the seconds of a run that trains with ``recipe`` on the views of ``renderers``."""
        held_out = self.held_out(renderers[0])
        return forecast_run(self.cache, self.backbone, renderers, self.data, recipe, *held_out)


def open_inputs(config: TrainConfig, watch: Stopwatch) -> Inputs:
    """Read the images, split them, load the backbone, and read the reference images.

    Raises:
        UnfreezeError: Any mistake in them that the user can mend.
    """
    cache, decode_index, photos = open_photos(config, watch)
    with watch.measure("decode"):
        splits = split(photos, test_size=config.test_size, folds=FOLDS, seed=config.seed)
    backbone = open_backbone(config, watch)
    photos, backbone = read_in_channels(config, photos, backbone, splits, config.seed, watch)
    backbone = replace(backbone, head_stages=head_stages_for(config, backbone))
    with watch.measure("evaluation"):
        reference = open_reference(config.reference, backbone, photos, cache, decode_index)
    return Inputs(photos, splits, backbone, reference, cache, config.seed)


def choose_recipe(config: TrainConfig, inputs: Inputs) -> Recipe:
    """Return the recipe of ``config``; without a test set, every fold is used for validation (full cross-fitting)."""
    n_train = len(inputs.splits.train)
    sizes = [sample.size for sample in inputs.training_samples]
    recipe = recipe_for(config, inputs.backbone, n_train, len(inputs.photos.classes), sizes)
    return recipe if len(inputs.splits.test) else recipe.cross_fit_all(n_train)


def open_photos(config: TrainConfig | CompareConfig, watch: Stopwatch) -> tuple[FeatureCache, DecodeIndex, PhotoSet]:
    """Prepare the process, open the cache, and read and check the images."""
    prepare_process()
    prepare_folders(config.out)
    cache = open_cache(config.cache, config.cache_gib)
    decode_index = cache.decode_index()
    with watch.measure("decode"):
        photos = check(
            read_photos(config.photos, sides=config.sides, group_by=config.group_by),
            decode_index,
            config.reading,
            config.group_by,
        )
        return cache, decode_index, photos


def open_backbone(config: TrainConfig | CompareConfig, watch: Stopwatch) -> Backbone:
    """Load the backbone onto its device, in its precision; it reads files and fits photos as the settings say."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with watch.measure("load"):
        backbone = load_backbone(config.model, arch=config.arch, device=device, precision=precision)
    for note in backbone.notes:
        echo(f"note: {note}")
    backbone = read_by(backbone, config.reading)
    if config.fit == "auto" or config.fit == "tiles":  # the model's own preprocessing, and framings beside it
        return backbone
    preprocessing = backbone.network.preprocessing.fitted(config.fit)
    return replace(backbone, network=replace(backbone.network, preprocessing=preprocessing))


def read_in_channels(
    config: TrainConfig | CompareConfig,
    photos: PhotoSet,
    backbone: Backbone,
    splits: Splits,
    seed: int,
    watch: Stopwatch,
) -> tuple[PhotoSet, Backbone]:
    """Choose bands and scaling from the training photos; return the photos with notes, and the backbone that reads so.

    Raises:
        ConfigError: A setting doesn't fit the photos, or forgetting can't be measured so.
        DecodeError: See ``choose_reading``.
    """
    with watch.measure("decode"):
        samples = [photos.samples[i] for i in splits.train_and_val]
        reading, line = choose_reading(config, samples, backbone.network.preprocessing.n_channels, seed)
    if line is not None:
        echo(line)
    if reading.channels and config.reference is not None:
        raise ConfigError(
            "Forgetting can't be measured: the model is to read numbers in bands, and reference photos are RGB.",
            where="--reference",
            mend="Leave it out, or take --scaling image with photos of one or three bands.",
        )
    return with_trait_notes(photos, reading), read_by(backbone, reading)


def open_reference(
    folder: Path | None, backbone: Backbone, photos: PhotoSet, cache: FeatureCache, decode_index: DecodeIndex
) -> PhotoSet | None:
    """Read the images of the original task that can be decoded (None: no folder); add all images to the decode index.

    Raises:
        ConfigError: The original classes are unknown.
        PhotosError: See ``read_reference``.
    """
    reference, reading = None, backbone.network.preprocessing.reading
    if folder is not None:
        if not backbone.network.labels:
            raise ConfigError(
                "The classes of this model's original task are unknown.", where="--reference", mend="Leave it out."
            )
        reference = drop_unreadable(read_reference(folder, backbone.network.labels), decode_index, reading)
    samples = (*photos.samples, *(reference.samples if reference is not None else ()))
    cache.update_decode_index(
        {facts_key(each.digest, reading): Facts(each.size, each.traits, each.fingerprint) for each in samples}
    )
    return reference
