"""The class means of one layer about their centre: what every quantity of their geometry starts from."""

from collections.abc import Iterator

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.statistics import ClassMoments

HELD_ELEMENTS = 2**25
"""Centred class means of up to so many elements (256 MiB) are kept; larger ones are formed block by block when used."""


class ClassMeans:
    """Means m_k of the classes that are present, their own mean m_G, and the centred μ_k = m_k − m_G; all in float64.

    Attributes
    ----------
    present, count : Tensor of shape (present classes,)
        Which classes these are, and how many samples each has.
    spread : Tensor of shape (present classes,)
        Mean squared distance of a class's samples to their mean.
    centre : Tensor of shape (features,)
        m_G, in which each class has equal weight.
    square, raw_square, along_centre : Tensor of shape (present classes,)
        ‖μ_k‖², ‖m_k‖² and ⟨μ_k, m_G⟩.
    """

    def __init__(self, moments: ClassMoments) -> None:
        check_moments(moments)
        self.moments, self.present = moments, moments.present
        self.num_classes, self.num_features = self.present.numel(), moments.num_features
        self.count = moments.count[self.present]
        self.spread = moments.scatter[self.present] / self.count
        self.square, self.raw_square, self.along_centre = self.spread.new_zeros(3, self.num_classes)
        self._origin, self._drift = self.spread.new_empty(2, self.num_features)
        self._held: list[Tensor] = []
        for columns, block in self._blocks():
            self.raw_square += block.square().sum(dim=1)
            self._origin[columns] = block[:1].sum(dim=0)
            block -= self._origin[columns]  # equal means become exactly zero, whatever their mean rounds to
            self._drift[columns] = block.mean(dim=0)
            block -= self._drift[columns]
            self.square += block.square().sum(dim=1)
            self.along_centre += block @ (self._origin[columns] + self._drift[columns])
            if self.num_classes * self.num_features <= HELD_ELEMENTS:
                self._held.append(block)
        self.centre = self._origin + self._drift

    @property
    def centred(self) -> Tensor:
        """All μ_k, shape (present classes, features)."""
        blocks = list(self.blocks())
        return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)

    def blocks(self) -> Iterator[Tensor]:
        """The μ_k in column blocks."""
        if self._held:
            yield from self._held
        else:
            for columns, block in self._blocks():
                yield block.sub_(self._origin[columns]).sub_(self._drift[columns])

    def rows(self, rows: Tensor | slice, *, centred: bool, columns: slice = slice(None)) -> Tensor:
        """Some of the μ_k, or of the m_k, at some of the features."""
        chosen, moments = self.present[rows], self.moments
        means = moments.offset_sum[chosen, columns].double() / moments.count[chosen].unsqueeze(1)
        means += moments.reference[chosen, columns]
        return means.sub_(self._origin[columns]).sub_(self._drift[columns]) if centred else means

    def _blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """Column blocks of the m_k, and which columns they are."""
        start = 0
        for block in self.moments.mean_blocks():
            yield slice(start, start := start + block.shape[1]), block
