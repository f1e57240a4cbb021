"""From which layer on a network has what it needs: effective depth, probe depth, and the tunnel after it."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurocollapse.metrics.arguments import one_for_each
from neurocollapse.metrics.decisions import misses
from neurocollapse.metrics.layer import Network
from neurocollapse.metrics.quantity import Quantity

NEAR = 0.01
"""How much more often than the last layer a layer may err and still count as equally good."""
SHARE = 0.95
"""Share of the best probe's held-out accuracy from which a layer counts as readable."""


def effective_depth(errors: Sequence[float] | NDArray[np.float64]) -> int | None:
    r"""Effective depth: the first layer whose error of the nearest class mean is within 1 % of the last layer's.

    .. math:: \min \{ \ell : e_\ell \le e_L + 0.01 \}

    Parameters
    ----------
    errors : array-like of shape (layers,)
        `ncm_error` of every layer, in order of depth; the last one that is defined is the reference.

    Returns
    -------
    int or None
        Position of the layer, counted from 0; None where no layer has an error.

    References
    ----------
    Galanti, Galanti, Ben-Shaul, On the implicit bias towards depth minimization in deep neural networks, 2022.

    Examples
    --------
    >>> effective_depth([0.7, 0.31, 0.305, 0.3])
    1
    """
    values = one_for_each("errors", errors, "layer")
    known = np.flatnonzero(~np.isnan(values))
    return int(known[values[known] <= values[known[-1]] + NEAR][0]) if known.size else None


def probe_depth(accuracies: Sequence[float] | NDArray[np.float64]) -> int | None:
    """Probe depth: the first layer with 95 % of the best held-out accuracy of a linear probe.

    What comes after it is the tunnel: layers that compress what can already be read, and that may generalise worse.

    Parameters
    ----------
    accuracies : array-like of shape (layers,)
        `probe_accuracy_test` of every layer, in order of depth.

    Returns
    -------
    int or None
        Position of the layer, counted from 0; None where no layer has an accuracy.

    References
    ----------
    Masarczyk et al., The tunnel effect: building data representations in deep neural networks, NeurIPS 2023.

    Examples
    --------
    >>> probe_depth([0.5, 0.88, 0.9, 0.89])
    1
    """
    values = one_for_each("accuracies", accuracies, "layer")
    if np.isnan(values).all():
        return None
    return int(np.flatnonzero(values >= SHARE * np.nanmax(values))[0])


def _effective_depth(network: Network) -> float:
    """Its depth in the network."""
    return _depth_of(network, effective_depth(network.values("ncm_error")))


def _probe_depth(network: Network) -> float:
    """Its depth in the network."""
    return _depth_of(network, probe_depth(network.values("probe_accuracy_test")))


def _tunnel_length(network: Network) -> float:
    """How many of the layers are behind it."""
    position = probe_depth(network.values("probe_accuracy_test"))
    return math.nan if position is None else float(len(network.layers) - 1 - position)


def _depth_of(network: Network, position: int | None) -> float:
    """The depth of a layer, as along `layer`."""
    return math.nan if position is None else float(network.layers[position].record.depth)


_MASARCZYK = "Masarczyk et al., The tunnel effect, NeurIPS 2023"

QUANTITIES = (
    Quantity(
        name="effective_depth",
        of=_effective_depth,
        symbol=r"\min \{\ell : e_\ell \le e_L + 0.01\}",
        convention="`depth` of the first layer whose ncm_error exceeds that of the last one by at most 0.01",
        reference="Galanti, Galanti, Ben-Shaul, 2022",
        heading="effective depth",
        gather=misses,
        better="lower",
        bounds=(0.0, math.inf),
        family="collapse",
        dims=(),
    ),
    Quantity(
        name="probe_depth",
        of=_probe_depth,
        symbol=r"\min \{\ell : a_\ell \ge 0.95 \max a\}",
        convention="`depth` of the first layer with 95 % of the best held-out accuracy of the linear probe",
        reference=_MASARCZYK,
        heading="probe depth",
        needs=("features",),
        bounds=(0.0, math.inf),
        family="probes",
        dims=(),
    ),
    Quantity(
        name="tunnel_length",
        of=_tunnel_length,
        symbol=r"L - \ell_{\mathrm{probe}}",
        units="layers",
        convention="layers that were measured behind the one at probe_depth",
        reference=_MASARCZYK,
        heading="tunnel",
        needs=("features",),
        bounds=(0.0, math.inf),
        family="probes",
        dims=(),
    ),
)
