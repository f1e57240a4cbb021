"""Probes of every layer, as labelled variables."""

from collections.abc import Callable, Iterable
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from neurocollapse.probes.accuracy import (
    Accuracy,
    linear_probe_accuracy,
    mse_probe_accuracy,
    nearest_class_mean_accuracy,
)
from neurocollapse.probes.rank import effective_rank_of_spectrum, rank_of_spectrum, singular_values

_ALAIN = "Alain and Bengio, ICLR workshop, 2017"
_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_WANG = "Wang et al., JMLR 26(220), 2025"
_ROY = "Roy and Vetterli, EUSIPCO, 2007"

PROBES: MappingProxyType[str, Callable[..., Accuracy]] = MappingProxyType(
    {"logistic": linear_probe_accuracy, "mse": mse_probe_accuracy}
)
"""The linear probes by their names."""

_LINEAR = {
    "logistic": (
        "logistic regression (L2 penalty ½‖W‖² on the summed loss) on features standardised over the training part",
        _ALAIN,
    ),
    "mse": ("least squares to one-hot targets, least norm, on features centred over the training part", _WANG),
}
_NEAREST = "least Euclidean distance to the class means of the training part"


class LayerSplit(NamedTuple):
    """Features and labels of one layer, row by row.

    Attributes
    ----------
    name : str
    features, labels
        The training part.
    test_features, test_labels
        The part on which probes are tested.
    spectrum_features
        The features whose rank is taken.
    epsilon
        Relative rounding of the dtype in which the layer computed; by default that of `features`.
    """

    name: str
    features: NDArray[Any]
    labels: NDArray[Any]
    test_features: NDArray[Any]
    test_labels: NDArray[Any]
    spectrum_features: NDArray[Any]
    epsilon: float | None = None


def probe_layers(splits: Iterable[LayerSplit], *, probe: str = "logistic") -> tuple[xr.Dataset, list[str]]:
    """Accuracy of simple classifiers and rank of the features, layer by layer.

    Parameters
    ----------
    splits : iterable of LayerSplit
        Taken one at a time, so that a generator keeps the copies of one layer in memory only.
    probe : {"logistic", "mse"}
        The linear probe: logistic regression, or least squares to one-hot targets.

    Returns
    -------
    xarray.Dataset
        Along `layer`: `probe_accuracy_train`, `probe_accuracy_test`, `ncm_accuracy_train`, `ncm_accuracy_test`,
        `numerical_rank`, `effective_rank`, all float64; NaN for a layer without training samples.
    list of str
        What may mislead: one line for the probes that did not converge, if there are any.

    Raises
    ------
    ValueError
        If there is no such probe, or features or labels are not what the probes take.

    Examples
    --------
    >>> import numpy as np
    >>> eye, labels = np.eye(2), np.arange(2)
    >>> dataset, notes = probe_layers([LayerSplit("fc", eye, labels, eye, labels, eye)])
    >>> dataset["ncm_accuracy_test"].item(), dataset["numerical_rank"].item(), notes
    (1.0, 2.0, [])
    """
    if probe not in PROBES:
        raise ValueError(f"`probe` must be one of {', '.join(map(repr, PROBES))}, got {probe!r}")
    rows: dict[str, dict[str, float]] = {}
    unfinished = []
    for split in splits:
        rows[split.name], converged = _layer_values(split, probe)
        if not converged:
            unfinished.append(split.name)
    variables = {
        name: ("layer", np.array([row[name] for row in rows.values()], dtype=np.float64), attributes)
        for name, attributes in _attributes(probe).items()
    }
    return xr.Dataset(variables, coords={"layer": list(rows)}), _notes(unfinished)


def _layer_values(split: LayerSplit, probe: str) -> tuple[dict[str, float], bool]:
    """The numbers of one layer, and whether its probe converged."""
    if not len(split.features):
        return dict.fromkeys(_attributes(probe), np.nan), True
    options = {"epsilon": split.epsilon} if probe == "mse" else {}
    linear, nearest = PROBES[probe](*split[1:5], **options), nearest_class_mean_accuracy(*split[1:5])
    spectrum = singular_values(split.spectrum_features)
    return {
        "probe_accuracy_train": linear.train,
        "probe_accuracy_test": linear.test,
        "ncm_accuracy_train": nearest.train,
        "ncm_accuracy_test": nearest.test,
        "numerical_rank": rank_of_spectrum(spectrum),
        "effective_rank": effective_rank_of_spectrum(spectrum),
    }, linear.converged


def _attributes(probe: str) -> dict[str, dict[str, str]]:
    """What each variable is called, how it is computed and where it comes from."""
    described = {
        "probe_accuracy_train": ("linear probe accuracy, train", r"a_\ell^{\mathrm{train}}", *_LINEAR[probe]),
        "probe_accuracy_test": ("linear probe accuracy, test", r"a_\ell^{\mathrm{test}}", *_LINEAR[probe]),
        "ncm_accuracy_train": ("nearest class mean, train", r"c_\ell^{\mathrm{train}}", _NEAREST, _PAPYAN),
        "ncm_accuracy_test": ("nearest class mean, test", r"c_\ell^{\mathrm{test}}", _NEAREST, _PAPYAN),
        "numerical_rank": (
            "numerical rank",
            r"r_\ell",
            "least k with σ_1 + … + σ_k ≥ 0.95 Σσ; features not centred",
            _WANG,
        ),
        "effective_rank": (
            "effective rank",
            r"\mathrm{erank}_\ell",
            "exp of the entropy of σ/Σσ, natural logarithm; features not centred",
            _ROY,
        ),
    }
    keys = ("long_name", "symbol", "convention", "reference")
    return {name: {"units": "1", **dict(zip(keys, values, strict=True))} for name, values in described.items()}


def _notes(unfinished: list[str]) -> list[str]:
    """One line that names the layers whose probe did not converge."""
    if not unfinished:
        return []
    more = f" and {len(unfinished) - 3} more" if len(unfinished) > 3 else ""
    return [f"the linear probe did not converge at {', '.join(unfinished[:3])}{more}: its accuracy may be too low"]
