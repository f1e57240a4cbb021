"""Eigenvalues of the features' total covariance, and how many directions they say are used."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments, one_for_each
from neurocollapse.metrics.variability import between_class_covariance, within_class_covariance
from neurocollapse.metrics.weighting import between_weights, centred_blocks
from neurocollapse.probes.rank import effective_rank_of_spectrum, rank_of_spectrum
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.checks import integer

FEWEST = 4
"""Samples per feature below which a warning says that sample eigenvalues are far from those of many samples."""
ROUNDING = {"float64": 1e-13, "float32": 1e-7}
"""Relative rounding of the scatter matrix in its dtype: eigenvalues below it, times the features, count as zero."""


def total_spectrum(moments: ClassMoments) -> NDArray[np.float64]:
    r"""Eigenvalues of the total covariance :math:`\Sigma_T = \frac1N \sum_i (z_i - \bar z)(z_i - \bar z)^\top`.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`: exact over all samples, whatever their number.

    Returns
    -------
    ndarray of shape (features,), float64
        Descending; exactly zero below the rounding of the scatter matrix. NaN without samples.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[3.0, 0.0], [-3.0, 0.0], [0.0, 1], [0.0, -1]], [0] * 4, covariance=True)
    >>> total_spectrum(moments).tolist()
    [4.5, 0.5]
    """
    total = within_class_covariance(moments) + between_class_covariance(moments, weighting="frequency")
    if moments.num_samples == 0:
        return np.full(moments.num_features, np.nan)
    values = torch.linalg.eigvalsh(total).flip(0).clamp(min=0).numpy()
    relative = ROUNDING[str(moments.reference.dtype).removeprefix("torch.")]
    values[values <= relative * moments.num_features * values[0]] = 0.0
    return values


def participation_ratio(values: NDArray[np.float64]) -> float:
    r"""Participation ratio :math:`(\sum_i \lambda_i)^2 / \sum_i \lambda_i^2` of the eigenvalues of a covariance.

    In [1, features]: all of them for equal eigenvalues, 1 for a single one; NaN where all are zero.

    Parameters
    ----------
    values : array of shape (features,)
        Eigenvalues of the covariance, in any order.

    References
    ----------
    Gao et al., A theory of multineuronal dimensionality, dynamics and measurement, bioRxiv 214262, 2017.

    Examples
    --------
    >>> participation_ratio(np.array([2.0, 2.0, 0.0]))
    2.0
    """
    values = _descending(values)
    scaled = values / (values.max() or math.nan)  # whose squares are in range for features of any scale
    return _ratio(float(scaled.sum()) ** 2, float(scaled @ scaled))


def participation_ratio_corrected(values: NDArray[np.float64], num_samples: int) -> float:
    r"""Participation ratio of the population: numerator and denominator without the bias of few samples.

    The participation ratio of samples never exceeds their number. With :math:`\nu = N - 1`, the covariance S with
    :math:`1/\nu`, :math:`a = \operatorname{tr} S^2` and :math:`b = (\operatorname{tr} S)^2`,

    .. math:: \widehat{\operatorname{tr} \Sigma^2} = \frac{\nu^2 (a - b / \nu)}{(\nu - 1)(\nu + 2)}, \quad
        \widehat{(\operatorname{tr} \Sigma)^2} = b - \frac2\nu \widehat{\operatorname{tr} \Sigma^2},

    both unbiased for normal features, and to first order in 1/N where their fourth moments are not far from normal.

    Parameters
    ----------
    values : ndarray of shape (features,)
        Eigenvalues of the covariance with 1/N.
    num_samples : int

    Returns
    -------
    float
        At least 1, and not bounded by the samples; NaN with fewer than three samples, and where the estimate of
        :math:`\operatorname{tr} \Sigma^2` is not positive: then there are too few samples to say anything.

    References
    ----------
    Srivastava, Some tests concerning the covariance matrix in high dimensional data, J. Japan Statist. Soc. 35(2),
    2005, Lemma 2.1.

    Examples
    --------
    >>> values = np.array([4.0, 1.0, 1.0])
    >>> round(participation_ratio(values), 3), round(participation_ratio_corrected(values, 20), 3)
    (2.0, 2.235)
    """
    values = _descending(values)
    freedom = integer("num_samples", num_samples, least=0) - 1
    if freedom < 2:
        return math.nan
    scaled = values / (values.max() or math.nan) * (num_samples / freedom)
    square, trace_square = float(scaled @ scaled), float(scaled.sum()) ** 2
    estimate = freedom**2 / ((freedom - 1) * (freedom + 2)) * (square - trace_square / freedom)
    if not estimate > 0:
        return math.nan
    return max(1.0, (trace_square - 2 * estimate / freedom) / estimate)


def stable_rank(values: NDArray[np.float64]) -> float:
    r"""Stable rank :math:`\sum_i \lambda_i / \lambda_1` of the features, also called NESUM.

    In [1, features]; NaN where all eigenvalues are zero.

    Parameters
    ----------
    values : array of shape (features,)
        Eigenvalues of the covariance, in any order.

    References
    ----------
    Rudelson and Vershynin, Sampling from large matrices, J. ACM 54(4), 2007; He and Ozay, Exploring the gap between
    collapsed and whitened features in self-supervised learning, ICML 2022.

    Examples
    --------
    >>> stable_rank(np.array([2.0, 1.0, 1.0]))
    2.0
    """
    values = _descending(values)
    return _ratio(float(values.sum()), float(values.max()))


def spectral_decay(values: NDArray[np.float64]) -> float:
    r"""Exponent α of the power law :math:`\lambda_i \propto i^{-\alpha}` that fits the eigenvalues best.

    Least squares of :math:`\log \lambda_i` against :math:`\log i` over all that are not zero, weighted by 1/i, so that
    every octave of i counts about the same.

    Parameters
    ----------
    values : array of shape (features,)
        Eigenvalues of the covariance, in any order.

    Returns
    -------
    float
        0 for equal eigenvalues; NaN with fewer than two that are not zero.

    References
    ----------
    Agrawal, Mondal, Ghosh, Richards, α-ReQ: assessing representation quality in self-supervised learning by measuring
    eigenspectrum decay, NeurIPS 2022; Stringer et al., Nature 571, 2019.

    Examples
    --------
    >>> round(spectral_decay(1 / np.arange(1.0, 50) ** 1.5), 9)
    1.5
    """
    values = _descending(values)
    place = np.log(np.arange(1, np.count_nonzero(values > 0) + 1))
    if len(place) < 2:
        return math.nan
    weight = np.exp(-place)
    offset = place - weight @ place / weight.sum()
    return -float(weight * offset @ np.log(values[: len(place)])) / float(weight @ offset**2)


def covariance_effective_rank(values: NDArray[np.float64]) -> float:
    """Effective rank of the centred features: exp of the entropy of σ/Σσ, with σ² the eigenvalues of their covariance.

    In [1, features]; NaN where all are zero. RankMe is the same of features that are not centred.
    """
    values = _descending(values)
    return effective_rank_of_spectrum(np.sqrt(values)) if np.isfinite(values).all() else math.nan


def covariance_numerical_rank(values: NDArray[np.float64]) -> float:
    """Numerical rank of the centred features: how many σ carry 95 % of their sum; NaN without samples."""
    values = _descending(values)
    return rank_of_spectrum(np.sqrt(values)) if np.isfinite(values).all() else math.nan


def lidar(moments: ClassMoments) -> float:
    r"""LiDAR: effective number of directions in which linear discriminant analysis tells the classes apart.

    Exp of the entropy of :math:`\lambda / \sum \lambda`, with the eigenvalues λ of
    :math:`\Sigma_W^{+1/2} \Sigma_B \Sigma_W^{+1/2}`. The published score adds a constant to :math:`\Sigma_W`, whose
    unit is that of the features; here directions without within-class variability are left out instead.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`. In the paper a class is one image under many augmentations.

    Returns
    -------
    float
        In [1, K − 1]; NaN with fewer than two classes, and where no direction has both kinds of variability, as at
        full collapse.

    References
    ----------
    Thilak et al., LiDAR: sensing linear probing performance in joint embedding SSL architectures, ICLR 2024.

    Examples
    --------
    >>> features = [[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0], [1.0, 4.0], [-1.0, 4.0]]
    >>> round(lidar(ClassMoments.from_features(features, [0, 0, 1, 1, 2, 2], covariance=True)), 3)
    1.712
    """
    check_moments(moments)
    if moments.present.numel() < 2:
        return math.nan
    weights = between_weights(moments, "equal")
    means = torch.cat(list(centred_blocks(moments, weights)), dim=1) * weights.sqrt().unsqueeze(1)
    values, vectors = torch.linalg.eigh(within_class_covariance(moments))
    relative = ROUNDING[str(moments.reference.dtype).removeprefix("torch.")]
    used = values > relative * len(values) * values[-1]
    scaled: Tensor = (means @ vectors[:, used]) / values[used].sqrt()
    # Of the K × K Gram matrix, which has the same eigenvalues other than zero.
    found = torch.linalg.eigvalsh(scaled @ scaled.T).flip(0).clamp(min=0)
    found[found <= len(found) * torch.finfo(torch.float64).eps * found[0]] = 0.0
    return effective_rank_of_spectrum(found.numpy())


def _descending(values: Any) -> NDArray[np.float64]:
    """Eigenvalues in any container, the largest first."""
    return np.sort(one_for_each("values", values, "feature"))[::-1]


def _ratio(numerator: float, denominator: float) -> float:
    """Divide; NaN by zero."""
    return numerator / denominator if denominator else math.nan
