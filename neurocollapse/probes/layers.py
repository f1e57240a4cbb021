"""What simple classifiers and the spectrum say of the features of one layer."""

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

from numpy.typing import NDArray

from neurocollapse.probes.accuracy import (
    Accuracy,
    linear_probe_accuracy,
    mse_probe_accuracy,
    nearest_class_mean_accuracy,
)
from neurocollapse.probes.rank import effective_rank_of_spectrum, rank_of_spectrum, singular_values
from neurocollapse.support.choices import Probe, check_choice

PROBES: MappingProxyType[Probe, Callable[..., Accuracy]] = MappingProxyType(
    {"logistic": linear_probe_accuracy, "mse": mse_probe_accuracy}
)
"""Names of the probes, with the functions that fit them."""
PROBE_WORDS: MappingProxyType[Probe, dict[str, str]] = MappingProxyType(
    {
        "logistic": {
            "probe": "logistic regression (L2 penalty ½‖W‖² on the summed loss) on features standardised over the "
            "training part",
            "probe_reference": "Alain and Bengio, ICLR workshop, 2017",
        },
        "mse": {
            "probe": "least squares to one-hot targets, least norm, on features centred over the training part",
            "probe_reference": "Wang et al., JMLR 26(220), 2025",
        },
    }
)
"""How each is fitted, and where it comes from."""


class LayerSplit(NamedTuple):
    """Features and labels of one layer, row by row.

    Attributes
    ----------
    features, labels
        The training part.
    test_features, test_labels
        The part on which probes are tested.
    spectrum_features
        The features whose rank is taken.
    epsilon
        Relative rounding of the dtype in which the layer computed; by default that of `features`.
    """

    features: NDArray[Any]
    labels: NDArray[Any]
    test_features: NDArray[Any]
    test_labels: NDArray[Any]
    spectrum_features: NDArray[Any]
    epsilon: float | None = None


class Probed(NamedTuple):
    """Accuracies and ranks of one layer; NaN by default, and without training samples.

    Attributes
    ----------
    probe_accuracy_train, probe_accuracy_test, ncm_accuracy_train, ncm_accuracy_test : float
        In [0, 1].
    numerical_rank, effective_rank : float
    converged : bool
        Whether the linear probe was fitted to the end.
    """

    probe_accuracy_train: float = math.nan
    probe_accuracy_test: float = math.nan
    ncm_accuracy_train: float = math.nan
    ncm_accuracy_test: float = math.nan
    numerical_rank: float = math.nan
    effective_rank: float = math.nan
    converged: bool = True


def probe_layer(split: LayerSplit, *, probe: Probe = "logistic") -> Probed:
    """Accuracy of simple classifiers on one layer, and the rank of its features.

    Parameters
    ----------
    split : LayerSplit
    probe : {"logistic", "mse"}, default "logistic"
        The linear probe: logistic regression, or least squares to one-hot targets.

    Raises
    ------
    ValueError
        If there is no such probe, or features or labels are not what the probes take.

    Examples
    --------
    >>> import numpy as np
    >>> eye, labels = np.eye(2), np.arange(2)
    >>> probe_layer(LayerSplit(eye, labels, eye, labels, eye)).ncm_accuracy_test
    1.0
    """
    check_choice("probe", probe, Probe)
    if not len(split.features):
        return Probed()
    options = {"epsilon": split.epsilon} if probe == "mse" else {}
    linear, nearest = PROBES[probe](*split[:4], **options), nearest_class_mean_accuracy(*split[:4])
    spectrum = singular_values(split.spectrum_features)
    return Probed(
        probe_accuracy_train=linear.train,
        probe_accuracy_test=linear.test,
        ncm_accuracy_train=nearest.train,
        ncm_accuracy_test=nearest.test,
        numerical_rank=float(rank_of_spectrum(spectrum)),
        effective_rank=effective_rank_of_spectrum(spectrum),
        converged=linear.converged,
    )
