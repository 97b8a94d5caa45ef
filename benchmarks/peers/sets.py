"""The benchmark's sets: what is read from where, which images stay together, and what trains and is tested.

    python -m benchmarks.peers.sets DATA        # writes DATA/eurosat_rgb and prints what each set has

DATA is the folder that benchmarks/README.md describes.  Every arm is given the same images: ``draw`` chooses them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from unfreeze.data.sources import PhotoSet, Sample, Split, read_photos
from unfreeze.runtime import generator

Role = Literal["accuracy", "ceiling", "shift"]

TRAINED_ON = 0.6  # of a class or of the groups at most, where the set names no sides
TEST_LIMIT = 1500  # test images of a set; 0: no limit
RED_GREEN_BLUE = (3, 2, 1)  # Sentinel-2's bands 4, 3 and 2 among the 13 of a file
BRIGHTEST = 3000  # reflectance times 10 000 that is drawn as 255: 99 % of the red band's values lie below


@dataclass(frozen=True)
class BenchmarkSet:
    """How a set is read and what its figures count for.

    Attributes:
        folder: Below DATA.
        a_class: Numbers of training images a class that most of its classes have.
        role: ``accuracy``: counts in means; ``ceiling``: nothing may be lost; ``shift``: tested on another camera.
        without: Classes that are left out.
        tested_on: Below DATA, where test images come from another folder than training images.
        grouped: Whether ``labels.csv`` names groups (patients, items), which training and test must not share.
    """

    folder: str
    a_class: tuple[int, ...] = (20, 100)
    role: Role = "accuracy"
    without: tuple[str, ...] = ()
    tested_on: str | None = None
    grouped: bool = False


# basophil has one photo by one camera and three by the other.
SETS: dict[str, BenchmarkSet] = {
    "magnetic_tile": BenchmarkSet("magnetic_tile"),
    "aid150": BenchmarkSet("aid150"),
    "deeppcb_patches": BenchmarkSet("deeppcb_patches"),
    "dermoscopy": BenchmarkSet("dermoscopy"),
    "kolektor28": BenchmarkSet("kolektor28", (20,), grouped=True),
    "malaria_patients": BenchmarkSet("malaria_patients", grouped=True),
    "xsdd7": BenchmarkSet("xsdd7"),
    "cifar10n": BenchmarkSet("cifar10n"),
    "wbc5_tecom": BenchmarkSet("wbc5/domain1_tecom", (20,), without=("basophil",)),
    "eurosat_rgb": BenchmarkSet("eurosat_rgb", (20,)),
    "wbc5_other_camera": BenchmarkSet(
        "wbc5/domain1_tecom", (20,), "shift", without=("basophil",), tested_on="wbc5/domain2_cellavision"
    ),
    "hymenoptera": BenchmarkSet("hymenoptera", role="ceiling"),
    "bccd_cells": BenchmarkSet("bccd_cells", role="ceiling"),
}


@dataclass(frozen=True)
class Drawn:
    """What all arms of one set, number of images a class and seed are given.

    Attributes:
        classes: Class names by label.
        train: Images to train on.
        test: Images to test on: all that are left over, or as many of them as the limit allows, evenly over classes.
        left_over: How many are left over.
    """

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]
    left_over: int


def read_set(name: str, data: Path) -> PhotoSet:
    """Return a set's images with groups and sides.

    Of byte-identical files the first is kept, and none where their labels differ: a copy of a training image tests nothing.
    """
    chosen = SETS[name]
    if name == "eurosat_rgb" and not (data / chosen.folder).exists():
        write_rgb(data / "eurosat_ms20", data / chosen.folder)
    photos = read_photos(data / chosen.folder)
    samples = list(photos.samples)
    if chosen.grouped:
        groups = _groups(data / chosen.folder)
        samples = [replace(sample, group=groups[sample.file_name]) for sample in samples]
    if chosen.tested_on is not None:
        other = read_photos(data / chosen.tested_on)
        labels = {label: photos.classes.index(found) for label, found in enumerate(other.classes)}
        samples = [replace(sample, split="train") for sample in samples]
        samples += [replace(sample, label=labels[sample.label], split="test") for sample in other.samples]
    kept = [label for label, found in enumerate(photos.classes) if found not in chosen.without]
    new = {label: index for index, label in enumerate(kept)}
    samples = [replace(sample, label=new[sample.label]) for sample in samples if sample.label in new]
    return PhotoSet(photos.root, tuple(photos.classes[label] for label in kept), tuple(_without_copies(samples)))


def draw(photos: PhotoSet, a_class: int, seed: int, limit: int = TEST_LIMIT) -> Drawn:
    """Draw images to train on per class, and to test on among all others, each from its own side.

    Where the set names sides, training images come from ``train`` and test images from ``test`` (``val`` where there is
    none).  Where it names groups, ``TRAINED_ON`` of the groups are the training side.  Otherwise a class gives at most
    ``TRAINED_ON`` of its images to training.

    Args:
        photos: The set.
        a_class: So many images of a class train, or as many as its side has.
        seed: Decides both.
        limit: Test images at most; 0: all.
    """
    samples = _sided(photos.samples, seed)
    # What is left of a small class stands at the end of the order that training images are taken from: test images have
    # an order of their own.
    order = [samples[index] for index in generator(seed, 2026).permutation(len(samples))]
    test_side = next((side for side in ("test", "val") if any(sample.split == side for sample in samples)), None)
    train: list[Sample] = []
    for label in range(len(photos.classes)):
        own = [sample for sample in order if sample.label == label and sample.split in (None, "train")]
        train += own[: min(a_class, len(own) if test_side else int(len(own) * TRAINED_ON))]
    taken = {sample.path for sample in train}
    again = [samples[index] for index in generator(seed, 2027).permutation(len(samples))]
    rest = [sample for sample in again if sample.split == test_side and sample.path not in taken]
    return Drawn(photos.classes, train, _evenly(rest, limit), len(rest))


def _evenly(samples: list[Sample], limit: int) -> list[Sample]:
    """Return at most ``limit`` of the samples, of each class its share."""
    if not limit or len(samples) <= limit:
        return samples
    by_class = sorted(samples, key=lambda sample: sample.label)
    return [by_class[index * len(samples) // limit] for index in range(limit)]


def _sided(samples: tuple[Sample, ...], seed: int) -> list[Sample]:
    """Return the samples with sides by group, so that no group is on both; unchanged where there are no groups.

    Groups with the same classes are divided in one ratio: a class that few groups have occurs on both sides.
    """
    labels: dict[str, set[int]] = defaultdict(set)
    for sample in samples:
        if sample.group is not None:
            labels[sample.group].add(sample.label)
    alike: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for group in sorted(labels):
        alike[tuple(sorted(labels[group]))].append(group)
    sides: dict[str | None, Split] = {}
    for classes, groups in sorted(alike.items()):
        n_train = int(len(groups) * TRAINED_ON)
        for place, index in enumerate(generator(seed, 2028, *classes).permutation(len(groups))):
            sides[groups[index]] = "train" if place < n_train else "test"
    return [replace(sample, split=sides.get(sample.group, sample.split)) for sample in samples]


def _groups(folder: Path) -> dict[str, str]:
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["group"] for row in csv.DictReader(file)}


def _without_copies(samples: list[Sample]) -> list[Sample]:
    copies: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        copies[hashlib.sha256(sample.path.read_bytes()).hexdigest()].append(sample)
    return [identical[0] for identical in copies.values() if len({sample.label for sample in identical}) == 1]


def to_rgb(bands: np.ndarray) -> np.ndarray:
    """Return Sentinel-2's red, green and blue as an image by a fixed stretch: the same reflectance is the same colour.

    Args:
        bands: Reflectance times 10 000, shape (H, W, 13).

    Returns:
        uint8, shape (H, W, 3).
    """
    shares = bands[..., RED_GREEN_BLUE].astype(np.float64) / BRIGHTEST
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def write_rgb(source: Path, target: Path) -> None:
    """Write each GeoTIFF of ``source``/CLASS as a PNG of ``target``/CLASS."""
    import tifffile

    for file in sorted(source.glob("*/*.tif")):
        place = target / file.parent.name / f"{file.stem}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_rgb(tifffile.imread(file))).save(place)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    data = parser.parse_args().data
    print("| set | counts for | images | classes | a class | n_train | n_test | left over |")
    print("| --- " * 8 + "|")
    for name, chosen in SETS.items():
        photos = read_set(name, data)
        for a_class in chosen.a_class:
            drawn = draw(photos, a_class, seed=0)
            counts = (
                len(photos.samples),
                len(drawn.classes),
                a_class,
                len(drawn.train),
                len(drawn.test),
                drawn.left_over,
            )
            print(f"| {name} | {chosen.role} | {' | '.join(map(str, counts))} |")


if __name__ == "__main__":
    main()
