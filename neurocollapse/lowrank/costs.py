"""What a model costs: numbers stored, bytes, and the floating-point operations of a forward pass."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from neurocollapse.support.quiet import in_mode


@dataclass(frozen=True)
class Cost:
    """Parameters, bytes and operations of a model.

    Attributes
    ----------
    parameters
        Numbers in its parameters, a shared one counted once.
    trainable
        Those among them that require gradients.
    bytes
        Bytes of parameters and buffers in memory, in their own dtypes.
    flops
        Floating-point operations of one forward pass of the example, a multiplication and an addition counted as two.
    """

    parameters: int
    trainable: int
    bytes: int
    flops: int


def cost(model: nn.Module, example: Any) -> Cost:
    """Count parameters, bytes and the operations of one forward pass.

    Operations are those that `torch.utils.flop_counter.FlopCounterMode` sees: products of matrices, convolutions and
    attention. Biases, activations and normalisation are left out, as is usual; so are, and that can be much, the
    products inside recurrent layers whose whole step is one kernel (`nn.LSTM`, on a GPU also `nn.GRU` and `nn.RNN`) and
    inside `nn.Bilinear`. The model runs once, in eval mode and without gradients, and is left as it was.

    Parameters
    ----------
    model
        Any module.
    example
        A batch that it takes: a tensor, a tuple of arguments, or a mapping of keyword arguments.

    Examples
    --------
    >>> cost(nn.Linear(100, 10), torch.zeros(1, 100))
    Cost(parameters=1010, trainable=1010, bytes=4040, flops=2000)
    """
    parameters = list(model.parameters())
    stored: list[Tensor] = [*parameters, *model.buffers()]
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters),
        trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        flops=_flops(model, example),
    )


def _flops(model: nn.Module, example: Any) -> int:
    """Count the operations of one forward pass in eval mode."""
    counter = FlopCounterMode(display=False)
    with in_mode(model), torch.no_grad(), _visible_attention(), counter:
        if isinstance(example, Mapping):
            model(**example)
        else:
            model(*example) if isinstance(example, tuple) else model(example)
    return int(counter.get_total_flops())


@contextmanager
def _visible_attention() -> Iterator[None]:
    """Let attention run as products of matrices; the counter does not know the fused kernels of inference."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
