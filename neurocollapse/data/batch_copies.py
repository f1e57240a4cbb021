"""Copies of batches whose memory may be used again for the next one."""

import copy
import dataclasses
from collections import OrderedDict, UserDict, defaultdict
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from neurocollapse.data.batch_parts import rebuilt, tensors_in

_PLAIN = (type(None), bool, int, float, complex, str, bytes, np.generic)
"""What cannot change where it is."""


def copy_of(value: Any) -> Any:
    """A batch, or a part of one, in memory of its own, on the same device.

    Raises
    ------
    TypeError
        If it, or something in it, may hold more than is seen of it.
    """
    if isinstance(value, Tensor):
        if not is_plain(value) or value.requires_grad or vars(value):
            raise TypeError
        return value.clone()
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, _PLAIN):
        return value
    if not _shows_all(value):
        raise TypeError
    changed = rebuilt(value, copy_of)
    return copy.copy(value) if changed is value else changed


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is torch's own, in one piece."""
    return type(tensor) is Tensor and tensor.layout == torch.strided and not tensor.is_nested


def _shows_all(value: Any) -> bool:
    """Whether a value is a container whose parts are all there is to it."""
    if type(value) in (tuple, list, dict, OrderedDict, defaultdict):
        return True
    beside = getattr(value, "__dict__", {})
    if isinstance(value, UserDict):
        return not any(tensors_in([part for name, part in beside.items() if name != "data"]))
    if isinstance(value, tuple) and hasattr(value, "_fields") and not isinstance(value, PackedSequence):
        return not beside
    if dataclasses.is_dataclass(value) and not isinstance(value, type | dict):
        return beside.keys() <= {field.name for field in dataclasses.fields(value)}
    return False
