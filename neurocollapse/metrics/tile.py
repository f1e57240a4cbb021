"""Tiles of the cosines between class means: what is summed and sought in each."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.seli import seli_geometry

NEAR = {torch.float64: 1e-4, torch.float32: 1 / 16}
"""1 − cosine below which too much cancels in distances from inner products: such pairs are computed one by one."""
NEAREST = 1e-8
"""The same for a float64 tile in which more than a 64th of the pairs are near: the errors of so many average out."""
AMPLIFIED = 1e3
"""How much errors of inner products may grow when they move from the centre of the class means to the origin."""
CHUNK_ELEMENTS = 2**22
"""Float64 elements of single pairs, or of raw class means, at once (32 MiB)."""


class Vectors(NamedTuple):
    """The classes' numbers in the dtype of a tile."""

    length: Tensor
    square: Tensor
    half_spread: Tensor
    along_centre: Tensor
    inverse_raw_length: Tensor


class Frame:
    """What all tiles of a layer share; squared lengths are in units of the mean ‖μ_k‖².

    Attributes
    ----------
    simplex : float
        1/(K − 1): cosines of a simplex are that far below zero.
    rare : Tensor of shape (classes,), bool, or None
        The rarest third of the classes; None for equal class counts.
    seli : Geometry or None
        None for equal class counts, and for too many different ones.
    """

    def __init__(self, means: ClassMeans) -> None:
        self.means, self.num_classes = means, means.num_classes
        self.simplex = 1 / (self.num_classes - 1)
        self.half_unit = float(np.float32(1 / (1 + self.simplex)))  # exact in both dtypes
        self.scale = float(means.square.mean()) or 1.0
        self.square, self.raw_square = means.square / self.scale, means.raw_square / self.scale
        self.trace = float(self.square.sum())
        self.centre_square = float(means.centre.square().sum()) / self.scale
        self.inverse_length = torch.where(means.square > 0, means.square.rsqrt(), 0.0)
        self.amplification = torch.where(means.raw_square > 0, (means.square / means.raw_square).sqrt(), 0.0)
        count = means.count.sort().values
        self.balanced = bool(count[0] == count[-1])
        self.rare = None if self.balanced else means.count <= count[max(2, self.num_classes // 3) - 1]
        self.seli = None if self.balanced else seli_geometry(means.count)
        self.seli_factor = 0.0 if self.seli is None else self.trace / float(self.seli.square.sum())
        spread, along_centre = means.spread / (2 * self.scale), means.along_centre / self.scale
        double = Vectors(self.square.sqrt(), self.square, spread, along_centre, self.raw_square.rsqrt())
        self._vectors = {torch.float64: double}
        self._seli_columns = slice(0), torch.float64, self.square

    def vectors(self, dtype: torch.dtype) -> Vectors:
        """The classes' numbers in this dtype."""
        if dtype not in self._vectors:
            self._vectors[dtype] = Vectors(*(vector.to(dtype) for vector in self._vectors[torch.float64]))
        return self._vectors[dtype]

    def cosines(self, rows: slice, columns: slice) -> Tensor:
        """A tile in float64, from nothing."""
        products = self.means.rows(rows, centred=True) @ self.means.rows(columns, centred=True).T
        return self.as_cosines(products, rows, columns)

    def seli_columns(self, columns: slice, dtype: torch.dtype) -> Tensor:
        """The geometry's products of all groups with these classes, of which a tile takes rows: that is fast."""
        if self.seli is not None and self._seli_columns[:2] != (columns, dtype):
            products = self.seli.products.to(dtype)
            self._seli_columns = columns, dtype, products.index_select(1, self.seli.group[columns])
        return self._seli_columns[2]

    def as_cosines(self, products: Tensor, rows: slice, columns: slice) -> Tensor:
        """Cosines in place of inner products of the μ_k; zero where one of the two is zero."""
        return products.mul_(self.inverse_length[rows].unsqueeze(1)).mul_(self.inverse_length[columns])

    def raw_products(self, rows: slice, columns: slice) -> Tensor:
        """Inner products of the m_k themselves."""
        width = max(1, CHUNK_ELEMENTS // (rows.stop - rows.start))
        products = self.square.new_zeros(rows.stop - rows.start, columns.stop - columns.start)
        for start in range(0, self.means.num_features, width):
            part = slice(start, start + width)
            left, right = (self.means.rows(each, centred=False, columns=part) for each in (rows, columns))
            products.addmm_(left, right.T, alpha=1 / self.scale)
        return products

    def apart(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """1 − cosine and squared distance of single pairs, from differences."""
        height = max(1, CHUNK_ELEMENTS // self.means.num_features)
        angles, distances = [], []
        for pair in zip(first.split(height), second.split(height), strict=True):
            one, two = (self.means.rows(each, centred=False) for each in pair)
            distances.append(one.sub_(two).square_().sum(dim=1) / self.scale)
            one, two = (self.means.rows(each, centred=True) for each in pair)
            one, two = (each / torch.linalg.vector_norm(each, dim=1, keepdim=True) for each in (one, two))
            angles.append(one.sub_(two).square_().sum(dim=1) / 2)
        return torch.cat(angles), torch.cat(distances)


class Tile:
    """A tile of cosines, in whose place `multiply` puts inner products, and then `raw_cosines` those about the origin.

    Attributes
    ----------
    cosines : Tensor
        With 1/(1 − K) on the diagonal.
    largest, smallest : float
        Extremes of the cosines between different classes.
    near : tuple of Tensor
        Rows and columns of the pairs that are too close together for inner products; empty for none.
    coarse : bool
        Whether float32 does not do for this tile: it is not to be used then.
    """

    def __init__(self, frame: Frame, rows: slice, columns: slice, cosines: Tensor) -> None:
        self.frame, self.rows, self.columns, self.cosines = frame, rows, columns, cosines
        vectors = frame.vectors(cosines.dtype)
        self._left = Vectors(*(vector[rows].unsqueeze(1) for vector in vectors))
        self._right = Vectors(*(vector[columns] for vector in vectors))
        self.on_diagonal = rows == columns
        if self.on_diagonal:
            cosines.fill_diagonal_(-frame.simplex)  # some pair is at least that near, and some at least so far apart
        self.largest, self.smallest = float(cosines.max()), float(cosines.min())
        self.amplified = float(frame.amplification[rows].max() * frame.amplification[columns].max()) > AMPLIFIED
        self.near = self._nearer_than(NEAR[cosines.dtype])
        crowded = bool(self.near) and len(self.near[0]) > cosines.numel() // 64
        self.coarse = cosines.dtype == torch.float32 and (crowded or self.amplified)
        if self.coarse:
            return
        if crowded:
            self.near = self._nearer_than(NEAREST)
        if self.near:
            first, second = self.near
            self._angle, self._distance = frame.apart(first + rows.start, second + columns.start)

    def rare_cosine(self) -> float:
        """The largest cosine between two rare classes; −∞ where there are none here."""
        if self.frame.rare is None:
            return self.largest
        rare = [self.frame.rare[part].nonzero().flatten() for part in (self.rows, self.columns)]
        cosines = self.cosines.index_select(0, rare[0]).index_select(1, rare[1])
        if self.on_diagonal:
            cosines.fill_diagonal_(-torch.inf)
        return float(cosines.max()) if cosines.numel() else -math.inf

    def angles(self) -> dict[str, float]:
        """Sums of the cosines, counted from those of a simplex: nothing cancels in their standard deviation then."""
        above = self.cosines + self.frame.simplex
        sums = {"angle": total(above), "angle_square": _total_square(above)}
        return sums | {"angle_size": total(above.abs_())}

    def logarithms(self) -> dict[str, float]:
        """Sums of log ‖μ̂_k − μ̂_k'‖², counted from about that of a simplex."""
        angle = 1 - self.cosines
        if self.near:
            angle[self.near] = self._angle.to(angle.dtype)
        logarithm = self._without_diagonal(angle.mul_(self.frame.half_unit).log_())
        return {"logarithm": total(logarithm), "logarithm_square": _total_square(logarithm)}

    def multiply(self) -> None:
        """Go on with inner products instead of cosines."""
        self.cosines.mul_(self._left.length).mul_(self._right.length)

    def products(self) -> dict[str, float]:
        """Squared distances of the inner products from those of a simplex, and of the geometry of the class counts."""
        frame, products = self.frame, self.cosines
        distance = self._without_diagonal(products + frame.trace * frame.simplex / frame.num_classes)
        sums = {"simplex": _total_square(distance)}
        if frame.seli is not None:
            wanted = frame.seli_columns(self.columns, products.dtype).index_select(0, frame.seli.group[self.rows])
            distance = self._without_diagonal(torch.sub(products, wanted, alpha=frame.seli_factor))
            sums |= {"seli": _total_square(distance), "seli_overlap": total(distance.mul_(wanted))}
        return sums

    def squared_distances(self) -> Tensor:
        """‖m_k − m_k'‖²; on the diagonal something positive."""
        distances = (self._left.square + self._right.square).sub_(self.cosines, alpha=2)
        if self.near:
            distances[self.near] = self._distance.to(distances.dtype)
        return distances

    def variances(self) -> Tensor:
        """CDNV of the pairs; zero on the diagonal."""
        sums = self._left.half_spread + self._right.half_spread
        return self._without_diagonal(sums.div_(self.squared_distances()))

    def raw_cosines(self) -> tuple[dict[str, float], float, float]:
        """The sum of squared inner products about the origin, and the largest and smallest cosine there."""
        frame, left, right = self.frame, self._left, self._right
        if self.amplified:
            products = frame.raw_products(self.rows, self.columns)
        else:
            products = self.cosines.add_(left.along_centre).add_(right.along_centre + frame.centre_square)
        sums = {"raw": _total_square(self._without_diagonal(products))}
        cosines = products.mul_(left.inverse_raw_length).mul_(right.inverse_raw_length)
        if not self.on_diagonal:
            return sums, float(cosines.max()), float(cosines.min())
        return sums, float(cosines.fill_diagonal_(-torch.inf).max()), float(cosines.fill_diagonal_(torch.inf).min())

    def errors(self, variance: float) -> list[float]:
        """How far off the largest values of a float32 tile may be: ± cosines, rare, ± about the origin, CDNV."""
        if self.cosines.dtype == torch.float64:
            return [0.0] * 6
        frame = self.frame
        cosine = torch.finfo(torch.float32).eps * (4 * math.sqrt(frame.means.num_features) + 16)
        raw = cosine * float((1 + frame.amplification[self.rows].max()) * (1 + frame.amplification[self.columns].max()))
        variance = 4 * cosine / NEAR[torch.float32] * variance if math.isfinite(variance) else 0.0
        return [cosine] * 3 + [raw] * 2 + [variance]

    def _nearer_than(self, angle: float) -> tuple[Tensor, ...]:
        """Rows and columns of the cosines above 1 − angle."""
        return (self.cosines > 1 - angle).nonzero(as_tuple=True) if self.largest > 1 - angle else ()

    def _without_diagonal(self, tile: Tensor) -> Tensor:
        """Zero in place of what compares a class with itself."""
        return tile.fill_diagonal_(0.0) if self.on_diagonal else tile


def total(tile: Tensor) -> float:
    """The sum; of a float32 tile each row in float32, and the rows in float64."""
    return float(tile.sum() if tile.dtype == torch.float64 else tile.sum(dim=1).double().sum())


def _total_square(tile: Tensor) -> float:
    """The sum of squares in the same way."""
    if tile.dtype == torch.float64:
        return float(torch.linalg.vector_norm(tile)) ** 2
    return float(torch.linalg.vector_norm(tile, dim=1).double().square().sum())
