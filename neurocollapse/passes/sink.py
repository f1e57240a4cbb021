"""What takes the features of a pass: one protocol for class moments, kept features, sums, and sinks of your own."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from neurocollapse.statistics import ClassBatch, LayerRecord
from neurocollapse.support.transfer import sent_back


class Sink(Protocol):
    """Takes the features of every chosen layer, batch by batch, and makes something of them.

    A pass owns the loader, labels, devices, progress and the resume file; a sink owns its arithmetic. It is called in
    this order::

        start(layers, device)                  once
        load_state(tensors)                    where a file holds the finished part
        begin(batch)                           for every batch:
            add(site, features, rows)              once a layer, from inside the model's forward pass
        end(logits)
        idle(finished=…)                       instead, where a batch has no samples that count, and behind the last
        drop(site)                             where a layer no longer fits and is left out, between `add` and `end`
        state()                                about once a second, between batches, where there is a resume file;
                                               on a device other than the CPU through snapshot()
        result()                               once

    Inherit from this class and write `add`, `state`, `load_state` and `result`; the rest has a default.

    Attributes
    ----------
    settings : mapping of str to plain values
        What must not change between the parts of one run: a resume file with other settings is refused. Default: none.
    full : bool
        Whether the sink needs no further batch. A pass ends early when all of its sinks are full. Default: False.
    layers : mapping of site to LayerRecord
        What is known of each layer, in order of depth; complete from the first `end` on. A layer that is left out later
        disappears: make results of these layers only.
    device : torch.device
        Where the model runs.

    Examples
    --------
    >>> class LargestNorm(Sink):
    ...     def __init__(self):
    ...         self.largest = {}
    ...     def add(self, site, features, rows):
    ...         norm = features.norm(dim=1).max()
    ...         self.largest[site] = torch.maximum(norm, self.largest.get(site, norm))
    ...     def state(self):
    ...         return self.largest
    ...     def load_state(self, tensors):
    ...         self.largest = {site: norm.to(self.device) for site, norm in tensors.items()}
    ...     def result(self):
    ...         return {record.name: float(self.largest[site]) for site, record in self.layers.items()}
    >>> from neurocollapse.passes import run_pass
    >>> batches = [(3 * torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> run_pass(torch.nn.Identity(), batches, {"norms": LargestNorm()})["norms"]
    {'(root)': 3.0}
    """

    settings: Mapping[str, Any] = MappingProxyType({})
    full: bool = False
    layers: Mapping[str, LayerRecord]
    device: torch.device

    def start(self, layers: Mapping[str, LayerRecord], device: torch.device) -> None:
        """Learn where the model runs, and what will be known of its layers after the first forward pass.

        Parameters
        ----------
        layers : mapping of str to LayerRecord
            Filled in during the first forward pass.
        device : torch.device
            Where the model runs.
        """
        self.layers, self.device = layers, device

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch; raise to refuse it, but change nothing yet.

        Parameters
        ----------
        batch : ClassBatch
            The labels, one per sample, on the CPU.
        """
        return

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Count the features of one layer, before the model's next operation runs.

        Parameters
        ----------
        site : str
            Which layer, and which of its calls: the same in every batch and process; its name is in `layers`.
        features : Tensor of shape (rows, features)
            Float32 or float64, detached. It may share memory with the model, so copy what you keep and change nothing.
        rows : ClassBatch
            The label of each row: `labels` on the CPU, `on(device)` elsewhere. There are as many rows as samples, or
            the same number of consecutive rows for each sample.
        """

    def end(self, logits: Tensor | None) -> None:
        """Finish the batch, of which every layer has now been added.

        Parameters
        ----------
        logits : Tensor of shape (samples, outputs) or None
            The model's output; None where it is no such matrix, and with `halt`.
        """
        return

    def idle(self, *, finished: bool) -> bool:
        """Take part in the work of other processes while this one has no samples that count.

        Called in place of `begin`, `add` and `end` for a batch without such samples. Once the loader has ended it is
        called again as long as it returns True, that is, while other processes have batches left. A sink that knows no
        other processes returns False.

        Parameters
        ----------
        finished : bool
            Whether this process's loader has ended.
        """
        return False

    def drop(self, site: str) -> None:
        """Forget a layer, which may never have been added; a sink that makes its results from `layers` can do nothing.

        Parameters
        ----------
        site : str
            Name of the layer.
        """
        return

    def state(self) -> Mapping[str, Tensor]:
        """Everything that was made of the batches so far, as tensors by names of your own."""

    def snapshot(self) -> Callable[[], Mapping[str, Tensor]]:
        """Ask for the state as it is now, without waiting for a device.

        Returns
        -------
        callable
            Gives the state on the CPU; called once, when three further batches have ended, or not at all. The default
            copies what `state` returns.
        """
        return sent_back(self.state())

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over a state, as if its batches had just ended.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            As `state` returned them, on the CPU.
        """

    def result(self) -> Any:
        """The result of the pass, for its caller."""


def check_sinks(sinks: Any) -> None:
    """Raise unless there are sinks, under names that a file can tell apart."""
    if not isinstance(sinks, Mapping):
        raise TypeError(f"`sinks` must map names to sinks, got {type(sinks).__name__}")
    if not sinks:
        raise ValueError("`sinks` must hold at least one sink, got none")
    for name, sink in sinks.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"`sinks` must have names of letters, digits and underscores, got {name!r}")
        missing = [member for member in _MEMBERS if not hasattr(sink, member)]
        if missing:
            raise TypeError(
                f"`sinks` must hold sinks, got {type(sink).__name__} for {name!r}, which has no `{missing[0]}`; "
                "inherit from neurocollapse.passes.Sink"
            )


_MEMBERS = (
    *("settings", "full", "start", "begin", "add", "end", "idle", "drop"),
    *("state", "snapshot", "load_state", "result"),
)
