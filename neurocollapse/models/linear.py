"""Deep linear networks: bias-free chains of matrices, and the products of runs of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from neurocollapse.models.initialise import KINDS, initial_weight
from neurocollapse.support.checks import checked_seed, integer, positive_number

LINEAR_KINDS = (*KINDS, "balanced", "identity")


class DeepLinear(nn.Module):
    r"""A deep linear network, :math:`f(x) = W_L \cdots W_1 x`.

    Its layers are the bias-free `nn.Linear` modules of ``.layers``, so `layers="layers.*"` selects them for hooks.

    Parameters
    ----------
    widths
        (d₀, …, d_L), input first; L = len(widths) − 1 ≥ 1 weight matrices.
    init : str, default "orth"
        "orth": ε times a Haar orthogonal matrix of size max(m, n), cropped to m × n;
        "norm": ε √(min(m, n)/(mn)) N(0, 1); "unif": √3 √(min(m, n)/(mn)) U(−ε, ε); "identity": ε times the identity,
        cropped; "balanced": ε U_l V_lᵀ with V_{l+1} = U_l, all of rank min(widths), so that
        W_{l+1}ᵀ W_{l+1} = W_l W_lᵀ holds at every layer, the last one included.
    scale : float, default 1.0
        ε > 0.
    seed : int, default 0
        Seed of a private generator: torch's global one is neither read nor changed.
    dtype : torch.dtype, optional
        Dtype of the weights; they are drawn in float64.

    Examples
    --------
    >>> network = DeepLinear([6, 6, 3], init="orth", scale=0.5, seed=0)
    >>> network(torch.zeros(2, 6)).shape, network.product().shape
    (torch.Size([2, 3]), torch.Size([3, 6]))
    """

    def __init__(
        self,
        widths: Sequence[int],
        init: str = "orth",
        scale: float = 1.0,
        *,
        seed: int = 0,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        weights = linear_weights(widths, init, scale, seed=seed)
        self.layers = nn.Sequential(*(_bias_free(weight.to(dtype or torch.get_default_dtype())) for weight in weights))

    @classmethod
    def from_weights(cls, weights: Sequence[Tensor]) -> "DeepLinear":
        """Build the network from copies of the given weights; their dtype is kept.

        Parameters
        ----------
        weights : sequence of Tensor of shape (out, in)
            W_1 first; the inputs of each are the outputs of the one before.

        Raises
        ------
        ValueError
            If there is none, one is not a matrix of floats, or neighbours do not fit.
        """
        check_chain(weights)
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network.layers = nn.Sequential(*(_bias_free(weight.detach().clone()) for weight in weights))
        return network

    @classmethod
    def from_sequential(cls, model: nn.Sequential) -> "DeepLinear":
        """Copy an `nn.Sequential` of bias-free `nn.Linear` layers.

        Parameters
        ----------
        model : torch.nn.Sequential
            Its layers, in order.

        Raises
        ------
        ValueError
            If a layer is something else or has a bias; the message names it.
        """
        for name, module in model.named_children():
            if not isinstance(module, nn.Linear):
                raise ValueError(f"`model` must hold nn.Linear layers only, layer {name!r} is a {_kind(module)}")
            if module.bias is not None:
                raise ValueError(f"layer {name!r} has a bias; a deep linear network has none: build it with bias=False")
        return cls.from_weights([module.weight for module in model if isinstance(module, nn.Linear)])

    def to_sequential(self) -> nn.Sequential:
        """Copy the layers into a plain `nn.Sequential` of bias-free `nn.Linear`."""
        return nn.Sequential(*(_bias_free(weight.detach().clone()) for weight in self.weights))

    @property
    def weights(self) -> list[Tensor]:
        """The parameters [W_1, …, W_L], each of shape (out, in): the tensors themselves, not copies."""
        return [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]

    @property
    def widths(self) -> tuple[int, ...]:
        """(d₀, …, d_L)."""
        weights = self.weights
        return (weights[0].shape[1], *(weight.shape[0] for weight in weights))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs of shape (samples, d₀) to outputs of shape (samples, d_L)."""
        outputs: Tensor = self.layers(inputs)
        return outputs

    def product(self, start: int = 0, stop: int | None = None) -> Tensor:
        """The matrix W_stop ⋯ W_{start+1} that maps the features of layer `start` to those of layer `stop`.

        Parameters
        ----------
        start : int, default 0
            First of the two layers; 0 is the input.
        stop : int, optional
            Last of the two layers. Default: L, the output.

        Returns
        -------
        Tensor of shape (d_stop, d_start)
            Differentiable; the identity when start equals stop.

        Raises
        ------
        ValueError
            Unless 0 ≤ start ≤ stop ≤ L.
        """
        return chain_product(self.weights, start, stop)


def linear_weights(widths: Sequence[int], init: str = "orth", scale: float = 1.0, *, seed: int = 0) -> list[Tensor]:
    """Draw the float64 weights of a deep linear network; the options are those of `DeepLinear`.

    Parameters
    ----------
    widths : sequence of int
        Features at the input, at every hidden layer and at the output.
    init : {"orth", "normal", "uniform"}, default "orth"
        The distribution of the weights; see `initial_weight`.
    scale : float, default 1.0
        ε, the scale of every weight.
    seed : int, default 0
        Seed of the random numbers.

    Returns
    -------
    list of L Tensors, the l-th of shape (d_l, d_{l−1}).

    Examples
    --------
    >>> [tuple(weight.shape) for weight in linear_weights([4, 5, 2], "balanced", 0.1)]
    [(5, 4), (2, 5)]
    """
    if len(widths) < 2:
        raise ValueError(f"`widths` must hold at least two positive numbers (input first), got {list(widths)}")
    for index, width in enumerate(widths):
        integer(f"widths[{index}]", width, least=1)
    if init not in LINEAR_KINDS:
        raise ValueError(f"`init` must be one of {', '.join(map(repr, LINEAR_KINDS))}, got {init!r}")
    scale = positive_number("scale", scale)
    generator = torch.Generator().manual_seed(checked_seed(seed))
    shapes = [(widths[i + 1], widths[i]) for i in range(len(widths) - 1)]
    if init == "balanced":
        return _balanced(widths, scale, generator)
    if init == "identity":
        return [scale * torch.eye(*shape, dtype=torch.float64, device="cpu") for shape in shapes]
    return [initial_weight(*shape, init, scale, generator=generator) for shape in shapes]


def chain_product(weights: Sequence[Tensor], start: int = 0, stop: int | None = None) -> Tensor:
    """Multiply W_stop ⋯ W_{start+1} in the cheapest order; see `DeepLinear.product`."""
    stop = len(weights) if stop is None else stop
    if not 0 <= start <= stop <= len(weights):
        raise ValueError(f"need 0 ≤ start ≤ stop ≤ {len(weights)} layers, got start={start}, stop={stop}")
    if start == stop:
        width = weights[start].shape[1] if start < len(weights) else weights[-1].shape[0]
        return torch.eye(width, dtype=weights[0].dtype, device=weights[0].device)
    if stop == start + 1:
        return weights[start]
    return torch.linalg.multi_dot([weights[layer] for layer in reversed(range(start, stop))])


def check_chain(weights: Sequence[Tensor]) -> None:
    """Raise unless the weights are matrices of floats that can be multiplied one after the other."""
    if not weights:
        raise ValueError("`weights` must hold at least one matrix, got none")
    for layer, weight in enumerate(weights, start=1):
        if weight.ndim != 2:
            raise ValueError(f"weight {layer} must be a matrix (out, in), got shape {tuple(weight.shape)}")
        if not weight.is_floating_point():
            raise ValueError(f"weight {layer} must hold floats, got {weight.dtype}; convert it, e.g. with .double()")
        if layer > 1 and weight.shape[1] != weights[layer - 2].shape[0]:
            raise ValueError(
                f"weight {layer} takes {weight.shape[1]} features but weight {layer - 1} gives "
                f"{weights[layer - 2].shape[0]}; pass the weights input side first, each of shape (out, in)"
            )


def _balanced(widths: Sequence[int], scale: float, generator: torch.Generator) -> list[Tensor]:
    """Draw partial isometries of one common rank whose row space is the column space of the layer before."""
    rank = min(widths)
    frames = [initial_weight(width, width, "orth", 1.0, generator=generator)[:, :rank] for width in widths]
    return [scale * frames[layer] @ frames[layer - 1].T for layer in range(1, len(widths))]


def _bias_free(weight: Tensor) -> nn.Linear:
    """Wrap a weight without nn.Linear's own initialisation, which would advance the global generator."""
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    layer.weight = nn.Parameter(weight)
    linear: nn.Linear = layer
    return linear


def _kind(module: nn.Module) -> str:
    """Name a module's type."""
    return type(module).__name__
