"""What a report is given, sorted: analyses and verifications, each under a name of its own."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

from neurocollapse.support.dataset import last, layered, networks, shown

PAIRS = ("cka", "class_cka")
"""Variables along `layer, layer_` that say which layers are alike."""
_VERIFICATION_ATTRIBUTES = ("status", "assumptions", "verdicts", "to_dataset")


@dataclass
class Results:
    """The kinds of result, in the order given; every analysis is of one network."""

    analyses: dict[str, xr.Dataset] = field(default_factory=dict)
    similarities: dict[str, xr.Dataset] = field(default_factory=dict)
    """Which layers are alike; of an analysis that holds that too, or of `nc.similarity`."""
    verifications: dict[str, Any] = field(default_factory=dict)


def sort_results(results: Any) -> Results:
    """Tell analyses and verifications apart and name those that came without a name.

    Raises
    ------
    TypeError
        If something is neither.
    ValueError
        If there is nothing, or a Dataset is not an analysis.
    """
    found = Results()
    for given, name, value in _entries(results):
        if isinstance(value, xr.Dataset):
            for network, one in networks(_checked(value, given), name).items():
                known = network or str(value.attrs.get("model") or value.attrs.get("title") or "network")
                known = _unused(known, {**found.analyses, **found.similarities})
                latest = last(one)[0]
                if shown(latest):
                    found.analyses[known] = one
                if _are_pairs(latest):
                    found.similarities[known] = latest
        elif all(hasattr(value, attribute) for attribute in _VERIFICATION_ATTRIBUTES):
            known = name or str(getattr(getattr(value, "experiment", None), "name", "verification"))
            found.verifications[_unused(known, found.verifications)] = value
        else:
            raise TypeError(
                f"{given} must be the Dataset of nc.analyze or nc.measure, or the Verification of nc.verify, "
                f"got {type(value).__name__}"
            )
    if not (found.analyses or found.similarities or found.verifications):
        raise ValueError("`results` must hold at least one Dataset or Verification, got none")
    return found


def _entries(results: Any) -> Iterator[tuple[str, str, Any]]:
    """How each result was given, its name or nothing, and its value."""
    if isinstance(results, xr.Dataset):  # a Dataset is a Mapping too, so it is asked first
        yield "`results`", "", results
    elif isinstance(results, Mapping):
        for name, value in results.items():
            yield f"`results[{name!r}]`", str(name), value
    elif isinstance(results, Iterable) and not isinstance(results, str | bytes) and not hasattr(results, "shape"):
        for index, value in enumerate(results):
            yield f"`results[{index}]`", "", value
    else:
        yield "`results`", "", results


def _checked(dataset: xr.Dataset, given: str) -> xr.Dataset:
    """An analysis with its dimension `layer`; a Dataset without numbers along it is refused."""
    if "posterior_upper" in dataset.data_vars:
        raise ValueError(f"{given} is the Dataset of a verification; pass the Verification itself")
    whole = layered(dataset, given)
    if not any(shown(latest) or _are_pairs(latest) for latest in (last(one)[0] for one in networks(whole).values())):
        raise ValueError(f"{given} holds no number along 'layer'; pass the result of nc.analyze or nc.measure")
    return whole


def _are_pairs(dataset: xr.Dataset) -> bool:
    """Whether a dataset of one step says which layers are alike."""
    return any(kind in dataset and set(dataset[kind].dims) == {"layer", "layer_"} for kind in PAIRS)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """The name, numbered where it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"
