"""Every number that compares class means pair by pair, from one sweep over tiles of their cosines."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neurocollapse.metrics.means import ClassMeans
from neurocollapse.metrics.tile import Frame, Tile, total
from neurocollapse.statistics.matmul import full_matmul_precision

TILE = 512
"""Rows and columns of a tile: large enough for a fast product, small enough to stay in cache."""
DOUBLE_CLASSES = 2048
"""Classes up to which all is done in float64."""
GROUP_ELEMENTS = 2**23
"""Elements of float64 tiles that are summed over column blocks together (64 MiB)."""


@dataclass(frozen=True)
class PairStatistics:
    """What all pairs of class means say together; NaN where undefined.

    Attributes
    ----------
    cosine, raw_cosine : tuple of float
        Largest and smallest cosine between class means, about their mean and about the origin.
    minority_angle, nc2_angles, … : float
        The quantities of these names.
    cdnv_max_pair : tuple of float
        Positions of two classes among those that are present.
    """

    cosine: tuple[float, float] = (math.nan, math.nan)
    raw_cosine: tuple[float, float] = (math.nan, math.nan)
    minority_angle: float = math.nan
    nc2_angles: float = math.nan
    nc2_simplex: float = math.nan
    nc2_distance: float = math.nan
    nc2_orthogonal: float = math.nan
    seli_distance: float = math.nan
    gnc2: float = math.nan
    gnc2_variation: float = math.nan
    cdnv: float = math.nan
    cdnv_max: float = math.nan
    cdnv_max_pair: tuple[float, float] = (math.nan, math.nan)


def pair_statistics(means: ClassMeans) -> PairStatistics:
    """All of them from one sweep over the pairs.

    In float64 up to 2,048 classes, and wherever there are features enough for a simplex. Else in float32, in which
    means over millions of pairs keep nine digits; near pairs, and the tiles of the largest values, are done again.
    """
    if means.num_classes < 2:
        return PairStatistics()
    double = means.num_classes <= DOUBLE_CLASSES or means.num_features >= means.num_classes - 1
    sweep = _Sweep(Frame(means))
    for tile in cosine_tiles(sweep.frame, torch.float64 if double else torch.float32):
        sweep.add(*tile)
    if not double:
        sweep.sharpen()
    return sweep.statistics()


def cosine_tiles(frame: Frame, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor]]:
    """Cosines between the centred class means, tile by tile, on and above the diagonal, column by column."""
    width = -(-frame.num_classes // -(-frame.num_classes // TILE))
    edges = [slice(at, min(at + width, frame.num_classes)) for at in range(0, frame.num_classes, width)]
    tiles = [(rows, columns) for last, columns in enumerate(edges, 1) for rows in edges[:last]]
    if dtype == torch.float32:
        directions = frame.square.new_empty(frame.num_classes, frame.means.num_features, dtype=torch.float32)
        for rows in edges:
            directions[rows] = frame.means.rows(rows, centred=True) * frame.inverse_length[rows].unsqueeze(1)
        for rows, columns in tiles:
            with full_matmul_precision():
                cosines = directions[rows] @ directions[columns].T
            yield rows, columns, cosines
        return
    size = max(1, GROUP_ELEMENTS // width**2)
    for group in (tiles[at : at + size] for at in range(0, len(tiles), size)):
        sums = [frame.square.new_zeros(i.stop - i.start, j.stop - j.start) for i, j in group]
        for block in frame.means.blocks():
            for products, (rows, columns) in zip(sums, group, strict=True):
                products.addmm_(block[rows], block[columns].T)
        for products, (rows, columns) in zip(sums, group, strict=True):
            yield rows, columns, frame.as_cosines(products, rows, columns)


class _Largest(NamedTuple):
    """The largest values in a tile, and how far off each may be."""

    rows: slice
    columns: slice
    values: list[float]
    errors: list[float]


class _Sweep:
    """Sums and largest values over tiles; a tile off the diagonal stands for its mirror image as well."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.sums: dict[str, float] = {}
        self.largest: list[_Largest] = []
        self.highest, self.pair = -math.inf, (math.nan, math.nan)

    def add(self, rows: slice, columns: slice, cosines: Tensor) -> None:
        """Take in a tile, which is used up."""
        tile = Tile(self.frame, rows, columns, cosines)
        if tile.coarse:
            tile = Tile(self.frame, rows, columns, self.frame.cosines(rows, columns))
        rare = tile.rare_cosine()
        sums = tile.angles() | tile.logarithms()
        tile.multiply()
        sums |= tile.products()
        variances = tile.variances()
        sums["variance"] = total(variances)
        if tile.on_diagonal:
            variances.fill_diagonal_(-torch.inf)
        raw_sum, raw_largest, raw_smallest = tile.raw_cosines()
        for name, value in (sums | raw_sum).items():
            self.sums[name] = self.sums.get(name, 0.0) + (value if tile.on_diagonal else 2 * value)
        highest = float(variances.max())
        if highest > self.highest:
            row, column = divmod(int(variances.argmax()), variances.shape[1])
            pair = sorted((float(rows.start + row), float(columns.start + column)))
            self.highest, self.pair = highest, (pair[0], pair[1])
        values = [tile.largest, -tile.smallest, rare, raw_largest, -raw_smallest, highest]
        self.largest.append(_Largest(rows, columns, values, tile.errors(highest)))

    def sharpen(self) -> None:
        """Do the tiles again, in float64, that may hold one of the largest values."""
        values, errors = (np.array([getattr(tile, name) for tile in self.largest]) for name in ("values", "errors"))
        again = (values + errors >= (values - errors).max(axis=0)) | np.isnan(values)
        sums, tiles = self.sums, [self.largest[index] for index in np.flatnonzero(again.any(axis=1))]
        self.sums, self.largest, self.highest = {}, [], -math.inf
        for tile in tiles:
            self.add(tile.rows, tile.columns, self.frame.cosines(tile.rows, tile.columns))
        self.sums = sums

    def statistics(self) -> PairStatistics:
        """What the sums and largest values come to."""
        largest = np.max([tile.values for tile in self.largest], axis=0).tolist()
        values: dict[str, Any] = self._distances() | {"cdnv": self._mean("variance"), "cdnv_max": largest[5]}
        if not math.isnan(largest[5]):
            values["cdnv_max_pair"] = self.pair
        if bool((self.frame.raw_square > 0).all()):
            values["raw_cosine"] = largest[3], -largest[4]
        if bool((self.frame.square > 0).all()):
            values |= self._angles() | {"cosine": (largest[0], -largest[1]), "minority_angle": largest[2]}
        return PairStatistics(**values)

    def _angles(self) -> dict[str, float]:
        """Means and standard deviations over the pairs."""
        energy = -(math.log(2 / self.frame.half_unit) + self._mean("logarithm")) / 2
        variation = _deviation(self._mean("logarithm"), self._mean("logarithm_square")) / 2
        return {
            "nc2_angles": _deviation(self._mean("angle"), self._mean("angle_square")),
            "nc2_simplex": self._mean("angle_size"),
            "gnc2": energy,
            "gnc2_variation": variation / abs(energy) if energy else math.nan,
        }

    def _distances(self) -> dict[str, float]:
        """Distances of the Gram matrices, of which the tiles hold all but the diagonals."""
        frame, raw = self.frame, self.frame.raw_square
        square = self.sums["simplex"] + _square(frame.square - frame.square.mean())
        values = {"nc2_distance": chord(frame.trace * math.sqrt(frame.simplex), math.sqrt(square))}
        square = self.sums["raw"] + _square(raw - raw.mean())
        values["nc2_orthogonal"] = chord(float(raw.mean()) * math.sqrt(frame.num_classes), math.sqrt(square))
        if frame.seli is not None:
            distance = frame.square - frame.seli_factor * frame.seli.square
            overlap = self.sums["seli_overlap"] + float(distance @ frame.seli.square)
            square = max(0.0, self.sums["seli"] + _square(distance) - overlap**2)
            values["seli_distance"] = chord(frame.seli_factor + overlap, math.sqrt(square))
        elif frame.balanced:
            values["seli_distance"] = values["nc2_distance"]
        return values

    def _mean(self, name: str) -> float:
        """A sum per ordered pair of different classes."""
        return self.sums[name] / (self.frame.num_classes * (self.frame.num_classes - 1))


def _square(vector: Tensor) -> float:
    """Sum of squares."""
    return float(vector.square().sum())


def _deviation(mean: float, square: float) -> float:
    """Standard deviation of numbers with this mean and mean square, which are small where they are equal."""
    return math.sqrt(max(0.0, square - mean**2)) if math.isfinite(square) else math.nan


def chord(along: float, across: float) -> float:
    """Distance between two points of the unit sphere, from the parts of one along the other and across it.

    As the square root of 2 − 2 cosine it would lose half of its digits at collapse.
    """
    return 2 * math.sin(math.atan2(across, along) / 2) if along or across else math.nan
