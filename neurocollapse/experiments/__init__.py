"""Experiments: a setting, the dataset it gives, its figure, and claims that can fail."""

from neurocollapse.experiments.catalogue import EXPERIMENTS, experiment, find, restored
from neurocollapse.experiments.collapse.progressive_theorem import (
    ProgressiveTheorem,
    progressive_theorem,
    train_linear_network,
)
from neurocollapse.experiments.experiment import Experiment, Outcome
from neurocollapse.experiments.first_look import FirstLook, first_look
from neurocollapse.experiments.settings import changed
from neurocollapse.experiments.workplace import Workplace

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "FirstLook",
    "Outcome",
    "ProgressiveTheorem",
    "Workplace",
    "changed",
    "experiment",
    "find",
    "first_look",
    "progressive_theorem",
    "restored",
    "train_linear_network",
]
