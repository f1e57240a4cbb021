"""Which units still react to the data: dead and dormant ones, and how long the features are."""

import math
from typing import Any

from torch import Tensor

from neurocollapse.metrics.arguments import check_moments, matrix
from neurocollapse.metrics.layer import Layer, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.checks import non_negative_number

DORMANT = 0.025
"""Mean absolute value, relative to that of the layer's average unit, up to which a unit counts as dormant."""


def dead_share(features: Tensor) -> float:
    """Share of the units that are exactly zero for every sample.

    Parameters
    ----------
    features : Tensor of shape (samples, units)

    Returns
    -------
    float
        In [0, 1]; NaN without samples.

    Examples
    --------
    >>> import torch
    >>> dead_share(torch.tensor([[1.0, 0.0, 0.0, -2.0], [0.0, 0.0, 3.0, 1.0]]))
    0.25
    """
    return dormant_share(features, threshold=0)


def dormant_share(features: Tensor, *, threshold: float = DORMANT) -> float:
    r"""Share of dormant units, those that are small for all samples.

    .. math:: \frac{\mathrm{mean}_i |h_{ij}|}{\mathrm{mean}_{j'} \mathrm{mean}_i |h_{ij'}|} \le \tau

    Parameters
    ----------
    features : Tensor of shape (samples, units)
    threshold : float, default 0.025
        τ; 0 counts dead units only.

    Returns
    -------
    float
        In [0, 1], 1 where all features are zero; NaN without samples.

    References
    ----------
    Sokar, Agarwal, Castro, Evci, The dormant neuron phenomenon in deep reinforcement learning, ICML 2023.

    Examples
    --------
    >>> import torch
    >>> dormant_share(torch.tensor([[5.0, 0.0, 0.05, -2.0], [3.0, 0.0, 0.0, 1.0]]))
    0.5
    """
    rows, share = matrix("features", features), non_negative_number("threshold", threshold)
    return _share(_size(rows), share) if len(rows) else math.nan


def feature_norm(moments: ClassMoments) -> float:
    r"""Root mean square norm of the features, :math:`\sqrt{\frac1N \sum_i \|h_i\|^2}`; NaN without samples.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> feature_norm(ClassMoments.from_features([[3.0, 4.0], [0.0, 5.0]], [0, 1]))
    5.0
    """
    check_moments(moments)
    if moments.num_samples == 0:
        return math.nan
    count = moments.count[moments.present].double()
    square = sum(block.square().sum(dim=1) for block in moments.mean_blocks())
    return math.sqrt((float(count @ square) + float(moments.scatter.sum())) / moments.num_samples)


def _size(features: Tensor) -> Tensor:
    """Σ|h| of every unit, float64."""
    return features.double().abs().sum(dim=0)


def _gathered(layer: Layer, rows: Rows) -> Tensor:
    """The same of some rows of a layer."""
    return _size(rows.features)


def _share(size: Tensor, threshold: float) -> float:
    """Share of the units whose size is at most `threshold` times the average."""
    return float((size <= threshold * size.mean()).double().mean())


def _of_units(name: str, threshold: float, **words: Any) -> Quantity:
    """A share of the units, from a second pass."""

    def of(layer: Layer) -> float:
        size = layer.total(_gathered)
        return math.nan if size is None else _share(size, threshold)

    return Quantity(
        name=name,
        of=of,
        gather=_gathered,
        reference="Sokar et al., ICML 2023",
        bounds=(0.0, 1.0),
        family="plasticity",
        **words,
    )


_UNITS = "units are features as pooled, over the whole loader"

QUANTITIES = (
    _of_units(
        "dead_share",
        0.0,
        long_name="share of dead units",
        symbol=r"P(\max_i |h_{ij}| = 0)",
        convention=f"exactly zero for every sample; {_UNITS}",
        heading="dead units",
    ),
    _of_units(
        "dormant_share",
        DORMANT,
        long_name="share of dormant units",
        symbol=r"P(\overline{|h_j|} \le 0.025\, \overline{|h|})",
        convention=f"mean |h| at most 0.025 of the layer's average; {_UNITS}",
        heading="dormant units",
    ),
    Quantity(
        name="feature_norm",
        of=lambda layer: feature_norm(layer.moments),
        long_name="norm of the features",
        symbol=r"\sqrt{E \|h\|^2}",
        units="feature units",
        convention="root mean square over the samples",
        reference="Lyle et al., Understanding plasticity in neural networks, ICML 2023",
        heading="feature norm",
        bounds=(0.0, math.inf),
        family="plasticity",
        default=False,
    ),
)
