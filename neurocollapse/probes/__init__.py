"""What can be read off features in memory: accuracy of simple classifiers, and rank."""

from neurocollapse.probes.accuracy import (
    Accuracy,
    linear_probe_accuracy,
    mse_probe_accuracy,
    nearest_class_mean_accuracy,
)
from neurocollapse.probes.layers import PROBE_WORDS, PROBES, LayerSplit, Probe, Probed, probe_layer
from neurocollapse.probes.rank import effective_rank, numerical_rank
from neurocollapse.probes.split import held_out

__all__ = [
    "PROBES",
    "PROBE_WORDS",
    "Accuracy",
    "LayerSplit",
    "Probe",
    "Probed",
    "effective_rank",
    "held_out",
    "linear_probe_accuracy",
    "mse_probe_accuracy",
    "nearest_class_mean_accuracy",
    "numerical_rank",
    "probe_layer",
]
