"""Theorem 8: lower bounds of the separation of uncentred class means in an affine tail."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.theory.blocks import Tail

Array = NDArray[np.float64]


def separation_bounds(tail: Tail) -> tuple[Array, Array]:
    """Lower bounds of S_l (absolute cosines of uncentred class means), l = 0 … L−1.

    Parameters
    ----------
    tail : Tail
        The affine end of a network, with what enters it.

    Returns
    -------
    (array, array) of shape (L,)
        Local, from the hidden part of the means at the layer before, and global, from the input, the output and the
        weights only. In [0, 1]; equal at l ≤ 1; NaN if the rank of W_{L:1} is below K.
    """
    if tail.bases is None:
        nothing = np.full(tail.problem.depth, math.nan)
        return nothing, nothing
    problem = tail.problem.normalised
    unseen = [tail.unseen(means, layer) for layer, means in enumerate(problem.means)]
    fixed = [means - one for means, one in zip(problem.means, unseen, strict=True)]
    hidden = [one.norm(dim=0) for one in unseen]
    near, far = [hidden[0]], [hidden[0]]
    for layer, step in enumerate(tail.blocks):
        # What the fixed part and the bias put into the kernel of the next reading.
        image = problem.weights[layer] @ fixed[layer] + problem.biases[layer][:, None]
        leak = tail.unseen(image, layer + 1).norm(dim=0)
        near.append(step.gain_high * hidden[layer] + leak)
        far.append(step.gain_high * far[layer] + leak)
    local, overall = (
        np.array([separation_floor(*pair) for pair in zip(fixed, bounds, strict=True)]) for bounds in (near, far)
    )
    return local, overall


def separation_floor(fixed: Tensor, hidden: Tensor) -> float:
    r"""The least 1 − max |cos| of vectors v_k + h_k with known v_k, and unknown h_k ⊥ all v of bounded length.

    .. math:: 1 - \max_{k \ne k'} \max_{\alpha \le \alpha_k,\, \beta \le \alpha_{k'}}
        c \cos\alpha \cos\beta + \sin\alpha \sin\beta, \qquad \alpha_k = \arctan(h_k / \|v_k\|)

    Parameters
    ----------
    fixed : Tensor of shape (features, classes)
        v_k.
    hidden : Tensor of shape (classes,)
        Bounds of ‖h_k‖.

    Examples
    --------
    >>> v = torch.eye(2).double()
    >>> [round(separation_floor(v, hidden), 12) for hidden in (torch.zeros(2), torch.ones(2))]
    [1.0, 0.5]
    """
    lengths = fixed.norm(dim=0)
    angles = torch.atan2(hidden.double(), lengths)
    unit = fixed / lengths.clamp(min=torch.finfo(torch.float64).tiny)
    first, second = torch.triu_indices(len(lengths), len(lengths), 1, device="cpu")
    cosine = (unit.T @ unit)[first, second].abs().clamp(max=1)
    alpha, beta = angles[first], angles[second]

    def value(one: Tensor, other: Tensor) -> Tensor:
        return cosine * one.cos() * other.cos() + one.sin() * other.sin()

    def turned(other: Tensor) -> Tensor:
        return torch.atan2(other.sin(), cosine * other.cos())

    largest = torch.stack(
        [cosine, value(torch.minimum(alpha, turned(beta)), beta), value(alpha, torch.minimum(beta, turned(alpha)))]
    ).amax()
    # A separation of 1e-15 is the rounding of two cosines, the measured one and this one.
    room = 4 * len(fixed) * torch.finfo(torch.float64).eps
    return max(0.0, 1.0 - float(largest) - room)
