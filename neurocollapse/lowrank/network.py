"""Deep linear networks between two thin outer factors: compress before training, expand after."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from neurocollapse.lowrank.factors import gradient_subspace, polar, spectral_factors
from neurocollapse.models.linear import DeepLinear, chain_product, check_chain
from neurocollapse.support.checks import integer, positive_number
from neurocollapse.support.numbers import short

SAME_BASIS = 1e-3
"""Part of its norm by which a basis may differ when it is found again: far above the rounding of single precision, far
below the difference to another network's."""


@dataclass(frozen=True, eq=False)
class Compressed:
    r"""A deep linear network between two thin outer factors, :math:`f = U\, C_p \cdots C_1 V^\top`.

    Attributes
    ----------
    right : Tensor of shape (inputs, k)
        V, the first outer factor.
    cores : tuple of Tensors of shape (k, k)
        C_1, …, C_p; the last one may have fewer rows.
    left : Tensor of shape (outputs, k)
        U, the last outer factor.
    """

    right: Tensor
    cores: tuple[Tensor, ...]
    left: Tensor

    @property
    def weights(self) -> list[Tensor]:
        """[Vᵀ, C_1, …, C_p, U]: the chain to train, input side first."""
        return [self.right.T, *self.cores, self.left]

    @property
    def num_parameters(self) -> int:
        """How many numbers the chain has."""
        return sum(weight.numel() for weight in self.weights)

    def product(self) -> Tensor:
        """The end-to-end matrix of shape (outputs, inputs)."""
        return chain_product(self.weights)


def compress(model: DeepLinear | Sequence[Tensor], rank: int, *, gradient: Tensor) -> Compressed:
    r"""Restrict a deep linear network, before training, to the 2r directions that training moves.

    With V from `gradient_subspace`, :math:`U_{l} = W_l \cdots W_1 V / \varepsilon^l` and the cores
    :math:`C_l = U_l^\top W_l U_{l-1}`, which are εI for orthogonal weights. Trained with frozen outer factors, the
    compressed network follows the wide one up to :math:`\rho(t)^L \sqrt{d - 2r} \le \varepsilon^L \sqrt{d - 2r}` in
    Frobenius norm when the target has rank r and is fully observed.

    Parameters
    ----------
    model
        The network or its weights [W_1, …, W_L], each (out, in), at the start: ε times (semi-)orthogonal. A last layer
        with fewer than 2r outputs stays whole, as the last core.
    rank
        r, the rank of the target (or an upper bound of it), 2r at most the width.
    gradient : Tensor of the first weight's shape
        Gradient of the loss with respect to W_1 at the start; only its r leading singular pairs count, its scale does
        not.

    Returns
    -------
    Compressed
        With L cores, in the network's precision, half ones in single.

    Raises
    ------
    ValueError
        If the rank is out of range or shapes do not fit.

    References
    ----------
    Yaras et al., arXiv 2306.01154, Section 4.

    Examples
    --------
    >>> network = DeepLinear([6, 6, 6, 6], "orth", 0.1, dtype=torch.float64)
    >>> small = compress(network, 1, gradient=torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0])))
    >>> [tuple(weight.shape) for weight in small.weights]
    [(2, 6), (2, 2), (2, 2), (2, 2), (6, 2)]
    """
    weights = _weights_of(model)
    right = gradient_subspace(gradient, weights[0], rank).right
    bases = _bases(weights, right)
    return Compressed(right, tuple(basis.T @ image for image, basis in bases), bases[-1][1])


def compress_spectral(surrogate: Tensor, rank: int, *, depth: int, scale: float) -> Compressed:
    """Make a deep linear network of one width between the leading singular vectors of a surrogate target.

    The chain is [εVᵀ, εI, …, εI, εU], L weights with 2dr̂ + (L − 2)r̂² parameters instead of Ld².

    Parameters
    ----------
    surrogate, rank
        As of `spectral_factors`; the source uses twice the rank of the target.
    depth
        L ≥ 2.
    scale
        ε > 0.

    References
    ----------
    Kwon et al., arXiv 2311.05061, Algorithm 1.

    Examples
    --------
    >>> small = compress_spectral(torch.eye(100), 20, depth=3, scale=0.01)
    >>> len(small.weights), small.num_parameters
    (3, 4400)
    """
    depth, scale = integer("depth", depth, least=2), positive_number("scale", scale)
    left, right = spectral_factors(surrogate, rank)
    cores = tuple(scale * torch.eye(rank, dtype=torch.float64, device="cpu") for _ in range(depth - 2))
    return Compressed(scale * right, cores, scale * left)


def expand(compressed: Compressed, model: DeepLinear | Sequence[Tensor] | None = None) -> list[Tensor]:
    r"""The weights of an ordinary deep linear network that computes the same as a compressed one.

    Parameters
    ----------
    compressed
        Trained or not.
    model
        The wide network from which it was compressed, at its start: then the result is as wide, with
        :math:`W_l = W_l(0) + U_l (C_l - C_l(0)) U_{l-1}^\top`, the compressed change on top of directions that keep
        their initial scale. Its product differs from the compressed one by those directions, ε^L in size. Needs outer
        factors that were frozen. By default the result is as thin as the cores and its product is equal.

    Returns
    -------
    list of Tensors
        [W_1, …, W_L], L the number of cores, in the wider precision of network and cores.

    Raises
    ------
    ValueError
        If the network is not the one that was compressed, or not at its start, or the outer factors were trained, as
        far as shapes and U show it; U is the identity, and shows nothing, for a last layer that was kept whole.

    Examples
    --------
    >>> network = DeepLinear([6, 6, 6, 6], "orth", 0.1, dtype=torch.float64)
    >>> small = compress(network, 1, gradient=torch.diag(torch.tensor([1.0, 0, 0, 0, 0, 0])))
    >>> back = expand(small, network)
    >>> all(torch.allclose(weight, start) for weight, start in zip(back, network.weights, strict=True))
    True
    """
    if model is None:
        return _merged(compressed)
    weights = _weights_of(model)
    if len(weights) != len(compressed.cores) or weights[0].shape[1] != len(compressed.right):
        raise ValueError(
            f"`model` must be the one that was compressed, of {len(compressed.cores)} layers and "
            f"{len(compressed.right)} inputs, got {len(weights)} layers and {weights[0].shape[1]} inputs"
        )
    right = compressed.right.to(weights[0].dtype)
    bases = _bases(weights, right)
    _check_left(compressed.left, bases[-1][1])
    precision = torch.promote_types(weights[0].dtype, compressed.cores[0].dtype)
    expanded, before = [], right.to(precision)
    for weight, core, (image, basis) in zip(weights, compressed.cores, bases, strict=True):
        after = basis.to(precision)
        expanded.append(weight + after @ (core - basis.T @ image) @ before.T)
        before = after
    return expanded


def _bases(weights: Sequence[Tensor], right: Tensor) -> list[tuple[Tensor, Tensor]]:
    """W_l U_{l−1} and U_l for every layer, from U_0 = V on."""
    bases, basis = [], right
    for layer, weight in enumerate(weights, start=1):
        image = weight @ basis
        whole = layer == len(weights) and len(weight) < right.shape[1]
        basis = torch.eye(len(weight), dtype=weight.dtype, device=weight.device) if whole else polar(image)
        bases.append((image, basis))
    return bases


def _check_left(left: Tensor, expected: Tensor) -> None:
    """Raise unless a compressed network has the last basis that the wide one gives."""
    if left.shape == expected.shape:
        gap = float(torch.linalg.matrix_norm(left - expected) / torch.linalg.matrix_norm(expected))
        if gap <= SAME_BASIS:
            return
        reason = f"differ by {short(gap, 2)} of their norm"
    else:
        reason = f"have shapes {tuple(left.shape)} and {tuple(expected.shape)}"
    raise ValueError(
        "`model` must be the one that was compressed, at its start, and the outer factors frozen since: U and what "
        f"`model` gives for it {reason}"
    )


def _merged(compressed: Compressed) -> list[Tensor]:
    """The outer factors multiplied into the first and last core."""
    if not compressed.cores:
        return [compressed.right.T, compressed.left]
    if len(compressed.cores) == 1:
        return [compressed.product()]
    first, *middle, last = compressed.cores
    return [first @ compressed.right.T, *middle, compressed.left @ last]


def _weights_of(model: DeepLinear | Sequence[Tensor]) -> list[Tensor]:
    """The weights of a network or of a list, detached, checked, and in one precision, at least single."""
    weights = [weight.detach() for weight in (model.weights if isinstance(model, DeepLinear) else model)]
    check_chain(weights)
    precision = reduce(torch.promote_types, (weight.dtype for weight in weights), torch.float32)
    return [weight.to(precision) for weight in weights]
