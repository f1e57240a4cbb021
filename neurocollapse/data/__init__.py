"""Labelled data by name: digits, MNIST and Fashion-MNIST, CIFAR-10, image folders, npz files, your own factory."""

from neurocollapse.data.folder import LabelledImages
from neurocollapse.data.labelled import DataError, Labelled, LabelledData, LabelledSamples, shard
from neurocollapse.data.registry import open

__all__ = ["DataError", "Labelled", "LabelledData", "LabelledImages", "LabelledSamples", "open", "shard"]
