"""What a linear head gains from reading several stages of a frozen backbone, and from several framings of an image.

    python -m benchmarks.stages features DATA STORE [--sets magnetic_tile ...] [--views crop squeeze random] [--model ...]
    python -m benchmarks.stages heads STORE [--sets ...] [--a-class 20] [--seeds 0 1 2 3 4] [--variants ...] >> rows.csv

``features`` runs the backbone in float32 (by OpenVINO) once per image and view, and stores each stage's mean, maximum
and standard deviation over positions.  A view is ``random`` (one augmented view), or a framing (``crop``: the backbone's
own; ``squeeze``: the whole image resized to the square; ``strip0of3``: squares along the long side; ``tile0of10``: squares
of half the short side), with ``@288`` for another input size and ``:FLIPPED`` for an orientation.
``heads`` draws training images, fits the variants' heads by ``fit_head``, and prints a row for each: balanced accuracy and
log-loss of the test images, balanced accuracy and log-loss of the training images out of fold, the selected penalty.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from unfreeze.data.decode import decode
from unfreeze.data.rendering.framings import plain
from unfreeze.data.rendering.renderer import prefetch
from unfreeze.data.rendering.transforms import _orient, augment, normalize, to_batch
from unfreeze.data.sources import Sample
from unfreeze.data.splits import _fold_numbers
from unfreeze.models.backbone import Backbone
from unfreeze.models.backbones import load_backbone
from unfreeze.models.stages import run_with_intermediates
from unfreeze.orientations import Orientation
from unfreeze.preprocessing import Preprocessing
from unfreeze.runtime import prepare_process
from unfreeze.training.head.regularisation_path import HeadFit, fit_head
from unfreeze.training.recipes import LIGHT_AUG

POOLS = ("mean", "max", "std")
BATCH = 32
FOLDS = 5
MAX_TRAIN_SHARE = 0.6  # of a class that has too few images for the training set and the test set
LARGEST_POOL = 2600  # images of a set that are drawn from
LARGEST_TEST = 1200
EXCLUDED = {"basophil"}  # wbc5 has one photo of it
FOLDERS = {"wbc5_tecom": "wbc5/domain1_tecom"}
GROUPED = ("kolektor28", "malaria_patients")
CEILINGS = ("hymenoptera", "bccd_cells")  # at 94 and 99 %: left out of the means
SETS = (
    "kolektor28", "eurosat_rgb", "wbc5_tecom", "dermoscopy", "deeppcb_patches", "magnetic_tile", "malaria_patients",
    "cifar10n", "xsdd7", "aid150", "hymenoptera", "bccd_cells",
)  # fmt: skip
Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Photo:
    """An image of a set: its file, its class, the item or patient it shows, and the split that its source gave it."""

    path: str
    label: str
    group: str | None
    split: str | None


def read_set(data: Path, name: str) -> list[Photo]:
    """List at most ``LARGEST_POOL`` images of a set, evenly drawn from each class and split."""
    root = data / FOLDERS.get(name, name)
    groups: dict[str, str] = {}
    if name in GROUPED:
        with (root / "labels.csv").open(encoding="utf-8") as file:
            groups = {row["file"]: row["group"] for row in csv.DictReader(file)}
    found: dict[tuple[str | None, str], list[Photo]] = {}
    for path in sorted(path for path in root.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".bmp")):
        parts = path.relative_to(root).parts
        split = parts[0] if name == "cifar10n" else None  # elsewhere the splits are merged
        if path.parent.name not in EXCLUDED:
            photo = Photo(str(path), path.parent.name, groups.get("/".join(parts)) if groups else None, split)
            found.setdefault((split, photo.label), []).append(photo)
    share = min(1.0, LARGEST_POOL / sum(map(len, found.values())))
    return [photo for part in found.values() for photo in evenly(part, round(share * len(part)))]


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    return [items[i] for i in np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)]


class EveryStage(nn.Module):
    """A backbone that returns the pooled output of every stage, each of shape (N, 3, D), for images (N, 3, H, W)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.stages = backbone.stages
        self.modules_of_stages = nn.ModuleList([stage.module for stage in backbone.stages])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        pooled = []
        for stage in self.stages:
            steps = run_with_intermediates(stage, x)
            x = steps[-1]
            output = next(step for step in reversed(steps) if step.dim() == 4)  # of the last stage, before its pooling
            mean = output.mean(dim=(2, 3))
            spread = (output - mean[:, :, None, None]).square().mean(dim=(2, 3)).sqrt()
            pooled.append(torch.stack([mean, output.amax(dim=(2, 3)), spread], dim=1))
        return tuple(pooled)


def frame(image: Image.Image, view: str, own: Preprocessing, content: int) -> Image.Image:
    """Render a view of an image (see the module's docstring)."""
    found = re.fullmatch(r"([a-z]+)(?:(\d+)of(\d+))?(?:@(\d+))?(?::(\w+))?", view)
    assert found, f"{view!r} is no view"
    framing, number, count, size, orientation = found.groups()
    if size:
        resize = own.resize if isinstance(own.resize, int) else own.resize[0]
        own = replace(own, size=(int(size),) * 2, resize=resize * int(size) // own.size[0])
    if framing == "random":
        return augment(image, own, LIGHT_AUG, (0, 1 + int(number or 0), content))
    if framing != "crop":
        own = replace(own, resize=own.size)
    if framing in ("strip", "tile"):
        image = image.crop(part(image.size, int(number), int(count), across=1 if framing == "strip" else 2))
    return _orient(plain(image, own), Orientation[orientation] if orientation else Orientation.IDENTITY)


def part(size: tuple[int, int], number: int, count: int, across: int) -> tuple[int, int, int, int]:
    """Return the box of one of ``count`` squares in ``across`` rows along the long side, evenly spaced."""
    side = min(size) // across
    along = count // across
    at = round((max(size) - side) * (number // across) / max(1, along - 1))
    off = (min(size) - side) * (number % across) // max(1, across - 1)
    left, top = (at, off) if size[0] >= size[1] else (off, at)
    return left, top, left + side, top + side


def write_features(data: Path, store: Path, name: str, views: Sequence[str], backbone: Backbone) -> None:
    """Write a set's list of images, and for each view an array (images, 3 * all stages' channels), float32."""
    folder = store / name
    folder.mkdir(parents=True, exist_ok=True)
    photos = read_set(data, name)
    (folder / "photos.json").write_text(json.dumps([vars(photo) for photo in photos]), "utf-8")
    views = [view for view in views if not (folder / f"{view}.npy").exists()]
    own = backbone.network.preprocessing

    def rendered(photo: Photo) -> list[Tensor]:
        image = decode(Path(photo.path))
        content = int(hashlib.sha256(Path(photo.path).read_bytes()).hexdigest(), 16)
        return [to_batch([frame(image, view, own, content)]) for view in views]

    compute: dict[int, Callable[[Tensor], list[Tensor]]] = {}
    out: list[list[Tensor]] = [[] for _ in views]
    for parts in prefetch(rendered, [photos[start : start + BATCH] for start in range(0, len(photos), BATCH)]):
        for at in range(len(views)):
            x = normalize(torch.cat([each[at] for each in parts]), own)
            if x.shape[2] not in compute:
                compute[x.shape[2]] = compiled(backbone, x)
            stages = compute[x.shape[2]](x)
            out[at].append(torch.cat([stage.flatten(1) for stage in stages], dim=1))
            layout = [(s.name, pooled.shape[2]) for s, pooled in zip(backbone.stages, stages, strict=True)]
            (store / "layout.json").write_text(json.dumps(layout), "utf-8")
    for view, found in zip(views, out, strict=True):
        np.save(folder / f"{view}.npy", torch.cat(found).numpy())
    print(f"{name}: {len(photos)} images, {', '.join(views)}", file=sys.stderr, flush=True)


def compiled(backbone: Backbone, example: Tensor) -> Callable[[Tensor], list[Tensor]]:
    import openvino

    with torch.inference_mode():
        model = openvino.convert_model(EveryStage(backbone).eval(), example_input=example[:2].contiguous())
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    run = openvino.Core().compile_model(model, "CPU", options)
    return lambda x: [torch.from_numpy(np.array(value)) for value in run(x.contiguous().numpy()).values()]


@dataclass(frozen=True)
class Variant:
    """A way to make a head.

    Attributes:
        stages: The stages whose outputs it reads, as indices from the first.
        pools: How they are pooled; the last one's mean is always read.
        scaling: One of ``column_weights``.
        evaluated: Views whose logits are averaged; the head is fitted on them, too.
        fitted: Further views that it is fitted on.
    """

    stages: tuple[int, ...]
    pools: tuple[str, ...] = ("mean",)
    scaling: str = "unit"
    evaluated: tuple[str, ...] = ("crop",)
    fitted: tuple[str, ...] = ("random",)


@dataclass(frozen=True)
class Block:
    """The columns of one stage's output under one pooling."""

    stage: int
    pool: str
    columns: slice


def blocks_of(layout: Sequence[tuple[str, int]], variant: Variant) -> list[Block]:
    """Return where the variant's features are in a stored row."""
    found, start, last = [], 0, len(layout) - 1
    for stage, (_, width) in enumerate(layout):
        for pool in POOLS:
            extra = stage in variant.stages and pool in variant.pools and (stage < last or pool != "mean")
            if extra or (stage == last and pool == "mean"):
                found.append(Block(stage, pool, slice(start, start + width)))
            start += width
    return found


def column_weights(std: Array, widths: Sequence[int], scaling: str) -> Array:
    """Return the factor of each column.

    Args:
        std: Each column's standard deviation over the training rows, shape (D,).
        widths: Columns of each block, in order.
        scaling: ``raw``: 1.  ``unit``: each column to variance 1.  ``floor``: likewise, deviations below a tenth of the
            block's median count as that.  ``sqrtstd``: half way (geometrically) between one scale a block and ``unit``.
            ``block``: ``unit``, then each block to the same total variance; ``blocksqrt``: to a total variance of
            sqrt(width); ``blockraw``: one scale a block, to the same total variance, ``blockrawsqrt``: to sqrt(width),
            ``blockrawwidth``: to width, ``blockrawhalf``: the last block has half of it, the others their widths' shares
            of the rest; ``half``: the last block has half
            of the total variance.
    """
    weights = np.ones_like(std)
    start = 0
    for number, width in enumerate(widths):
        own = slice(start, start + width)
        start += width
        if scaling == "raw":
            continue
        median = max(float(np.median(std[own])), 1e-8)
        if scaling in ("blockraw", "blockrawsqrt", "blockrawwidth", "blockrawhalf"):
            weights[own] = 1 / max(float(np.sqrt(np.square(std[own]).sum())), 1e-8)
            if scaling == "blockrawhalf":
                others = sum(widths) - widths[-1]
                weights[own] *= 1 if number == len(widths) - 1 else (width / others) ** 0.5
            else:
                weights[own] *= width ** {"blockraw": 0.0, "blockrawsqrt": 0.25, "blockrawwidth": 0.5}[scaling]
            continue
        if scaling == "sqrtstd":
            weights[own] = 1 / np.sqrt(std[own].clip(1e-3 * median) * median)
            weights[own] /= np.sqrt(np.square(std[own] * weights[own]).mean())
            continue
        weights[own] = 1 / std[own].clip((0.1 if scaling == "floor" else 1e-3) * median)
        if scaling == "block":
            weights[own] /= width**0.5
        elif scaling == "blocksqrt":
            weights[own] /= width**0.25
        elif scaling == "half":
            is_last = number == len(widths) - 1 if len(widths) > 1 else True
            others = sum(widths) - widths[-1]
            weights[own] /= (width if is_last else max(1, others)) ** 0.5
    return weights


@dataclass(frozen=True)
class Draw:
    """Training images with folds, and test images, as indices into a set's list."""

    train: Indices
    fold: Indices
    test: Indices


def draw(photos: Sequence[Photo], a_class: int, seed: int) -> Draw:
    """Draw up to ``a_class`` training images of each class; groups are on one side only."""
    random = np.random.default_rng(seed)
    order = random.permutation(len(photos))
    grouped = photos[0].group is not None
    if grouped:
        names = sorted({str(photo.group) for photo in photos})
        chosen = set(random.permutation(names)[: round(MAX_TRAIN_SHARE * len(names))].tolist())
        may_train = np.array([photo.group in chosen for photo in photos])
    else:
        may_train = np.array([photo.split != "test" for photo in photos])
    has_test_split = any(photo.split == "test" for photo in photos)
    whole = Counter(photo.label for photo, allowed in zip(photos, may_train, strict=True) if allowed)
    cap = {
        label: a_class if grouped or has_test_split else min(a_class, int(MAX_TRAIN_SHARE * count))
        for label, count in whole.items()
    }
    taken: Counter[str] = Counter()
    train = []
    for index in order.tolist():
        label = photos[index].label
        if may_train[index] and taken[label] < cap[label]:
            taken[label] += 1
            train.append(index)
    train.sort()
    free = ~may_train if grouped or has_test_split else np.ones(len(photos), bool)
    free[train] = False
    rest = np.flatnonzero(free)
    classes = sorted({photo.label for photo in photos})
    samples = [
        Sample(Path(photos[i].path), photos[i].path, classes.index(photos[i].label), photos[i].group) for i in train
    ]
    fold = _fold_numbers(samples, FOLDS, seed, Path())
    return Draw(np.array(train), fold, np.array(evenly(rest.tolist(), LARGEST_TEST)))


@dataclass(frozen=True)
class Stored:
    """A set's stored features."""

    folder: Path
    layout: list[tuple[str, int]]
    photos: list[Photo]
    labels: Indices

    @classmethod
    def of(cls, store: Path, name: str) -> Stored:
        photos = [Photo(**fields) for fields in json.loads((store / name / "photos.json").read_text("utf-8"))]
        classes = sorted({photo.label for photo in photos})
        labels = np.array([classes.index(photo.label) for photo in photos])
        layout = [(stage, int(width)) for stage, width in json.loads((store / "layout.json").read_text("utf-8"))]
        return cls(store / name, layout, photos, labels)

    def has(self, views: Sequence[str]) -> bool:
        return all((self.folder / f"{view}.npy").exists() for view in views)

    def read(self, rows: Indices, views: Sequence[str], blocks: Sequence[Block]) -> NDArray[np.float32]:
        """Return features (rows, views, D)."""
        columns = np.concatenate([np.arange(block.columns.start, block.columns.stop) for block in blocks])
        arrays = [np.load(self.folder / f"{view}.npy", mmap_mode="r") for view in views]
        return np.stack([array[rows][:, columns] for array in arrays], axis=1)


@dataclass(frozen=True)
class Measured:
    """Balanced accuracy of the test images and of the training images out of fold (points), and log-losses of both."""

    balanced: float
    log_loss: float
    oof_balanced: float
    oof_log_loss: float
    l2: float


def measure(stored: Stored, drawn: Draw, variant: Variant) -> Measured:
    """Fit a variant's head on the training images and score it."""
    blocks = blocks_of(stored.layout, variant)
    x = stored.read(drawn.train, (*variant.evaluated, *variant.fitted), blocks).astype(np.float64)
    rows = x.reshape(-1, x.shape[2])
    center, std = rows.mean(axis=0), rows.std(axis=0)
    widths = [block.columns.stop - block.columns.start for block in blocks]
    weights = column_weights(std, widths, variant.scaling)

    def scaled(features: NDArray[Any]) -> Tensor:
        return torch.from_numpy((features - center) * weights)

    labels = torch.from_numpy(stored.labels[drawn.train])
    classes = int(stored.labels.max()) + 1
    fit: HeadFit = fit_head(scaled(x).float(), labels, drawn.fold, classes)
    n_evaluated = len(variant.evaluated)
    oof = torch.zeros(len(labels), classes, dtype=torch.float64)
    for number, head in enumerate(fit.fold_heads):
        held = drawn.fold == number
        oof[torch.from_numpy(held)] = head.logits(scaled(x[held][:, :n_evaluated])).mean(dim=1)
    test = stored.read(drawn.test, variant.evaluated, blocks)
    logits = fit.head.logits(scaled(test)).mean(dim=1)
    truth = torch.from_numpy(stored.labels[drawn.test])
    return Measured(balanced(logits, truth), loss(logits, truth), balanced(oof, labels), loss(oof, labels), fit.l2)


def balanced(logits: Tensor, labels: Tensor) -> float:
    right = (logits.argmax(dim=1) == labels).double()
    return 100 * float(torch.stack([right[labels == label].mean() for label in torch.unique(labels)]).mean())


def loss(logits: Tensor, labels: Tensor) -> float:
    return float(nn.functional.cross_entropy(logits, labels))


def variants_of(layout: Sequence[tuple[str, int]]) -> dict[str, Variant]:
    """Return all variants by name, for a backbone with these stages."""
    last = len(layout) - 1
    third, every = tuple(range(2, last + 1)), tuple(range(last + 1))
    both = ("mean", "max")
    framings = {
        "crop": ("crop",), "squeeze": ("squeeze",), "both": ("crop", "squeeze"),
    }  # fmt: skip
    found = {
        "last raw": Variant((last,), scaling="raw"),
        "last unit": Variant((last,)),
        "last sqrtstd": Variant((last,), scaling="sqrtstd"),
        "last+max unit": Variant((last,), both),
        "third mean unit": Variant(third),
        "third mean+max unit": Variant(tuple(s for s in third if s < last), both),
        "third mean+max (last too) unit": Variant(third, both),
        "third mean+std unit": Variant(tuple(s for s in third if s < last), ("mean", "std")),
        "third mean+max+std unit": Variant(tuple(s for s in third if s < last), POOLS),
        "all mean unit": Variant(every),
        "all mean+max unit": Variant(tuple(s for s in every if s < last), both),
        "all mean+std unit": Variant(tuple(s for s in every if s < last), ("mean", "std")),
        "two mean+max unit": Variant((last - 1,), both),
        "three mean+max unit": Variant((last - 2, last - 1), both),
        "half mean+max unit": Variant(tuple(range((last + 1) // 2, last)), both),
    }
    below = tuple(s for s in third if s < last)
    for scaling in ("raw", "floor", "sqrtstd", "block", "blocksqrt", "blockraw", "half"):
        found[f"third mean+max {scaling}"] = Variant(below, both, scaling)
    for scaling in ("raw", "sqrtstd", "block", "blocksqrt", "blockraw", "blockrawsqrt"):
        found[f"third mean {scaling}"] = Variant(below, ("mean",), scaling)
        found[f"all mean+max {scaling}"] = Variant(tuple(s for s in every if s < last), both, scaling)
        for pools in (("mean", "std"), POOLS):
            found[f"third {'+'.join(pools)} {scaling}"] = Variant(below, pools, scaling)
    for scaling in ("blockrawsqrt", "blockrawwidth", "blockrawhalf"):
        found[f"third mean+max {scaling}"] = Variant(below, both, scaling)
        found[f"two mean+max {scaling}"] = Variant((last - 1,), both, scaling)
    found["both width"] = Variant(below, both, "blockrawwidth", ("crop", "squeeze"))
    for name, views in framings.items():
        found[f"framing {name}"] = Variant(below, both, "blockrawsqrt", views)
        found[f"last framing {name}"] = Variant((last,), ("mean",), "raw", views)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True)
    features, heads = steps.add_parser("features"), steps.add_parser("heads")
    features.add_argument("data", type=Path)
    for step in (features, heads):
        step.add_argument("store", type=Path)
        step.add_argument("--sets", nargs="+", default=list(SETS))
        step.add_argument("--threads", type=int, default=1)
    features.add_argument("--views", nargs="+", default=["crop", "squeeze", "random"])
    features.add_argument("--model", default="efficientnet_lite0")
    features.add_argument("--arch")
    heads.add_argument("--a-class", type=int, default=20)
    heads.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    heads.add_argument("--variants", nargs="+", help="names, or the beginnings of names; default: all")
    arguments = parser.parse_args()
    prepare_process()
    torch.set_num_threads(arguments.threads)
    if arguments.step == "features":
        backbone = load_backbone(arguments.model, arch=arguments.arch)
        for name in arguments.sets:
            write_features(arguments.data, arguments.store, name, arguments.views, backbone)
        return
    writer = csv.writer(sys.stdout)
    for name in arguments.sets:
        for row in rows_of(arguments.store, name, arguments.a_class, arguments.seeds, arguments.variants):
            writer.writerow(row)
            sys.stdout.flush()


def rows_of(
    store: Path, name: str, a_class: int, seeds: Sequence[int], wanted: Sequence[str] | None
) -> Iterator[tuple[object, ...]]:
    """Yield set, images a class, seed, variant and the measured values; variants without stored views are left out."""
    stored = Stored.of(store, name)
    variants = {
        key: variant
        for key, variant in variants_of(stored.layout).items()
        if stored.has((*variant.evaluated, *variant.fitted)) and (not wanted or key.startswith(tuple(wanted)))
    }
    for seed in seeds:
        drawn = draw(stored.photos, a_class, seed)
        for key, variant in variants.items():
            found = measure(stored, drawn, variant)
            yield (
                name, a_class, seed, key, f"{found.balanced:.2f}", f"{found.log_loss:.4f}",
                f"{found.oof_balanced:.2f}", f"{found.oof_log_loss:.4f}", f"{found.l2:g}",
            )  # fmt: skip


if __name__ == "__main__":
    main()
