"""What a training starts from, in the order in which mistakes in it should be found: photos, backbone, reference photos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from unfreeze.artifacts import refuse_used
from unfreeze.config import CompareConfig, TrainConfig
from unfreeze.data.checks import check, readable
from unfreeze.data.reference import read_reference
from unfreeze.data.sources import PhotoSet, read_photos
from unfreeze.errors import ConfigError
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.engine import choose_precision
from unfreeze.runtime import Stopwatch, choose_device, prepare_process
from unfreeze.training.store import Store, open_store

Known = Mapping[str, int]  # the short side of photos that were read before, by digest


def open_photos(config: TrainConfig | CompareConfig, watch: Stopwatch) -> tuple[Store, Known, PhotoSet]:
    """Prepare the process, refuse a used ``--out``, and read the photos; the store outlives the run."""
    prepare_process()
    if config.out is not None:
        refuse_used(config.out)
    store = open_store(config.cache, config.cache_gib)
    known = store.known_photos()
    with watch.measure("decode"):
        return store, known, check(read_photos(config.photos), known)


def open_backbone(config: TrainConfig | CompareConfig, watch: Stopwatch) -> Backbone:
    """Load the backbone onto its device, in its precision."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    with watch.measure("load"):
        return load_backbone(config.model, arch=config.arch, device=device, precision=precision)


def open_reference(
    folder: Path | None, backbone: Backbone, photos: PhotoSet, store: Store, known: Known
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
        reference = readable(read_reference(folder, backbone.network.labels), known)
    read = (*photos.samples, *(reference.samples if reference is not None else ()))
    store.remember_photos({sample.digest: sample.short_side for sample in read})
    return reference
