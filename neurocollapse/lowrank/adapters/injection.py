"""Adapters put on the layers of a frozen model, trained there, and merged or taken off again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from neurocollapse.hooks.linear import is_transposed
from neurocollapse.hooks.wrappers import forget_compiled, named_modules
from neurocollapse.lowrank.adapters.chain import Chain
from neurocollapse.lowrank.adapters.kinds import CompressedDeepLoRA, DeepLoRA, Kind, LoRA
from neurocollapse.lowrank.adapters.selection import CHILD, AdapterError, adaptable, linear_layer, weight_of
from neurocollapse.support.checks import shown
from neurocollapse.support.text import listed


class Adapters(Mapping[str, Chain]):
    """The adapters of a model, by the names of their layers; made by `inject`, `load_adapters` and `load_peft`.

    While they are on, every other parameter of the model is frozen, and the model's modules and their names are what
    they were: each adapter is one more child of its layer, so that `model.to` and `copy.deepcopy`
    take it along.

    Parameters
    ----------
    chains : mapping of str to Chain
        Name of each adapted layer → its factors.

    Attributes
    ----------
    model : torch.nn.Module
    kind : LoRA, DeepLoRA or CompressedDeepLoRA
    layers : dict of str to torch.nn.Module
        The adapted layers, by the same names.
    """

    def __init__(self, model: nn.Module, kind: Kind, chains: Mapping[str, Chain]) -> None:
        """Put finished chains on a model's layers; `inject` makes them."""
        self.model = model
        self.kind = kind
        self.layers = {name: module for name, module in named_modules(model) if name in chains}
        self._chains = dict(chains)
        self._trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in self._trainable:
            parameter.requires_grad_(False)
        self._handles = [_attach(self.layers[name], chain) for name, chain in self._chains.items()]
        forget_compiled(model)

    def __getitem__(self, name: str) -> Chain:
        return self._chains[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._chains)

    def __len__(self) -> int:
        return len(self._chains)

    @property
    def num_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for chain in self.values() for parameter in chain.parameters())

    def parameter_groups(self, learning_rate: float, *, outer: float = 1e-2) -> list[dict[str, Any]]:
        """The factors and their learning rates, as torch's optimizers take them.

        Parameters
        ----------
        learning_rate : float
            Learning rate of all factors but the outer ones of a compressed adapter.
        outer : float, default 0.01
            γ ≥ 0: the outer factors of a compressed adapter have γ times this learning rate.

        Examples
        --------
        >>> adapters = inject(nn.Sequential(nn.Linear(4, 3)), "0", kind=DeepLoRA(rank=2))
        >>> optimizer = torch.optim.AdamW(adapters.parameter_groups(1e-4), eps=1e-6, weight_decay=0.0)
        >>> len(optimizer.param_groups)
        1
        """
        if learning_rate < 0 or outer < 0:
            raise ValueError(f"`learning_rate` and `outer` must not be negative, got {learning_rate} and {outer}")
        if not isinstance(self.kind, CompressedDeepLoRA):
            return [{"params": [factor for chain in self.values() for factor in chain.factors], "lr": learning_rate}]
        cores = [factor for chain in self.values() for factor in list(chain.factors)[1:-1]]
        ends = [chain.factors[end] for chain in self.values() for end in (0, -1)]
        return [{"params": cores, "lr": learning_rate}, {"params": ends, "lr": outer * learning_rate}]

    def merge(self, *, untie: bool = False) -> None:
        """Add every change to its weight and remove the adapters: the model's output stays the same to rounding.

        Parameters
        ----------
        untie : bool, default False
            Give a layer that shares its weight with another module a weight of its own, because its change is its own.

        Raises
        ------
        AdapterError
            If they are off already, a change is not finite, or a weight is shared and `untie` is not set, or computed
            by a parametrization. Then nothing has been changed.
        """
        self._check_on()
        changes = {name: chain.weight_change() for name, chain in self.items()}
        shared = _shared(self.model, self.layers)
        for name, layer in self.layers.items():
            _check_mergeable(name, layer, changes[name], shared if not untie else {})
        for name, layer in self.layers.items():
            change = changes[name].T if is_transposed(layer) else changes[name]
            weight: Tensor = layer.weight  # type: ignore[assignment]
            merged = (weight.detach().double() + change.to(weight.device)).to(weight.dtype)
            if name in shared:
                layer.weight = nn.Parameter(merged, requires_grad=weight.requires_grad)
                self._trainable += [layer.weight] if any(weight is known for known in self._trainable) else []
            else:
                weight.data.copy_(merged)
        self.remove()

    def remove(self) -> None:
        """Remove the adapters, and let every parameter be trainable or frozen as it was before.

        Raises
        ------
        AdapterError
            If they are off already.
        """
        self._check_on()
        for handle, name in zip(self._handles, self, strict=True):
            handle.remove()
            delattr(self.layers[name], CHILD)
        for parameter in self._trainable:
            parameter.requires_grad_(True)
        self._handles = []
        forget_compiled(self.model)

    def _check_on(self) -> None:
        """Raise unless the adapters are on the model."""
        if not self._handles:
            raise AdapterError("these adapters have already been merged or removed; inject new ones")

    def __repr__(self) -> str:
        layers = "1 layer" if len(self) == 1 else f"{len(self)} layers"
        return f"Adapters({self.kind}, {layers}, {self.num_parameters:,} parameters)"


def inject(
    model: nn.Module,
    layers: Any,
    *,
    kind: Kind,
    loss: Callable[[], Tensor] | None = None,
    seed: int = 0,
) -> Adapters:
    """Freeze a model and add an adapter to each of the chosen linear layers.

    Parameters
    ----------
    model
        Any model; its wrappers do not appear in names. Its own parameters are frozen until the adapters are merged or
        removed.
    layers
        Linear layers (see `neurocollapse.hooks.is_linear`), as `neurocollapse.hooks.select` takes them:
        ``"encoder.layer.*.attention.self.query"``, ``"**.query"``, ``"linear"`` for all, ``["linear", "!head"]``.
    kind
        LoRA, DeepLoRA or CompressedDeepLoRA.
    loss : callable, optional
        For CompressedDeepLoRA, and only then: runs the model on the first batch and returns the loss.
    seed : int, default 0
        Seed of the initial factors; torch's global random state is not used.

    Returns
    -------
    Adapters

    Raises
    ------
    AdapterError
        If a selector matches no linear layer, a layer has an attribute `adapter` of its own, a rank is too large, what
        the loss returns has no gradient, or the model has adapters already. The model is then as it was.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> adapters = inject(model, "**", kind=LoRA(rank=2))
    >>> list(adapters), adapters.num_parameters
    (['0', '2'], 44)
    >>> adapters.remove()
    """
    if not isinstance(kind, Kind):
        raise TypeError(f"`kind` must be a LoRA, DeepLoRA or CompressedDeepLoRA, got {shown(kind)}")
    _check_free(model)
    chosen = adaptable(model, layers)
    check_ranks(kind, chosen)
    factors = _initial_factors(chosen, kind, loss, torch.Generator().manual_seed(seed))
    chains = {name: Chain(_placed(factors[name], weight_of(layer)), kind.scale) for name, layer in chosen.items()}
    return Adapters(model, kind, chains)


def _initial_factors(
    layers: Mapping[str, nn.Module], kind: Kind, loss: Callable[[], Tensor] | None, generator: torch.Generator
) -> dict[str, list[Tensor]]:
    """Where the factors of every layer start."""
    if not isinstance(kind, CompressedDeepLoRA):
        if loss is not None:
            raise ValueError(f"`loss` goes with CompressedDeepLoRA only, not with {type(kind).__name__}; leave it out")
        return {name: kind.initial_factors(*_sides(layer), generator) for name, layer in layers.items()}
    if loss is None:
        raise ValueError("`loss` must be given for CompressedDeepLoRA: its outer factors come from the first gradient")
    gradients = first_gradients(layers, loss)
    return {name: kind.factors_from_gradient(gradient, generator) for name, gradient in gradients.items()}


def inject_factors(model: nn.Module, kind: Kind, factors: Mapping[str, Sequence[Tensor]], *, source: str) -> Adapters:
    """Put adapters on a model whose factors are known, after checking that each of them fits."""
    _check_free(model)
    chosen = {name: linear_layer(model, name, source) for name in factors}
    check_ranks(kind, chosen)
    for name, given in factors.items():
        _check_factors(name, given, _shapes(kind, chosen[name]), source)
    chains = {name: Chain(_placed(factors[name], weight_of(layer)), kind.scale) for name, layer in chosen.items()}
    return Adapters(model, kind, chains)


def _check_factors(name: str, factors: Sequence[Tensor], shapes: list[tuple[int, int]], source: str) -> None:
    """Raise unless the factors of a layer have these shapes and hold numbers."""
    found = [tuple(factor.shape) for factor in factors]
    if found != shapes:
        raise AdapterError(f"{source} does not fit: factors of {name!r} have shapes {found}, expected {shapes}")
    if not all(bool(factor.isfinite().all()) for factor in factors):
        raise AdapterError(
            f"{source} cannot be used: factors of {name!r} hold NaN or infinite numbers; train them again"
        )


def first_gradients(layers: Mapping[str, nn.Module], loss: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The loss's gradient with respect to each layer's weight, (outputs, inputs), on the CPU and in float64.

    Taken with respect to a change of this layer alone, also where several layers share one weight.
    """
    weights = {name: weight_of(layer) for name, layer in layers.items()}
    probes = {name: Chain(_placed([torch.zeros_like(weight)], weight)) for name, weight in weights.items()}
    handles = [_attach(layer, probes[name]) for name, layer in layers.items()]
    try:
        value = loss()
        _check_loss(value)
        leaves = [probe.factors[0] for probe in probes.values()]
        found = torch.autograd.grad(value, leaves, allow_unused=True)
    finally:
        for handle, layer in zip(handles, layers.values(), strict=True):
            handle.remove()
            delattr(layer, CHILD)
    unused = [name for name, gradient in zip(layers, found, strict=True) if gradient is None]
    if unused:
        raise AdapterError(f"`loss` does not depend on {listed(unused)}; choose layers that the model runs")
    return {name: gradient.double().cpu() for name, gradient in zip(layers, found, strict=True)}


def _check_loss(value: object) -> None:
    """Raise unless what the loss function returned can be differentiated."""
    if not isinstance(value, Tensor):
        raise TypeError(f"`loss` must return a tensor, got a {type(value).__name__}; leave out .item() or float()")
    if value.numel() != 1:
        raise AdapterError(f"`loss` must return one number, got shape {tuple(value.shape)}; take its mean or sum")
    if not value.requires_grad:
        raise AdapterError("`loss` returned a number without a gradient; let it run the model, not under no_grad")


def check_ranks(kind: Kind, layers: Mapping[str, nn.Module]) -> None:
    """Raise if the rank exceeds the smaller side of a layer."""
    for name, layer in layers.items():
        outputs, inputs = _sides(layer)
        if kind.rank > min(outputs, inputs):
            raise AdapterError(
                f"`rank` must be at most {min(outputs, inputs)} for {name!r} ({inputs} inputs, {outputs} outputs), "
                f"got {kind.rank}"
            )


def _shapes(kind: Kind, layer: nn.Module) -> list[tuple[int, int]]:
    """The shapes of an adapter's factors on a layer, input side first."""
    (outputs, inputs), rank = _sides(layer), kind.rank
    num_cores = {LoRA: 0, DeepLoRA: 1, CompressedDeepLoRA: 3}[type(kind)]
    return [(rank, inputs), *[(rank, rank)] * num_cores, (outputs, rank)]


def _attach(layer: nn.Module, chain: Chain) -> RemovableHandle:
    """Let a chain add to what a layer gives, ahead of any hook that looks at the layer's output."""
    layer.add_module(CHILD, chain)
    return layer.register_forward_hook(_add_change, prepend=True, with_kwargs=True)


def _add_change(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
    """The layer's output and what its adapter adds to it."""
    inputs = args[0] if args else next(iter(kwargs.values()))
    change: Tensor = layer.get_submodule(CHILD)(inputs)
    return output + change.to(output.dtype)


def _check_free(model: nn.Module) -> None:
    """Raise if there is no model, or it has adapters."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    adapted = [name for name, module in named_modules(model) if isinstance(getattr(module, CHILD, None), Chain)]
    if adapted:
        raise AdapterError(f"the model has adapters already, on {listed(adapted)}; merge or remove them first")


def _sides(layer: nn.Module) -> tuple[int, int]:
    """Outputs and inputs of a linear layer."""
    outputs, inputs = weight_of(layer).shape
    return outputs, inputs


def _placed(factors: Sequence[Tensor], weight: Tensor) -> list[Tensor]:
    """The factors where the weight is, in its precision but at least single."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return [factor.to(weight.device, dtype) for factor in factors]


def _shared(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Name of each adapted layer whose weight another module has too → that module's name."""
    owners = [
        (name, module, parameter)
        for name, module in named_modules(model)
        for parameter in module.parameters(recurse=False)
    ]
    return {
        name: other
        for name, layer in layers.items()
        for other, module, parameter in owners
        if parameter is layer._parameters.get("weight") and module is not layer
    }


def _check_mergeable(name: str, layer: nn.Module, change: Tensor, shared: Mapping[str, str]) -> None:
    """Raise unless a change can be added to a layer's weight."""
    if not bool(change.isfinite().all()):
        raise AdapterError(f"the adapter of {name!r} holds NaN or infinite numbers; train it again")
    if not isinstance(layer._parameters.get("weight"), nn.Parameter):
        raise AdapterError(
            f"{name!r}, a {type(layer).__name__}, has no plain weight that a change could be added to: it is computed "
            "(parametrised, factorised) or quantised; make it one before merging"
        )
    if name in shared:
        raise AdapterError(
            f"{name!r} shares its weight with {shared[name]!r}, which merging would change too; pass untie=True to "
            f"give {name!r} a weight of its own"
        )
