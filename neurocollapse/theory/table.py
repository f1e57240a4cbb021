"""Verifications as labelled datasets."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from neurocollapse.metrics import compression, geometric_decay
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.provenance import describe_process
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.theorem import Applied, Bracket, Theorem

Variable = tuple[str, np.ndarray, dict[str, Any]]


def progressive_dataset(
    problem: LinearProblem, measured: Measured, applied: Sequence[Applied], names: tuple[str, ...]
) -> xr.Dataset:
    """Measurements and bounds along `layer`: 0 is what enters, l the output of W_l, up to L−1.

    Each variable tells in its attributes what plots and reports need: `role` ("measured", "lower", "upper" or "curve");
    of a bound also what it is a bound `of`, the `theorem` with its `label` and its `place` among the others, and
    whether it is `compared` only.
    """
    depth = problem.depth
    variables = _measurements(measured)
    places: dict[str, int] = {}
    for one in applied:
        for bracket in one.brackets:
            # A place of its own for every label: brackets of one theorem would cover one another in a figure.
            place = places.setdefault(bracket.label or one.theorem.label, len(places))
            variables |= _bounds(bracket, one.theorem, place, str(variables[bracket.of][2]["long_name"]))
        for number in one.numbers:
            variables[number.name] = _variable(number.values, *number[2:], one.theorem.reference)
    dataset = xr.Dataset(
        variables,
        coords={
            "layer": np.arange(depth),
            "layer_name": ("layer", np.array(["input", *names[: depth - 1]], dtype=object).astype(str)),
            "feature_dimension": ("layer", np.array(problem.widths)),
        },
    )
    return dataset.assign_attrs(**_constants(problem, measured), **provenance("Progressive compression and separation"))


def whole_network_dataset(moments: Mapping[str, ClassMoments]) -> xr.Dataset:
    """D at the input of every layer with weights, along `site`, and the straight line through its logarithm."""
    values = np.array([compression(one, weighting="papers") for one in moments.values()])
    fit = geometric_decay(values)
    place = (
        "at the (pooled) input of each layer with weights, in order of execution; no theorem covers nonlinear layers"
    )
    slope = {"long_name": "slope of log D per layer", "units": "1", "convention": "natural logarithm", "reference": ""}
    return xr.Dataset(
        {
            "site_compression": ("site", values, _attributes("within- over between-class variability", "D", place)),
            "decay_slope": ((), fit.slope, slope),
            "decay_slope_lower_of_line": (
                (),
                fit.lower,
                {**slope, "long_name": "95 % interval of the line's slope, lower end"},
            ),
            "decay_slope_upper_of_line": (
                (),
                fit.upper,
                {**slope, "long_name": "95 % interval of the line's slope, upper end"},
            ),
            "decay_r_squared": ((), fit.r_squared, {**slope, "long_name": "R² of the straight line"}),
        },
        coords={"site": np.array(list(moments), dtype=object).astype(str)},
    )


def provenance(title: str) -> dict[str, str]:
    """What was verified, by which versions, when."""
    return {"title": title, **describe_process(), "precision": "float64"}


def _measurements(measured: Measured) -> dict[str, Variable]:
    """What was measured, and what the spectrum predicts."""
    equal = "1/N over samples within, 1/K over classes between"
    cosine = "1 − max |cos| over pairs of class means"
    entries = {
        "compression": ("within- over between-class variability", "D_\\ell", equal),
        "decay_ratio": ("decay ratio", "D_\\ell / D_{\\ell-1}", "what layer l did; NaN at the first"),
        "compression_predicted": ("compression predicted from W_1 and the data", "\\hat D_\\ell", equal),
        "separation_uncentred": ("separation, uncentred means", "S_\\ell", f"{cosine}, uncentred"),
        "separation_centred": (
            "separation of the slides",
            "S_\\ell^c",
            f"{cosine}, centred; no bound is about it; 0 at every layer for two classes",
        ),
    }
    variables = {name: _variable(getattr(measured, name), *about) for name, about in entries.items()}
    for name, (_, _, attributes) in variables.items():
        attributes |= {"role": "measured", "valid_min": 0.0}
        if name.startswith("separation"):
            attributes["valid_max"] = 1.0
    return variables


def _bounds(bracket: Bracket, theorem: Theorem, place: int, measured: str) -> dict[str, Variable]:
    """The sides of a bracket, and the curve that goes with it."""
    label = bracket.label or theorem.label
    shown = {"of": bracket.of, "theorem": theorem.name, "label": label, "place": place}
    shown |= {"compared": int(theorem.is_open), "about": theorem.about}
    found = {}
    for side, values in (("lower", bracket.lower), ("upper", bracket.upper)):
        if values is not None:
            about = (f"{side} bound of the {measured}, {label}", "", bracket.convention, theorem.reference)
            found[f"{bracket.prefix}_{side}"] = _variable(values, *about)
            found[f"{bracket.prefix}_{side}"][2].update(shown, role=side)
    if bracket.curve is not None:
        name, values, symbol = bracket.curve
        found[name] = _variable(values, name.replace("_", " "), symbol, bracket.convention, theorem.reference)
        found[name][2].update(shown, role="curve")
    return found


def _constants(problem: LinearProblem, measured: Measured) -> dict[str, float | int | str]:
    """The constants of the theorems and what the weights came in."""
    constants: dict[str, float | int | str] = {
        "weights_dtype": str(problem.dtype).removeprefix("torch."),
        "num_layers": problem.depth,
        "num_classes": problem.num_classes,
        "num_samples": problem.num_samples,
        "samples_per_class": problem.samples_per_class,
        "widths": json.dumps(list(problem.widths)),
        "output_scale": problem.output_scale,
        "theta": measured.gram.theta,
        "theta_spectral": measured.gram.theta_spectral,
    }
    if measured.balance is not None and measured.split is not None:
        constants |= {
            "delta": measured.balance.last_frobenius,
            "delta_spectral": measured.balance.last_spectral,
            "epsilon": measured.split.epsilon,
            "rho": measured.split.rho,
        }
    return constants


def _variable(values: np.ndarray, name: str, symbol: str, convention: str, reference: str = "") -> Variable:
    """A variable along `layer`."""
    return ("layer", np.asarray(values, dtype=np.float64), _attributes(name, symbol, convention, reference))


def _attributes(name: str, symbol: str, convention: str, reference: str = "") -> dict[str, Any]:
    """The attributes every variable has."""
    return {"long_name": name, "units": "1", "symbol": symbol, "convention": convention, "reference": reference}
