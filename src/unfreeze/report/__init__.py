"""The report: a finished run's folder to one page for people, and its plots."""

from unfreeze.report.page import write_report

__all__ = ["write_report"]
