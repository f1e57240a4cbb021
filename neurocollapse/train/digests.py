"""Checksums by which a resumed run recognises its data."""

import zlib
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from neurocollapse.support.quiet import kept_random_state
from neurocollapse.train.batch import class_indices

MAX_SAMPLES = 32  # spread over the data: enough to tell two data sets apart, few enough to read in no time


def tensor_digest(tensor: Tensor) -> int:
    """Return a checksum of a tensor's values, whatever its dtype and device."""
    return zlib.crc32(tensor.detach().cpu().double().contiguous().numpy().tobytes())


def data_digests(data: Any, device: torch.device) -> dict[str, int]:
    """Return checksums of some samples' inputs and labels, without those that differ between two readings.

    Inputs that are augmented at random do; the random state of torch is left alone.
    """
    some = list(range(0, len(data), -(-len(data) // MAX_SAMPLES)))
    loader = DataLoader(data, batch_sampler=[some], generator=torch.Generator())
    with kept_random_state(device):
        first, second = (_batch_digests(*next(iter(loader))) for _ in range(2))
    return {name: digest for name, digest in first.items() if second[name] == digest}


def _batch_digests(inputs: Tensor, labels: Any) -> dict[str, int]:
    """Return the checksums of one batch."""
    return {"inputs": tensor_digest(inputs), "labels": tensor_digest(class_indices(labels))}
