"""Scores that tell samples of the classes from other data, to compare NECO with; larger ones are more class-like."""

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import matrix, matrix_of
from neurocollapse.metrics.spectrum import ROUNDING
from neurocollapse.metrics.variability import within_class_covariance
from neurocollapse.statistics import ClassMoments


def max_softmax(logits: Tensor) -> Tensor:
    r"""Probability of the class that a network finds most likely, :math:`\max_k \operatorname{softmax}(z)_k`.

    Parameters
    ----------
    logits : Tensor of shape (samples, classes)

    Returns
    -------
    Tensor of shape (samples,), float64
        In [1/K, 1].

    References
    ----------
    Hendrycks and Gimpel, A baseline for detecting misclassified and out-of-distribution examples in neural networks,
    ICLR 2017.

    Examples
    --------
    >>> max_softmax(torch.tensor([[0.0, 0.0], [0.0, 3.0]]).double().log_softmax(1)).round(decimals=3).tolist()
    [0.5, 0.953]
    """
    return matrix("logits", logits).double().softmax(dim=1).amax(dim=1)


def mahalanobis(moments: ClassMoments, features: Tensor) -> Tensor:
    r"""Negative squared Mahalanobis distance to the nearest class, :math:`-\min_k (h - m_k)^\top \Sigma_W^+ (h - m_k)`.

    One covariance :math:`\Sigma_W` for all classes, 1/N over the samples of the moments. Directions in which the
    samples of no class vary are left out, as those of units that never fire: their distance would be infinite.

    Parameters
    ----------
    moments : ClassMoments
        Collected with `covariance=True`, on training samples.
    features : Tensor of shape (samples, features)
        Any samples.

    Returns
    -------
    Tensor of shape (samples,), float64
        At most 0, which is reached at a class mean. NaN without classes; 0 where no class varies.

    Raises
    ------
    ValueError
        If the moments were collected without `covariance=True`.

    References
    ----------
    Lee et al., A simple unified framework for detecting out-of-distribution samples and adversarial attacks, NeurIPS
    2018, Eq. (2), of one layer and without perturbing the inputs.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[-1.0], [1.0], [8.0], [8.0]], [0, 0, 1, 1], covariance=True)
    >>> mahalanobis(moments, torch.tensor([[0.0], [3.0], [8.0]])).round(decimals=9).tolist()
    [-0.0, -18.0, -0.0]
    """
    rows = matrix_of(moments, "features", features).double()
    means = moments.mean[moments.present].double()
    if not len(means):
        return rows.new_full((len(rows),), torch.nan)
    values, vectors = torch.linalg.eigh(within_class_covariance(moments))
    rounding = ROUNDING[str(moments.reference.dtype).removeprefix("torch.")]
    used = values > rounding * len(values) * values[-1]
    whitening = vectors[:, used] / values[used].sqrt()
    # Distances from differences, not from scalar products, which would cancel where classes are far from the origin.
    nearest = [((rows - mean) @ whitening).square().sum(dim=1) for mean in means]
    return -torch.stack(nearest).amin(dim=0)
