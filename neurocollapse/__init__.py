"""Hook any PyTorch model and measure how its layers compress and separate classes."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from neurocollapse.hooks import (
    AmbiguousOutputError,
    CallCountError,
    CaptureError,
    CaptureWarning,
    LayoutError,
    NeverFiredError,
    NoMatchError,
    ReplicaError,
    capture,
)
from neurocollapse.metrics.measure import PrecisionWarning, layer_tree, measure
from neurocollapse.passes.analyze import analyze
from neurocollapse.passes.collect import collect
from neurocollapse.passes.layers import LayerTable, layers
from neurocollapse.passes.moments import NonFiniteError
from neurocollapse.report import report
from neurocollapse.statistics import ClassMoments, LabelError, MemoryPlanError, MomentCollection, StateFileError
from neurocollapse.support.files import ResultFileError, open, save
from neurocollapse.theory import Verdict, Verification, verify, verify_parsimony

if TYPE_CHECKING:
    from neurocollapse import plots as plot
    from neurocollapse.experiments import experiment

__version__ = version("neurocollapse")

__all__ = [
    "AmbiguousOutputError",
    "CallCountError",
    "CaptureError",
    "CaptureWarning",
    "ClassMoments",
    "LabelError",
    "LayerTable",
    "LayoutError",
    "MemoryPlanError",
    "MomentCollection",
    "NeverFiredError",
    "NoMatchError",
    "NonFiniteError",
    "PrecisionWarning",
    "ReplicaError",
    "ResultFileError",
    "StateFileError",
    "Verdict",
    "Verification",
    "analyze",
    "capture",
    "collect",
    "experiment",
    "layer_tree",
    "layers",
    "measure",
    "open",
    "plot",
    "report",
    "save",
    "verify",
    "verify_parsimony",
]


def __getattr__(name: str) -> Any:
    """Load what needs matplotlib when it is first used: it would double the time of `import neurocollapse`."""
    if name == "plot":
        return import_module("neurocollapse.plots")
    if name == "experiment":
        return import_module("neurocollapse.experiments").experiment
    raise AttributeError(f"module 'neurocollapse' has no attribute {name!r}")
