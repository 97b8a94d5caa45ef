"""The report page: the sections in order, rendered into one HTML file without scripts or external resources."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from unfreeze.data.folders import quote_list
from unfreeze.errors import RunError
from unfreeze.files import write_bytes, write_text
from unfreeze.report import data_sections, photos, prediction_sections, result_sections, training_sections
from unfreeze.report.elements import Plot, Section
from unfreeze.report.run_data import RunData, read_run_data
from unfreeze.runs.folder import RunFolder
from unfreeze.version import __version__

_PHOTO = '<img src="data:image/jpeg;'
_SECTION = re.compile(r'<section id="([^"]+)"')

SECTIONS: tuple[Callable[[RunData], Section | None], ...] = (
    result_sections.verdict,
    result_sections.scores,
    training_sections.trials,
    result_sections.forgetting,
    training_sections.training,
    prediction_sections.confusion,
    prediction_sections.classes,
    prediction_sections.reliability,
    photos.photos,
    data_sections.data_section,
    data_sections.settings_section,
)

SCORED = (
    result_sections.scores,
    training_sections.trials,
    prediction_sections.confusion,
    prediction_sections.classes,
    prediction_sections.reliability,
    photos.photos,
)
"""Sections on what was right and wrong: left out where no score is honest."""


def write_report(folder: RunFolder, photos: Path | None = None) -> Path:
    """Write a finished run's report and plots, overwriting former ones, and return the page's path.

    Args:
        folder: The run.
        photos: The folder where its photos are now; None: where they were.

    Raises:
        RunError: There is no finished run in the folder, a file of it is damaged, the report can't be written, or the
            one that is there has photos or sections that would be lost.
    """
    run = read_run_data(folder, photos)
    makers = [make for make in SECTIONS if run.verdict.data.no_score is None or make not in SCORED]
    sections = [section for section in (make(run) for make in makers) if section is not None]
    page = render(run, sections)
    _refuse_loss(folder.report, page)
    for section in sections:
        for part in section.parts:
            if isinstance(part, Plot):
                write_bytes(folder.plots / f"{part.name}.png", part.png)
    write_text(folder.report, page)
    return folder.report


def _refuse_loss(report: Path, page: str) -> None:
    """Refuse to replace a report by a page that has less of the run.

    Raises:
        RunError: It would lose photos or sections.
    """
    try:
        former = report.read_text("utf-8", errors="replace")
    except OSError:
        return
    n_lost = former.count(_PHOTO) - page.count(_PHOTO)
    sections = sorted(set(_SECTION.findall(former)) - set(_SECTION.findall(page)))
    if sections:
        raise RunError(
            f"The report would lose the parts {quote_list(sections)}, whose files are no longer in the run's folder.",
            where=report,
            mend="Put them back, or remove report.html first.",
        )
    if n_lost > 0:
        raise RunError(
            f"The report would lose {n_lost} of its photos, which are not where they were.",
            where=report,
            mend="Say with --photos where they are now, or remove report.html first.",
        )


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
