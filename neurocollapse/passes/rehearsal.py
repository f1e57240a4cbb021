"""What layers are asked for in every batch, asked before the first: what it places on a device is then there."""

from collections.abc import Callable, Iterable
from contextlib import suppress

import torch

from neurocollapse.hooks.eager import outside_autocast
from neurocollapse.metrics import Layer, Rows

CPU = "cpu"


def rehearse(ask: Callable[[Layer, Rows], object], layers: Iterable[Layer], device: torch.device) -> None:
    """Ask layers in vain, with one row of zeros, so that nothing of them is placed or read when a pass is under way.

    A device works in order: whoever asks it for a number, or sends it a large tensor, in the midst of a forward pass
    waits until it has got there. On a CPU nothing is asked.

    Parameters
    ----------
    ask : callable
        What the first batch will ask of each layer. An error is not raised here: it comes again with that batch.
    layers : iterable of Layer
        With the moments of a whole pass.
    device : torch.device
        Where the model runs, and the features of layers that say nothing else.
    """
    for layer in layers:
        own = layer.device or device
        if own.type == CPU or not layer.moments.num_samples:
            continue
        features = torch.zeros(1, layer.moments.num_features, dtype=feature_dtype(layer), device=own)
        rows = Rows(features, layer.moments.present[:1].to(own))
        with outside_autocast(features), suppress(Exception):
            ask(layer, rows)


def feature_dtype(layer: Layer) -> torch.dtype:
    """The dtype in which sinks get the features of a layer."""
    return torch.float64 if layer.record.feature_dtype == "float64" else torch.float32
