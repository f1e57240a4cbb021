"""Features of any PyTorch model, taken at its modules by forward hooks."""

from neurocollapse.hooks.capture import Features, capture
from neurocollapse.hooks.choice import choose
from neurocollapse.hooks.errors import (
    AmbiguousOutputError,
    CallCountError,
    CaptureError,
    CaptureWarning,
    LayoutError,
    NeverFiredError,
    NoMatchError,
    ReplicaError,
)
from neurocollapse.hooks.inspection import LayerInfo, inspect_layers
from neurocollapse.hooks.linear import is_linear, weight_and_bias
from neurocollapse.hooks.masks import MaskError, Positions
from neurocollapse.hooks.plan import Site, SiteKey
from neurocollapse.hooks.recorder import Recorder
from neurocollapse.hooks.select import Tap, select
from neurocollapse.hooks.sites import Calls

__all__ = [
    "AmbiguousOutputError",
    "CallCountError",
    "Calls",
    "CaptureError",
    "CaptureWarning",
    "Features",
    "LayerInfo",
    "LayoutError",
    "MaskError",
    "NeverFiredError",
    "NoMatchError",
    "Positions",
    "Recorder",
    "ReplicaError",
    "Site",
    "SiteKey",
    "Tap",
    "capture",
    "choose",
    "inspect_layers",
    "is_linear",
    "select",
    "weight_and_bias",
]
