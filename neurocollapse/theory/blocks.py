"""Lemmas 1 and 3: every linear tail is block triangular, and its spread has a visible and an invisible part."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from neurocollapse.theory.bands import Gains
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.spectrum import SingularValues, Spectrum, gain_bounds, shifted, unit_scaled


class Blocks(NamedTuple):
    """W_{l+1} in the bases [P_l, Q_l] and [P_{l+1}, Q_{l+1}], where the block P_{l+1}ᵀW_{l+1}Q_l is 0.

    Attributes
    ----------
    carried : Tensor of shape (K, K)
        P_{l+1}ᵀW_{l+1}P_l.
    leaked : Tensor of shape (d_{l+1}, K)
        (I − P_{l+1}P_{l+1}ᵀ)W_{l+1}P_l, which is Q_{l+1}Q_{l+1}ᵀW_{l+1}P_l.
    hidden : SingularValues of shape (d_l − K,)
        Singular values of T = Q_{l+1}ᵀW_{l+1}Q_l.
    hidden_gain
        ‖T‖_F²/(d_l − K), the mean squared gain.
    whole : Gains
        Gains of W_{l+1} itself.
    """

    carried: Tensor
    leaked: Tensor
    hidden: SingularValues
    hidden_gain: float
    whole: Gains

    @property
    def gain_low(self) -> float:
        """γ⁻, the smallest gain of T."""
        return float(self.hidden.low[-1])

    @property
    def gain_high(self) -> float:
        """γ, the largest gain of T."""
        return float(self.hidden.high[0])


@dataclass(frozen=True, eq=False)
class Tail:
    """A linear tail as its output sees it, in normalised features (see `LinearProblem.normalised`).

    Attributes
    ----------
    problem
        At least two weights, every width greater than K.
    """

    problem: LinearProblem

    @cached_property
    def bases(self) -> tuple[Tensor, ...] | None:
        """Orthonormal bases P_l of the row spaces of W_{L:l+1}, l = 0 … L−1; None if the rank of W_{L:1} is below K."""
        found: list[Tensor] = []
        for weight in reversed(self.problem.normalised.weights):
            unit = unit_scaled(weight).values
            rows = unit.T if not found else unit.T @ found[-1]
            if not bool(torch.isfinite(rows).all()):
                return None
            values = torch.linalg.svdvals(rows)
            if float(values[-1]) <= max(unit.shape) * torch.finfo(torch.float64).eps * float(unit.norm()):
                return None
            found.append(torch.linalg.qr(rows).Q)
        return tuple(reversed(found))

    @property
    def class_share(self) -> float:
        """K/N with K the number of classes present."""
        return int((self.problem.counts > 0).sum()) / self.problem.num_samples

    @cached_property
    def conditions(self) -> tuple[float, ...]:
        """κ(B_l), largest over smallest singular value of W_{L:l+1}, l = 0 … L−1; infinite if its rank is below K."""
        if self.bases is None:
            return (math.inf,) * self.problem.depth
        found, output, reader = [], torch.eye(self.problem.num_classes, device="cpu").double(), None
        for weight, basis in zip(reversed(self.problem.normalised.weights), reversed(self.bases), strict=True):
            rows = weight if reader is None else reader.T @ weight
            output, reader = unit_scaled(output @ (rows @ basis)).values, basis
            values = torch.linalg.svdvals(output.nan_to_num(0, 0, 0))
            found.append(float(values[0] / values[-1]) if float(values[-1]) > 0 else math.inf)
        return tuple(reversed(found))

    @cached_property
    def blocks(self) -> tuple[Blocks, ...]:
        """Lemma 1 for the steps l → l+1, l = 0 … L−2; none if the rank of W_{L:1} is below K."""
        if self.bases is None:
            return ()
        steps = zip(self.problem.normalised.weights[:-1], self.problem.spectra, pairwise(self.bases), strict=True)
        return tuple(_blocks(weight, spectrum, *bases) for weight, spectrum, bases in steps)

    @cached_property
    def visible(self) -> tuple[Tensor, ...]:
        """W_{l:1}RV with V the right singular vectors of F = W_{L:1}R, largest first, shape (d_l, rank F)."""
        return self._pushed(self.problem.normalised.spread @ self._directions)

    @cached_property
    def invisible(self) -> tuple[Tensor, ...]:
        """W_{l:1}R(I − VVᵀ), which the output does not see: it lies in the kernel of W_{L:l+1}."""
        spread, directions = self.problem.normalised.spread, self._directions
        return self._pushed(spread - (spread @ directions) @ directions.T)

    @cached_property
    def centred_means(self) -> tuple[Tensor, ...]:
        """W_{l:1}M, shape (d_l, classes present)."""
        return tuple(means - means.mean(1, keepdim=True) for means in self.problem.normalised.means)

    def coordinates(self, start: Tensor) -> list[Tensor]:
        """P_lᵀW_{l:1}X of columns X at the input, for l = 0 … L−1: what the output fixes of them, B_l⁺O.

        Parameters
        ----------
        start : Tensor of shape (d₀, columns)
            The columns X that enter.
        """
        assert self.bases is not None
        found = [self.bases[0].T @ start]
        for step in self.blocks:
            found.append(step.carried @ found[-1])
        return found

    def unseen(self, features: Tensor, layer: int) -> Tensor:
        """The part of columns at a layer that is in the kernel of W_{L:l+1}, Q_lQ_lᵀX.

        Parameters
        ----------
        features : Tensor of shape (d_l, columns)
            The columns X, at that layer.
        layer : int
            Which layer, l.
        """
        assert self.bases is not None
        basis = self.bases[layer]
        return features - basis @ (basis.T @ features)

    @cached_property
    def _directions(self) -> Tensor:
        """V: right singular vectors of the spread that is left at the output, those that rounding made left out."""
        last, weight = self.problem.normalised.spreads[-1], self.problem.normalised.weights[-1]
        output = weight @ last
        if not bool(torch.isfinite(output).all()):
            return last.new_zeros(last.shape[1], 0)
        _, values, right = torch.linalg.svd(output, full_matrices=False)
        least = max(last.shape) * torch.finfo(torch.float64).eps * float(weight.norm() * last.norm())
        return right[values > least].T

    def _pushed(self, start: Tensor) -> tuple[Tensor, ...]:
        """The same columns at every layer."""
        found = [start]
        for weight in self.problem.normalised.weights[:-1]:
            found.append(weight @ found[-1])
        return tuple(found)


def _blocks(weight: Tensor, spectrum: Spectrum, read: Tensor, written: Tensor) -> Blocks:
    """One step in its bases; `spectrum` is that of the weight up to a power of two."""
    image = weight @ read
    carried = written.T @ image
    leaked = image - written @ carried
    rest = weight - image @ read.T
    rest = rest - written @ (written.T @ rest)
    num_hidden = weight.shape[1] - read.shape[1]
    mean = float(rest.square().sum()) / num_hidden
    gains = _gains(spectrum, unit_scaled(weight).exponent)
    return Blocks(carried, leaked, gain_bounds(rest, read.shape[1]), mean, gains)


def _gains(spectrum: Spectrum, exponent: int) -> Gains:
    """Squared singular values within rounding, in units of 4^−exponent."""
    low, high = spectrum.squares - spectrum.margin, spectrum.squares + spectrum.margin
    return Gains(shifted(low.clamp(min=0), 2 * exponent), shifted(high, 2 * exponent), spectrum.right)
