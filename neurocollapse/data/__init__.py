"""Labelled data by name: digits, MNIST, CIFAR-10, image folders, npz files, texts, your own factory."""

from neurocollapse.data.folder import LabelledImages
from neurocollapse.data.labelled import DataError, Labelled, LabelledData, LabelledSamples, Samples, shard
from neurocollapse.data.registry import open, open_tokens
from neurocollapse.data.tokens import TokenData

__all__ = [
    "DataError",
    "Labelled",
    "LabelledData",
    "LabelledImages",
    "LabelledSamples",
    "Samples",
    "TokenData",
    "open",
    "open_tokens",
    "shard",
]
