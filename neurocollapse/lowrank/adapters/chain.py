"""A change of a weight matrix as a product of thin factors."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn
from torch.nn import functional


class Chain(nn.Module):
    r"""The change :math:`\Delta W = s\, W_p \cdots W_1` of a dense layer; its factors are what is trained.

    Parameters
    ----------
    factors : sequence of Tensors
        Input side first: (k₁, inputs), (k₂, k₁), …, (outputs, k_{p−1}).
    scale
        The factor s of the product.

    Examples
    --------
    >>> chain = Chain([torch.ones(1, 3), torch.ones(2, 1)], scale=0.5)
    >>> chain.weight_change().tolist()
    [[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]
    """

    def __init__(self, factors: Sequence[Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.factors = nn.ParameterList(nn.Parameter(factor) for factor in factors)
        self.scale = scale

    def forward(self, inputs: Tensor) -> Tensor:
        """ΔW x for inputs of shape (…, inputs), computed factor by factor in the factors' precision."""
        hidden = inputs.to(self.factors[0].dtype)
        for factor in self.factors:
            hidden = functional.linear(hidden, factor)
        return self.scale * hidden

    @torch.no_grad()
    def weight_change(self) -> Tensor:
        """ΔW, of shape (outputs, inputs) and in float64."""
        factors = [factor.double() for factor in self.factors]
        return self.scale * reduce(lambda product, factor: factor @ product, factors)

    @property
    def rank(self) -> int:
        """The narrowest place of the chain, which bounds the rank of ΔW."""
        return min(min(factor.shape) for factor in self.factors)

    def extra_repr(self) -> str:
        shapes = " · ".join(f"{len(factor)}×{factor.shape[1]}" for factor in reversed(list(self.factors)))
        return f"{shapes}, scale={self.scale:g}"
