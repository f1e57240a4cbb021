"""How alike the geometry of samples, or of class means, is at two layers: centred kernel alignment."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments, matrix
from neurocollapse.metrics.means import ClassMeans
from neurocollapse.statistics import ClassMoments, MemoryPlanError, memory_limit
from neurocollapse.statistics.memory import GIB

FEWEST = 4
"""Samples without which the unbiased estimate is undefined."""


def centred_gram(features: Tensor) -> Tensor:
    r"""U-centred Gram matrix of samples: rows and columns sum to zero, the diagonal is zero.

    Sums of products of two such matrices over :math:`n (n - 3)` are the unbiased estimate :math:`\mathrm{HSIC}_1` of
    the Hilbert–Schmidt independence criterion.

    Parameters
    ----------
    features : Tensor of shape (samples, features)
        Features of at least four samples.

    Returns
    -------
    Tensor of shape (samples, samples), float64

    References
    ----------
    Song et al., Feature selection via dependence maximization, JMLR 13, 2012, eq. (4); Székely and Rizzo, Partial
    distance correlation with methods for dissimilarities, Ann. Statist. 42(6), 2014, Definition 2.

    Examples
    --------
    >>> gram = centred_gram(torch.tensor([[1.0], [2.0], [4.0], [8.0]]))
    >>> float(gram.diagonal().abs().sum()), round(float(gram.sum(dim=0).abs().max()), 9)
    (0.0, 0.0)
    """
    double = features.double()
    centred = double - double.mean(dim=0)
    return u_centred(centred @ centred.T)


def u_centred(gram: Tensor) -> Tensor:
    """A Gram matrix of at least four samples, U-centred in place."""
    count = len(gram)
    gram.fill_diagonal_(0.0)
    rows = gram.sum(dim=1) / (count - 2)
    gram -= rows.unsqueeze(1) + rows - rows.sum() / (count - 1)
    return gram.fill_diagonal_(0.0)


def cka(features: Tensor, others: Tensor) -> float:
    r"""Linear centred kernel alignment of two layers, from the same samples, without the bias of few samples.

    .. math:: \mathrm{CKA} = \frac{\mathrm{HSIC}_1(X, Y)}{\sqrt{\mathrm{HSIC}_1(X, X)\, \mathrm{HSIC}_1(Y, Y)}}

    Parameters
    ----------
    features, others : Tensor of shape (samples, features)
        Row i of both is sample i; the numbers of features may differ.

    Returns
    -------
    float
        At most 1, which equal features reach, also after a rotation, scaling or shift; about 0 for independent ones,
        where it may be negative. NaN with fewer than four samples, and for features that do not vary.

    References
    ----------
    Kornblith, Norouzi, Lee, Hinton, Similarity of neural network representations revisited, ICML 2019; Nguyen, Raghu,
    Kornblith, Do wide and deep networks learn the same things?, ICLR 2021.

    Examples
    --------
    >>> features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0], [5.0, 1.0]])
    >>> round(cka(features, 3 * features.flip(1) - 7), 12)
    1.0
    """
    first, second = matrix("features", features), matrix("others", others)
    if len(first) != len(second):
        raise ValueError(f"`features` and `others` must hold the same samples, got {len(first)} and {len(second)}")
    if len(first) < FEWEST:
        return math.nan
    grams = torch.stack([centred_gram(first).flatten(), centred_gram(second.to(first.device)).flatten()])
    return float(aligned((grams @ grams.T).cpu().numpy())[0, 1])


def aligned(products: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alignment from the products of all pairs of layers, shape (layers, layers); NaN where a layer has none."""
    own = np.diag(products)
    root = np.sqrt(np.where(own > 0, own, np.nan))
    return products / root[:, None] / root


def aligned_error(
    products: NDArray[np.float64],
    squares: NDArray[np.float64],
    crossed: NDArray[np.float64],
    own: NDArray[np.float64],
) -> NDArray[np.float64]:
    r"""Standard error of the alignment over draws of the batches, by the delta method, shape (layers, layers).

    With the products :math:`a_{ij}` of a batch, whose sums over the batches are :math:`A_{ij}`, a batch moves the
    logarithm of the alignment by :math:`a_{ij}/A_{ij} - a_{ii}/2A_{ii} - a_{jj}/2A_{jj}`.

    Parameters
    ----------
    products, squares, crossed, own : ndarray of shape (layers, layers)
        Sums over the batches of :math:`a_{ij}`, :math:`a_{ij}^2`, :math:`a_{ij} a_{ii}`, and :math:`a_{ii} a_{jj}`.
    """
    diagonal = np.diag(products)
    share = np.where(diagonal > 0, diagonal, np.nan)
    rows, columns = share[:, None], share[None, :]
    values = aligned(products)
    # everything is multiplied by the alignment, which may be zero: A_ij never divides
    scale = np.sqrt(rows * columns)
    variance = (
        squares / scale**2
        + values**2 * (np.diag(own)[:, None] / rows**2 + np.diag(own)[None, :] / columns**2) / 4
        - values / scale * (crossed / rows + crossed.T / columns)
        + values**2 * own / (2 * rows * columns)
    )
    return np.sqrt(np.maximum(variance, 0.0))


def class_cka(moments: Sequence[ClassMoments] | Mapping[str, ClassMoments]) -> NDArray[np.float64]:
    r"""Centred kernel alignment of the class means at each two layers, shape (layers, layers).

    .. math:: \frac{\|M_\ell M_{\ell'}^\top\|^2}{\dots} = \frac{\langle M_\ell M_\ell^\top, M_{\ell'} M_{\ell'}^\top
        \rangle}{\|M_\ell M_\ell^\top\|_F \|M_{\ell'} M_{\ell'}^\top\|_F}

    with the class means :math:`M_\ell` about their own mean. It needs nothing but class moments.

    Parameters
    ----------
    moments : sequence of ClassMoments, or what `neurocollapse.collect` returns
        Class moments of the same samples at several layers, of one network or of several.

    Returns
    -------
    ndarray
        In [0, 1], 1 on the diagonal and between layers that have both collapsed to a simplex, and always 1 for two
        classes. NaN with fewer than two classes, and where all class means coincide.

    Raises
    ------
    ValueError
        If the layers have not the same classes.
    MemoryPlanError
        If the Gram matrices of the class means do not fit in memory.

    Examples
    --------
    >>> one = ClassMoments.from_features([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]], [0, 1, 2])
    >>> two = ClassMoments.from_features([[1.0], [2.0], [9.0]], [0, 1, 2])
    >>> class_cka([one, two]).round(3).tolist()
    [[1.0, 0.325], [0.325, 1.0]]
    """
    layers = _layers(moments)
    present = [one.present.tolist() for one in layers]
    if any(one != present[0] for one in present):
        raise ValueError("`moments` must have samples of the same classes at every layer; measure both on one loader")
    count = len(present[0])
    needed, allowed = 8 * count**2 * (len(layers) + 1), memory_limit(torch.device("cpu"))
    if needed > allowed:
        raise MemoryPlanError(
            f"class_cka of {count} classes at {len(layers)} layers needs {needed / GIB:.1f} GiB, but only "
            f"{allowed / GIB:.1f} GiB may be used; compare fewer layers, or some of the classes"
        )
    if count < 2:
        return np.full((len(layers),) * 2, np.nan)
    grams = torch.stack([_mean_gram(ClassMeans(one)).flatten() for one in layers])
    return aligned((grams @ grams.T).numpy())


def _layers(moments: Any) -> list[ClassMoments]:
    """The class moments of some layers, checked."""
    several = moments.values() if isinstance(moments, Mapping) else moments
    layers = list(several) if isinstance(several, Iterable) else [several]
    for one in layers or [None]:
        check_moments(one)
    return layers


def _mean_gram(means: ClassMeans) -> Tensor:
    """Inner products of the centred class means, of Frobenius norm one, so that layers of any scale go together."""
    gram = means.square.new_zeros(means.num_classes, means.num_classes)
    for block in means.blocks():
        gram.addmm_(block, block.T)
    norm = torch.linalg.matrix_norm(gram)
    return gram / norm if norm > 0 else gram
