"""Matrices over pairs of classes: what `pairs=True` adds."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import cosine_tiles
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.tile import Frame, Tile
from neurocollapse.metrics.unbiased_pairs import unbiased_cosines
from neurocollapse.statistics import ClassMoments


def class_cosine(moments: ClassMoments) -> Tensor:
    r"""Cosines :math:`\cos(\mu_k, \mu_{k'})` between class means about their mean, shape (classes, classes), float64.

    1 on the diagonal. NaN for absent classes, and where a class mean is at the mean of all.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> class_cosine(ClassMoments.from_features([[1.0], [3.0]], [0, 1])).tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    return _cosines(ClassMeans(moments))


def class_distance(moments: ClassMoments) -> Tensor:
    r"""Distances :math:`\|m_k - m_{k'}\|` between class means, shape (classes, classes), float64; NaN for absent ones.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> class_distance(ClassMoments.from_features([[1.0], [3.0]], [0, 1])).tolist()
    [[0.0, 2.0], [2.0, 0.0]]
    """
    return _distances(ClassMeans(moments))


def class_cdnv(moments: ClassMoments) -> Tensor:
    """Class-distance normalised variances, shape (classes, classes), float64; see `cdnv`.

    NaN on the diagonal, which compares a class with itself, and for absent classes.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.

    Examples
    --------
    >>> class_cdnv(ClassMoments.from_features([[0.0], [2.0], [7.0], [7.0]], [0, 0, 1, 1]))[0, 1].item()
    0.013888888888888888
    """
    return _variances(ClassMeans(moments))


def _cosines(means: ClassMeans) -> Tensor:
    """Cosines; NaN where a vector vanishes, of which tiles make zero."""
    matrix = _matrix(means, lambda tile: tile.cosines, diagonal=1.0)
    nowhere = means.present[means.square == 0]
    matrix[nowhere] = matrix[:, nowhere] = torch.nan
    return matrix


def _distances(means: ClassMeans) -> Tensor:
    """Distances in the units of the features."""

    def of(tile: Tile) -> Tensor:
        tile.multiply()
        return tile.squared_distances().mul_(tile.frame.scale).sqrt_()

    return _matrix(means, of, diagonal=0.0)


def _variances(means: ClassMeans) -> Tensor:
    """CDNV."""

    def of(tile: Tile) -> Tensor:
        tile.multiply()
        return tile.variances()

    return _matrix(means, of, diagonal=torch.nan)


def _matrix(means: ClassMeans, of: Callable[[Tile], Tensor], *, diagonal: float) -> Tensor:
    """The values of all tiles at the classes they belong to."""
    matrix = means.square.new_full((means.moments.num_classes,) * 2, torch.nan)
    if means.num_classes > 1:
        frame = Frame(means)
        for rows, columns, cosines in cosine_tiles(frame, torch.float64):
            values = of(Tile(frame, rows, columns, cosines))
            left, right = means.present[rows], means.present[columns]
            matrix[left.unsqueeze(1), right] = values
            matrix[right.unsqueeze(1), left] = values.T
    matrix[means.present, means.present] = diagonal
    return matrix


def _of_matrix(name: str, of: Callable[[ClassMeans], Tensor], **words: Any) -> Quantity:
    """One of the matrices."""
    return Quantity(
        name=name,
        of=lambda layer: of(layer.means),
        family="pairs",
        dims=("layer", "class", "class_"),
        default=False,
        **words,
    )


QUANTITIES = (
    _of_matrix(
        "class_cosine",
        _cosines,
        long_name="cosine between class means",
        symbol=r"\cos(\mu_k, \mu_{k'})",
        convention="class means about their mean, each class with equal weight; NaN for absent classes",
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020",
        bounds=(-1.0, 1.0),
    ),
    _of_matrix(
        "class_cosine_unbiased",
        unbiased_cosines,
        long_name="cosine between class means, unbiased",
        symbol=r"\widehat{\cos}(\mu_k, \mu_{k'})",
        convention="class means about their mean, their noise taken out of all products; NaN for absent classes",
        reference="E ‖m_k − E m_k‖² = t_k/n_k",
    ),
    _of_matrix(
        "class_distance",
        _distances,
        long_name="distance between class means",
        symbol=r"\|m_k - m_{k'}\|",
        units="feature units",
        convention="Euclidean; NaN for absent classes",
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020",
        bounds=(0.0, math.inf),
    ),
    _of_matrix(
        "class_cdnv",
        _variances,
        long_name="class-distance normalised variance of two classes",
        symbol=r"\mathrm{CDNV}_{k k'}",
        convention="(v_k + v_k')/(2‖m_k − m_k'‖²), v_k with 1/n_k; NaN for one class and for absent ones",
        reference="Galanti, György, Hutter, ICLR 2022",
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, math.inf),
    ),
)
