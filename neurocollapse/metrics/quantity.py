"""The description of a measured number: formula, name, convention, limits, and what it needs."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from neurocollapse.metrics.layer import Gather

Need = Literal["covariance", "reader", "classifier", "second_pass", "logits", "features", "influence", "ood"]
"""What a quantity needs beyond class means and scatter: the scatter matrix, the linear layer that reads the features,
that layer with one output a class, a second pass over the loader, the model's logits in it, the features of some
samples, the influence of every sample on all layers together, or samples of other data."""
REMEDIES: dict[Need, str] = {
    "covariance": "needs the within-class scatter matrix; pass covariance=True to nc.collect or nc.analyze",
    "reader": "needs the linear layer that reads the features; tap a linear layer's input, such as 'penultimate'",
    "classifier": "needs the classifier's weight; tap its input, 'penultimate', and pass num_classes= where it has "
    "more outputs than classes occur",
    "second_pass": "needs a second pass over the loader; name it in nc.analyze(model, loader, quantities=…)",
    "logits": "needs the model's logits, a matrix (samples, outputs); this model's output has none",
    "features": "needs the features of some samples; call nc.analyze(model, loader, probes=True)",
    "ood": "needs other data; call nc.analyze(model, loader, ood_loader=…)",
    "influence": "needs every sample's influence; call nc.analyze(model, loader, uncertainty=True)",
}
"""What to do where a need is not met."""
_COSTLY: set[Need] = {"covariance", "second_pass", "logits", "features", "influence", "ood"}
"""Needs that are met only if a quantity that has them is asked for."""
Better = Literal["lower", "higher"]


class QuantityError(ValueError):
    """A quantity that does not exist, is not well formed, or lacks what it needs."""


class PrecisionWarning(UserWarning):
    """A result that stands, but may show rounding or an approximation rather than the network."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantity:
    r"""A number for every layer; this one entry makes it known to datasets, tables, plots and reports.

    Parameters
    ----------
    name : str
        The dataset's variable: letters, digits and underscores.
    of : callable
        `Layer` → number, or array along `dims[1:]`. Where `dims` does not begin with "layer": `Network` → value; a
        quantity along ("layer",) that compares layers says ``over_layers=True`` and is given the `Network` as well.
    long_name : str
        In words, for axes and tables. Default: the name with spaces.
    symbol : str, default ""
        TeX without dollar signs.
    units : str, default "1"
        Units of the number; "1" for a plain one.
    convention, reference : str, default ""
        How it is normalised, and where it comes from.
    heading : str, default ""
        Its column in tables; none: only in the dataset.
    needs : tuple of {"covariance", "reader", "classifier", "second_pass", "logits", "features", "influence", "ood"}
        Default: class means and scatter, nothing more.
    gather : callable, optional
        `Layer`, `Rows` → Tensor that is added up in float64 over all batches of a second pass, in which
        ``layer.moments`` are those of the whole first pass; `of` finds the sum in ``layer.total(gather)``. Where the
        model's logits are needed, it returns a function from them to that Tensor, called after the forward pass. On a
        GPU it is called once more before the first batch, with one row of zeros, and what it returns is not used.
    instead : {"covariance"}, optional
        What makes the second pass needless where a layer has it.
    at_collapse : float, optional
        Its value at full collapse.
    better : {"lower", "higher"}, optional
        Which direction means more collapsed.
    bounds : (float, float), default (-inf, inf)
        The range of values.
    family : str, default "own"
        What it is chosen with.
    dims : tuple of str, default ('layer',)
        Dimensions of the variable: ``("layer",)``, ``("layer", "class")``, ``("layer", "class", "class_")``, or ``()``
        for one number of the whole network.
    over_layers : bool, default False
        Whether `of` takes the `Network`.
    default : bool
        Whether it is measured unless others are named. Default: unless it needs a second pass, the covariance,
        features, influences or other data.

    Raises
    ------
    QuantityError
        If the entry is not well formed.

    Examples
    --------
    >>> norm = Quantity(name="mean_norm", of=lambda layer: layer.moments.mean.norm(), heading="‖M‖")
    >>> norm.long_name, norm.needs
    ('mean norm', ())
    """

    name: str
    of: Callable[[Any], Any]
    long_name: str = ""
    symbol: str = ""
    units: str = "1"
    convention: str = ""
    reference: str = ""
    heading: str = ""
    needs: tuple[Need, ...] = ()
    gather: Gather | None = None
    instead: Need | None = None
    at_collapse: float | None = None
    better: Better | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    family: str = "own"
    dims: tuple[str, ...] = ("layer",)
    over_layers: bool = False
    default: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z_]\w*", self.name):
            raise QuantityError(f"`name` of a quantity must be letters, digits and underscores, got {self.name!r}")
        needs = (self.needs,) if isinstance(self.needs, str) else tuple(self.needs)
        unknown = [need for need in needs if need not in get_args(Need)]
        if unknown:
            raise QuantityError(
                f"quantity {self.name!r} needs {unknown[0]!r}; known are {', '.join(map(repr, get_args(Need)))}"
            )
        if (self.gather is not None or "logits" in needs) and "second_pass" not in needs:
            needs = (*needs, "second_pass")
        if "second_pass" in needs and self.gather is None:
            raise QuantityError(f"quantity {self.name!r} needs a second pass; say in `gather` what it adds up there")
        if not callable(self.of):
            raise QuantityError(f"`of` of quantity {self.name!r} must be a function of a layer, got {self.of!r}")
        set_field = object.__setattr__
        set_field(self, "needs", needs)
        set_field(self, "long_name", self.long_name or self.name.replace("_", " "))
        over_layers = self.over_layers or self.dims[:1] != ("layer",) or "influence" in needs
        set_field(self, "over_layers", over_layers)
        if self.default is None:
            set_field(self, "default", not _COSTLY & set(needs))

    def lacks(self, has: Callable[[Need], bool]) -> list[Need]:
        """The needs of the quantity that are not met; a second pass is not needed where `instead` is there.

        Parameters
        ----------
        has : callable
            Whether a need is met.
        """
        replaced = self.instead is not None and has(self.instead)
        return [need for need in self.needs if not (has(need) or (replaced and need == "second_pass"))]

    def attributes(self, **words: str) -> dict[str, Any]:
        """The attributes of its variable in a dataset: plain strings and numbers, so that NetCDF can hold them.

        `words` stand for ``{between}``, ``{probe}``, … in `convention` and `reference`.

        Parameters
        ----------
        **words : str
            What stands for the names in braces in convention and reference.
        """
        texts = {
            "long_name": self.long_name,
            "units": self.units,
            "symbol": self.symbol,
            "convention": _filled(self.convention, words),
            "reference": _filled(self.reference, words),
            "family": self.family,
            "heading": self.heading,
            "better": self.better or "",
        }
        lowest, highest = self.bounds
        numbers = {"valid_min": lowest, "valid_max": highest, "at_collapse": self.at_collapse}
        known = {name: float(value) for name, value in numbers.items() if value is not None and math.isfinite(value)}
        return {name: text for name, text in texts.items() if text} | known


def _filled(text: str, words: Mapping[str, str]) -> str:
    """A text with words for its placeholders; other braces stay."""
    for name, word in words.items():
        text = text.replace(f"{{{name}}}", word)
    return text
