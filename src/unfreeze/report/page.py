"""The report page: the sections in order, rendered into one HTML file without scripts or external resources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from unfreeze.files import write_bytes, write_text
from unfreeze.report import data_sections, photos, prediction_sections, result_sections
from unfreeze.report.elements import Plot, Section
from unfreeze.report.run_data import RunData, read_run_data
from unfreeze.runs.folder import RunFolder
from unfreeze.version import __version__

SECTIONS: tuple[Callable[[RunData], Section | None], ...] = (
    result_sections.verdict,
    result_sections.scores,
    result_sections.trials,
    result_sections.forgetting,
    result_sections.training,
    prediction_sections.confusion,
    prediction_sections.classes,
    prediction_sections.reliability,
    photos.photos,
    data_sections.data_section,
    data_sections.settings_section,
)


def write_report(folder: RunFolder) -> Path:
    """Write a finished run's report and plots, overwriting former ones, and return the page's path.

    Raises:
        RunError: There is no finished run in the folder, a file of it is damaged, or the report can't be written.
    """
    run = read_run_data(folder)
    sections = [section for section in (make_section(run) for make_section in SECTIONS) if section is not None]
    for section in sections:
        for part in section.parts:
            if isinstance(part, Plot):
                write_bytes(folder.plots / f"{part.name}.png", part.png)
    write_text(folder.report, render(run, sections))
    return folder.report


def render(run: RunData, sections: list[Section]) -> str:
    """Return the page as HTML; names of classes and files are escaped."""
    environment = Environment(
        loader=PackageLoader("unfreeze.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(run=run, sections=sections, version=__version__)
