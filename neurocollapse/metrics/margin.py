"""How far each class mean is from all others together."""

import math
import warnings

import numpy as np
import torch

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import pair_statistics
from neurocollapse.metrics.quantity import PrecisionWarning, Quantity
from neurocollapse.statistics import ClassMoments

MAX_CLASSES = 200
"""Most classes for which quadratic programs are solved: a second for 200, and 16 times as long for twice as many."""


def one_vs_rest_margin(moments: ClassMoments) -> float:
    r"""One-versus-rest margin: the least distance of a class mean's direction to the convex hull of the others.

    .. math:: \min_k \min_\lambda \Bigl\| \hat\mu_k - \sum_{k' \ne k} \lambda_{k'} \hat\mu_{k'} \Bigr\|, \qquad
        \lambda \ge 0, \ \sum \lambda = 1, \qquad \hat\mu = \mu / \|\mu\|

    Each class is a quadratic programme, solved to about 1e-12 as a non-negative least-squares problem. For more than
    200 classes the least distance between two directions stands for it, an upper bound; a `PrecisionWarning` says so.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Returns
    -------
    float
        In [0, 2]; K/(K − 1) for a simplex, the largest possible. NaN with fewer than two classes present, and where a
        class mean is at the mean of all.

    References
    ----------
    Jiang et al., Generalized neural collapse for a large number of classes, ICML 2024, arXiv:2310.05351; Lawson and
    Hanson, Solving least squares problems, 1974, Chapter 23 (least distance programming).

    Examples
    --------
    >>> round(one_vs_rest_margin(ClassMoments.from_features(torch.eye(4), [0, 1, 2, 3])), 9)
    1.333333333
    """
    means = ClassMeans(moments)
    if means.num_classes < 2 or not bool((means.square > 0).all()):
        return math.nan
    if means.num_classes > MAX_CLASSES:
        warnings.warn(
            f"one_vs_rest_margin is an upper bound for {means.num_classes} classes: the least distance between two "
            f"directions; quadratic programmes are solved for up to {MAX_CLASSES}",
            PrecisionWarning,
            stacklevel=2,
        )
        return math.sqrt(max(0.0, 2 - 2 * pair_statistics(means).cosine[0]))
    directions = means.centred / means.square.sqrt().unsqueeze(1)
    if means.num_features > means.num_classes:
        directions = torch.linalg.qr(directions.T, mode="r").R.T  # the same inner products
    points = directions.numpy()
    return min(_distance(np.delete(points, k, axis=0) - points[k]) for k in range(len(points)))


def _distance(points: np.ndarray) -> float:
    """From the origin to the convex hull of some points.

    With u = tλ and Σλ = 1, ‖Pᵀu‖² + (Σu − 1)² is ‖Pᵀλ‖²/(1 + ‖Pᵀλ‖²) at the best t: its least u has the λ sought.
    """
    from scipy.optimize import nnls  # only this number needs it

    system = np.vstack([points.T, np.ones(len(points))])
    weights, _ = nnls(system, np.eye(len(system))[-1], maxiter=30 * len(points) + 100)
    return float(np.linalg.norm(weights @ points) / weights.sum())


QUANTITIES = (
    Quantity(
        name="one_vs_rest_margin",
        of=lambda layer: one_vs_rest_margin(layer.moments),
        long_name="one-versus-rest margin of the class means",
        symbol=r"\min_k \mathrm{dist}(\hat\mu_k, \mathrm{conv}\{\hat\mu_{k'}\}_{k' \ne k})",
        convention=f"class means about their mean, of length one; for over {MAX_CLASSES} classes the closest pair's",
        reference="Jiang et al., ICML 2024",
        heading="margin",
        better="higher",
        bounds=(0.0, 2.0),
        family="collapse",
        default=False,
    ),
)
