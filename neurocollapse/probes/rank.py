"""How many directions a feature matrix uses: numerical rank and effective rank."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocollapse.probes.features import checked_features

TIE = 1e-12
"""Relative rounding of a sum of singular values: sums that differ by less count as equal."""


def numerical_rank(features: Any, *, share: float = 0.95) -> int:
    r"""Numerical rank: the number of singular values that carry 95 % of their sum.

    .. math:: r = \min \Big\{ k : \sum_{i \le k} \sigma_i \ge \mathtt{share} \sum_i \sigma_i \Big\}

    with the singular values :math:`\sigma_1 \ge \sigma_2 \ge \dots` of the features as they are, not centred.

    Parameters
    ----------
    features : array-like of shape (samples, features)
        Features of one layer.
    share : float, default 0.95
        In (0, 1]; sums that equal it up to a relative rounding of 1e-12 reach it.

    Returns
    -------
    int
        In [0, min(samples, features)]: 0 for features that are all zero, 1 for constant ones; at full collapse at
        most the number of classes.

    Raises
    ------
    ValueError
        If the features are not a finite matrix with at least one entry, or `share` is outside (0, 1].

    References
    ----------
    Wang et al., Understanding deep representation learning via layerwise feature compression and discrimination,
    JMLR 26(220), 2025, Section 4.

    Examples
    --------
    >>> numerical_rank([[6.0, 0.0, 0.0], [0.0, 3.5, 0.0], [0.0, 0.0, 0.5]])
    2
    """
    return rank_of_spectrum(singular_values(features), share=share)


def effective_rank(features: Any) -> float:
    r"""Effective rank: the exponential of the entropy of the normalised singular values.

    .. math:: r = \exp \Big( -\sum_i p_i \log p_i \Big), \qquad p_i = \sigma_i \Big/ \sum_j \sigma_j,

    with :math:`0 \log 0 = 0` and the singular values :math:`\sigma_i` of the features as they are, not centred.

    Parameters
    ----------
    features : array-like of shape (samples, features)
        Features of one layer.

    Returns
    -------
    float
        In [1, min(samples, features)]: the number of singular values if all are equal, 1 for rank one; NaN for
        features that are all zero. At full collapse at most the number of classes.

    Raises
    ------
    ValueError
        If the features are not a finite matrix with at least one entry.

    References
    ----------
    Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, Definition 1.

    Examples
    --------
    >>> round(effective_rank([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]]), 12)
    2.0
    """
    return effective_rank_of_spectrum(singular_values(features))


def singular_values(features: Any) -> NDArray[np.float64]:
    """Singular values in descending order, shape (min(samples, features),), computed in float64."""
    matrix = checked_features("features", features)
    if matrix.size == 0:
        raise ValueError(f"`features` must have at least one sample and one feature, got shape {matrix.shape}")
    return np.linalg.svd(matrix, compute_uv=False).astype(np.float64, copy=False)


def rank_of_spectrum(values: NDArray[np.float64], *, share: float = 0.95) -> int:
    """Numerical rank of a matrix with these singular values, in descending order; see `numerical_rank`."""
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ValueError(f"`share` must be a number in (0, 1], got {share!r}; 0.95 is the convention of the papers")
    sums = np.cumsum(values)
    # Equal singular values make exact ties (19 of 20 at 95 %), which rounding must not decide.
    return int(np.searchsorted(sums, share * sums[-1] * (1 - TIE))) + 1 if sums[-1] > 0 else 0


def effective_rank_of_spectrum(values: NDArray[np.float64]) -> float:
    """Effective rank of a matrix with these singular values; see `effective_rank`."""
    total = values.sum()
    if total == 0:
        return float("nan")
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))).sum()))
