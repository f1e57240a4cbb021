"""From a model and a loader to a labelled dataset in one call."""

from collections.abc import Iterable
from typing import Any

import xarray as xr
from torch import nn

from neurocollapse.collect import collect
from neurocollapse.measure import check_weighting, measure
from neurocollapse.metrics import Weighting


def analyze(
    model: nn.Module, loader: Iterable[Any], *, weighting: Weighting = "equal", **collect_options: Any
) -> xr.Dataset:
    """Compression, separation, discrimination and decay of every layer of a model on a loader's data.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of batches
    weighting : {"equal", "frequency"}
        Convention of the between-class covariance.
    **collect_options
        Everything that `neurocollapse.collect` takes: `layers`, `pool`, `num_classes`, `resume`, ….

    Returns
    -------
    xarray.Dataset
        See `neurocollapse.measure`.

    Raises
    ------
    ValueError, MemoryPlanError
        See `neurocollapse.collect`.

    Examples
    --------
    >>> import torch
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> analyze(nn.Linear(4, 3), batches).sizes["layer"]
    1
    """
    check_weighting(weighting)  # before the run, not after it
    return measure(collect(model, loader, **collect_options), weighting=weighting)
