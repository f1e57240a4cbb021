"""Networks over training: checks of what was measured, and alarms."""

from neurocollapse.tracking.check import Checks, Finding, check
from neurocollapse.tracking.condition import Condition

__all__ = ["Checks", "Condition", "Finding", "check"]
