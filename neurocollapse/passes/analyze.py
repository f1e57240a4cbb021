"""From a model and a loader to a labelled dataset in one call."""

import json
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import partial
from typing import Any

import torch
import xarray as xr
from torch import nn

from neurocollapse.metrics import Weighting
from neurocollapse.metrics.catalogue import Choice, Chosen, chosen_quantities
from neurocollapse.metrics.measure import Extra, measured
from neurocollapse.metrics.weighting import check_weighting
from neurocollapse.passes.collect import collect
from neurocollapse.passes.features import GATHER_OPTIONS, Gathered, check_features_fit, gather
from neurocollapse.probes import PROBES, LayerSplit, held_out
from neurocollapse.statistics import MomentCollection


def analyze(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    quantities: Choice = None,
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
    quantities : str, Quantity or a list of them, optional
        See `neurocollapse.measure`.
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
        Of the split: 30 % of the kept samples of each class are held out for testing. Unused with a `test_loader`.
    test_loader : iterable of batches, optional
        Test the probes on this loader's first `probe_samples` samples, and train them on all that is kept of `loader`.
    **collect_options
        Everything that `neurocollapse.collect` takes: `layers`, `pool`, `num_classes`, `resume`, …. Features that are
        not finite are left out of the probes, and layers that do not fire in the probes' passes have none.

    Returns
    -------
    xarray.Dataset
        See `neurocollapse.measure`; with probes, the number of samples behind them is in the attributes, and what may
        mislead (no sample to test on, rows left out, …) among their `warnings`.

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
        probe_samples, probe_seed = _integer("probe_samples", probe_samples, 1), _integer("probe_seed", probe_seed, 0)
        _check_probe_loaders(loader, test_loader, collect_options)
    chosen = chosen_quantities(quantities)
    moments = collect(model, loader, **collect_options)
    if probes is False:
        return measured(moments, chosen, weighting, Extra())
    start = time.monotonic()
    parts = {"loader": loader} if test_loader is None else {"loader": loader, "test_loader": test_loader}
    sizes = [moments.num_samples, *(_length(part) for name, part in parts.items() if name != "loader")]
    total = sum(probe_samples if size is None else min(probe_samples, size) for size in sizes)
    check_features_fit(moments, total, limit=collect_options.get("max_memory"))
    options = {name: value for name, value in collect_options.items() if name in GATHER_OPTIONS}
    options |= {"num_samples": probe_samples, "num_classes": next(iter(moments.values())).num_classes}
    kept = {name: _gathered(name, model, part, options) for name, part in parts.items()}
    chosen = Chosen(tuple(dict.fromkeys((*chosen.quantities, *_PROBED.quantities))), chosen.named)
    part = None if test_loader is not None else held_out(kept["loader"].labels, seed=probe_seed)
    dataset = measured(moments, chosen, weighting, Extra(splits=_splits(moments, kept, part), probe=probe))
    dataset = dataset.assign_attrs(_about_probes(dataset, moments, kept, part, probe, probe_seed))
    dataset.attrs["elapsed_seconds"] = round(dataset.attrs["elapsed_seconds"] + time.monotonic() - start, 3)
    return dataset


_PROBED = chosen_quantities(["probes", "rank"])


def _probe_name(probes: Any) -> str:
    """Which linear probe is meant."""
    name = "logistic" if probes is True else probes
    if not isinstance(name, str) or name not in PROBES:
        raise ValueError(f"`probes` must be False, True or one of {', '.join(map(repr, PROBES))}, got {probes!r}")
    return name


def _integer(name: str, value: Any, least: int) -> int:
    """An option as an int, checked before the long pass over the data."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
    return number


def _check_probe_loaders(loader: Any, test_loader: Any, options: dict[str, Any]) -> None:
    """Raise for what probes cannot work with, before the long pass over the data."""
    if isinstance(loader, Iterator):
        raise TypeError(
            f"probes go through `loader` a second time, but a {type(loader).__name__} gives its batches once; pass a "
            "DataLoader or a list of batches"
        )
    if test_loader is not None and not isinstance(test_loader, Iterable):
        raise TypeError(f"`test_loader` must be an iterable of batches, got {type(test_loader).__name__}")
    if options.get("distributed"):
        raise ValueError("`probes` work in one process; pass distributed=False, or probe on one rank only")


def _gathered(name: str, model: nn.Module, loader: Iterable[Any], options: dict[str, Any]) -> Gathered:
    """What `gather` keeps of a loader; errors say which loader it was."""
    try:
        return gather(model, loader, **options)
    except ValueError as error:
        error.args = (f"`{name}`: {error}",)
        raise


def _about_probes(
    dataset: xr.Dataset, moments: MomentCollection, kept: dict[str, Gathered], chosen: Any, probe: str, seed: int
) -> dict[str, Any]:
    """How the probes were made, and what may mislead."""
    train, test = kept["loader"], kept.get("test_loader")
    counted = int((next(iter(moments.values())).count > 0).sum())
    notes = [*_notes_on_classes(train, test, chosen, counted), *_notes_on_rows(moments, kept)]
    num_held_out = 0 if chosen is None else int(chosen.sum())
    attributes = {
        "probe": probe,
        "probe_train_samples": len(train.labels) - num_held_out,
        "probe_test_samples": num_held_out if test is None else len(test.labels),
        "warnings": json.dumps([*json.loads(dataset.attrs["warnings"]), *notes]),
    }
    return attributes | ({"probe_seed": seed} if test is None else {})


def _splits(moments: MomentCollection, kept: dict[str, Gathered], chosen: Any) -> dict[str, Callable[[], LayerSplit]]:
    """For each layer that all loaders gave features of, what makes both of its parts."""
    names = [name for name in moments if all(name in part.features for part in kept.values())]
    return {name: partial(_split, name, moments.record(name).feature_dtype, kept, chosen) for name in names}


def _split(name: str, dtype: str, kept: dict[str, Gathered], chosen: Any) -> LayerSplit:
    """Both parts of one layer."""
    train, test = kept["loader"], kept.get("test_loader")
    everything = train.rows(name)
    if test is None:
        return LayerSplit(*train.rows(name, ~chosen), *train.rows(name, chosen), everything[0], _rounding(dtype))
    return LayerSplit(*everything, *test.rows(name), everything[0], _rounding(dtype))


def _rounding(dtype: str) -> float | None:
    """ε of the dtype in which a layer computed, None where it was not a floating-point one."""
    kind = getattr(torch, dtype)
    return torch.finfo(kind).eps if kind.is_floating_point else None


def _notes_on_classes(train: Gathered, test: Gathered | None, chosen: Any, counted: int) -> list[str]:
    """What the probes could not learn, or not be tested on, because of the classes of the kept samples."""
    notes, seen = [], set(train.labels.tolist())
    if len(seen) < counted:
        notes.append(
            f"the probes saw {len(seen)} of {counted} classes in the first {len(train.labels)} samples; shuffle the "
            "loader or raise probe_samples"
        )
    if test is None and not chosen.any():
        notes.append(
            f"no sample is held out to test the probes: no class has two of the {len(train.labels)} kept samples; "
            "raise probe_samples or pass test_loader"
        )
    if test is not None and (unknown := sorted(set(test.labels.tolist()) - seen)):
        notes.append(
            f"test_loader has classes that the probes are not trained on, whose samples count as wrong: "
            f"{_first(unknown)}"
        )
    return notes


def _notes_on_rows(moments: MomentCollection, kept: dict[str, Gathered]) -> list[str]:
    """Which layers the probes' passes over the loaders lack, wholly or in some rows."""
    notes = []
    for loader, part in kept.items():
        if absent := [name for name in moments if name not in part.features]:
            notes.append(
                f"the model gave no features of {_first(absent)} in the probes' pass over {loader}: their probes are "
                "undefined"
            )
        fired = [name for name in moments if name in part.features]
        left_out = {name: count for name in fired if (count := part.num_left_out(name))}
        if left_out:
            notes.append(f"probes leave out rows of {loader} that are not finite: {json.dumps(left_out)}")
    return notes


def _first(names: Sequence[Any], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more


def _length(loader: Any) -> int | None:
    """How many samples a loader's dataset has, if it says so."""
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None
