"""Angles and distances between class means, less what the noise of these means adds to them."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.pairs import cosine_tiles
from neurocollapse.metrics.tile import Frame, Tile, total


@dataclass(frozen=True)
class UnbiasedPairs:
    """What all pairs of class means say together; NaN where a class has one sample, or is not told from noise.

    Attributes
    ----------
    cdnv, separation, discrimination : float
        Those of these names from unbiased distances and inner products.
    """

    cdnv: float = math.nan
    separation: float = math.nan
    discrimination: float = math.nan


def unbiased_pairs(means: ClassMeans) -> UnbiasedPairs:
    r"""All of them from one sweep over the pairs, in float64.

    A class mean of n_k samples is its expectation and noise of squared length :math:`s_k = \hat t_k / n_k`, with the
    unbiased trace :math:`\hat t_k`. Noise of different classes is independent, so that on average

    .. math:: E \|m_k - m_{k'}\|^2 = \|\mu^*_k - \mu^*_{k'}\|^2 + s_k + s_{k'}, \quad
        E \|m_k\|^2 = \|\mu^*_k\|^2 + s_k, \quad
        E \langle m_k, m_{k'} \rangle = \langle \mu^*_k, \mu^*_{k'} \rangle .

    About the mean of the class means, in which every class has a share, noise adds :math:`C \,\mathrm{diag}(s)\, C` to
    the Gram matrix, with :math:`C = I - 1 1^\top / K`.
    """
    if not _is_defined(means):
        return UnbiasedPairs()
    centred, raw, variance = [-1.0], [-1.0], 0.0
    for part in _parts(means):
        weight = 1 if part.on_diagonal else 2
        variance += weight * total(part.variance)
        centred.append(_largest(part.cosine.abs(), on_diagonal=part.on_diagonal))
        raw.append(_largest(part.raw_cosine, on_diagonal=part.on_diagonal))
    return UnbiasedPairs(
        cdnv=variance / (means.num_classes * (means.num_classes - 1)),
        separation=1 - float(np.clip(np.max(centred), -1, 1)),
        discrimination=1 - float(np.clip(np.max(raw), -1, 1)),
    )


def unbiased_cosines(means: ClassMeans) -> Tensor:
    """Cosines between class means about their mean, from unbiased products, shape (classes, classes), float64.

    1 on the diagonal, NaN for absent classes, with those of one sample, and those that cannot be told from noise; noise
    may carry others beyond ±1.
    """
    matrix = means.square.new_full((means.moments.num_classes,) * 2, torch.nan)
    if _is_defined(means):
        for part in _parts(means):
            left, right = means.present[part.rows], means.present[part.columns]
            matrix[left.unsqueeze(1), right] = part.cosine
            matrix[right.unsqueeze(1), left] = part.cosine.T
        matrix[means.present, means.present] = 1.0
    return matrix


class _Part(NamedTuple):
    """A tile of the pairs, without those of a class with itself in `variance`."""

    rows: slice
    columns: slice
    on_diagonal: bool
    cosine: Tensor
    raw_cosine: Tensor
    variance: Tensor


def _is_defined(means: ClassMeans) -> bool:
    """Whether there are pairs, and a spread in each class."""
    return means.num_classes > 1 and bool((means.count > 1).all())


def _parts(means: ClassMeans) -> Iterator[_Part]:
    """Unbiased cosines and CDNV, tile by tile."""
    frame, count, trace = Frame(means), means.num_classes, means.spread * means.count / (means.count - 1)
    noise = trace / means.count / frame.scale
    own = frame.square - noise * (1 - 2 / count) - noise.mean() / count
    # Where a length is not positive its root is NaN, and so is every number that compares this class.
    inverse = own.where(own > 0, torch.nan).rsqrt()
    raw_own = frame.raw_square - noise
    raw_inverse = raw_own.where(raw_own > 0, torch.nan).rsqrt()
    along = frame.vectors(torch.float64).along_centre
    for rows, columns, cosines in cosine_tiles(frame, torch.float64):
        tile = Tile(frame, rows, columns, cosines)
        tile.multiply()
        products, shift = tile.cosines, noise[rows].unsqueeze(1) + noise[columns]
        raw = (
            frame.raw_products(rows, columns)
            if tile.amplified
            else products + along[rows].unsqueeze(1) + along[columns] + frame.centre_square
        )
        distances = tile.squared_distances() - shift
        variance = (trace[rows].unsqueeze(1) + trace[columns]) / (2 * frame.scale * distances)
        variance = variance.where(distances > 0, torch.nan)
        yield _Part(
            rows,
            columns,
            tile.on_diagonal,
            (products + (shift - noise.mean()) / count) * inverse[rows].unsqueeze(1) * inverse[columns],
            raw * raw_inverse[rows].unsqueeze(1) * raw_inverse[columns],
            variance.fill_diagonal_(0.0) if tile.on_diagonal else variance,
        )


def _largest(cosines: Tensor, *, on_diagonal: bool) -> float:
    """The largest between different classes; NaN if one is."""
    return float((cosines.fill_diagonal_(-1.0) if on_diagonal else cosines).max())
