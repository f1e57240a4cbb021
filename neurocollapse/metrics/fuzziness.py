"""Within-class variability measured in the metric of the class means: NC1."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.metrics.axes import BetweenAxes, between_axes
from neurocollapse.metrics.layer import Layer, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.variability import PRECISION_FLOOR, between_trace, within_class_covariance
from neurocollapse.metrics.weighting import Weighting
from neurocollapse.statistics import ClassMoments
from neurocollapse.statistics.matmul import full_matmul_precision

PROJECTED_ELEMENTS = 2**22
"""Projections of rows on directions that are formed at once."""


class Fuzziness(NamedTuple):
    """tr(Σ_W Σ_B⁺), and what the pseudo-inverse took as zero.

    Attributes
    ----------
    value : float
    rank : int
        Directions of Σ_B that were inverted, K − 1 at most.
    cutoff : float
        Singular values of the centred, weighted class means at or below it count as zero.
    """

    value: float
    rank: int
    cutoff: float


def fuzziness(moments: ClassMoments, *, weighting: Weighting = "equal") -> Fuzziness:
    r"""Separation fuzziness: within-class variability in the directions of the class means, each on its own scale.

    .. math:: \operatorname{tr} (\Sigma_W \Sigma_B^+) = \sum_j \frac{v_j^\top \Sigma_W v_j}{s_j^2}

    with the singular values :math:`s_j` and right singular vectors :math:`v_j` of the centred class means with rows
    :math:`\sqrt{p_k} (\mu_k - \mu_G)`; :math:`\Sigma_B`, whose condition number is the square of theirs, is not formed.
    Unlike :math:`\operatorname{tr} \Sigma_W / \operatorname{tr} \Sigma_B` it does not change under invertible linear
    maps of the features if the class means span them, and does not see variability orthogonal to the class means.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        Weights of :math:`\Sigma_B`, see `between_trace`; :math:`\Sigma_W` has 1/N, as it is kept of all classes
        together.

    Returns
    -------
    Fuzziness
        Its `value` is non-negative, exactly 0 at full collapse; NaN with fewer than two classes present, or where all
        class means coincide. Its relative error in single precision is about 10⁻⁶, and 10⁻⁵ where features drift by
        thousands of standard deviations orthogonally to the class means; with precision="double" it is below 10⁻¹².

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    References
    ----------
    He and Su, A law of data separation in deep learning, PNAS 120(36), 2023, eq. (1); Papyan, Han, Donoho, PNAS
    117(40), 2020, NC1, which divides it by the number of classes.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1], covariance=True)
    >>> round(fuzziness(moments).value, 12), fuzziness(moments).rank
    (0.055555555556, 1)
    """
    axes = between_axes(moments, weighting)
    return Fuzziness(_from_covariance(moments, axes), len(axes.deviations), axes.cutoff)


def nc1(moments: ClassMoments, *, weighting: Weighting = "equal") -> float:
    r"""NC1, within-class variability per class: :math:`\operatorname{tr} (\Sigma_W \Sigma_B^+) / K`.

    K counts the classes that are present. As a quantity of `analyze` it needs no covariance: a second pass adds up the
    squares of :math:`v_j^\top (z - m_y)`, with which :math:`v_j^\top \Sigma_W v_j` is their sum over N.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`.
    weighting : {"equal", "frequency", "papers"}, default "equal"
        Weights of :math:`\Sigma_B`, see `between_trace`; :math:`\Sigma_W` has 1/N, as it is kept of all classes
        together.

    Returns
    -------
    float
        Non-negative, exactly 0 at full collapse; NaN where `fuzziness` is.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.

    Examples
    --------
    >>> round(nc1(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1], covariance=True)), 12)
    0.027777777778
    """
    return fuzziness(moments, weighting=weighting).value / max(1, moments.present.numel())


def _from_covariance(moments: ClassMoments, axes: BetweenAxes) -> float:
    """tr(Σ_W Σ_B⁺) with the within-class covariance at hand."""
    within = within_class_covariance(moments)
    return axes.inverted(((axes.directions @ within) * axes.directions).sum(dim=1))


def _projected(layer: Layer, rows: Rows) -> Tensor:
    """Squares of the centred rows along each direction, summed over the rows."""
    directions = layer.placed(_directions, rows.features)
    height = max(1, PROJECTED_ELEMENTS // max(1, directions.shape[1]))
    total = torch.zeros(directions.shape[1], dtype=torch.float64, device=directions.device)
    with full_matmul_precision():
        for part in rows.centred(layer).to(directions.dtype).split(height):
            total += (part @ directions).square_().sum(dim=0, dtype=torch.float64)
    return total


def _directions(layer: Layer, like: Tensor) -> Tensor:
    """Directions as columns, where the rows are."""
    return layer.axes.directions.T.to(like.device, like.dtype)


def _nc1(layer: Layer) -> float:
    """NC1 from the second pass, or else from the covariance."""
    total, moments = layer.total(_projected), layer.moments
    value = (
        _from_covariance(moments, layer.axes)
        if total is None
        else layer.axes.inverted(total.cpu() / moments.num_samples)
    )
    return value / max(1, moments.present.numel())


def _floor(layer: Layer) -> float:
    """NC1 of rounding: of isotropic noise with as much of tr Σ_B as sets the floor of D."""
    axes, moments = layer.axes, layer.moments
    floor = PRECISION_FLOOR.get(layer.record.feature_dtype, PRECISION_FLOOR["float64"])
    noise = floor * between_trace(moments, weighting=layer.weighting) / moments.num_features
    return axes.inverted(torch.full_like(axes.deviations, noise)) / max(1, moments.present.numel())


_CONVENTION = "tr(Σ_W Σ_B⁺)/K; Σ_W: 1/N over samples; Σ_B: {between}"


def _of_nc1(name: str, of: Callable[[Layer], float], long_name: str, **more: Any) -> Quantity:
    """NC1 or what comes with it."""
    return Quantity(
        name=name,
        of=of,
        long_name=long_name,
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020",
        gather=_projected,
        instead="covariance",
        bounds=(0.0, math.inf),
        family="collapse",
        **more,
    )


QUANTITIES = (
    _of_nc1(
        "nc1",
        _nc1,
        "NC1, within-class variability",
        symbol=r"\mathrm{tr}(\Sigma_W \Sigma_B^{+}) / K",
        convention=_CONVENTION,
        heading="NC1",
        at_collapse=0.0,
        better="lower",
    ),
    _of_nc1(
        "nc1_rank",
        lambda layer: len(layer.axes.deviations),
        "rank of Σ_B in NC1",
        symbol=r"\mathrm{rank}\,\Sigma_B",
        convention="singular values of the centred, weighted class means above nc1_cutoff",
    ),
    _of_nc1(
        "nc1_cutoff",
        lambda layer: layer.axes.cutoff,
        "cut-off of singular values in NC1",
        symbol=r"\epsilon_s",
        units="feature units",
        convention="largest singular value times float64's ε times the larger of K and the features",
    ),
    _of_nc1(
        "nc1_floor",
        _floor,
        "precision floor of NC1",
        symbol=r"\mathrm{tr}(\Sigma_\epsilon \Sigma_B^{+}) / K",
        convention="NC1 of isotropic noise as large as the rounding of the features may be",
    ),
)
