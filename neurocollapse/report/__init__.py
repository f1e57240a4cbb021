"""Analyses and verifications as one HTML page that opens anywhere, and as tables for terminals and notebooks."""

from neurocollapse.report.grid import Table
from neurocollapse.report.page import report
from neurocollapse.report.tables import table

__all__ = ["Table", "report", "table"]
