"""The settings of how image files are read: page, bands and scaling."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from unfreeze.reading import Frame, Reading, frame_from

WINDOWS = {"lung": (-600.0, 1500.0), "bone": (400.0, 1800.0), "brain": (40.0, 80.0), "soft-tissue": (50.0, 400.0)}
"""Centre and width in Hounsfield units, as Radiopaedia's article "Windowing (CT)" lists them."""
SCALINGS = ("auto", "image", "full", "percentiles", "reflectance", "decibel")


def _numbers(text: str) -> tuple[float, ...] | None:
    """Return numbers that commas part; None where the text is something else."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return None


def _listed(value: object) -> str:
    """Return a list of numbers as text, which Python programs may give as they are."""
    return ",".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)


def _bands(value: object) -> str:
    text = _listed(value).replace(" ", "")
    if text not in ("auto", "all") and not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text):
        raise ValueError(f"{value!r} are no bands: they are numbers from 1, such as 4,3,2, or all")
    return text


def _scaling(value: object) -> str:
    text = _listed(value).replace(" ", "")
    numbers = _numbers(text)
    if text not in SCALINGS and not (numbers is not None and len(numbers) == 2 and numbers[0] < numbers[1]):
        raise ValueError(f"{value!r} is no scaling: it is {', '.join(SCALINGS)}, or two numbers, LOW,HIGH")
    return text


def _window(value: object) -> str | None:
    if value is None:
        return None
    text = _listed(value).replace(" ", "")
    windows_of(text)
    return text


def windows_of(text: str) -> list[tuple[str, float, float]]:
    """Return the name and the lowest and highest number of each window of ``lung+bone+40,80``.

    Raises:
        ValueError: There is no such window.
    """
    windows = []
    for part in text.split("+"):
        window = WINDOWS.get(part) or _numbers(part)
        if window is None or len(window) != 2 or window[1] <= 0:
            raise ValueError(f"{part!r} is no window: it is {', '.join(WINDOWS)}, or CENTRE,WIDTH")
        centre, width = window
        windows.append((part if part in WINDOWS else "", centre - width / 2, centre + width / 2))
    return windows


class ReadingSettings(BaseModel):
    """How image files are read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    frame: Annotated[
        Frame,
        BeforeValidator(frame_from),
        Field(
            description="Of files that hold several pages or frames (TIFF, GIF, DICOM and others), which one is looked at: "
            "first, middle, or its number, from 1. The model does the same in use."
        ),
    ] = "first"
    bands: Annotated[
        str,
        BeforeValidator(_bands),
        Field(description="Of photos in many bands, those that are used: their numbers from 1, such as 4,3,2, or all."),
    ] = "auto"
    scaling: Annotated[
        str,
        BeforeValidator(_scaling),
        Field(
            description="Of photos with more than 8 bits, the numbers that become black and white, the same for all: "
            "percentiles (of the training photos), full (the file type's range), LOW,HIGH, reflectance (0 to 10000), "
            "decibel (radar); or image (each photo's own: brightness is lost). Default: percentiles, or DICOM's window "
            "where all files have the same."
        ),
    ] = "auto"
    window: Annotated[
        str | None,
        BeforeValidator(_window),
        Field(
            description="Of CT in DICOM, the Hounsfield units that are shown: lung, bone, brain, soft-tissue or "
            "CENTRE,WIDTH; up to three with + between become channels."
        ),
    ] = None

    @property
    def reading(self) -> Reading:
        """How image files are read, before the scaling is chosen."""
        return Reading(self.frame)

    @property
    def asks_for_numbers(self) -> bool:
        """Whether the user says how the numbers of files become channels."""
        return self.window is not None or self.scaling not in ("auto", "image") or self.bands != "auto"

    @model_validator(mode="after")
    def _refuse_two_scalings(self) -> Self:
        if self.window is not None:
            for name in ("bands", "scaling"):
                if getattr(self, name) != "auto":
                    raise ValueError(f"--{name} has no meaning with --window, which says what is shown")
        return self
