"""Analyses and verifications as one HTML page that opens anywhere, and as tables for terminals and notebooks."""

from typing import TYPE_CHECKING

from neurocollapse.support.lazy import names_when_used

if TYPE_CHECKING:
    from neurocollapse.report.layer_table import Table
    from neurocollapse.report.page import report
    from neurocollapse.report.tables import table

__all__ = ["Table", "report", "table"]

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__ = names_when_used(__name__, {"layer_table": ["Table"], "page": ["report"], "tables": ["table"]})
