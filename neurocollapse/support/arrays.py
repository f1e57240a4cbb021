"""Checks of arguments that are arrays of numbers, in any container."""

from typing import Any

import torch
from torch import Tensor

from neurocollapse.support.checks import shown


def tensor(name: str, value: Any) -> Tensor:
    """Numbers in any container as a tensor, without a gradient.

    Raises
    ------
    TypeError
        If they are no numbers, or not a whole array of them.

    Examples
    --------
    >>> tensor("inputs", [[1.0], [2.0, 3.0]])
    Traceback (most recent call last):
    TypeError: `inputs` must be an array of numbers, got [[1.0], [2.0, 3.0]]
    """
    try:
        # arrays go to the CPU, whatever torch's default device
        found = (value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")).detach()
        if found.is_meta or found.layout != torch.strided or found.is_nested:
            raise TypeError
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(value)}") from None
    return found
