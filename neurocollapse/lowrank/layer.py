"""Linear layers whose weight is a product of two thin factors, put into any model and multiplied out again."""

import copy
import operator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parameter import is_lazy

from neurocollapse.hooks import choose, weight_and_bias
from neurocollapse.hooks.linear import is_transposed
from neurocollapse.hooks.wrappers import named_modules, unwrap
from neurocollapse.lowrank.factors import gradient_subspace
from neurocollapse.support.checks import shown

STARTS = ("svd", "gradient", "random")

Model = TypeVar("Model", bound=nn.Module)


class LowRankLinear(nn.Module):
    r"""A linear layer of rank r: :math:`y = B A x + b` with B of shape (out, r) and A of shape (r, in).

    It has r (in + out) numbers in place of in · out, and computes with as many multiplications a sample; that is less
    as long as r < in · out / (in + out).

    Parameters
    ----------
    in_features, out_features
        As of `nn.Linear`.
    rank
        r, from 1 to the smaller of both.
    bias : bool, default True
        Add b.
    seed : int, default 0
        Seed of the random start: the entries of B and A are normal and of one scale, such that those of BA have the
        variance 1/(3 in) of a fresh `nn.Linear`. The global random state is neither read nor changed.

    Attributes
    ----------
    left : Parameter of shape (out, r)
        The factor B.
    right : Parameter of shape (in, r)
        The transpose of A.
    bias : Parameter of shape (out,) or None
        The bias b.

    Raises
    ------
    ValueError
        If the rank lies outside [1, min(in, out)].

    Examples
    --------
    >>> layer = LowRankLinear(100, 50, rank=4)
    >>> layer(torch.zeros(7, 100)).shape, sum(parameter.numel() for parameter in layer.parameters())
    (torch.Size([7, 50]), 650)
    """

    bias: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, rank: int, *, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        _check_rank(rank, (out_features, in_features), "a layer")
        generator = torch.Generator().manual_seed(seed)
        scale = (3 * in_features * rank) ** -0.25
        left, right = (
            torch.randn(count, rank, generator=generator, device="cpu") for count in (out_features, in_features)
        )
        self.left = nn.Parameter((scale * left).to(torch.get_default_device()))
        self.right = nn.Parameter((scale * right).to(torch.get_default_device()))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)

    @classmethod
    def from_linear(cls, linear: nn.Module, rank: int, *, start: str = "svd", seed: int = 0) -> "LowRankLinear":
        """Start from a dense layer and keep its device, dtype and bias, and what is frozen; nothing is shared with it.

        Parameters
        ----------
        linear : torch.nn.Module
            An `nn.Linear` or a Conv1D of transformers, which is not changed.
        rank : int
            r, from 1 to min(in, out).
        start : {"svd", "gradient", "random"}, default "svd"
            "svd": the best approximation of rank r to the weight. "gradient": the weight restricted to the r input
            directions that `gradient_subspace` finds in `linear.weight.grad`, which a backward pass must have filled;
            r must then be even, as each singular pair of the gradient gives two directions. "random": random factors.
        seed : int, default 0
            Seed of the random start.

        Raises
        ------
        ValueError
            If the rank is out of range, the start unknown, or there is no gradient to start from.
        """
        if start not in STARTS:
            raise ValueError(f"`start` must be one of {', '.join(map(repr, STARTS))}, got {start!r}")
        weight, bias = _plain(linear)
        outputs, inputs = weight.shape
        _check_rank(rank, (outputs, inputs), "the layer")
        with torch.device("cpu"):  # whatever torch's default device
            layer = cls(inputs, outputs, rank, bias=bias is not None, seed=seed)
        if start != "random":
            gradient = _gradient(linear) if start == "gradient" else None
            with torch.no_grad():
                for factor, value in zip((layer.left, layer.right), _started(weight, gradient, rank), strict=True):
                    factor.copy_(value)
        layer.to(weight.device, weight.dtype)
        trained = {name: own.requires_grad for name, own in linear.named_parameters(recurse=False)}
        layer.left.requires_grad_(trained["weight"])
        layer.right.requires_grad_(trained["weight"])
        if bias is not None:
            layer.bias = nn.Parameter(bias.clone(), requires_grad=trained["bias"])
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Size of an input."""
        return len(self.right)

    @property
    def out_features(self) -> int:
        """Size of an output."""
        return len(self.left)

    @property
    def rank(self) -> int:
        """r, the largest rank that the weight can have."""
        return self.left.shape[1]

    @property
    def weight(self) -> Tensor:
        """BA, multiplied out, of shape (out, in)."""
        return self.left @ self.right.T

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        """BA and b, for `neurocollapse.hooks.weight_and_bias`."""
        return self.weight, self.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs of shape (…, out) for inputs of shape (…, in)."""
        return functional.linear(functional.linear(inputs, self.right.T), self.left, self.bias)

    @torch.no_grad()
    def merge(self) -> nn.Linear:
        """A dense layer that computes the same up to rounding and shares nothing with this one."""
        left, right = self.left, self.right
        options = {"device": left.device, "dtype": left.dtype}
        linear = nn.utils.skip_init(nn.Linear, self.in_features, self.out_features, self.bias is not None, **options)
        linear.weight.copy_((left.double() @ right.double().T) if left.device.type != "mps" else left @ right.T)
        linear.weight.requires_grad_(left.requires_grad or right.requires_grad)
        if self.bias is not None:
            linear.bias.copy_(self.bias)
            linear.bias.requires_grad_(self.bias.requires_grad)
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, for the printed model."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


def factorize(model: Model, layers: Any, rank: int, *, start: str = "svd", seed: int = 0) -> Model | LowRankLinear:
    """Copy a model with some of its linear layers at rank r; the model itself is not changed.

    A layer that is used in several places is replaced by one layer in all of them, and layers that share one weight or
    bias share its factors, or the bias, afterwards. Hooks on replaced layers are not taken over.

    Parameters
    ----------
    model
        Any module; what wraps it is not copied and does not appear in names.
    layers
        `nn.Linear` layers, and Conv1D ones of transformers, as `neurocollapse.hooks.select` takes them: names, globs
        (``*`` stays inside a segment, ``**`` crosses the dots), types, ``"linear"`` for all, ``["linear", "!head"]``.
    rank
        r, from 1 to the smallest size of any of them.
    start : str, default "svd"
        "svd", "gradient" or "random", as `LowRankLinear.from_linear` takes it. "gradient" needs the gradients of one
        backward pass on the model.
    seed : int, default 0
        Seed of random starts, another one for each layer.

    Returns
    -------
    A model of the same class, or a `LowRankLinear` if the model is itself a linear layer.

    Raises
    ------
    ValueError
        If a selector matches no such layer, the rank is out of range, or a weight is also used outside the chosen
        layers, from which it would come apart.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    >>> small = factorize(model, "2", rank=4)
    >>> [sum(parameter.numel() for parameter in each.parameters()) for each in (model, small)]
    [55210, 16810]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    model = unwrap(model)  # type: ignore[assignment]
    targets = choose(model, layers, fits=_is_plain, kind="plain linear layer with a weight of its own")
    for name, linear in targets.items():
        _check_rank(rank, tuple(_plain(linear)[0].shape), repr(name))
    _check_ties(model, targets)
    replaced: dict[int, nn.Module] = {}
    factors: dict[int, LowRankLinear] = {}
    biases: dict[int, nn.Parameter | None] = {}
    for number, (name, linear) in enumerate(targets.items()):
        low = _named_start(name, linear, rank, start, seed + number)
        first = factors.setdefault(id(linear.weight), low)
        low.left, low.right = first.left, first.right
        low.bias = biases.setdefault(id(linear.bias), low.bias)
        replaced[id(linear)] = low
    return _with(model, replaced)


def merge_factors(model: Model) -> Model | nn.Linear:
    """Copy a model with every `LowRankLinear` as a dense `nn.Linear` again; outputs agree up to rounding.

    Shared layers, shared factors and shared biases stay shared.

    Parameters
    ----------
    model : torch.nn.Module
        As `factorize` returns it; it is not changed.

    Raises
    ------
    ValueError
        If there is none.

    Examples
    --------
    >>> model = factorize(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), "0", rank=2)
    >>> dense = merge_factors(model)
    >>> inputs = torch.ones(1, 8)
    >>> dense[0], torch.allclose(dense(inputs), model(inputs), atol=1e-6)
    (Linear(in_features=8, out_features=8, bias=True), True)
    """
    lows = [module for module in model.modules() if isinstance(module, LowRankLinear)]
    if not lows:
        raise ValueError(f"`model` must contain LowRankLinear layers, {type(model).__name__} has none")
    replaced: dict[int, nn.Module] = {}
    weights: dict[tuple[int, int], nn.Parameter] = {}
    biases: dict[int, nn.Parameter | None] = {}
    for low in lows:
        linear = low.merge()
        own = nn.Parameter(linear.weight.detach(), requires_grad=linear.weight.requires_grad)
        linear.weight = weights.setdefault((id(low.left), id(low.right)), own)
        linear.register_parameter("bias", biases.setdefault(id(low.bias), linear.bias))
        replaced[id(low)] = linear
    return _with(model, replaced)


def _is_plain(module: nn.Module) -> bool:
    """Whether a linear layer is no more than a weight, of its own and there already, and perhaps a bias."""
    own = module._parameters.get("weight")
    return (type(module) is nn.Linear or is_transposed(module)) and own is not None and not is_lazy(own)


def _plain(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a plain linear layer."""
    pair = weight_and_bias(linear)
    if pair is None or "weight" not in linear._parameters:
        raise TypeError(f"`linear` must be an nn.Linear or a Conv1D with a weight, got {type(linear).__name__}")
    return pair


def _started(weight: Tensor, gradient: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """Factors of the weight, or of its part on the gradient's subspace, with the singular values shared evenly."""
    weight = weight.cpu().double()
    if gradient is not None:
        weight = _restricted(weight, gradient.detach().cpu().double(), rank)
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank].T * root


def _gradient(linear: nn.Module) -> Tensor:
    """The gradient that a backward pass has left on the weight, (outputs, inputs)."""
    gradient = linear.weight.grad
    if not isinstance(gradient, Tensor):
        raise ValueError("start='gradient' needs the weight's .grad; run one backward pass before")
    return gradient.T if is_transposed(linear) else gradient


def _restricted(weight: Tensor, gradient: Tensor, rank: int) -> Tensor:
    """The weight on the input directions that its first gradient says it will move in."""
    if rank % 2:
        raise ValueError(f"`rank` must be even with start='gradient', which takes directions in pairs, got {rank}")
    basis = gradient_subspace(gradient, weight, rank // 2).right
    return weight @ basis @ basis.T


def _named_start(name: str, linear: nn.Module, rank: int, start: str, seed: int) -> LowRankLinear:
    """Start from a dense layer, with the layer's name in what goes wrong."""
    try:
        return LowRankLinear.from_linear(linear, rank, start=start, seed=seed)
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def _check_rank(rank: int, shape: tuple[int, ...], name: str) -> None:
    """Raise unless a matrix of that shape can have the rank."""
    try:
        fits = not isinstance(rank, bool) and 1 <= operator.index(rank) <= min(shape)
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(
            f"`rank` must be an integer from 1 to {min(shape)} for {name} of {shape[1]} inputs and {shape[0]} outputs, "
            f"got {shown(rank)}"
        )


def _check_ties(model: nn.Module, targets: dict[str, nn.Module]) -> None:
    """Raise if a weight or bias that is to be replaced has another owner that is not."""
    chosen = {id(linear) for linear in targets.values()}
    weights = {id(linear.weight): (name, "weight") for name, linear in targets.items()}
    biases = {id(linear.bias): (name, "bias") for name, linear in targets.items() if linear.bias is not None}
    for path, module in named_modules(model):
        for key, parameter in module.named_parameters(recurse=False):
            name, part = (weights | biases).get(id(parameter), ("", ""))
            if part and id(module) not in chosen:
                raise ValueError(
                    f"`layers` holds {name!r}, whose {part} is also {f'{path}.{key}'.lstrip('.')!r}; "
                    "leave it out, or give each module its own"
                )


def _with(model: Model, replaced: dict[int, nn.Module]) -> Model:
    """A deep copy of the model, with other modules in the places of some; parameters stay tied as they are."""
    # What takes a module's place is known to the copy beforehand, so that no dense weight is copied for nothing.
    return copy.deepcopy(model, dict(replaced))
