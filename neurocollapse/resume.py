"""Interrupted runs: the finished part on disk, taken up again to the last bit."""

import signal
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from neurocollapse.hooks import SiteKey
from neurocollapse.statistics import LayerRecord, StateFileError, read_state, write_state
from neurocollapse.stream import MomentStream

KIND = "run"
SAVE_SHARE = 0.05
"""Share of the running time that saving may take."""
SAVE_INTERVAL = 1.0
"""Seconds between two saves at least."""


class Checkpoint:
    """The file from which an interrupted run goes on.

    Holds the accumulators' raw state, so that a resumed run does the same floating-point operations in the same order
    as an unbroken one. The file is saved about once a second (seldom enough to cost at most 5 % of the time) and when
    the run ends, however it ends.

    Parameters
    ----------
    path : path-like or None
        No file is written without a path.
    settings : dict
        What must not change between the parts of one run: options, layers, model and weights.
    """

    def __init__(self, path: str | PathLike[str] | None, settings: dict[str, Any]) -> None:
        self.path = Path(path) if path is not None else None
        self.settings = settings
        self.records: dict[SiteKey, LayerRecord] = {}
        self.skipped: dict[str, str] = {}
        self.notes: list[str] = []
        self.digest = 0
        self._saved = time.monotonic()
        self._cost = 0.0

    def load(self, stream: MomentStream, device: torch.device) -> None:
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
                self._take_up(header, tensors, stream, device)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise StateFileError(f"{self.path} is damaged ({reason}); delete it to start afresh") from error
        if changed:
            raise StateFileError(
                f"{self.path} was written by a run with other settings ({', '.join(changed)}); "
                "delete it, or name another file in `resume`"
            )

    def check_labels(self, digest: int) -> None:
        """Raise unless the batches skipped on resuming carried the labels of those that were counted."""
        if digest != self.digest:
            raise StateFileError(
                f"{self.path}: the loader does not repeat the batches that this file has counted; give it the same "
                "data and the same order, or delete the file"
            )

    def finish_batch(self, stream: MomentStream, labels: Tensor) -> None:
        """Remember the labels of a batch that has been counted whole; save unless the last save is too recent."""
        if self.path is None:
            return
        self.digest = label_digest(labels, self.digest)
        if time.monotonic() - self._saved >= max(SAVE_INTERVAL, self._cost / SAVE_SHARE):
            self.save(stream)

    def save(self, stream: MomentStream) -> None:
        """Save the state, if there is a path and at least one batch has been counted whole."""
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
        write_state(self.path, KIND, header, stream.state())
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def _take_up(
        self, header: dict[str, Any], tensors: dict[str, Tensor], stream: MomentStream, device: torch.device
    ) -> None:
        """Put what a file holds where it belongs."""
        self.records = {SiteKey(*site["key"]): LayerRecord(**site["record"]) for site in header["sites"]}
        self.digest, self.skipped, self.notes = header["digest"], header["skipped"], header["notes"]
        stream.load_state(header, tensors, device, self.records)


def label_digest(labels: Tensor, before: int) -> int:
    """Checksum of the labels seen so far, this batch included."""
    return zlib.crc32(labels.numpy().tobytes(), before)


def weight_digest(model: nn.Module, *, buffers: bool) -> int:
    """Checksum of the model's parameters and, where they stay put, its buffers."""
    digest = 0
    for tensor in (*model.parameters(), *(model.buffers() if buffers else ())):
        values = tensor.detach().cpu().contiguous().flatten()
        digest = zlib.crc32(values.view(torch.uint8).numpy().data, digest) if values.numel() else digest
    return digest


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
