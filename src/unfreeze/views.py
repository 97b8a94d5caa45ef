"""Evaluation views: an image in a framing and an orientation.  A model's logits may be averaged over several of them.

A framing says which part of the image fills the network's input: the centre crop of the backbone's source, the whole
image, or one tile of it.  ``data/rendering/framings.py`` renders framings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from unfreeze.orientations import FORMER_ORIENTATIONS, Orientation
from unfreeze.preprocessing import Fit

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Framing:
    """The part of an image that fills the network's input.

    Attributes:
        kind: ``crop``: the resize and centre crop of the backbone's source.  ``squeeze``: the whole image, resized to
            the input without regard to its aspect ratio.  ``tile``: one of several overlapping parts, of the input's
            aspect ratio where they suffice, that cover the image together.
        grid: The number of tiles along the image's short side and along its long side; (1, 1) for other kinds.
        index: The number of the tile, row by row from the top left.
    """

    kind: Literal["crop", "squeeze", "tile"]
    grid: tuple[int, int] = (1, 1)
    index: int = 0

    @property
    def name(self) -> str:
        """The name in files: ``crop``, ``squeeze``, ``tile 1 of 3`` (along the long side), ``tile 1 of 2x2``."""
        if self.kind != "tile":
            return self.kind
        short, long = self.grid
        return f"tile {self.index + 1} of {long if short == 1 else f'{short}x{long}'}"


Grid = tuple[int, int]
CROP, SQUEEZE = Framing("crop"), Framing("squeeze")
GRIDS: tuple[Grid, ...] = ((1, 2), (1, 3), (1, 4), (2, 2))


def tiles(grid: Grid) -> tuple[Framing, ...]:
    """Return the tiles of a grid, in order."""
    return tuple(Framing("tile", grid, index) for index in range(grid[0] * grid[1]))


FRAMINGS = (CROP, SQUEEZE, *(tile for grid in GRIDS for tile in tiles(grid)))
"""All framings.  The numbers of views, and with them the cached activations, depend on the order: only append."""
CROP_ONLY = (CROP,)
_BY_NAME = {framing.name: framing for framing in FRAMINGS}


class EvaluationView(int):
    """A view that logits may be averaged over; an integer of 0 or less, the number of the view of an image.

    0 is the plain view, the centre crop as it is; the four numbers below are its other orientations, the next five are
    the whole image in each orientation, and so on in the order of ``FRAMINGS``.  Positive numbers are random views.
    """

    __slots__ = ()

    def __new__(cls, number: int) -> Self:
        """Return the view of a number.

        Raises:
            ValueError: No view has this number.
        """
        if not -len(FRAMINGS) * len(Orientation) < number <= 0:
            raise ValueError(f"{number} is the number of no evaluation view")
        return super().__new__(cls, number)

    @classmethod
    def of(cls, framing: Framing = CROP, orientation: Orientation = Orientation.IDENTITY) -> Self:
        """Return the view of a framing and an orientation."""
        return cls(orientation - len(Orientation) * FRAMINGS.index(framing))

    @property
    def framing(self) -> Framing:
        """The framing."""
        return FRAMINGS[-self // len(Orientation)]

    @property
    def orientation(self) -> Orientation:
        """The orientation, which is applied to the rendered framing."""
        return Orientation(-(-self % len(Orientation)))

    def __repr__(self) -> str:
        """Return the framing's and the orientation's name."""
        return f"<{self.framing.name}, {self.orientation.name.lower()}>"

    def to_dict(self) -> dict[str, str]:
        """Return the names of framing and orientation, as they are written to files."""
        return {"framing": self.framing.name, "orientation": self.orientation.name.lower()}

    @classmethod
    def from_dict(cls, names: Mapping[str, str]) -> Self:
        """Return the view that ``to_dict`` described.

        Raises:
            KeyError: A name is missing or unknown.
        """
        return cls.of(_BY_NAME[names["framing"]], Orientation[names["orientation"].upper()])


Views = tuple[EvaluationView, ...]
PLAIN = EvaluationView(0)
PLAIN_ONLY: Views = (PLAIN,)


def views_from(described: Mapping[str, Any]) -> Views:
    """Return the views of a model's description in a file: ``views``, or in files of earlier versions orientations.

    Raises:
        KeyError, TypeError, AttributeError: The description is damaged.
        ValueError: It has no view.
    """
    views: Views
    if "views" in described:
        views = tuple(map(EvaluationView.from_dict, described["views"]))
    else:  # the oldest files have neither: the plain view alone
        names = described.get("orientations", described.get("poses", ("identity",)))
        views = tuple(EvaluationView(Orientation[FORMER_ORIENTATIONS.get(name, name).upper()]) for name in names)
    if not views:
        raise ValueError("a model needs a view")
    return views


def framings_of(views: Sequence[EvaluationView]) -> tuple[Framing, ...]:
    """Return the framings of views, each once, in order."""
    return tuple(dict.fromkeys(view.framing for view in views))


def select_views(images: Tensor, views: Sequence[EvaluationView]) -> list[Tensor]:
    """Return each view of framed images, shape (N, 3, height, width).

    Args:
        images: The framings of ``framings_of(views)`` in that order, shape (N, framings, 3, height, width); with one
            framing shape (N, 3, height, width), or (N, ...) for activations in the plain view.
        views: The views.
    """
    framings = framings_of(views)
    by_framing = {framing: images[:, i] if len(framings) > 1 else images for i, framing in enumerate(framings)}
    return [view.orientation.apply(by_framing[view.framing]) for view in views]


_ORIENTATION_TEXT = {
    Orientation.IDENTITY: "as it is",
    Orientation.FLIPPED: "mirrored",
    Orientation.ROT90: "turned left",
    Orientation.ROT180: "upside down",
    Orientation.ROT270: "turned right",
}


def describe_framing(framing: Framing) -> str:
    """Return a framing in people's words."""
    if framing.kind == "tile":
        return framing.name.replace("tile", "part")
    return "centre crop" if framing == CROP else "whole photo"


_PLAIN_TEXT: dict[Fit, str] = {"crop": "centre crop", "squash": "whole photo", "pad": "whole photo with borders"}


def describe_views(views: Sequence[EvaluationView], fit: Fit = "crop") -> str:
    """Return views in people's words: "centre crop and whole photo, each as it is and mirrored".

    Args:
        views: The views.
        fit: How images fill the plain view.
    """
    orientations: dict[str, tuple[Orientation, ...]] = {}
    for framing in framings_of(views):
        text = _PLAIN_TEXT[fit] if framing == CROP else "whole photo"
        if framing.kind == "tile":
            short, long = framing.grid
            text = f"{short * long} overlapping parts that cover the photo"
        orientations[text] = tuple(view.orientation for view in views if view.framing == framing)
    ways = [_joined([_ORIENTATION_TEXT[each] for each in of_one]) for of_one in orientations.values()]
    if len(set(ways)) > 1:
        return _joined([f"{text} ({way})" for text, way in zip(orientations, ways, strict=True)])
    framed = _joined(list(orientations))
    if ways[0] == _ORIENTATION_TEXT[Orientation.IDENTITY]:
        return framed
    return f"{framed}, {'each ' if len(orientations) > 1 else ''}{ways[0]}"


def _joined(parts: Sequence[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
