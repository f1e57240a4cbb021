"""How well simple classifiers tell the classes apart: two linear probes and the nearest class mean."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from neurocollapse.probes.features import checked_parts, rounding
from neurocollapse.statistics import ClassMoments
from neurocollapse.statistics.nearest import NearestMean

MAX_ITERATIONS = 2_000
"""Where the solver of the linear probe stops; hidden layers on the digits took 10 to 72 iterations."""


class Accuracy(NamedTuple):
    """Shares of samples that are classified correctly, in [0, 1]; NaN where they are undefined.

    Attributes
    ----------
    train, test : float
    converged : bool
        False where the solver stopped before its tolerance was met.
    """

    train: float
    test: float
    converged: bool = True


def linear_probe_accuracy(features: Any, labels: Any, test_features: Any, test_labels: Any) -> Accuracy:
    r"""Accuracy of a linear probe: multinomial logistic regression on standardised features.

    .. math:: \min_{W, b} \; \sum_i -\log \mathrm{softmax}(W \tilde z_i + b)_{y_i} + \tfrac12 \|W\|_F^2,

    where :math:`\tilde z` is shifted and scaled, feature by feature, to mean 0 and variance 1 (1/N) over the training
    part; features that are constant there stay 0. Two classes share one weight vector.

    Parameters
    ----------
    features, test_features : array-like of shape (samples, features)
    labels, test_labels : array-like of shape (samples,)
        Class indices. Test samples of a class that the training part lacks count as wrong.

    Returns
    -------
    Accuracy
        `train` and `test` in [0, 1], 1 at full collapse with distinct class means; NaN where the training part has
        fewer than two classes, or the test part no sample.

    Raises
    ------
    ValueError
        If features are not finite matrices of the same width, or labels are not one class index per sample.

    References
    ----------
    Alain and Bengio, Understanding intermediate layers using linear classifier probes, ICLR workshop 2017.

    Examples
    --------
    >>> linear_probe_accuracy([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1], [[2.0], [3.0]], [0, 1])
    Accuracy(train=1.0, test=0.5, converged=True)
    """
    train, train_labels, test, test_targets = checked_parts(features, labels, test_features, test_labels)
    if np.unique(train_labels).size < 2:
        return Accuracy(np.nan, np.nan)
    from sklearn.linear_model import LogisticRegression  # a second of imports, and only this probe needs them
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    probe = LogisticRegression(max_iter=MAX_ITERATIONS)  # L-BFGS draws no random numbers
    standardised = scaler.transform(train)
    with _told_convergence() as problems:
        probe.fit(standardised, train_labels)
    return Accuracy(
        train=_share(probe.predict(standardised) == train_labels),
        test=_share(probe.predict(scaler.transform(test)) == test_targets) if len(test) else np.nan,
        converged=not problems,
    )


def mse_probe_accuracy(
    features: Any, labels: Any, test_features: Any, test_labels: Any, *, epsilon: float | None = None
) -> Accuracy:
    r"""Accuracy of a linear probe fitted by least squares to one-hot targets, in closed form and without a ridge.

    .. math:: \min_{W, b} \; \sum_i \|W z_i + b - e_{y_i}\|^2, \qquad \hat y(z) = \arg\max_k \, (W z + b)_k,

    where W is the solution of least norm and b follows from the means. Singular values of the centred training
    features at or below :math:`\max(\epsilon, 2.2 \cdot 10^{-16} \max(N, d)) \, \|Z\|_F` count as zero: that much
    the rounding ε of the features' own dtype (1.2e-7 in float32) and of the computation can give to N samples of d
    features Z without meaning anything. Ties go to the lowest class.

    Parameters
    ----------
    features, test_features : array-like of shape (samples, features)
    labels, test_labels : array-like of shape (samples,)
        Class indices. Test samples of a class that the training part lacks count as wrong.
    epsilon : float, optional
        The rounding ε, for features that were computed in a narrower dtype than they come in. Default: of their dtype.

    Returns
    -------
    Accuracy
        `train` and `test` in [0, 1], 1 at full collapse with affinely independent class means; NaN where the training
        part has fewer than two classes, or the test part no sample. `converged` is always True.

    Raises
    ------
    ValueError
        If features are not finite matrices of the same width, or labels are not one class index per sample.

    Notes
    -----
    Least squares can miss a class that lies between two others, where logistic regression finds it. It fits any labels
    of at most d + 1 samples in general position, so `train` says little about fewer samples than that.

    References
    ----------
    Wang et al., JMLR 26(220), 2025, Section 4; Hastie, Tibshirani, Friedman, The Elements of Statistical Learning,
    2nd ed., Section 4.2 (masking).

    Examples
    --------
    >>> mse_probe_accuracy([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1], [[2.0], [3.0]], [0, 1])
    Accuracy(train=1.0, test=0.5, converged=True)
    """
    train, train_labels, test, test_targets = checked_parts(features, labels, test_features, test_labels)
    classes = np.unique(train_labels)
    if classes.size < 2:
        return Accuracy(np.nan, np.nan)
    origin = train[0] + (train - train[0]).mean(axis=0)  # constant features become exactly zero
    targets = (train_labels[:, None] == classes).astype(np.float64)
    shares = targets.mean(axis=0)
    epsilon = rounding(features) if epsilon is None else epsilon
    zero = max(epsilon, max(train.shape) * np.finfo(np.float64).eps) * np.linalg.norm(train)
    weights = _least_norm_solution(train - origin, targets - shares, zero)
    hits = [
        classes[((part - origin) @ weights + shares).argmax(axis=1)] == truth
        for part, truth in ((train, train_labels), (test, test_targets))
    ]
    return Accuracy(train=_share(hits[0]), test=_share(hits[1]) if len(test) else np.nan)


def nearest_class_mean_accuracy(features: Any, labels: Any, test_features: Any, test_labels: Any) -> Accuracy:
    r"""Accuracy of the nearest class mean in Euclidean distance.

    .. math:: \hat y(z) = \arg\min_k \|z - \mu_k\|, \qquad \mu_k = \frac1{n_k} \sum_{i : y_i = k} z_i,

    with the class means :math:`\mu_k` of the training part; ties go to the lowest class.

    Parameters
    ----------
    features, test_features : array-like of shape (samples, features)
    labels, test_labels : array-like of shape (samples,)
        Class indices. Test samples of a class that the training part lacks count as wrong.

    Returns
    -------
    Accuracy
        `train` and `test` in [0, 1], 1 at full collapse with distinct class means; NaN where the training part has
        fewer than two classes, or the test part no sample. `converged` is always True.

    Raises
    ------
    ValueError
        If features are not finite matrices of the same width, or labels are not one class index per sample.

    References
    ----------
    Papyan, Han, Donoho, Prevalence of neural collapse during the terminal phase of deep learning training, PNAS
    117(40), 2020, NC4.

    Examples
    --------
    >>> nearest_class_mean_accuracy([[0.0], [1.0], [8.0], [9.0]], [0, 0, 1, 1], [[2.0], [3.0]], [0, 1])
    Accuracy(train=1.0, test=0.5, converged=True)
    """
    train, train_labels, test, test_targets = checked_parts(features, labels, test_features, test_labels)
    if np.unique(train_labels).size < 2:
        return Accuracy(np.nan, np.nan)
    moments = ClassMoments.from_features(train, train_labels)
    classes = moments.present.numpy()
    nearest = NearestMean(moments.mean[moments.present], like=moments.mean)
    hits = [
        classes[nearest(torch.from_numpy(np.ascontiguousarray(part))).numpy()] == truth
        for part, truth in ((train, train_labels), (test, test_targets))
    ]
    return Accuracy(train=_share(hits[0]), test=_share(hits[1]) if len(test) else np.nan)


@contextmanager
def _told_convergence() -> Iterator[list[str]]:
    """Collect scikit-learn's messages about convergence; other warnings pass."""
    from sklearn.exceptions import ConvergenceWarning

    problems: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield problems
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            problems.append(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


def _least_norm_solution(
    features: NDArray[np.float64], targets: NDArray[np.float64], zero: float
) -> NDArray[np.float64]:
    """The least-squares weights of least norm, shape (features, classes); singular values up to `zero` are left out."""
    left, values, right = np.linalg.svd(features, full_matrices=False)
    rank = int((values > zero).sum())
    weights: NDArray[np.float64] = right[:rank].T @ ((left[:, :rank].T @ targets) / values[:rank, None])
    return weights


def _share(hits: NDArray[np.bool_]) -> float:
    """The share of True."""
    return float(hits.mean())
