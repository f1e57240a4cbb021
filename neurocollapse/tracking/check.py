"""Checks of measurements against conditions: a gate for continuous integration, and the basis of alarms."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from neurocollapse.support.choices import check_choice
from neurocollapse.support.dataset import class_names, labels, layer_names, layered, leading, networks
from neurocollapse.support.text import visible
from neurocollapse.tracking.condition import Condition
from neurocollapse.tracking.junit import Case, junit

STEPS = ("last", "all")


@dataclass(frozen=True)
class Finding:
    """A place at which a condition is met.

    Attributes
    ----------
    expression : str
    value : float
    where : str
        Network, step, layer and class, as far as there are several.
    """

    expression: str
    value: float
    where: str

    def __str__(self) -> str:
        return (
            f"{self.expression}: {self.value:.4g} at {self.where}"
            if self.where
            else f"{self.expression}: {self.value:.4g}"
        )


@dataclass(frozen=True, repr=False)
class Checks:
    """The result of checks: their conditions, and the places at which these are met.

    Attributes
    ----------
    expressions : tuple of str
    findings : tuple of Finding
        Where a condition is met.
    undecided : tuple of str
        Expressions whose quantity is undefined (NaN) wherever it was looked for, so that they say nothing.
    """

    expressions: tuple[str, ...]
    findings: tuple[Finding, ...] = ()
    undecided: tuple[str, ...] = ()

    @classmethod
    def joined(cls, parts: Mapping[str, "Checks"]) -> "Checks":
        """Join the same checks of several networks; a condition is undecided if no network decides it.

        Parameters
        ----------
        parts : mapping of str to Checks
            Name of each network → its checks; the expressions are the same in all.
        """
        first = next(iter(parts.values()))
        findings = [
            replace(finding, where=", ".join(filter(None, (visible(name), finding.where))))
            for name, one in parts.items()
            for finding in one.findings
        ]
        undecided = [
            expression for expression in first.expressions if all(expression in one.undecided for one in parts.values())
        ]
        return cls(first.expressions, tuple(findings), tuple(undecided))

    @property
    def status(self) -> str:
        """ "violated" if anything was found; else "assumptions unmet" if a check is undecided; else "holds"."""
        return "violated" if self.findings else "assumptions unmet" if self.undecided else "holds"

    @property
    def lines(self) -> list[str]:
        """One line a finding, and one for each check that is undecided."""
        undecided = [f"{expression}: undecided, as it is undefined everywhere" for expression in self.undecided]
        return [*map(str, self.findings), *undecided]

    def to_junit(self, name: str = "neurocollapse") -> str:
        """The checks as JUnit XML, one test case per expression, for systems that show test results.

        Parameters
        ----------
        name : str, default "neurocollapse"
            Name of the test suite.
        """
        cases = [
            Case(
                expression,
                tuple(str(one) for one in self.findings if one.expression == expression),
                "undefined everywhere" if expression in self.undecided else "",
            )
            for expression in self.expressions
        ]
        return junit(name, cases)

    def __repr__(self) -> str:
        count = len(self.expressions)
        ends = f"{count} check{'s' * (count != 1)}, {len(self.findings)} finding{'s' * (len(self.findings) != 1)}"
        return "\n".join([*self.lines, ends])


def check(dataset: xr.Dataset, *expressions: str, steps: str = "last") -> Checks:
    """Find where a dataset meets conditions that it should not meet.

    Parameters
    ----------
    dataset : xarray.Dataset
        Result of `nc.analyze` or of a tracker; along `model`, `run` or `network` each entry is checked.
    *expressions : str
        ``QUANTITY@LAYER OP NUMBER``, such as ``compression@penultimate > 0.2`` or ``unc3@* > 0.1``: a variable, a
        layer's name or a glob (or "last", "penultimate", "*"), one of < <= > >= == !=, and a number. Without "@LAYER" a
        number of the whole network is meant. A variable along `class` is checked for every class.
    steps : {"last", "all"}, default "last"
        Which steps of a run.

    Returns
    -------
    Checks
        With all findings; `status` is "violated" if there is any, and "assumptions unmet" if a quantity is undefined
        wherever a check looked for it.

    Raises
    ------
    TypeError
        If `dataset` is not a Dataset, or an expression is not a string.
    ValueError
        If there is no expression, or one is not of that form, or names a quantity or layer that the dataset lacks.

    Examples
    --------
    >>> run = xr.Dataset({"compression": ("layer", [2.0, 0.3])}, {"layer": ["fc1", "fc2"]})
    >>> check(run, "compression@last > 0.2", "compression@* > 5")
    compression@last > 0.2: 0.3 at fc2
    2 checks, 1 finding
    """
    if not isinstance(dataset, xr.Dataset):
        raise TypeError(f"`dataset` must be an xarray.Dataset, got {type(dataset).__name__}; pass one of nc.analyze")
    check_choice("steps", steps, STEPS)
    if not expressions:
        raise ValueError("give at least one expression to check, such as 'compression@last > 0.2'")
    conditions = {expression: Condition.parse(expression) for expression in expressions}
    findings: list[Finding] = []
    undecided: list[str] = []
    for expression, condition in conditions.items():
        looked = [place for place in _places(dataset, condition, steps) if not np.isnan(place[1])]
        findings += [Finding(expression, value, where) for where, value in looked if condition.meets(value)]
        undecided += [] if looked else [expression]
    return Checks(tuple(conditions), tuple(findings), tuple(undecided))


def _places(dataset: xr.Dataset, condition: Condition, steps: str) -> Iterator[tuple[str, float]]:
    """Every number that a condition is about, and where it stands."""
    for network, one in networks(layered(dataset)).items():
        dim = leading(one)
        condition.check_quantity([str(name) for name in one.data_vars if one[name].dtype.kind in "fiub"])
        if dim is None:
            yield from _numbers(one, condition, [network])
            continue
        texts = labels(one, dim)
        for at in range(len(texts))[-1 if steps == "last" else 0 :]:
            yield from _numbers(one.isel({dim: at}), condition, [network, f"{dim} {texts[at]}"])


def _numbers(dataset: xr.Dataset, condition: Condition, before: Sequence[str]) -> Iterator[tuple[str, float]]:
    """The numbers of one step, at the layers that are meant."""
    values = dataset[condition.quantity]
    if ("layer" in values.dims) != bool(condition.layer):
        problem = "has a number for each layer; add @LAYER" if "layer" in values.dims else "has none; leave out @LAYER"
        raise ValueError(f"{condition}: {condition.quantity} {problem}")
    if not set(values.dims) <= {"layer", "class"}:
        dims = ", ".join(map(str, values.dims))
        raise ValueError(
            f"{condition}: {condition.quantity} has dimensions {dims}; only layers and classes are checked"
        )
    names = layer_names(dataset)
    chosen = condition.layers(names) if condition.layer else [""]
    for layer in chosen:
        own = values.isel(layer=names.index(layer)) if layer else values
        classes = [f"class {name}" for name in class_names(dataset)] if "class" in own.dims else [""]
        for name, value in zip(classes, np.ravel(own.values), strict=True):
            yield ", ".join(visible(part) for part in (*before, layer, name) if part), float(value)
