"""Numbers of a layer from its class moments: each a pure function, and an entry that knows itself."""

from neurocollapse.metrics.catalogue import FAMILIES, QUANTITIES, chosen_quantities
from neurocollapse.metrics.decay import GeometricDecay, decay_ratio, geometric_decay
from neurocollapse.metrics.fuzziness import Fuzziness, fuzziness
from neurocollapse.metrics.geometry import discrimination, separation
from neurocollapse.metrics.layer import Layer, Network, Rows
from neurocollapse.metrics.measure import PrecisionWarning, layer_tree, measure
from neurocollapse.metrics.quantity import Quantity, QuantityError
from neurocollapse.metrics.variability import (
    between_class_covariance,
    between_trace,
    compression,
    total_trace,
    within_class_covariance,
    within_trace,
)
from neurocollapse.metrics.weighting import Weighting

__all__ = [
    "FAMILIES",
    "QUANTITIES",
    "Fuzziness",
    "GeometricDecay",
    "Layer",
    "Network",
    "PrecisionWarning",
    "Quantity",
    "QuantityError",
    "Rows",
    "Weighting",
    "between_class_covariance",
    "between_trace",
    "chosen_quantities",
    "compression",
    "decay_ratio",
    "discrimination",
    "fuzziness",
    "geometric_decay",
    "layer_tree",
    "measure",
    "separation",
    "total_trace",
    "within_class_covariance",
    "within_trace",
]
