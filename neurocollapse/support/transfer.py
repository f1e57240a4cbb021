"""Small tensors to a device and back again, without waiting for what it is busy with."""

import torch
from torch import Tensor


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
