"""HEIF photos (HEIC), which Pillow reads with a plug-in."""

from __future__ import annotations

from pathlib import Path

from unfreeze.errors import MissingExtraError


def register_heif(path: Path | None) -> None:
    """Let Pillow open HEIF files.

    Raises:
        MissingExtraError: pillow-heif is missing.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        purpose = "Reading a HEIC photo" if path is None else f"Reading the HEIC photo {path.name}"
        raise MissingExtraError("pillow-heif", "heic", purpose) from None
    register_heif_opener()
