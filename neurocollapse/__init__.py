"""Hook any PyTorch model and measure how its layers compress and separate classes.

>>> import torch, neurocollapse as nc
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
>>> batches = [(torch.randn(30, 4), torch.arange(30) % 3)]  # any loader of (inputs, labels)
>>> dataset = nc.analyze(model, batches, layers=["leaves", "penultimate"])
>>> [str(name) for name in dataset["layer"].values]
['0', '1', '2@in', '2']

Then `nc.plot.layers(dataset)` draws it, `nc.report(dataset, "report.html")` explains it, and `nc.save` keeps it.
"""

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
from neurocollapse.metrics import PrecisionWarning, Quantity, QuantityError, SampleWarning, layer_tree, measure
from neurocollapse.passes.analyze import analyze
from neurocollapse.passes.collect import collect
from neurocollapse.passes.layers import LayerTable, layers
from neurocollapse.passes.moments import NonFiniteError
from neurocollapse.passes.similarity import similarity
from neurocollapse.report import Table, report, table
from neurocollapse.statistics import ClassMoments, LabelError, MemoryPlanError, MomentCollection, StateFileError
from neurocollapse.support.files import ResultFileError, open, save
from neurocollapse.theory import Verdict, Verification, verify, verify_parsimony
from neurocollapse.tracking import (
    Alarm,
    AlarmWarning,
    Checks,
    FeatureTracker,
    TrackingError,
    check,
    track,
    track_checkpoints,
)

if TYPE_CHECKING:
    from neurocollapse import plots as plot
    from neurocollapse.data import labels
    from neurocollapse.experiments import experiment
    from neurocollapse.tracking import callbacks

__version__ = version("neurocollapse")

__all__ = [
    "Alarm",
    "AlarmWarning",
    "AmbiguousOutputError",
    "CallCountError",
    "CaptureError",
    "CaptureWarning",
    "Checks",
    "ClassMoments",
    "FeatureTracker",
    "LabelError",
    "LayerTable",
    "LayoutError",
    "MemoryPlanError",
    "MomentCollection",
    "NeverFiredError",
    "NoMatchError",
    "NonFiniteError",
    "PrecisionWarning",
    "Quantity",
    "QuantityError",
    "ReplicaError",
    "ResultFileError",
    "SampleWarning",
    "StateFileError",
    "Table",
    "TrackingError",
    "Verdict",
    "Verification",
    "analyze",
    "callbacks",
    "capture",
    "check",
    "collect",
    "experiment",
    "labels",
    "layer_tree",
    "layers",
    "measure",
    "open",
    "plot",
    "report",
    "save",
    "similarity",
    "table",
    "track",
    "track_checkpoints",
    "verify",
    "verify_parsimony",
]

_PACKAGES = (
    *("data", "dynamics", "experiments", "hooks", "lowrank", "metrics", "models", "passes", "probes"),
    *("statistics", "theory", "tracking", "train", "transfer"),
)
"""What can be reached as an attribute, and is imported when it first is."""
_NAMED = {
    "callbacks": "neurocollapse.tracking.callbacks",
    "labels": "neurocollapse.data.labels",
    "plot": "neurocollapse.plots",
}
"""Modules that users know by a shorter name."""


def __getattr__(name: str) -> Any:
    """Load what is slow to import when it is first used: matplotlib alone would double the time of the import."""
    if name == "experiment":
        return import_module("neurocollapse.experiments").experiment
    if name in _NAMED:
        return import_module(_NAMED[name])
    if name in _PACKAGES:
        return import_module(f"neurocollapse.{name}")
    raise AttributeError(f"module 'neurocollapse' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What a user needs: the public names and the packages."""
    return sorted([*__all__, *_PACKAGES, "__version__"])
