"""The report of a finished run: one HTML page, and its plots as PNG files."""

from unfreeze.report.page import write_report

__all__ = ["write_report"]
