"""Which tensors of a forward pass are made of parameters and positions alone, so that no sample has a part in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode, _get_current_function_mode

from neurocollapse.hooks.outputs import tensors_in

_POSITIONS = (torch.arange, torch.linspace)


class FixedTensors(TorchFunctionMode):
    """Follows, while it is on, what is computed from a model's parameters, buffers and positions and nothing else.

    The axis of positions of such a tensor may be as long as the batch, so that its shape does not show that it counts
    no samples. A tensor is fixed only if every step that made it was seen: what a model computes beside torch's
    functions counts as made of its input.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._model = model
        self._known: dict[int, tuple[ref[Tensor], int]] = {}
        self._is_on = False

    def start(self) -> None:
        """Begin to follow a forward pass."""
        self.stop()
        for tensor in (*self._model.parameters(), *self._model.buffers()):
            self._note(tensor)
        self._is_on = True
        self.__enter__()

    def stop(self) -> None:
        """Follow nothing more, and forget everything; do nothing where it is off.

        Where two captures hook one model, the first to be placed ends first, below the other on torch's stack of
        modes: it goes with that one.
        """
        self._is_on, self._known = False, {}
        while isinstance(mode := _get_current_function_mode(), FixedTensors) and not mode._is_on:
            mode.__exit__(None, None, None)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Leave alone what is computed of features inside: the model sees nothing of it, and looking takes its time."""
        if _get_current_function_mode() is not self:  # off, or below a mode that is not ours to take away
            yield
            return
        self.__exit__(None, None, None)
        try:
            yield
        finally:
            if self._is_on:
                self.__enter__()

    def holds(self, value: Any) -> bool:
        """Tell whether all tensors inside a value are fixed, with entries in their first axis that differ.

        Where these are the same, as for a position table that is repeated for every sample, they may stand for samples.
        """
        tensors = list(tensors_in(value))
        return all(map(self._is_known, tensors)) and any(map(_differs, tensors))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = list(tensors_in((args, kwargs or {})))
        fixed = all(map(self._is_known, given)) if given else func in _POSITIONS
        result = func(*args, **(kwargs or {}))
        if fixed:
            for tensor in (*given, *tensors_in(result)):  # what is given may be changed in place
                self._note(tensor)
        return result

    def _note(self, tensor: Tensor) -> None:
        """Remember a tensor as it is now; what another tensor is written into has another version."""
        if not is_lazy(tensor) and not tensor.is_inference():  # these have no version
            self._known[id(tensor)] = (ref(tensor), tensor._version)

    def _is_known(self, tensor: Tensor) -> bool:
        """Whether this very tensor was remembered, and is unchanged."""
        known = self._known.get(id(tensor))
        return known is not None and known[0]() is tensor and known[1] == tensor._version


def _differs(tensor: Tensor) -> bool:
    """Whether the entries along the first axis are not all the same."""
    plain = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta
    return bool(plain and tensor.dim() and (tensor != tensor[:1]).any())
