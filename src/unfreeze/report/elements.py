"""The report's elements (texts, tables, plots, galleries; independent of HTML) and the formatting of numbers."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import ClassVar

from unfreeze.evaluation.resampling import Interval

ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``lead`` marks the most important one of its section."""

    kind: ClassVar = "text"
    text: str
    lead: bool = False


@dataclass(frozen=True, slots=True)
class Points:
    """A list of short texts."""

    kind: ClassVar = "points"
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text; the first cell of each row is its heading.

    Attributes:
        caption: The subject of the table.
        header: One cell per column.
        rows: Each as long as the header.
        marked: Indices of the highlighted rows.
        numbers: Whether all cells but the first are numbers, which are aligned to the right.
    """

    kind: ClassVar = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    numbers: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot.

    Attributes:
        name: Name of its file in the run's ``plots`` folder, without the suffix.
        alt: Alternative text for readers who can't see it.
        png: The content of the PNG file.
        wide: Whether it must not shrink to the width of a phone.
    """

    kind: ClassVar = "plot"
    name: str
    alt: str
    png: bytes
    wide: bool = False

    @property
    def base64(self) -> str:
        """The PNG file in base64, for a data URI."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, slots=True)
class Photo:
    """One image with its label and predictions.

    Attributes:
        file_name: Name in the run's tables.
        label: Name of its class.
        predictions: One line per model; empty where ``columns`` has them.
        jpeg: Its thumbnail or its heatmaps; None where the file is missing or unreadable.
        columns: Captions of the pictures side by side in ``jpeg``, for heatmaps; empty for a thumbnail.
    """

    file_name: str
    label: str
    predictions: tuple[str, ...]
    jpeg: bytes | None
    columns: tuple[str, ...] = ()

    @property
    def base64(self) -> str:
        """The JPEG file in base64, for a data URI."""
        return base64.b64encode(self.jpeg or b"").decode("ascii")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Images under a heading."""

    kind: ClassVar = "gallery"
    heading: str
    note: str
    photos: tuple[Photo, ...]

    @property
    def wide(self) -> bool:
        """Whether some images are heatmaps, which are three pictures wide."""
        return any(photo.columns for photo in self.photos)


Part = Text | Points | Table | Plot | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """A titled part of the report."""

    title: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """The HTML id of the section, the target of links."""
        return self.title.lower().replace(" ", "-")


def estimate(value: float | None, interval: Interval | None, digits: int = 3) -> str:
    """Format a value with its 95 % interval, as on the terminal."""
    if value is None:
        return ABSENT
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def percent(fraction: float | None) -> str:
    """Format a fraction as a percentage."""
    return ABSENT if fraction is None else f"{fraction * 100:.1f} %"


def points(fraction: float | None, interval: Interval | None, *, sign: bool = False) -> str:
    """Format a difference of fractions in percentage points, with its 95 % interval."""
    if fraction is None:
        return ABSENT
    plus = "+" if sign else ""
    text = f"{fraction * 100:{plus}.1f}"
    return text if interval is None else f"{text} ({interval[0] * 100:{plus}.1f} to {interval[1] * 100:{plus}.1f})"
