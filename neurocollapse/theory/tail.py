"""The trailing run of linear layers of any network, and the class moments on the way to it."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from neurocollapse.statistics import ClassMoments

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class LinearTail:
    """What a network does last, if that is a run of bias-free linear layers.

    Attributes
    ----------
    names, weights
        The run's modules, input side first; empty if the network does not end with one.
    features : Tensor of shape (samples, features)
        What enters the run.
    is_whole
        Whether the run is the whole network.
    obstacle
        What ended the run on its input side, in words.
    moments : mapping name → ClassMoments
        Of the (pooled) input of every linear and convolution layer, in the order in which they ran.
    """

    names: tuple[str, ...]
    weights: tuple[Tensor, ...]
    features: Tensor
    is_whole: bool
    obstacle: str
    moments: dict[str, ClassMoments]


@dataclass(eq=False)
class _Call:
    """One call of a layer with weights, summed over the chunks of the data."""

    name: str
    module: nn.Module
    joined: bool = True
    is_linear: bool = True
    features: list[Tensor] = field(default_factory=list)
    moments: ClassMoments | None = None


def linear_tail(network: nn.Module, inputs: Tensor, labels: Tensor, num_classes: int | None = None) -> LinearTail:
    """Run the network once in evaluation mode and find the linear layers it ends with.

    A layer belongs to the run if its output is its weight times its input, within rounding, and, value for value, what
    the next layer receives; the last output is the network's. So what is verified is what the network computes on these
    inputs, whatever its code looks like.

    Raises
    ------
    ValueError
        If the network's output is no matrix with one row per sample, or not finite.
    """
    calls: list[_Call] = []
    reference = next((parameter for parameter in network.parameters() if parameter.is_floating_point()), None)
    if reference is None:
        raise ValueError(f"`network_or_weights` has no parameters: {type(network).__name__} has no layer to verify")
    present = int(labels.max()) + 1 if num_classes is None else num_classes
    with _evaluating(network), torch.no_grad():
        for start in range(0, len(inputs), CHUNK):
            rows = slice(start, start + CHUNK)
            recorder = _Recorder(network, labels[rows].cpu(), present, calls)
            given = inputs[rows].to(device=reference.device, dtype=_input_dtype(inputs, reference))
            recorder.run(given)
    return _trailing_run(calls, inputs)


class _Recorder:
    """Hooks on every linear and convolution layer for one forward pass."""

    def __init__(self, network: nn.Module, labels: Tensor, num_classes: int, calls: list[_Call]) -> None:
        self.network, self.labels, self.num_classes, self.calls = network, labels, num_classes, calls
        self.position = 0
        self.first_chunk = not calls
        self.last: tuple[Tensor, int] | None = None

    def run(self, inputs: Tensor) -> None:
        """Run the network and record every call."""
        handles = [
            module.register_forward_hook(self._hook(name), with_kwargs=True)
            for name, module in self.network.named_modules()
            if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        ]
        try:
            output = _matrix(self.network(inputs), len(self.labels))
        finally:
            for handle in handles:
                handle.remove()
        if self.calls:
            self.calls[-1].joined &= self._continues(output)

    def _hook(self, name: str) -> Any:
        """Record one call: its features, and whether the call before it led straight here."""

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            features = args[0] if args else kwargs["input"]
            if self.first_chunk:
                self.calls.append(_Call(name or type(module).__name__, module))
            if self.position:
                self.calls[self.position - 1].joined &= self._continues(features)
            call = self.calls[self.position]
            self._store(call, features)
            if isinstance(module, nn.Linear):
                call.is_linear &= _is_linear(module, features, output)
            self.position += 1
            # In-place activations change the version: then nothing continues.
            self.last = (output, output._version) if isinstance(output, Tensor) else None

        return record

    def _continues(self, features: Tensor) -> bool:
        """Whether these features are the last recorded output, untouched."""
        if self.last is None:
            return False
        output, version = self.last
        return output._version == version and output.shape == features.shape and torch.equal(output, features)

    def _store(self, call: _Call, features: Tensor) -> None:
        """Keep a linear layer's input rows, and the class moments of any layer's input."""
        if features.shape[0] != len(self.labels) or not features.is_floating_point():
            call.joined = False
            return
        if isinstance(call.module, nn.Linear) and features.ndim == 2:
            call.features.append(features.detach().cpu().clone())
        moments = ClassMoments.from_features(_pooled(call.module, features).cpu(), self.labels, self.num_classes)
        call.moments = moments if call.moments is None else call.moments.merge(moments)


def _trailing_run(calls: list[_Call], inputs: Tensor) -> LinearTail:
    """Walk back from the output as long as bias-free linear layers follow each other."""
    run: list[_Call] = []
    obstacle = "the network begins there"
    for call in reversed(calls):
        obstacle = _obstacle(call, is_last=call is calls[-1])
        if obstacle:
            break
        run.insert(0, call)
    else:
        obstacle = ""
    names = _unique([call.name for call in calls])
    moments = {name: call.moments for name, call in zip(names, calls, strict=True) if call.moments is not None}
    weights = tuple(call.module.weight.detach() for call in run if isinstance(call.module, nn.Linear))
    features = torch.cat(run[0].features) if run else inputs.detach().flatten(1)
    whole = bool(run) and _same_values(features, inputs)
    return LinearTail(
        names=tuple(names[len(calls) - len(run) :]),
        weights=weights,
        features=inputs.detach().flatten(1) if whole else features,
        is_whole=whole,
        obstacle=obstacle,
        moments=moments,
    )


def _obstacle(call: _Call, *, is_last: bool) -> str:
    """Say why a call is not part of the run, or nothing."""
    kind = type(call.module).__name__
    if not isinstance(call.module, nn.Linear):
        return f"layer {call.name!r} is a {kind}"
    if not call.joined:
        target = "the output" if is_last else "the next linear layer"
        return f"something else happens between layer {call.name!r} and {target}"
    if not call.is_linear:
        return f"layer {call.name!r} does not compute Wx (a hook, an adapter or a forward of its own)"
    bias = call.module.bias
    if bias is not None and bool((bias != 0).any()):
        return f"layer {call.name!r} has a bias (largest entry {float(bias.detach().abs().max()):.3g})"
    return "" if call.features else f"layer {call.name!r} does not receive one row per sample"


def _is_linear(module: nn.Linear, features: Tensor, output: Any) -> bool:
    """Whether the output, after all hooks, is the weight times the features plus the bias, within rounding."""
    weight = module.weight
    if not weight.is_floating_point() or features.shape[-1:] != weight.shape[1:]:
        return False
    expected = linear(features.to(weight.dtype), weight, module.bias)
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape != expected.shape:
        return False
    # Sums of `in_features` products in another order differ by about the root of their number, in rounding units.
    unit = max(torch.finfo(kind).eps for kind in (output.dtype, expected.dtype))
    wide = torch.promote_types(expected.dtype, torch.float32)
    room = unit * math.sqrt(weight.shape[1]) * features.norm(dtype=wide) * weight.norm(dtype=wide)
    return bool((output.to(wide) - expected.to(wide)).norm() <= room)


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode and give each its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _input_dtype(inputs: Tensor, reference: Tensor) -> torch.dtype:
    """Float inputs in the network's dtype, token numbers as they are."""
    return reference.dtype if inputs.is_floating_point() else inputs.dtype


def _matrix(output: Any, num_samples: int) -> Tensor:
    """The network's output as a finite matrix: itself, its `logits`, or the first entry of a tuple."""
    tensor = getattr(output, "logits", output)
    tensor = tensor[0] if isinstance(tensor, tuple | list) and tensor else tensor
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or tensor.shape[0] != num_samples:
        found = f"a Tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the network must return a matrix with one row per sample ({num_samples}), got {found}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("the network's output holds NaN or infinite values; verify a network whose training converged")
    return tensor


def _pooled(module: nn.Module, features: Tensor) -> Tensor:
    """One row per sample: the mean over positions, channels first for convolutions, last otherwise."""
    if features.ndim == 2:
        return features
    return features.flatten(2).mean(2) if isinstance(module, CONVOLUTIONS) else features.flatten(1, -2).mean(1)


def _same_values(features: Tensor, inputs: Tensor) -> bool:
    """Whether the features are the inputs, as far as the features' dtype can tell."""
    flat = inputs.detach().flatten(1).cpu()
    return features.shape == flat.shape and torch.equal(features, flat.to(features.dtype))


def _unique(names: list[str]) -> list[str]:
    """Number the calls of modules that ran more than once."""
    total = {name: names.count(name) for name in names}
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        unique.append(f"{name}#{seen[name]}" if total[name] > 1 else name)
    return unique
