"""Analyses and verifications as one HTML page that opens anywhere, and as tables for terminals and notebooks."""

from neurocollapse.report.page import report
from neurocollapse.report.tables import Table, table

__all__ = ["Table", "report", "table"]
