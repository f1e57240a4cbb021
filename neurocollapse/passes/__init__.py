"""One pass of a model over a loader, which feeds many sinks."""

from neurocollapse.passes.features import FeatureSink, KeptFeatures
from neurocollapse.passes.moments import MomentSink, NonFinite, NonFiniteError
from neurocollapse.passes.run import run_pass
from neurocollapse.passes.sink import Sink

__all__ = [
    "FeatureSink",
    "KeptFeatures",
    "MomentSink",
    "NonFinite",
    "NonFiniteError",
    "Sink",
    "run_pass",
]
