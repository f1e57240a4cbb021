"""Theorem 4: every D_l of a linear tail from its input, its output and its weights; and the floor it falls to."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.theory.blocks import Tail
from neurocollapse.theory.split import step_bounds

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CertifiedCompression:
    """Bounds of D_l for l = 0 … L−1, and the parts that D_l is made of.

    Attributes
    ----------
    lower, upper : arrays of shape (L,)
        Of D_l; no features between the input and the output are used. NaN if the rank of W_{L:1} is below K.
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
    """Iterate Lemma 2 from the input, for every rank of Π, and keep the best bound of each layer."""
    visible, invisible = (_part(tail, one) for one in (tail.visible, tail.invisible))
    lower, upper = _iterated(tail)
    floor = _floor(tail)
    return CertifiedCompression(lower, upper, visible, invisible, floor, _law(tail, visible + invisible, floor))


def _iterated(tail: Tail) -> tuple[Array, Array]:
    """The bounds themselves."""
    depth = tail.problem.depth
    if tail.bases is None:
        return np.full(depth, math.nan), np.full(depth, math.nan)
    columns = [_squares(tail, start) for start in (tail.visible[0], tail.invisible[0], tail.centred_means[0])]
    seen, rest, means = columns
    nested = [torch.nn.functional.pad(one.cumsum(-1), (1, 0)) for one in seen]
    others = [
        torch.nn.functional.pad(one.flip(-1).cumsum(-1).flip(-1), (0, 1)) + other.sum(-1, keepdim=True)
        for one, other in zip(seen, rest, strict=True)
    ]
    whole = [one.sum(-1, keepdim=True) for one in means]
    bounds = [_layers(tail, *family) for family in (nested, others, whole)]
    share = tail.class_share
    lower, upper = [], []
    for (seen_low, seen_high), (rest_low, rest_high), (means_low, means_high) in zip(*bounds, strict=True):
        # A bound of the means that underflows says nothing.
        lower.append(float(share * (seen_low + rest_low).max() / means_high))
        upper.append(float(share * (seen_high + rest_high).min() / means_low) if float(means_low) > 0 else math.inf)
    return np.array(lower), np.array(upper)


def _squares(tail: Tail, start: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every column: ‖B_l⁺O‖² at all layers, the hidden square at the input, and the squared leak of all steps."""
    fixed = tail.coordinates(start)
    assert tail.bases is not None
    hidden = start - tail.bases[0] @ (tail.bases[0].T @ start)
    leaks = [(step.leaked @ one).square().sum(0) for step, one in zip(tail.blocks, fixed, strict=False)]
    return torch.stack([one.square().sum(0) for one in fixed]), hidden.square().sum(0), torch.stack(leaks)


def _layers(tail: Tail, fixed: Tensor, hidden: Tensor, leaks: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Bounds of ‖W_{l:1}A‖_F² at l = 0 … L−1 for every set of columns."""
    nothing = torch.zeros_like(hidden)
    low = high = hidden.sqrt()
    found = [(fixed[0] + low.square(), fixed[0] + high.square())]
    for step, leak, carried in zip(tail.blocks, leaks.sqrt(), fixed[1:], strict=True):
        ends = (step.gain_low * low - leak, leak - step.gain_high * high)
        low, high = torch.maximum(*ends).clamp(min=0), step_bounds(nothing, high, leak, 0.0, step.gain_high)[1].sqrt()
        found.append((carried + low.square(), carried + high.square()))
    return found


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
