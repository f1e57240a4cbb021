"""From a model and a loader to a labelled dataset in one call."""

import json
import operator
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch
import xarray as xr
from torch import nn

from neurocollapse.collect import collect
from neurocollapse.gather import GATHER_OPTIONS, Gathered, check_features_fit, gather
from neurocollapse.measure import check_weighting, measure
from neurocollapse.metrics import Weighting
from neurocollapse.probes import PROBES, LayerSplit, held_out, probe_layers
from neurocollapse.statistics import MomentCollection


def analyze(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    weighting: Weighting = "equal",
    probes: bool | str = False,
    probe_samples: int = 5_000,
    probe_seed: int = 0,
    test_loader: Iterable[Any] | None = None,
    **collect_options: Any,
) -> xr.Dataset:
    """Compression, separation, discrimination and decay of every layer of a model on a loader's data.

    Parameters
    ----------
    model : torch.nn.Module
    loader : iterable of batches
        With `probes` it is gone through twice.
    weighting : {"equal", "frequency"}
        Convention of the between-class covariance.
    probes : bool or {"logistic", "mse"}
        Keep the features of some samples in a second pass, and add along `layer` the accuracy of a linear probe and of
        the nearest class mean (`probe_accuracy_train`, `probe_accuracy_test`, `ncm_accuracy_train`,
        `ncm_accuracy_test`) and the rank of the features (`numerical_rank`, `effective_rank`).
        The linear probe is logistic regression (True), or least squares to one-hot targets ("mse").
    probe_samples : int
        Samples that are kept at most: the first ones of the second pass. With pool="positions" a sample's rows stay
        together on one side of the split.
    probe_seed : int
        Of the split: 30 % of the kept samples of each class are held out for testing.
    test_loader : iterable of batches, optional
        Test the probes on this loader's first `probe_samples` samples, and train them on all that is kept of `loader`.
    **collect_options
        Everything that `neurocollapse.collect` takes: `layers`, `pool`, `num_classes`, `resume`, …. Features that are
        not finite are left out of the probes.

    Returns
    -------
    xarray.Dataset
        See `neurocollapse.measure`; with probes, the number of samples behind them is in the attributes.

    Raises
    ------
    ValueError, MemoryPlanError
        See `neurocollapse.collect`. MemoryPlanError also if the features that probes need would not fit in
        `max_memory`.

    Examples
    --------
    >>> import torch
    >>> batches = [(torch.eye(4), torch.tensor([0, 0, 1, 1]))]
    >>> analyze(nn.Linear(4, 3), batches).sizes["layer"]
    1
    """
    check_weighting(weighting)  # before the run, not after it
    if test_loader is not None and probes is False:
        raise ValueError("`test_loader` is for probes only; pass probes=True as well, or leave it out")
    if probes is not False:
        probe = _probe_name(probes)
        _check_probe_options(loader, test_loader, probe_samples, probe_seed, collect_options)
    moments = collect(model, loader, **collect_options)
    dataset = measure(moments, weighting=weighting)
    if probes is False:
        return dataset
    start = time.monotonic()
    parts = [part for part in (loader, test_loader) if part is not None]
    sizes = [_num_samples(moments), *(_length(part) for part in parts[1:])]
    total = sum(probe_samples if size is None else min(probe_samples, size) for size in sizes)
    check_features_fit(moments, total, limit=collect_options.get("max_memory"))
    options = {name: value for name, value in collect_options.items() if name in GATHER_OPTIONS}
    options |= {"num_samples": probe_samples, "num_classes": dataset.sizes["class"]}
    kept = [gather(model, part, **options) for part in parts]
    dataset = _with_probes(dataset, moments, kept, probe, probe_seed)
    dataset.attrs["elapsed_seconds"] = round(dataset.attrs["elapsed_seconds"] + time.monotonic() - start, 3)
    return dataset


def _probe_name(probes: Any) -> str:
    """Which linear probe is meant."""
    name = "logistic" if probes is True else probes
    if not isinstance(name, str) or name not in PROBES:
        raise ValueError(f"`probes` must be False, True or one of {', '.join(map(repr, PROBES))}, got {probes!r}")
    return name


def _check_probe_options(loader: Any, test_loader: Any, num_samples: Any, seed: Any, options: dict[str, Any]) -> None:
    """Raise for what probes cannot work with, before the long pass over the data."""
    for name, value, least in (("probe_samples", num_samples, 1), ("probe_seed", seed, 0)):
        try:
            valid = not isinstance(value, bool) and operator.index(value) >= least
        except TypeError:
            valid = False
        if not valid:
            raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    if isinstance(loader, Iterator):
        raise TypeError(
            f"probes go through `loader` a second time, but a {type(loader).__name__} gives its batches once; pass a "
            "DataLoader or a list of batches"
        )
    if test_loader is not None and not isinstance(test_loader, Iterable):
        raise TypeError(f"`test_loader` must be an iterable of batches, got {type(test_loader).__name__}")
    if options.get("distributed"):
        raise ValueError("`probes` work in one process; pass distributed=False, or probe on one rank only")


def _with_probes(
    dataset: xr.Dataset, moments: MomentCollection, kept: list[Gathered], probe: str, seed: int
) -> xr.Dataset:
    """The dataset with the variables of the probes, their notes and the number of samples behind them."""
    train, test = kept[0], kept[-1]
    chosen = held_out(train.labels, seed=seed) if test is train else None
    added, notes = probe_layers(_splits(moments, train, test, chosen), probe=probe)
    counted = int((dataset["class_count"].values[0] > 0).sum())
    if (seen := len(train.labels.unique())) < counted:
        notes.append(
            f"the probes saw {seen} of {counted} classes in the first {len(train.labels)} samples; shuffle the loader "
            "or raise probe_samples"
        )
    num_test = len(test.labels) if chosen is None else int(chosen.sum())
    attributes = {
        "probe": probe,
        "probe_train_samples": len(train.labels) - (0 if chosen is None else num_test),
        "probe_test_samples": num_test,
        "probe_seed": seed,
        "warnings": json.dumps([*json.loads(dataset.attrs["warnings"]), *notes]),
    }
    return dataset.assign(added.data_vars).assign_attrs(attributes)


def _splits(moments: MomentCollection, train: Gathered, test: Gathered, chosen: Any) -> Iterator[LayerSplit]:
    """Both parts of each layer, one layer at a time."""
    for name in moments:
        epsilon = _rounding(moments.record(name).feature_dtype)
        everything = train.rows(name)
        if chosen is None:
            yield LayerSplit(name, *everything, *test.rows(name), everything[0], epsilon)
        else:
            yield LayerSplit(name, *train.rows(name, ~chosen), *train.rows(name, chosen), everything[0], epsilon)


def _rounding(dtype: str) -> float | None:
    """ε of the dtype in which a layer computed, None where it was not a floating-point one."""
    kind = getattr(torch, dtype)
    return torch.finfo(kind).eps if kind.is_floating_point else None


def _num_samples(moments: MomentCollection) -> int:
    """Samples that went through the model, skipped ones included."""
    name = next(iter(moments))
    record = moments.record(name)
    return (moments[name].num_samples + record.num_skipped) // record.positions


def _length(loader: Any) -> int | None:
    """How many samples a loader's dataset has, if it says so."""
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None
