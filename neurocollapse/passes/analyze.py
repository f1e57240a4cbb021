"""From a model and a loader to a labelled dataset in one call."""

import inspect
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn

from neurocollapse.hooks import weight_and_bias
from neurocollapse.metrics import QuantityError, Weighting
from neurocollapse.metrics.catalogue import Choice, Chosen, chosen_quantities
from neurocollapse.metrics.measure import measured
from neurocollapse.metrics.weighting import check_weighting
from neurocollapse.passes.collect import collect, collected, moment_pass, moment_sink
from neurocollapse.passes.columns import measured_together
from neurocollapse.passes.loop import Pass
from neurocollapse.passes.options import PassOptions, refuse_unknown
from neurocollapse.passes.probing import Probing
from neurocollapse.passes.processes import joined
from neurocollapse.passes.second import SecondPass
from neurocollapse.probes import Probe
from neurocollapse.support.checks import flag

_MOMENT_OPTIONS = ("precision", "covariance", "non_finite", "max_memory", "state_bytes", "state_dir")
"""The options that class moments take, beside those of every pass."""


def analyze(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    quantities: Choice = None,
    weighting: Weighting | None = None,
    pairs: bool = False,
    uncertainty: bool = False,
    probes: bool | Probe = False,
    probe_samples: int = 5_000,
    probe_seed: int = 0,
    test_loader: Iterable[Any] | None = None,
    ood_loader: Iterable[Any] | None = None,
    **options: Any,
) -> xr.Dataset:
    """Measure compression, separation, discrimination and decay of every layer of a model on a loader's data.

    Parameters
    ----------
    model : torch.nn.Module
        The network to measure.
    loader : iterable of batches
        As for `neurocollapse.collect`; read a second time for probes and for quantities that need a second pass.
    quantities : str, Quantity or a list of them, optional
        See `neurocollapse.measure`; here also those that need a second pass, or features that are kept.
    weighting : {"equal", "frequency", "papers"}, optional
        How classes of different size count; see `neurocollapse.measure`. Default: "equal".
    pairs : bool, default False
        Add matrices over pairs of classes; see `neurocollapse.measure`.
    uncertainty : bool, default False
        Follow every sample through all layers in the second pass, and add 95 % intervals over draws of the samples:
        `compression_interval` and `decay_ratio_interval` along `layer, bound`, `decay_slope_interval` along `bound`.
        They are about `compression_unbiased`, and NaN for pool="positions" and where a class has fewer than three
        samples. `compression_corrected` along `layer` undoes what the noisy divisor of a ratio adds to it.
    probes : bool or {"logistic", "mse"}, default False
        Keep the features of some samples in the second pass, and add along `layer` the accuracy of a linear probe and
        of the nearest class mean (`probe_accuracy_train`, `probe_accuracy_test`, `ncm_accuracy_train`,
        `ncm_accuracy_test`) and the rank of the features (`numerical_rank`, `effective_rank`).
        The linear probe is logistic regression (True), or least squares to one-hot targets ("mse").
    probe_samples : int, default 5000
        The most samples to keep: the first ones of the second pass. With pool="positions" the rows of a sample stay
        on the same side of the split.
    probe_seed : int, default 0
        Seed of the split: 30 % of the kept samples of each class are held out for testing. Unused with a `test_loader`.
    test_loader : iterable of batches, optional
        Test the probes on this loader's first `probe_samples` samples, and train them on all that is kept of `loader`.
    ood_loader : iterable of batches, optional
        Other data, as batches of `loader` or of inputs alone: labels are ignored. Adds along `layer` how they lie
        relative to the class means: `nc5`, `neco` of both kinds of samples, and how well it tells the two apart
        (`neco_auroc`, `neco_fpr95`).
    **options
        Everything that `neurocollapse.collect` takes: `layers`, `pool`, `num_classes`, `resume`, `halt`, …. Features
        that are not finite are left out of the probes, and layers that do not fire in the second pass have none. With
        `resume`, later passes keep files of their own beside it, ending in ".second", ".test_loader" and ".ood_loader".

    Returns
    -------
    xarray.Dataset
        See `neurocollapse.measure`; with `distributed`, the same on every process. With probes, the attributes say how
        many samples they used, and `warnings` among them what may mislead (no sample to test on, rows left out, …).

    Raises
    ------
    ValueError, MemoryPlanError
        See `neurocollapse.collect`. MemoryPlanError also if the features that probes need would not fit in
        `max_memory`.
    QuantityError
        If a quantity chosen by name lacks what it needs, in most cases before the run; with `halt`, any that needs
        logits.

    Examples
    --------
    >>> import torch
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> analyze(nn.Linear(4, 3), batches).sizes["layer"]
    1
    """
    with joined("analyze", distributed=bool(options.get("distributed"))) as run:
        if weighting is not None:
            check_weighting(weighting)  # before the run, not after it
        check_names(options)
        probes = probes if isinstance(probes, str) else flag("probes", probes)
        chosen = chosen_quantities(quantities, pairs=pairs)
        probing = None
        if probes is not False or (chosen.need("features") and not options.get("distributed")):
            probing = Probing(probes or True, probe_samples, probe_seed, test_loader)
        elif test_loader is not None:
            raise ValueError("`test_loader` is for probes only; pass probes=True as well, or leave it out")
        chosen.require("features", probing is not None)
        if probes is not False:
            chosen = chosen.including("probes", "rank")
        if flag("uncertainty", uncertainty):
            chosen = chosen.including("unbiased", "uncertainty")
        if ood_loader is not None:
            if not isinstance(ood_loader, Iterable) or isinstance(ood_loader, str | Mapping | Tensor | np.ndarray):
                raise TypeError(f"`ood_loader` must be an iterable of batches, got {type(ood_loader).__name__}")
            chosen = chosen.including("ood")
        chosen.require("ood", ood_loader is not None)
        _check_logits(chosen, halt=bool(options.get("halt")))
        settings = {name: options.pop(name) for name in _MOMENT_OPTIONS if name in options}
        distributed = options.get("distributed", False)
        sink = moment_sink(distributed, run, **settings)
        second = SecondPass(chosen, probing, weighting or "equal", sink, ood_loader)
        second.check(loader, distributed=distributed)
        first = moment_pass(model, loader, sink, PassOptions(**options), digests=second.repeats)
        chosen.require("covariance", sink.covariance)
        if (chosen.need("reader") or chosen.need("classifier")) and not _taps_a_reader(first):
            chosen.require("reader", False)
            chosen.require("classifier", False)

        moments = collected(first, run)
        start = time.monotonic()
        if run is not None and distributed == "shard":
            return measured_together(moments, chosen, weighting, run)
        gathered = second.run(model, first, moments, run)
        dataset = measured(moments, chosen, weighting, gathered.extra)
        notes = json.loads(dataset.attrs["warnings"]) + gathered.notes
        seconds = dataset.attrs["elapsed_seconds"] + time.monotonic() - start
        times = {"warnings": json.dumps(notes), "elapsed_seconds": round(seconds, 3)}
        dataset.attrs |= gathered.attributes | times
        return dataset


def check_names(options: Mapping[str, Any]) -> None:
    """Raise for an option that neither `analyze` nor `collect` has, with the nearest ones that they have."""
    known = (*inspect.signature(analyze).parameters, *inspect.signature(collect).parameters)
    refuse_unknown("analyze", options, known)


def _check_logits(chosen: Chosen, *, halt: bool) -> None:
    """Raise for a quantity that needs what a halted forward pass does not compute."""
    for quantity in chosen.quantities if halt else ():
        if "logits" in quantity.needs:
            raise QuantityError(
                f"quantity {quantity.name!r} needs the model's logits, which halt=True does not compute; leave out one "
                "of the two"
            )


def _taps_a_reader(first: Pass) -> bool:
    """Whether any tap is at the input of a linear layer."""
    return any(tap.at_input and weight_and_bias(tap.module) is not None for tap in first.recorder.taps)
