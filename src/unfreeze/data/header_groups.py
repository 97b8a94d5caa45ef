"""Groups that DICOM files name in their headers: the patient, the study, the series.  The ids themselves go nowhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from unfreeze.data.decode.dicom import HEAD, is_dicom
from unfreeze.data.sources import Sample

ID_KINDS = {"PatientID": "patient", "StudyInstanceUID": "study", "SeriesInstanceUID": "series"}
"""What is one by a header's id, from the largest to the smallest."""


def header_groups(samples: Sequence[Sample]) -> dict[str, tuple[str | None, ...]]:
    """Return, by id, a name for each sample's patient, study and series, such as ``patient 1``; None where there is none.

    The names count: an id, or its hash, which could be found by trying all ids, would lead back to a person.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        headers = list(pool.map(_header_ids, samples))
    return {keyword: _numbered(keyword, [ids.get(keyword, "") for ids in headers]) for keyword in ID_KINDS}


def _numbered(keyword: str, ids: Sequence[str]) -> tuple[str | None, ...]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(name for name in ids if name), start=1)}
    return tuple(f"{ID_KINDS[keyword]} {numbers[name]}" if name else None for name in ids)


def _header_ids(sample: Sample) -> dict[str, str]:
    """Return the ids of a DICOM file, if it is one: it was decoded before, so that pydicom is there."""
    try:
        with sample.path.open("rb") as file:
            if not is_dicom(file.read(HEAD), sample.path.suffix):
                return {}
            import pydicom

            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(ID_KINDS))
            return {keyword: str(dataset.get(keyword) or "").strip() for keyword in ID_KINDS}
    except Exception:  # pydicom raises any class on bad data: then the file names no group
        return {}
