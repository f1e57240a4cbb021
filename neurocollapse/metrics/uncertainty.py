"""How sure D, its decay ratios and its slope are, given these samples: intervals by the infinitesimal jackknife."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.layer import Layer, Network, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.unbiased import between_trace_unbiased, within_trace_unbiased
from neurocollapse.metrics.weighting import between_weights, within_weights

NORMAL = 1.959963984540054
"""97.5 % quantile of the standard normal distribution: two-sided intervals of 95 %."""


def influences(layer: Layer, rows: Rows) -> Tensor:
    r"""Influence of each sample on log D, scaled so that the sum of the squares is the variance of log D.

    .. math:: \psi_i = \sqrt{\tfrac{n_k}{n_k - 1}} \Bigl( \frac{\psi^A_i}{A} - \frac{\psi^B_i}{B} \Bigr), \quad
        \psi^A_i = \frac{w_k}{n_k} \bigl( \|z_i - m_k\|^2 - v_k \bigr) \frac{n_k}{n_k - 1}, \quad
        \psi^B_i = \frac{2 p_k}{n_k} \langle m_k - m_G, z_i - m_k \rangle \sqrt{\tfrac{n_k}{n_k - 1}}

    with the unbiased traces A and B of :math:`\Sigma_W` and :math:`\Sigma_B`, and the weights :math:`w_k` and
    :math:`p_k` of the classes in them. A class mean's own effect on A is of second order, that of the centre on B is
    zero; the factors undo the shrinking of residuals.

    Parameters
    ----------
    layer : Layer
        With the moments of all samples.
    rows : Rows
        Some of those samples.

    Returns
    -------
    Tensor of shape (rows,), float64
        NaN where the unbiased D is undefined.

    References
    ----------
    Jaeckel, The infinitesimal jackknife, Bell Laboratories, 1972; Efron, The jackknife, the bootstrap and other
    resampling plans, SIAM, 1982, chapter 6.
    """
    means, within_factor, between_factor, spread = layer.placed(_factors, rows.features)
    centred = rows.centred(layer)
    square = centred.square().sum(dim=1, dtype=torch.float64)
    along = (centred * means.index_select(0, rows.labels)).sum(dim=1, dtype=torch.float64)
    within = within_factor[rows.labels] * (square - spread[rows.labels])
    return within - between_factor[rows.labels] * along


def _factors(layer: Layer, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centred class means, factors of both parts of the influence, and spread, for all classes, where the rows are."""
    moments = layer.moments
    present, count = moments.present, moments.count[moments.present].double()
    weights = between_weights(moments, layer.weighting)
    means = moments.mean[present]
    shrunk = count / (count - 1)
    within = within_trace_unbiased(moments, weighting=layer.weighting)
    between = between_trace_unbiased(moments, weighting=layer.weighting)
    between = between if between > 0 else math.nan
    parts = (
        means - weights @ means,
        shrunk * shrunk.sqrt() * within_weights(moments, layer.weighting) / count / (within or math.nan),
        2 * weights / count * shrunk / between,
        moments.scatter[present] / count,
    )
    full = [part.new_zeros(moments.num_classes, *part.shape[1:]).index_copy_(0, present, part) for part in parts]
    return (
        full[0].to(like.device, like.dtype),
        full[1].to(like.device),
        full[2].to(like.device),
        full[3].to(like.device),
    )


def log_deviation(covariance: NDArray[np.float64], combination: Sequence[float] | NDArray[np.float64]) -> float:
    """Standard error of a linear combination of the log D of all layers, given their covariance (layers, layers)."""
    used = np.asarray(combination, dtype=np.float64)
    chosen = np.flatnonzero(used)
    variance = float(used[chosen] @ covariance[np.ix_(chosen, chosen)] @ used[chosen])
    return math.sqrt(max(0.0, variance)) if not math.isnan(variance) else math.nan


def _compression_interval(network: Network) -> NDArray[np.float64]:
    """Interval of every D, shape (layers, 2)."""
    return np.stack([_interval(network, {index: 1.0}) for index in range(len(network.layers))])


def _ratio_interval(network: Network) -> NDArray[np.float64]:
    """Interval of every decay ratio, shape (layers, 2)."""
    steps = [_interval(network, {index: 1.0, index - 1: -1.0}) for index in range(1, len(network.layers))]
    return np.stack([np.full(2, np.nan), *steps])


def _slope_interval(network: Network) -> NDArray[np.float64]:
    """Interval of the slope of the straight line through the unbiased log D, shape (2,)."""
    values = network.values("compression_unbiased")
    usable = np.flatnonzero(np.isfinite(values) & (values > 0))
    if len(usable) < 2:
        return np.full(2, np.nan)
    offset = usable - usable.mean()
    return np.log(_interval(network, dict(zip(usable.tolist(), (offset / (offset @ offset)).tolist(), strict=True))))


def _interval(network: Network, combination: dict[int, float]) -> NDArray[np.float64]:
    """Lower and upper end of exp(Σ c_l log D_l), D unbiased; NaN where one of these D is, or 0."""
    chosen = network.values("compression_unbiased")[list(combination)]
    factors = np.zeros(len(network.layers))
    factors[list(combination)] = list(combination.values())
    logs = np.log(chosen, where=chosen > 0, out=np.full(len(chosen), np.nan))
    centre = float(logs @ np.fromiter(combination.values(), dtype=np.float64))
    half = NORMAL * log_deviation(network.covariance, factors)
    return np.exp([centre - half, centre + half])


_CONVENTION = "95 %, about the unbiased value: infinitesimal jackknife over the samples, normal in log D"
_JACKKNIFE = "Jaeckel, Bell Laboratories, 1972; Efron, SIAM, 1982"


def _interval_of(
    name: str,
    of: Callable[[Network], NDArray[np.float64]],
    long_name: str,
    symbol: str,
    dims: tuple[str, ...],
    low: float,
    heading: str,
) -> Quantity:
    """An interval that needs every sample's influence at all layers together."""
    return Quantity(
        name=name,
        of=of,
        long_name=long_name,
        symbol=symbol,
        convention=_CONVENTION,
        reference=_JACKKNIFE,
        heading=heading,
        needs=("influence",),
        bounds=(low, math.inf),
        family="uncertainty",
        dims=dims,
        over_layers=True,
    )


QUANTITIES = (
    _interval_of(
        "compression_interval",
        _compression_interval,
        "compression, 95 % interval",
        r"\hat D_\ell^\pm",
        ("layer", "bound"),
        0.0,
        "D, 95 %",
    ),
    _interval_of(
        "decay_ratio_interval",
        _ratio_interval,
        "decay ratio, 95 % interval",
        r"(\hat D_\ell / \hat D_{\ell-1})^\pm",
        ("layer", "bound"),
        0.0,
        "D / D before, 95 %",
    ),
    _interval_of(
        "decay_slope_interval",
        _slope_interval,
        "slope of log D per layer, 95 % interval over samples",
        r"\hat\beta^\pm",
        ("bound",),
        -math.inf,
        "slope of log D, 95 % over samples",
    ),
)
