"""The textbook recipe in plain PyTorch beside unfreeze: the same photos, the same weights, the same test.

    python examples/two_phase_by_hand.py PHOTOS [--epochs 5]

PHOTOS has a folder for each class.  Every fourth photo is held out.  Besides accuracy, the original classifier is asked
before and after whether it still says the same of the test photos: how far the backbone has moved.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import unfreeze
from unfreeze.models.backbones import load_backbone

BATCH = 16


@dataclass(frozen=True)
class Photos:
    """Photos that train and photos that test: paths and labels."""

    classes: list[str]
    train: list[tuple[Path, int]]
    test: list[tuple[Path, int]]


def divide(folder: Path) -> Photos:
    """Hold out every fourth photo of each class."""
    classes = sorted(place.name for place in folder.iterdir() if place.is_dir())
    found = [(n, (photo, label)) for label, name in enumerate(classes)
             for n, photo in enumerate(sorted((folder / name).iterdir()))]  # fmt: skip
    return Photos(classes, [one for n, one in found if n % 4], [one for n, one in found if n % 4 == 0])


def images(photos: list[tuple[Path, int]], *, augmented: bool) -> Tensor:
    """Return photos as this network wants them, shape (N, 3, 224, 224)."""
    from PIL import Image
    from torchvision import transforms

    plain = [transforms.Resize(256), transforms.CenterCrop(224)]
    random = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
    steps = [*(random if augmented else plain), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    render = transforms.Compose(steps)
    return torch.stack([render(Image.open(path).convert("RGB")) for path, _ in photos])


def train(network: nn.Module, photos: Photos, learning: nn.Module, lr: float, epochs: int, *, frozen: bool) -> None:
    """Train the parameters of ``learning`` with Adam, as the tutorials do."""
    network.requires_grad_(False)
    learning.requires_grad_(True)
    optimizer = torch.optim.Adam(learning.parameters(), lr)
    for _ in range(epochs):
        network.train(not frozen)  # True is the textbooks' line: it moves BatchNorm's statistics, whatever is frozen
        order = torch.randperm(len(photos.train)).tolist()
        for start in range(0, len(order), BATCH):
            chosen = [photos.train[i] for i in order[start : start + BATCH]]
            labels = torch.tensor([label for _, label in chosen])
            loss = nn.functional.cross_entropy(network(images(chosen, augmented=True)), labels)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()


def textbook(photos: Photos, epochs: int, *, frozen: bool) -> tuple[float, float]:
    """Train both phases; return accuracy, and how often the original classifier still says the same."""
    backbone = load_backbone("efficientnet_lite0")
    network = backbone.network.module.eval()
    test, truth = images(photos.test, augmented=False), torch.tensor([label for _, label in photos.test])
    original = network.get_submodule("classifier")
    head = nn.Linear(backbone.feature_dim, len(photos.classes))
    with torch.no_grad():
        before = network(test).argmax(1)

    torch.manual_seed(0)
    network.classifier = head
    train(network, photos, head, 1e-3, epochs, frozen=frozen)  # phase 1
    train(network, photos, network, 1e-5, epochs, frozen=frozen)  # phase 2

    with torch.no_grad():
        accuracy = (network(test).argmax(1) == truth).float().mean().item()
        network.classifier = original
        same = (network(test).argmax(1) == before).float().mean().item()
    return accuracy, same


def ours(photos: Photos) -> tuple[float, float]:
    """Do the same with unfreeze, which is given the same photos to test on."""
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch, "photos.csv")
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file_name", "label", "split"])
            for split, members in (("train", photos.train), ("test", photos.test)):
                writer.writerows((path.resolve(), photos.classes[label], split) for path, label in members)
        verdict = unfreeze.train(table, out=Path(scratch, "run")).verdict
    moved = verdict.forgetting.agreement if verdict.forgetting else None
    return verdict.scores.shipped.accuracy, 1.0 if verdict.shipped == "head_only" or moved is None else moved


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description="The textbook recipe beside unfreeze.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--epochs", type=int, default=5, help="of each phase")
    asked = parser.parse_args()
    photos = divide(asked.photos)
    print(f"{len(photos.train)} photos train, {len(photos.test)} test")
    print(f"{'':28}{'accuracy':>10}{'original same':>16}{'seconds':>10}")
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "textbook, as it is": lambda: textbook(photos, asked.epochs, frozen=False),
        "textbook, BatchNorm frozen": lambda: textbook(photos, asked.epochs, frozen=True),
        "unfreeze": lambda: ours(photos),
    }
    for name, way in ways.items():
        began = time.perf_counter()
        accuracy, same = way()
        print(f"{name:28}{accuracy:>10.1%}{same:>16.1%}{time.perf_counter() - began:>10.0f}")


if __name__ == "__main__":
    main()
