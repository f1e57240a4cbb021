"""Networks over training: trackers, alarms, and checks of what was measured."""

from neurocollapse.tracking.alarm import Alarm, AlarmWarning
from neurocollapse.tracking.check import Checks, Finding, check
from neurocollapse.tracking.checkpoints import track_checkpoints
from neurocollapse.tracking.condition import Condition
from neurocollapse.tracking.records import TrackingError
from neurocollapse.tracking.tracker import FeatureTracker, track

__all__ = [
    "Alarm",
    "AlarmWarning",
    "Checks",
    "Condition",
    "FeatureTracker",
    "Finding",
    "TrackingError",
    "check",
    "track",
    "track_checkpoints",
]
