"""What a report is made of: sections of texts, tables, plots and photos, which know no HTML; and how numbers are written."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import ClassVar

from unfreeze.evaluation.resampling import Interval

ABSENT = "-"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; ``lead``: the one to read first."""

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
    """Rows of text under a caption; the first cell of each says what the row is about.

    Attributes:
        caption: What the table says.
        header: One cell a column.
        rows: As long as the header.
        marked: Numbers of the rows to show first to the eye.
        numbers: Whether all cells but the first are numbers, which stand right.
    """

    kind: ClassVar = "table"
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: frozenset[int] = frozenset()
    numbers: bool = True


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing.

    Attributes:
        name: Of its file in the run's ``plots`` folder, without the suffix.
        alt: What it shows, for those who can't see it.
        png: The file.
        wide: Whether it must not shrink to a phone's width.
    """

    kind: ClassVar = "plot"
    name: str
    alt: str
    png: bytes
    wide: bool = False

    @property
    def base64(self) -> str:
        """The file as a data URI wants it."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True, slots=True)
class Photo:
    """One photo and what was said of it.

    Attributes:
        file_name: As the run's tables have it.
        label: Its class.
        answers: A line for each model that answered.
        jpeg: Its thumbnail, or its heatmaps; None where the photo can't be shown any more.
        columns: Of heatmaps, what each of the pictures that stand side by side is; of a thumbnail, none.
    """

    file_name: str
    label: str
    answers: tuple[str, ...]
    jpeg: bytes | None
    columns: tuple[str, ...] = ()

    @property
    def base64(self) -> str:
        """The thumbnail as a data URI wants it."""
        return base64.b64encode(self.jpeg or b"").decode("ascii")


@dataclass(frozen=True, slots=True)
class Gallery:
    """Photos under a heading."""

    kind: ClassVar = "gallery"
    heading: str
    note: str
    photos: tuple[Photo, ...]

    @property
    def wide(self) -> bool:
        """Whether its photos need room, as heatmaps do."""
        return any(photo.columns for photo in self.photos)


Part = Text | Points | Table | Plot | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """One subject of the report."""

    title: str
    parts: tuple[Part, ...]

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return self.title.lower().replace(" ", "-")


def estimate(value: float | None, interval: Interval | None, digits: int = 3) -> str:
    """Write a value with its 95 % interval, as the terminal does."""
    if value is None:
        return ABSENT
    if interval is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({interval[0]:.{digits}f} to {interval[1]:.{digits}f})"


def percent(fraction: float | None) -> str:
    """Write a fraction in hundredths."""
    return ABSENT if fraction is None else f"{fraction * 100:.1f} %"


def points(fraction: float | None, interval: Interval | None, *, sign: bool = False) -> str:
    """Write a difference of fractions in points, with its 95 % interval."""
    if fraction is None:
        return ABSENT
    plus = "+" if sign else ""
    text = f"{fraction * 100:{plus}.1f}"
    return text if interval is None else f"{text} ({interval[0] * 100:{plus}.1f} to {interval[1] * 100:{plus}.1f})"
