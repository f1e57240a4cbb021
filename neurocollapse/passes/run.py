"""One pass with sinks of your own, in one call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

import torch
from torch import nn

from neurocollapse.data.labels import IGNORED
from neurocollapse.hooks import Calls
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.options import PassOptions
from neurocollapse.passes.sink import Sink
from neurocollapse.support.checks import flag
from neurocollapse.support.quiet import Mode


def run_pass(
    model: nn.Module,
    loader: Iterable[Any],
    sinks: Mapping[str, Sink],
    *,
    layers: Any = "leaves",
    pool: Any = "auto",
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    mode: Mode = "eval",
    progress: bool = True,
    resume: str | PathLike[str] | None = None,
    calls: Calls = "all",
    output: Any = None,
    label_fn: Callable[[Any], Any] | None = None,
    include_input: bool = False,
    distributed: bool = False,
    mask: str | Literal[False] | None = None,
    mask_fn: Callable[[Any], Any] | None = None,
    ignore_index: int = IGNORED,
    classes: int | Sequence[int] | None = None,
    halt: bool = False,
) -> dict[str, Any]:
    """Run a model over a loader once, and hand the features of every chosen layer to all sinks.

    The model is left as `neurocollapse.collect` leaves it, and the options mean the same.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    loader : iterable of batches
        Batches of inputs with their labels.
    sinks : mapping of str to Sink
        What takes the features, by names of your own; see `Sink`.
    layers, pool, calls, output, mask, mask_fn
        Which features are taken; with the defaults of `neurocollapse.collect`.
    label_fn, num_classes, ignore_index, classes, include_input
        What they are counted as; with the defaults of `neurocollapse.collect`.
    device, mode, progress
        How the model runs; with the defaults of `neurocollapse.collect`.
    halt : bool, default False
        As in `neurocollapse.collect`; no sink is given logits.
    resume : path-like, optional
        File in which the state of all sinks is kept; a run that finds it continues from there, to the last bit.
    distributed : bool, default False
        Samples that a sampler repeats to even out the ranks count once, and each rank has a resume file of
        its own. Each rank has the results of its own samples.

    Returns
    -------
    dict of str to what the sink's `result` gives

    Raises
    ------
    ValueError
        As `neurocollapse.collect`; also if the loader gives no samples.

    Examples
    --------
    >>> from neurocollapse.passes import FeatureSink
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))] * 3
    >>> results = run_pass(nn.Linear(4, 3), batches, {"features": FeatureSink(num_samples=6)})
    >>> results["features"].labels.tolist()
    [0, 0, 1, 1, 0, 0]
    """
    options = PassOptions(
        layers=layers,
        pool=pool,
        num_classes=num_classes,
        device=device,
        mode=mode,
        progress=progress,
        resume=resume,
        calls=calls,
        output=output,
        label_fn=label_fn,
        include_input=include_input,
        distributed=flag("distributed", distributed),
        mask=mask,
        mask_fn=mask_fn,
        ignore_index=ignore_index,
        classes=classes,
        halt=halt,
    )
    return Pass(model, loader, sinks, options, name="pass").run()
