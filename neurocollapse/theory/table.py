"""Verifications as labelled datasets."""

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
import xarray as xr

from neurocollapse.metrics import compression, geometric_decay
from neurocollapse.statistics import ClassMoments
from neurocollapse.theory.measured import Measured
from neurocollapse.theory.problem import LinearProblem

THEOREM_1 = "docs/theory.md, Theorem 1 (a priori)"
THEOREM_2 = "docs/theory.md, Theorem 2 (a posteriori)"
PRINTED = "Qu, slides of 7 September 2023; Wang et al., JMLR 26(220), 2025, Theorem 4"

Variable = tuple[str, np.ndarray, dict[str, str]]


def progressive_dataset(problem: LinearProblem, measured: Measured, names: tuple[str, ...]) -> xr.Dataset:
    """Measurements and bounds along `layer`: 0 is what enters, l the output of W_l, up to L−1."""
    depth = problem.depth
    variables = {**_measurements(measured), **_ratio_bounds(measured, depth), **_separation_bounds(measured, depth)}
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
    values = np.array([compression(one) for one in moments.values()])
    fit = geometric_decay(values)
    place = (
        "at the (pooled) input of each layer with weights, in order of execution; no theorem covers nonlinear layers"
    )
    slope = {"long_name": "slope of log D per layer", "units": "1", "convention": "natural logarithm", "reference": ""}
    return xr.Dataset(
        {
            "site_compression": ("site", values, _attributes("within- over between-class variability", "D", place)),
            "decay_slope": ((), fit.slope, slope),
            "decay_slope_lower": ((), fit.lower, {**slope, "long_name": "95 % interval of the slope, lower end"}),
            "decay_slope_upper": ((), fit.upper, {**slope, "long_name": "95 % interval of the slope, upper end"}),
            "decay_r_squared": ((), fit.r_squared, {**slope, "long_name": "R² of the straight line"}),
        },
        coords={"site": np.array(list(moments), dtype=object).astype(str)},
    )


def provenance(title: str) -> dict[str, str]:
    """Versions and time."""
    try:
        own = version("neurocollapse")
    except PackageNotFoundError:
        own = "not installed"
    return {
        "title": title,
        "neurocollapse_version": own,
        "torch_version": str(torch.__version__),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "precision": "float64",
    }


def _measurements(measured: Measured) -> dict[str, Variable]:
    """What was measured, and what the spectrum predicts."""
    equal = "classes with equal weight, 1/N and 1/K"
    cosine = "1 − max |cos| over pairs of class means"
    ratio = "entry l compares layer l + 1 with layer l"
    return {
        "compression": _variable(measured.compression, "within- over between-class variability", "D_\\ell", equal),
        "decay_ratio": _variable(measured.decay_ratio, "decay ratio", "D_{\\ell+1}/D_\\ell", ratio),
        "compression_predicted": _variable(
            measured.predicted, "compression predicted from W_1 and the data", "\\hat D_\\ell", equal
        ),
        "separation_uncentred": _variable(measured.separation, "separation", "S_\\ell", f"{cosine}, uncentred"),
        "separation_centred": _variable(
            measured.separation_centred,
            "separation of the slides",
            "S_\\ell^c",
            f"{cosine}, centred; no bound is about it",
        ),
    }


def _ratio_bounds(measured: Measured, depth: int) -> dict[str, Variable]:
    """Brackets of the decay ratio; NaN where they are undefined."""
    prior, posterior, printed = measured.prior, measured.posterior, measured.printed
    nothing = np.full(depth - 1, math.nan)
    entries = {
        "prior_lower": (nothing if prior is None else prior.ratio_lower, THEOREM_1),
        "prior_upper": (nothing if prior is None else prior.ratio_upper, THEOREM_1),
        "posterior_lower": (nothing if posterior is None else posterior.ratio_lower, THEOREM_2),
        "posterior_upper": (nothing if posterior is None else posterior.ratio_upper, THEOREM_2),
        "printed_lower": (nothing if printed is None else np.full(depth - 1, printed.ratio_lower), PRINTED),
        "printed_upper": (nothing if printed is None else np.full(depth - 1, printed.ratio_upper), PRINTED),
        "rate": (nothing if printed is None else np.full(depth - 1, printed.rate), PRINTED),
    }
    symbols = {"rate": "\\varepsilon^2 / n^{1/L}"}
    return {
        name: _variable(
            np.append(values, math.nan), name.replace("_", " "), symbols.get(name, ""), "of D_{l+1}/D_l", reference
        )
        for name, (values, reference) in entries.items()
    }


def _separation_bounds(measured: Measured, depth: int) -> dict[str, Variable]:
    """Lower bounds of the separation; NaN where nothing is claimed."""
    prior, printed = measured.prior, measured.printed
    nothing = np.full(depth, math.nan)
    claimed = nothing.copy()
    if printed is not None:
        claimed[1:-1] = printed.separation_lower[1:-1]
    return {
        "separation_prior_lower": _variable(
            nothing if prior is None else prior.separation_lower, "lower bound of S_l", "", "uncentred", THEOREM_1
        ),
        "separation_printed_lower": _variable(
            claimed,
            "printed lower bound of S_l",
            "",
            "o(1) taken as 0; claimed for 1 ≤ l ≤ L−2, NaN elsewhere; below 0 it says nothing",
            PRINTED,
        ),
    }


def _constants(problem: LinearProblem, measured: Measured) -> dict[str, float | int | str]:
    """The constants of the theorems and what the weights came in."""
    constants: dict[str, float | int | str] = {
        "weights_dtype": str(problem.dtype).removeprefix("torch."),
        "num_layers": problem.depth,
        "num_classes": problem.num_classes,
        "num_samples": len(problem.inputs),
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


def _attributes(name: str, symbol: str, convention: str, reference: str = "") -> dict[str, str]:
    """The attributes every variable has."""
    return {"long_name": name, "units": "1", "symbol": symbol, "convention": convention, "reference": reference}
