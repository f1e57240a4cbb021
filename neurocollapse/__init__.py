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
from typing import TYPE_CHECKING

from neurocollapse.support.lazy import import_after, names_when_used

if TYPE_CHECKING:
    from neurocollapse import data as data
    from neurocollapse import dynamics as dynamics
    from neurocollapse import experiments as experiments
    from neurocollapse import hooks as hooks
    from neurocollapse import lowrank as lowrank
    from neurocollapse import metrics as metrics
    from neurocollapse import models as models
    from neurocollapse import passes as passes
    from neurocollapse import plots as plot
    from neurocollapse import probes as probes
    from neurocollapse import statistics as statistics
    from neurocollapse import theory as theory
    from neurocollapse import tracking as tracking
    from neurocollapse import train as train
    from neurocollapse import transfer as transfer
    from neurocollapse.data import labels
    from neurocollapse.experiments.catalogue import experiment
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
        FeatureTracker,
        TrackingError,
        callbacks,
        track,
        track_checkpoints,
    )
    from neurocollapse.tracking.check import Checks, check

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
"""Packages that are imported when they are first used as an attribute."""
_NAMED = {"callbacks": "tracking.callbacks", "labels": "data.labels", "plot": "plots"}
"""Modules that users know by a shorter name."""
_HOMES = {
    "experiments": ["experiment"],
    "hooks": [
        *("AmbiguousOutputError", "CallCountError", "CaptureError", "CaptureWarning", "LayoutError"),
        *("NeverFiredError", "NoMatchError", "ReplicaError", "capture"),
    ],
    "metrics": ["PrecisionWarning", "Quantity", "QuantityError", "SampleWarning", "layer_tree", "measure"],
    "passes.analyze": ["analyze"],
    "passes.collect": ["collect"],
    "passes.layers": ["LayerTable", "layers"],
    "passes.moments": ["NonFiniteError"],
    "passes.similarity": ["similarity"],
    "report": ["Table", "report", "table"],
    "statistics": ["ClassMoments", "LabelError", "MemoryPlanError", "MomentCollection", "StateFileError"],
    "support.files": ["ResultFileError", "open", "save"],
    "theory": ["Verdict", "Verification", "verify", "verify_parsimony"],
    "tracking": [
        *("Alarm", "AlarmWarning", "Checks", "FeatureTracker", "TrackingError"),
        *("check", "track", "track_checkpoints"),
    ],
}
"""The modules that define the public names. They are imported when they are first used: `neurocollapse --help` needs no
torch, and matplotlib alone would double the time of the import."""

if not TYPE_CHECKING:  # a type checker would take any name for one that exists
    __getattr__ = names_when_used(__name__, _HOMES, modules={**{package: package for package in _PACKAGES}, **_NAMED})

    # Importing a module puts it into its package under its own name: `nc.report` would be the package after the first
    # `import neurocollapse.report.…`, and not the function. So it is imported here, and what it put there is removed.
    import_module("neurocollapse.report")
    globals().pop("report", None)

    import_after("xarray", "neurocollapse.support.accessor")  # which gives datasets the attribute `nc`


def __dir__() -> list[str]:
    """What a user needs: the public names and the packages."""
    return sorted([*__all__, *_PACKAGES, "__version__"])
