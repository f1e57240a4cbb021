"""Interrupted passes: the finished part is kept on disk, and continued with the same result to the last bit."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import LayerRecord
from neurocollapse.support.state import StateFileError, read_state, write_state
from neurocollapse.support.text import first_line, visible
from neurocollapse.support.transfer import sent_back

KIND = "pass"
SAVE_SHARE = 0.05
"""Share of the running time that saving may take."""
SAVE_INTERVAL = 1.0
"""Seconds between two saves at least."""
STEPS_UNDER_WAY = 3
"""Batches after which a device has long sent what it was asked for: what is held back may be asked about once more."""
_CPU, _CUDA = "random state/cpu", "random state/cuda"
"""What the random states are called in a file."""


@dataclass
class Progress:
    """How far a pass has come, beside what its sinks hold.

    Attributes
    ----------
    num_batches, num_samples : int
        Whole batches that every sink has taken, and the samples in them that count.
    num_classes : int
        As told, or as seen so far.
    num_seen : int
        Samples in those batches, whether they count or not; without those that a sampler repeats.
    num_others : int
        Samples, or positions, of classes that are not meant.
    num_steps : int
        Those batches, and batches of other processes in which this one has taken part.
    digest : int
        Checksum of those batches, where they are to be known again.
    layers : dict of site to LayerRecord
        The layers that have fired, in order of depth; sinks look at this very dict.
    skipped : dict of str to str
        Layers that were left out, and why.
    notes : list of str
        What may mislead.
    """

    num_batches: int = 0
    num_samples: int = 0
    num_classes: int = 0
    num_seen: int = 0
    num_others: int = 0
    num_steps: int = 0
    digest: int = 0
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Checkpoint:
    """The file from which an interrupted pass continues.

    Holds the raw state of every sink, so that a resumed run does the same floating-point operations in the same order
    as an unbroken one, and the random state, so that it draws the same numbers. The file is saved about once a second
    (seldom enough to cost at most 5 % of the time) and when the pass ends, however it ends; but where it ends in the
    middle of a batch, which some layers have counted and others have not, the file stays as it was last saved.

    A device is not waited for in the midst of a pass: the state is asked for, and saved three batches later, or when a
    pass ends in the middle of a batch.

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
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))  # as it comes back from a file
        self.device = device
        self._random: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        self._cost = 0.0
        self._under_way: _UnderWay | None = None
        self._is_late = device.type != "cpu"

    @property
    def lacks_weights(self) -> bool:
        """Whether the settings hold no digest of the weights yet: lazy layers make theirs in a first forward pass."""
        return "weights" in self.settings and self.settings["weights"] is None

    def load(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Put a saved state, if there is one, into `progress` and the sinks.

        Raises
        ------
        StateFileError
            If the file is damaged, belongs to another run, or lies in a folder that does not exist; or if the model has
            no weights yet by which a run would be known again.
        """
        if self.path is None:
            return
        if not self.path.parent.is_dir():  # said now, not when there is something to save
            place = visible(self.path)
            raise StateFileError(f"cannot write {place}: there is no such folder; name a folder that exists")
        if not self.path.exists():
            return
        if self.lacks_weights:
            raise StateFileError(
                f"{visible(self.path)} cannot be continued: the model has lazy layers, which have no weights yet; load "
                "its weights, or call it once on a batch, first"
            )
        header, tensors = read_state(self.path, KIND, copied=False)
        try:
            saved: dict[str, Any] = header["settings"]
            changed = [name for name in (self.settings | saved) if saved.get(name) != self.settings.get(name)]
            if not changed:
                self._take_up(header, tensors, progress, sinks)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise StateFileError(f"{visible(self.path)} is damaged ({reason}); delete it to start again") from error
        if changed:
            raise StateFileError(
                f"{visible(self.path)} was written by a run with other settings ({', '.join(changed)}); "
                "delete it, or name another file in `resume`"
            )

    def check_repeated(self, digest: int, progress: Progress) -> None:
        """Take up the random state behind the batches that were passed over, if they are those that were counted.

        Raises
        ------
        StateFileError
            If they are not.
        """
        if digest != progress.digest:
            raise StateFileError(
                f"{visible(self.path)}: the loader does not repeat the batches that this file has counted; give it the "
                "same data in the same order, or delete the file"
            )
        _set_random_state(self._random, self.device)

    def finish_batch(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Remember what follows from a batch that has been counted whole; save unless the last save is too recent."""
        if self.path is None:
            return
        self._random = _random_state(self.device)
        asked = self._under_way
        if asked is not None and progress.num_steps >= asked.progress["num_steps"] + STEPS_UNDER_WAY:
            self._write_asked(self.path, asked)
        if self.is_due():
            self.save_soon(progress, sinks)

    def is_due(self) -> bool:
        """Whether the last save is long enough ago."""
        return time.monotonic() - self._saved >= max(SAVE_INTERVAL, self._cost / SAVE_SHARE)

    def save_soon(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Save the state between two batches: at once on a CPU, and elsewhere when the device has sent it."""
        if not self._is_late:
            self.save(progress, sinks)
        elif self._under_way is None:
            start = time.monotonic()
            states = {name: _snapshot_of(sink) for name, sink in sinks.items()}
            self._under_way = _UnderWay(asdict(progress), states, self._random, time.monotonic() - start)

    def save(self, progress: Progress, sinks: Mapping[str, Sink]) -> None:
        """Save the state between two batches, if there is a path."""
        if self.path is not None:
            states = {name: sink.state for name, sink in sinks.items()}
            try:
                self._write_asked(self.path, _UnderWay(asdict(progress), states, self._random))
            except Exception:  # features that are not finite, say: the file keeps what was before
                self.save_asked()
                raise

    def save_asked(self) -> None:
        """Save what was asked for behind an earlier batch, if anything was, and if it can be had."""
        if self.path is not None and self._under_way is not None:
            with suppress(Exception):  # the one that ends the pass is raised
                self._write_asked(self.path, self._under_way)

    def _write_asked(self, path: Path, asked: "_UnderWay") -> None:
        """Write the file, waiting for what it is to hold."""
        start = time.monotonic()
        states = {name: state() for name, state in asked.states.items()}
        tensors = {f"{name}/{key}": tensor for name, state in states.items() for key, tensor in state.items()}
        self._write(path, {"settings": self.settings, **asked.progress}, {**tensors, **asked.random})
        self._saved = time.monotonic()
        self._cost = self._saved - start + asked.cost
        self._under_way = None

    def _write(self, path: Path, header: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Write the file."""
        write_state(path, KIND, header, tensors)

    def _take_up(
        self, header: dict[str, Any], tensors: dict[str, Tensor], progress: Progress, sinks: Mapping[str, Sink]
    ) -> None:
        """Put what a file holds where it belongs."""
        for name, value in vars(progress).items():
            if isinstance(value, int):
                setattr(progress, name, int(header[name]))
        progress.layers.update({site: LayerRecord(**record) for site, record in header["layers"].items()})
        progress.skipped, progress.notes = dict(header["skipped"]), list(header["notes"])
        self._random = {name: tensors[name].clone() for name in (_CPU, _CUDA) if name in tensors}
        for name, sink in sinks.items():
            prefix = f"{name}/"
            own = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            sink.load_state(_Copies(own))


class _UnderWay(NamedTuple):
    """What a file will hold, when a device has sent it: how far the pass had come, the sinks' states, random states.

    `cost` is how many seconds it took to ask.
    """

    progress: dict[str, Any]
    states: dict[str, Callable[[], Mapping[str, Tensor]]]
    random: dict[str, Tensor]
    cost: float = 0.0


def _snapshot_of(sink: Sink) -> Callable[[], Mapping[str, Tensor]]:
    """A sink's snapshot; a copy of its state where one of its classes, or it itself, extends `state` alone."""
    members = [getattr(sink, "__dict__", {}), *map(vars, type(sink).__mro__)]
    extended = any("state" in names and "snapshot" not in names for names in members)
    has_own = any("snapshot" in names for names in members)  # one that stands for another sink has not
    return sink.snapshot() if has_own and not extended else sent_back(sink.state())


class _Copies(Mapping[str, Tensor]):
    """Tensors that are copied when they are taken, so that a state is in memory once, and not twice."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


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
