"""Checksums by which a file recognises its run: of batches, weights and functions."""

import functools
import zlib
from collections.abc import Iterable
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from neurocollapse.hooks.offload import loaded
from neurocollapse.hooks.shards import own_part
from neurocollapse.support.quiet import Mode
from neurocollapse.support.transfer import on_cpu

DIGEST_ELEMENTS = 2**14
"""Numbers of each input, spread over all its samples, by which a batch is recognised: reading all would take time."""


def batch_digest(inputs: Iterable[Tensor], labels: Tensor, before: int) -> int:
    """Checksum of the batches seen so far, this one included: their labels and a sample of the inputs' numbers."""
    digest = zlib.crc32(labels.numpy().tobytes(), before)
    for tensor in inputs:
        if tensor.layout == torch.strided and not tensor.is_nested:
            digest = _digest(on_cpu(tensor, sample_of), digest)
    return digest


def sample_of(tensor: Tensor) -> Tensor:
    """The numbers of an input by which it is known again."""
    step = (tensor.numel() // DIGEST_ELEMENTS) | 1  # odd, so that it visits all columns of a matrix
    return tensor.flatten()[::step]


def weight_digest(model: nn.Module, mode: Mode) -> int:
    """Checksum of the model's parameters and of the buffers that stay put and are saved with it.

    Those of modules in train mode move; those that are not persistent are no weights, but made in a first call, say.
    """
    resting = {module for module in model.modules() if mode == "eval" or (mode == "unchanged" and not module.training)}
    return tensors_digest(
        loaded(module, name, tensor)
        for module in model.modules()
        for name, tensor in (*module._parameters.items(), *(module._buffers.items() if module in resting else ()))
        if tensor is not None and name not in module._non_persistent_buffers_set
    )


def tensors_digest(tensors: Iterable[Tensor]) -> int:
    """Checksum of all numbers of some tensors."""
    digest = 0
    for tensor in tensors:
        digest = _digest(tensor, digest)
    return digest


def is_unsettled(model: nn.Module) -> bool:
    """Whether a part of the model makes its weights in its first forward pass, which has not been."""
    return any(map(is_lazy, (*model.parameters(), *model.buffers())))


def option_text(option: Any) -> str:
    """An option in words that are the same in the next process: functions by name and code, other callables by name."""
    if isinstance(option, dict):
        return str({str(name): option_text(value) for name, value in option.items()})
    if isinstance(option, functools.partial):
        return f"{option_text(option.func)}{option.args}{option.keywords}"
    if isinstance(option, FunctionType):
        return f"{option.__qualname__} {zlib.crc32(_function_text(option).encode()):08x}"
    return str(getattr(option, "__qualname__", type(option).__qualname__ if callable(option) else option))


def _digest(tensor: Tensor, before: int) -> int:
    """Checksum of a tensor's numbers, after others; of those that this process has."""
    values = own_part(tensor.detach()).cpu().contiguous().flatten().clone()  # torch resizes no memory that numpy views
    return zlib.crc32(values.view(torch.uint8).numpy().data, before) if values.numel() else before


def _function_text(function: FunctionType) -> str:
    """The code of a function, and the numbers and strings among its defaults and the variables that it encloses."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    enclosed = (cell.cell_contents for cell in function.__closure__ or ())
    plain = [value for value in (*defaults, *enclosed) if isinstance(value, int | float | str)]
    return f"{_code_text(function.__code__)}{plain}"


def _code_text(code: CodeType) -> str:
    """Instructions, names and constants of compiled code, without the file and the line that it comes from."""
    constants = [_constant_text(value) for value in code.co_consts]
    return f"{code.co_code.hex()}{code.co_names}{constants}"


def _constant_text(value: Any) -> str:
    """A constant of compiled code; the order of a set of strings differs from process to process."""
    if isinstance(value, CodeType):
        return _code_text(value)
    return repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
