"""Fine-tune pretrained image classifiers on your own photos in two phases, and prove what phase 2 gained.

import unfreeze
run = unfreeze.train("photos/")
run.verdict.gain.accuracy, run.predict(["a.jpg"])
run = unfreeze.load("runs/train")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unfreeze.errors import UnfreezeError
from unfreeze.version import __version__

if TYPE_CHECKING:
    from unfreeze.runs.run import Run

__all__ = ["UnfreezeError", "__version__", "load", "train"]


def train(photos: str | Path, **settings: Any) -> Run:
    """Fine-tune a pretrained backbone on a folder or a table of labelled photos.

    Args:
        photos: ``PHOTOS/CLASS/*``, ``PHOTOS/{train,val,test}/CLASS/*``, or a CSV or Parquet table.
        settings: Any setting of ``unfreeze train``, by the same name: ``model``, ``recipe``, ``depth``, ...

    Returns:
        The finished run, with its verdict, its folder, and its model ready to predict.

    Raises:
        UnfreezeError: Any mistake that you can mend; the message says how.
    """
    from unfreeze.config import make_config
    from unfreeze.pipeline import run

    return run(make_config({"photos": photos, **settings})).in_any_folder()


def load(folder: str | Path, device: str = "auto") -> Run:
    """Open the folder of a finished run.

    Raises:
        UnfreezeError: There is no finished run in it.
    """
    from unfreeze.runs.run import load

    return load(folder, device).in_any_folder()
