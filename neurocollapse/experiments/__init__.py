"""Experiments: a setting, the datasets it gives, and their figures."""

from neurocollapse.experiments.first_look import FirstLook, first_look
from neurocollapse.experiments.progressive_theorem import (
    ProgressiveTheorem,
    progressive_theorem,
    train_linear_network,
)

__all__ = ["FirstLook", "ProgressiveTheorem", "first_look", "progressive_theorem", "train_linear_network"]
