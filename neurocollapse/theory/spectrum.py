"""Singular values and right singular vectors of one weight, whatever its scale."""

import math
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Scaled(NamedTuple):
    """A tensor divided by a power of two: the original is `values` · 2^`exponent`, to the last bit."""

    values: Tensor
    exponent: int


class Spectrum:
    """Singular values in descending order and a complete right basis, from the eigenvectors of WᵀW.

    W is first divided by a power of two, so that no finite weight over- or underflows. Squaring costs accuracy of
    values below 1e−8 of the largest: `margin` is what rounding may add to a squared one.

    Attributes
    ----------
    weight : Tensor of shape (out, in)
    values : Tensor of shape (min(out, in),)
    right : Tensor of shape (in, in)
        V, columns in the order of `squares`.
    squares : Tensor of shape (in,)
        Eigenvalues of WᵀW, in units of 4^`exponent`.
    exponent
        `values` are 2^`exponent` times the roots of `squares`.

    Examples
    --------
    >>> Spectrum(torch.diag(torch.tensor([1e200, 3e200], dtype=torch.float64))).values.tolist()
    [3e+200, 1e+200]
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        unit, self.exponent = unit_scaled(weight)
        count = weight.shape[1]
        if not bool(torch.isfinite(unit).all()):
            self.squares = torch.full((count,), math.nan, device="cpu").double()
            self.right = torch.eye(count, device="cpu").double()
            self._unit_gram = torch.full((count, count), math.nan, device="cpu").double()
        else:
            self._unit_gram = unit.T @ unit
            squares, right = torch.linalg.eigh(self._unit_gram)
            self.squares, self.right = squares.flip(0).clamp(min=0), right.flip(1)
        self.squares[min(weight.shape) :].clamp_(max=0)
        self.values = shifted(self.squares[: min(weight.shape)].sqrt(), self.exponent)

    @property
    def margin(self) -> float:
        """What rounding may add to an entry of `squares`."""
        return self.right.shape[0] * torch.finfo(torch.float64).eps * float(self.squares[0])

    @property
    def gram(self) -> Tensor:
        """WᵀW, shape (in, in); infinite where it is beyond the range of float64."""
        return shifted(self._unit_gram, 2 * self.exponent)

    def decay(self, before: int, after: int) -> float:
        """The most that σ_after²/σ_before² (counted from 0) may be; NaN if σ_before may be 0 within rounding."""
        least = float(self.squares[before]) - self.margin
        return (float(self.squares[after]) + self.margin) / least if least > 0 else math.nan

    @cached_property
    def _unit(self) -> Tensor:
        return unit_scaled(self.weight).values

    def left(self, count: int) -> Tensor:
        """An orthonormal basis of the leading left singular subspace, shape (out, count)."""
        return torch.linalg.qr(self._unit @ self.right[:, :count]).Q


class SingularValues(NamedTuple):
    """Bounds of the singular values of an operator within rounding, largest first.

    Attributes
    ----------
    low, high : Tensors of shape (directions,)
    """

    low: Tensor
    high: Tensor


def gain_bounds(matrix: Tensor, dropped: int = 0) -> SingularValues:
    """All singular values of an operator, a bound of each within rounding on both sides.

    Parameters
    ----------
    matrix : Tensor of shape (out, in)
        0 is among the values if there are more features than outputs.
    dropped
        How many of the smallest values are left out: the matrix is 0 on so many directions by construction.

    Examples
    --------
    >>> low, high = gain_bounds(torch.diag(torch.tensor([3.0, 2.0, 0.0]).double()), dropped=1)
    >>> [round(side, 12) for side in (*low.tolist(), *high.tolist())]
    [3.0, 2.0, 3.0, 2.0]
    """
    unit, exponent = unit_scaled(matrix)
    if not bool(torch.isfinite(unit).all()):
        nothing = torch.zeros(matrix.shape[1] - dropped, dtype=torch.float64, device="cpu")
        return SingularValues(nothing, nothing + math.inf)
    squares = torch.linalg.eigvalsh(unit.T @ unit)[dropped:].flip(0)
    margin = matrix.shape[1] * torch.finfo(torch.float64).eps * squares[:1].clamp(min=0)
    low, high = ((squares + one).clamp(min=0).sqrt() for one in (-margin, margin))
    return SingularValues(shifted(low, exponent), shifted(high, exponent))


def unit_scaled(tensor: Tensor) -> Scaled:
    """Divide by the power of two that brings the largest entry into [1/2, 1); zeros stay.

    Examples
    --------
    >>> unit_scaled(torch.tensor([3.0, 0.0]))
    Scaled(values=tensor([0.7500, 0.0000]), exponent=2)
    """
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    exponent = math.frexp(largest)[1] if 0 < largest < math.inf else 0
    return Scaled(shifted(tensor, -exponent), exponent)


def shifted(tensor: Tensor, exponent: int) -> Tensor:
    """Multiply by 2^exponent, in four steps where 2^exponent itself may not be representable."""
    if abs(exponent) <= 1000:
        return tensor * math.ldexp(1.0, exponent) if exponent else tensor
    parts = [(exponent + place) // 4 for place in range(4)]
    for part in parts:
        tensor = tensor * math.ldexp(1.0, max(-1000, min(part, 1000)))
    return tensor


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value; infinite where an entry is beyond the range of float64, 0 for no entries.

    Examples
    --------
    >>> spectral_norm(torch.eye(2)), spectral_norm(torch.zeros(0, 3)), spectral_norm(torch.tensor([[math.nan]]))
    (1.0, 0.0, inf)
    """
    if not matrix.numel():
        return 0.0
    return float(torch.linalg.matrix_norm(matrix, 2)) if bool(torch.isfinite(matrix).all()) else math.inf
