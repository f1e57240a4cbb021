"""Theorem 4: every D_l of a linear tail from its input, its output and its weights; and the floor it falls to."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.spectrum import SingularValues, gain_bounds

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CertifiedCompression:
    """Bounds of D_l for l = 0 … L−1, and the two parts of D_l.

    Attributes
    ----------
    lower, upper : arrays of shape (L,)
        Bounds of D_l; no features between the input and the output are used. NaN if the rank of W_{L:1} is below K.
    visible, invisible : arrays of shape (L,)
        D_l^vis + D_l^inv = D_l: the spread that is correlated with the output, and the rest.
    floor
        D_out = (K/N)‖F‖_F²/‖Y‖_F², where D^vis ends: compression of the output itself.
    law : array of shape (L,)
        D_out + (D_0 − D_out) Π g/b with mean gains: a prediction and no theorem.
    """

    lower: Array
    upper: Array
    visible: Array
    invisible: Array
    floor: float
    law: Array


def certified_compression(tail: Tail) -> CertifiedCompression:
    """Bound the spread and the means of every layer by Lemma 5, and D_l by their quotient.

    Parameters
    ----------
    tail : Tail
        The affine end of a network, with what enters it.
    """
    visible, invisible = (_part(tail, one) for one in (tail.visible, tail.invisible))
    compression, floor = visible + invisible, _floor(tail)
    lower, upper = _bounds(tail, float(compression[0]))
    return CertifiedCompression(lower, upper, visible, invisible, floor, _law(tail, compression, floor))


class Run(NamedTuple):
    """The maps W_l ⋯ W_1 in the bases of layers 0 and l: those of one wide step, with T_l ⋯ T_1 in place of T.

    Attributes
    ----------
    carried : Tensor of shape (K, K)
        P_lᵀW_{l:1}P_0.
    leaked : Tensor of shape (d_l, K)
        Q_lQ_lᵀW_{l:1}P_0.
    pulled : Tensor of shape (d_0, K)
        The leak brought back to the input, Q_0(T_l ⋯ T_1)ᵀQ_lᵀW_{l:1}P_0.
    high : Tensor of shape (d_0 − K,)
        Products of the singular values of T_1, …, T_l of the same rank.
    low : Tensor of shape (d_0 − K,)
        The singular values of T_1, times the smallest ones of T_2, …, T_l.
    """

    carried: Tensor
    leaked: Tensor
    pulled: Tensor
    high: Tensor
    low: Tensor

    def columns(self, seen: Tensor, hidden: Tensor) -> tuple[float, float]:
        """Bound ‖W_{l:1}X‖_F² from P_0ᵀX and the norms of the columns of Q_0ᵀX."""
        leak, pulled = (self.leaked @ seen).norm(dim=0), (self.pulled @ seen).norm(dim=0)
        least, most, fixed = self.low[-1] * hidden, self.high[0] * hidden, (self.carried @ seen).square().sum(0)
        cross = 2 * hidden * pulled
        apart = torch.maximum(least - leak, leak - most).clamp(min=0).square()
        low = torch.maximum(apart, least.square() + leak.square() - cross)
        return float((fixed + low).sum()), float((fixed + most.square() + leak.square() + cross).sum())

    def rest(self, seen: Tensor, values: SingularValues) -> tuple[float, float]:
        """The same for columns that the output does not see, from the singular values of Q_0ᵀX; P_0ᵀX is rounding."""
        count = min(len(self.high), len(values.high))
        low, high = values.low[:count] * self.low.flip(0)[:count], values.high[:count] * self.high[:count]
        fixed, leak = float((self.carried @ seen).square().sum()), float((self.leaked @ seen).norm())
        return fixed + max(float(low.norm()) - leak, 0.0) ** 2, fixed + (float(high.norm()) + leak) ** 2


def _bounds(tail: Tail, start: float) -> tuple[Array, Array]:
    """Lower and upper bound of D_l, l = 0 … L−1; D_0 is measured."""
    if tail.bases is None:
        nothing = np.full(tail.problem.depth, math.nan)
        return nothing, nothing
    inputs = tail.visible[0], tail.invisible[0], tail.centred_means[0]
    seen = [tail.bases[0].T @ one for one in inputs]
    hidden = [tail.unseen(one, 0) for one in inputs]
    values = gain_bounds(hidden[1])
    lower, upper = [start], [start]
    for run in _runs(tail):
        visible_low, visible_high = run.columns(seen[0], hidden[0].norm(dim=0))
        rest_low, rest_high = run.rest(seen[1], values)
        means_low, means_high = run.columns(seen[2], hidden[2].norm(dim=0))
        # A bound of the means that underflows says nothing.
        lower.append(tail.class_share * (visible_low + rest_low) / means_high if means_high > 0 else 0.0)
        upper.append(tail.class_share * (visible_high + rest_high) / means_low if means_low > 0 else math.inf)
    return np.array(lower), np.array(upper)


def _runs(tail: Tail) -> Iterator[Run]:
    """From the input to l = 1 … L−1."""
    assert tail.bases is not None
    carried, leaked = torch.eye(tail.bases[0].shape[1], device="cpu").double(), torch.zeros_like(tail.bases[0])
    for layer, step in enumerate(tail.blocks, start=1):
        weight = tail.problem.normalised.weights[layer - 1]
        leaked = tail.unseen(weight @ leaked, layer) + step.leaked @ carried
        carried = step.carried @ carried
        pulled = leaked
        for before in range(layer - 1, -1, -1):
            pulled = tail.unseen(tail.problem.normalised.weights[before].T @ pulled, before)
        if layer == 1:
            high, low = step.hidden.high, step.hidden.low
        else:
            high, low = _padded(step.hidden.high, len(high)) * high, step.gain_low * low
        yield Run(carried, leaked, pulled, high, low)


def _padded(values: Tensor, length: int) -> Tensor:
    """As many values as that, zeros behind."""
    return torch.nn.functional.pad(values[:length], (0, max(0, length - len(values))))


def _part(tail: Tail, columns: tuple[Tensor, ...]) -> Array:
    """D_l with some columns in place of the spread."""
    share = tail.class_share
    squares = [
        share * float(one.square().sum() / means.square().sum())
        for one, means in zip(columns, tail.centred_means, strict=True)
    ]
    return np.array(squares)


def _floor(tail: Tail) -> float:
    """D of the output."""
    last = tail.problem.normalised.weights[-1]
    spread, means = last @ tail.problem.normalised.spreads[-1], last @ tail.centred_means[-1]
    return tail.class_share * float(spread.square().sum() / means.square().sum())


def _law(tail: Tail, compression: Array, floor: float) -> Array:
    """A geometric transient onto the floor, from mean gains of what the output does not see and what it does."""
    if tail.bases is None:
        return np.full(tail.problem.depth, math.nan)
    fixed = [float(one.square().sum()) for one in tail.coordinates(tail.centred_means[0])]
    law, transient = [float(compression[0])], float(compression[0]) - floor
    for step, (before, after) in zip(tail.blocks, pairwise(fixed), strict=True):
        transient *= step.hidden_gain * before / after if after > 0 else math.nan
        law.append(floor + transient)
    return np.array(law)
