"""The kinds of adapters: how many factors each has, and where they start."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from neurocollapse.lowrank.factors import gradient_subspace
from neurocollapse.support.checks import integer, positive_number


@dataclass(frozen=True)
class LoRA:
    r"""Low-rank adaptation, :math:`\Delta W = \tfrac{\alpha}{r} W_2 W_1`, with W_1 ~ N(0, σ²) and W_2 = 0.

    The default, σ = 1 and α = r, is the "vanilla LoRA" of the reference below: unit variance and no factor in front,
    so that the change in a layer's output by one step of training grows with the rank. Other libraries start W_1
    smaller (1/√inputs) and often set α by hand.

    Attributes
    ----------
    rank : int
        r, at most the smaller side of every adapted layer.
    alpha : float or None
        α; None is r, a factor of 1.
    init_scale : float
        σ.

    References
    ----------
    Hu et al., arXiv 2106.09685; Yaras et al., arXiv 2406.04112.

    Examples
    --------
    >>> first, second = LoRA(rank=2).initial_factors(4, 6, torch.Generator().manual_seed(0))
    >>> first.shape, second.any().item()
    (torch.Size([2, 6]), False)
    """

    rank: int = 8
    alpha: float | None = None
    init_scale: float = 1.0

    def __post_init__(self) -> None:
        integer("rank", self.rank, least=1)
        positive_number("init_scale", self.init_scale)
        if self.alpha is not None:
            positive_number("alpha", self.alpha)

    @property
    def scale(self) -> float:
        """α/r, the factor in front of the product."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def initial_factors(self, num_outputs: int, num_inputs: int, generator: torch.Generator) -> list[Tensor]:
        """W_1 of shape (r, inputs) and W_2 of shape (outputs, r), float64.

        Parameters
        ----------
        num_outputs, num_inputs : int
            Shape of the layer's weight.
        generator : torch.Generator
            Source of the random numbers.
        """
        first = torch.randn(self.rank, num_inputs, dtype=torch.float64, generator=generator, device="cpu")
        return [self.init_scale * first, torch.zeros(num_outputs, self.rank, dtype=torch.float64, device="cpu")]


@dataclass(frozen=True)
class DeepLoRA:
    r"""Deep LoRA, :math:`\Delta W = W_3 W_2 W_1`: three factors of width r, each ε times a random orthogonal matrix.

    The start changes the layer by ε³, about 1e−9 of its input: nothing, to single precision. Training then grows few
    singular values of ΔW and leaves the others at that size, so that the rank need not be tuned.

    Attributes
    ----------
    rank : int
        r, at most the smaller side of every adapted layer.
    init_scale : float
        ε.

    References
    ----------
    Yaras et al., arXiv 2406.04112, Section 4.

    Examples
    --------
    >>> factors = DeepLoRA(rank=2).initial_factors(4, 6, torch.Generator().manual_seed(0))
    >>> [tuple(factor.shape) for factor in factors]
    [(2, 6), (2, 2), (4, 2)]
    """

    rank: int = 8
    init_scale: float = 1e-3
    scale: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        integer("rank", self.rank, least=1)
        positive_number("init_scale", self.init_scale)

    def initial_factors(self, num_outputs: int, num_inputs: int, generator: torch.Generator) -> list[Tensor]:
        """W_1 of shape (r, inputs), W_2 of shape (r, r) and W_3 of shape (outputs, r), float64.

        Parameters
        ----------
        num_outputs, num_inputs : int
            Shape of the layer's weight.
        generator : torch.Generator
            Source of the random numbers.
        """
        shapes = [(self.rank, num_inputs), (self.rank, self.rank), (num_outputs, self.rank)]
        return [_orthogonal(shape, self.init_scale, generator) for shape in shapes]


@dataclass(frozen=True)
class CompressedDeepLoRA:
    r"""Deep LoRA as wide as the layer, compressed: :math:`\Delta W = U\, C_3 C_2 C_1 V^\top`.

    The wide adapter has three orthogonal factors of the layer's own width; training moves only r of its directions,
    which the gradient of the first batch shows. V and U are these directions and their images (`gradient_subspace`),
    the cores C_i start as ε times the identity of size r. The cores are trained; the outer factors follow at a learning
    rate smaller by γ (`Adapters.parameter_groups`).

    Attributes
    ----------
    rank : int
        r, even (half of the directions are the gradient's, half their counterparts under the wide adapter), and at most
        the smaller side of every adapted layer.
    init_scale : float
        ε.

    References
    ----------
    Yaras et al., arXiv 2406.04112, Section 4.
    """

    rank: int = 8
    init_scale: float = 1e-3
    scale: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        integer("rank", self.rank, least=2)
        if self.rank % 2:
            raise ValueError(f"`rank` of a compressed adapter must be even, got {self.rank}")
        positive_number("init_scale", self.init_scale)

    def factors_from_gradient(self, gradient: Tensor, generator: torch.Generator) -> list[Tensor]:
        """Vᵀ, C_1, C_2, C_3 and U from the gradient of the loss with respect to the weight.

        The gradient with respect to the first wide factor is this one turned by the other two, so that its right
        singular vectors and their counterparts under the product of all three are the same.

        Parameters
        ----------
        gradient : Tensor of shape (outputs, inputs)
            Gradient of the loss with respect to the weight.
        generator : torch.Generator
            Source of the random orthogonal start.
        """
        wide = _orthogonal((len(gradient), gradient.shape[1]), 1.0, generator)
        left, right = gradient_subspace(gradient.double(), wide, self.rank // 2)
        core = self.init_scale * torch.eye(self.rank, dtype=torch.float64, device="cpu")
        return [right.T.contiguous(), core, core.clone(), core.clone(), left]


Kind = LoRA | DeepLoRA | CompressedDeepLoRA
"""Any kind of adapter."""


def _orthogonal(shape: tuple[int, int], scale: float, generator: torch.Generator) -> Tensor:
    """Draw ε times a matrix with orthonormal rows or columns, whichever are fewer."""
    matrix = torch.empty(shape, dtype=torch.float64, device="cpu")
    return nn.init.orthogonal_(matrix, gain=scale, generator=generator)
