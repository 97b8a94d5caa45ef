"""Export a finished run's model for other runtimes; each file's outputs are compared with the run's on real images."""

from unfreeze.export.exporting import Exported, export

__all__ = ["Exported", "export"]
