"""A finished run's model for other runtimes: one file each, whose answers on real photos are compared before it is there."""

from unfreeze.export.exporting import Exported, export

__all__ = ["Exported", "export"]
