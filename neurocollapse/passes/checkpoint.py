"""Interrupted runs: the finished part on disk, taken up again to the last bit."""

import functools
import signal
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.hooks import SiteKey
from neurocollapse.passes.moments import MomentStream
from neurocollapse.statistics import LayerRecord, StateFileError, read_state, write_state

KIND = "run"
SAVE_SHARE = 0.05
"""Share of the running time that saving may take."""
SAVE_INTERVAL = 1.0
"""Seconds between two saves at least."""
DIGEST_ELEMENTS = 2**14
"""Numbers of each input, spread over all its samples, by which a batch is known again: reading all would take time."""
_CPU, _CUDA = "random/cpu", "random/cuda"
"""What the random states are called in a file."""


class Checkpoint:
    """The file from which an interrupted run goes on.

    Holds the accumulators' raw state, so that a resumed run does the same floating-point operations in the same order
    as an unbroken one, and the random state, so that it draws the same numbers. The file is saved about once a second
    (seldom enough to cost at most 5 % of the time) and when the run ends, however it ends; but where it ends in the
    middle of a batch, which some layers have counted and others have not, the file stays as it was last saved.

    Parameters
    ----------
    path : path-like or None
        No file is written without a path.
    settings : dict
        What must not change between the parts of one run: options, layers, model and weights.
    device : torch.device
        Where the model runs.
    """

    def __init__(self, path: str | PathLike[str] | None, settings: dict[str, Any], device: torch.device) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = settings
        self.device = device
        self.records: dict[SiteKey, LayerRecord] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self.digest = 0
        self._random: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._cost = 0.0

    def load(self, stream: MomentStream) -> None:
        """Put a saved state, if there is one, into `stream`.

        Raises
        ------
        StateFileError
            If the file is damaged, belongs to another run, or lies in a folder that does not exist.
        """
        if self.path is None:
            return
        if not self.path.parent.is_dir():  # said now, not when there is something to save
            raise StateFileError(f"cannot write {self.path}: there is no such folder; name a folder that exists")
        if not self.path.exists():
            return
        header, tensors = read_state(self.path, KIND)
        try:
            saved: dict[str, Any] = header["settings"]
            changed = [name for name, value in self.settings.items() if saved.get(name) != value]
            if not changed:
                self._take_up(header, tensors, stream)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise StateFileError(f"{self.path} is damaged ({reason}); delete it to start afresh") from error
        if changed:
            raise StateFileError(
                f"{self.path} was written by a run with other settings ({', '.join(changed)}); "
                "delete it, or name another file in `resume`"
            )

    def go_on_after(self, digest: int) -> None:
        """Go on from the random state behind the batches that were passed over, if they are those that were counted.

        Raises
        ------
        StateFileError
            If they are not.
        """
        if digest != self.digest:
            raise StateFileError(
                f"{self.path}: the loader does not repeat the batches that this file has counted; give it the same "
                "data and the same order, or delete the file"
            )
        _set_random_state(self._random, self.device)

    def finish_batch(self, stream: MomentStream, digest: int) -> None:
        """Remember what follows from a batch that has been counted whole; save unless the last save is too recent."""
        if self.path is None:
            return
        self.digest, self._random = digest, _random_state(self.device)
        if time.monotonic() - self._saved >= max(SAVE_INTERVAL, self._cost / SAVE_SHARE):
            self.save(stream)

    def save(self, stream: MomentStream) -> None:
        """Save the state, if there is a path and every layer has counted the same batches, at least one."""
        if self.path is None or stream.num_batches == 0 or stream.torn:
            return
        start = time.monotonic()
        sites = [
            {
                "key": list(key),
                "record": asdict(self.records[key]),
                "num_features": accumulator.num_features,
                "dtype": str(accumulator.reference.dtype).removeprefix("torch."),
            }
            for key, accumulator in stream.accumulators.items()
        ]
        header = {
            "settings": self.settings,
            "digest": self.digest,
            "skipped": self.skipped,
            "notes": self.notes,
            "num_classes": stream.num_classes,
            "num_batches": stream.num_batches,
            "num_samples": stream.num_samples,
            "sites": sites,
        }
        write_state(self.path, KIND, header, stream.state() | self._random)
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _take_up(self, header: dict[str, Any], tensors: dict[str, Tensor], stream: MomentStream) -> None:
        """Put what a file holds where it belongs."""
        self.records = {SiteKey(*site["key"]): LayerRecord(**site["record"]) for site in header["sites"]}
        self.digest, self.skipped, self.notes = header["digest"], header["skipped"], header["notes"]
        self._random = {name: tensors[name] for name in (_CPU, _CUDA) if name in tensors}
        stream.load_state(header, tensors, self.device, self.records)


def batch_digest(inputs: Iterable[Tensor], labels: Tensor, before: int) -> int:
    """Checksum of the batches seen so far, this one included: their labels and a sample of the inputs' numbers."""
    digest = zlib.crc32(labels.numpy().tobytes(), before)
    for tensor in inputs:
        if tensor.layout == torch.strided and not tensor.is_nested:
            step = (tensor.numel() // DIGEST_ELEMENTS) | 1  # odd, lest it keep to a few columns of a matrix
            digest = _digest(tensor.flatten()[::step], digest)
    return digest


def weight_digest(model: nn.Module, mode: str) -> int:
    """Checksum of the model's parameters and of the buffers that stay put: those of modules not in train mode."""
    resting = [module for module in model.modules() if mode == "eval" or (mode == "unchanged" and not module.training)]
    digest = 0
    for tensor in (*model.parameters(), *(buffer for module in resting for buffer in module.buffers(recurse=False))):
        digest = _digest(tensor, digest)
    return digest


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
    """Checksum of a tensor's numbers, after others."""
    values = tensor.detach().cpu().contiguous().flatten()
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


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random numbers that a loader, or a model on `device`, draws."""
    states = {_CPU: torch.get_rng_state()}
    if device.type == "cuda":
        states[_CUDA] = torch.cuda.get_rng_state(device)
    return states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on drawing random numbers from saved states; that of a kind of device which is not used is left aside."""
    if _CPU in states:
        torch.set_rng_state(states[_CPU])
    if _CUDA in states and device.type == "cuda":
        torch.cuda.set_rng_state(states[_CUDA], device)


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """Let Ctrl-C take effect at the end of the block, so that no batch is left half counted; a second one at once."""
    previous = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield  # only the main thread may set a handler, and one that was not set from Python cannot be put back
        return
    pending = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal pending
        if pending and callable(previous):
            previous(number, frame)
        pending = True

    signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if pending and callable(previous):
        previous(signal.SIGINT, None)
