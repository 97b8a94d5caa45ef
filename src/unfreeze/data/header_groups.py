"""Groups that DICOM files name in their headers: the patient, the study, the series.  The ids themselves go nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unfreeze.data.decode.dicom import HEAD, is_dicom
from unfreeze.data.sources import Sample

ID_KINDS = {"PatientID": "patient", "StudyInstanceUID": "study", "SeriesInstanceUID": "series"}
"""What is one by a header's id, from the largest to the smallest."""


def header_groups(samples: Sequence[Sample], keyword: str) -> tuple[str | None, ...]:
    """Return a name for each sample's patient, study or series, such as ``patient 1``; None where there is none.

    The names count: an id, or its hash, which could be found by trying all ids, would lead back to a person.

    Args:
        samples: The images.
        keyword: One of ``ID_KINDS``.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        ids = list(pool.map(lambda sample: _header_id(sample, keyword), samples))
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name in ids if name), start=1)}
    return tuple(f"{ID_KINDS[keyword]} {numbers[name]}" if name else None for name in ids)


def _header_id(sample: Sample, keyword: str) -> str:
    """Return an id of a DICOM file, or nothing; the file was decoded before, so that pydicom is there if it is DICOM."""
    try:
        with sample.path.open("rb") as file:
            if not is_dicom(file.read(HEAD), sample.path.suffix):
                return ""
            import pydicom

            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=[keyword])
            return str(dataset.get(keyword) or "").strip()
    except Exception:  # pydicom raises any class on bad data: then the file names no group
        return ""
