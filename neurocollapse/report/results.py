"""What a report is given, sorted: analyses and verifications, each under a name of its own."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

_LAYER_VARIABLES = ("compression", "decay_ratio", "separation", "discrimination", "within_trace", "between_trace")
_VERIFICATION_ATTRIBUTES = ("status", "assumptions", "verdicts", "to_dataset")


@dataclass
class Results:
    """The two kinds of result, in the order given."""

    analyses: dict[str, xr.Dataset] = field(default_factory=dict)
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
        target: dict[str, Any]
        if isinstance(value, xr.Dataset):
            _check_analysis(value, given)
            target = found.analyses
            name = name or str(value.attrs.get("model") or value.attrs.get("title") or "network")
        elif all(hasattr(value, attribute) for attribute in _VERIFICATION_ATTRIBUTES):
            target = found.verifications
            name = name or "verification"
        else:
            raise TypeError(
                f"{given} must be the Dataset of nc.analyze or nc.measure, or the Verification of nc.verify, "
                f"got {type(value).__name__}"
            )
        target[_unused(name, target)] = value
    if not (found.analyses or found.verifications):
        raise ValueError("`results` must hold at least one Dataset or Verification, got none")
    return found


def _entries(results: Any) -> Iterator[tuple[str, str, Any]]:
    """How each result was given, its name or nothing, and its value."""
    if isinstance(results, xr.Dataset):  # a Dataset is a Mapping too, so it is asked first
        yield "`results`", "", results
    elif isinstance(results, Mapping):
        for name, value in results.items():
            yield f"`results[{name!r}]`", str(name), value
    elif isinstance(results, Iterable) and not isinstance(results, str | bytes):
        for index, value in enumerate(results):
            yield f"`results[{index}]`", "", value
    else:
        yield "`results`", "", results


def _check_analysis(dataset: xr.Dataset, given: str) -> None:
    """Refuse a Dataset that lacks what the report shows."""
    if "posterior_upper" in dataset.data_vars:
        raise ValueError(f"{given} is the Dataset of a verification; pass the Verification itself")
    missing = [name for name in _LAYER_VARIABLES if name not in dataset.data_vars]
    if missing or dataset.sizes.get("layer", 0) == 0:
        what = f"has no {', '.join(missing)}" if missing else "has no layers"
        raise ValueError(f"{given} {what}; pass the result of nc.analyze or nc.measure")
    wrong = [name for name in _LAYER_VARIABLES if dataset[name].dims != ("layer",)]
    if wrong:
        raise ValueError(f"{given}: {wrong[0]!r} must run along 'layer' alone, got {tuple(dataset[wrong[0]].dims)}")


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    """The name, numbered where it is taken."""
    if name not in taken:
        return name
    number = 2
    while f"{name} ({number})" in taken:
        number += 1
    return f"{name} ({number})"
