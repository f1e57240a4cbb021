"""Analyses and verifications as one HTML page that opens anywhere."""

from neurocollapse.report.page import report

__all__ = ["report"]
