"""Small tensors to a device and back, without waiting for its other work."""

from collections.abc import Callable, Iterable, Mapping, MutableMapping

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; from page-locked memory to CUDA, which would otherwise finish its work first."""
    if device.type == "cpu":
        return tensor
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Readback:
    """Numbers that a device has been asked for, to be looked at when it has got there.

    Parameters
    ----------
    values : Tensor
        On any device; they may change afterwards.
    """

    def __init__(self, values: Tensor) -> None:
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(values.device))
        else:
            self._host = values.to("cpu", copy=True)

    @property
    def is_there(self) -> bool:
        """Whether looking at them would wait for nothing."""
        return self._event is None or self._event.query()

    def numbers(self) -> Tensor:
        """The values, on the CPU; waits for no more than what the device was given before them."""
        if self._event is not None:
            self._event.synchronize()
        return self._host


def sent_back(tensors: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Send copies of tensors, which may change afterwards, to the CPU; the function that is returned waits for them."""
    readbacks = {name: Readback(tensor) for name, tensor in tensors.items()}
    return lambda: {name: readback.numbers() for name, readback in readbacks.items()}


class Arrivals:
    """Tensors on their way to the CPU, taken into lists there a batch later, when waiting for them costs nothing."""

    def __init__(self) -> None:
        self._before: list[tuple[list[Tensor], Readback]] = []
        self._now: list[tuple[list[Tensor], Readback]] = []

    def append(self, arrived: list[Tensor], values: Tensor) -> None:
        """Send a copy of a tensor, which may change afterwards, to the end of a list."""
        self._now.append((arrived, Readback(values)))

    def later(self, lists: Mapping[str, list[Tensor]]) -> Callable[[], dict[str, list[Tensor]]]:
        """What lists will hold of all that was sent so far; the function that is returned waits for it if need be."""
        sent_to = [id(target) for target, _ in (*self._before, *self._now)]
        expected = {name: (arrived, len(arrived) + sent_to.count(id(arrived))) for name, arrived in lists.items()}

        def found() -> dict[str, list[Tensor]]:
            if any(len(arrived) < number for arrived, number in expected.values()):
                self.settle()
            return {name: arrived[:number] for name, (arrived, number) in expected.items()}

        return found

    def end_batch(self) -> None:
        """Take in what was sent in the batch before this one."""
        for arrived, readback in self._before:
            numbers = readback.numbers()
            arrived.append(numbers.clone() if numbers.is_pinned() else numbers)  # page-locked memory is for the next
        self._before, self._now = self._now, []

    def settle(self) -> None:
        """Take in everything, waiting for it if need be."""
        self.end_batch()
        self.end_batch()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor."""
    return tensor


def copy_ahead(tensors: Iterable[Tensor], part: Callable[[Tensor], Tensor] = whole) -> None:
    """Send copies of some tensors, or of a part of each, to the CPU, for those who will ask `on_cpu` for them."""
    for tensor in tensors:
        _under_way.setdefault(tensor, {})[part] = Readback(part(tensor))


def forget_copies(tensors: Iterable[Tensor]) -> None:
    """Let the copies of some tensors go: these may change now."""
    for tensor in tensors:
        _under_way.pop(tensor, None)


def on_cpu(tensor: Tensor, part: Callable[[Tensor], Tensor] = whole) -> Tensor:
    """The numbers of a tensor on the CPU, not to be changed: the copy that is under way, else one to be waited for."""
    copy = None if tensor.device.type == "cpu" else _under_way.get(tensor, {}).get(part)
    return part(tensor).cpu() if copy is None else copy.numbers()


_under_way: MutableMapping[Tensor, dict[Callable[[Tensor], Tensor], Readback]] = WeakTensorKeyDictionary()
