"""The affine maps that any network ends with, and the class moments on the way to them."""

import math
import warnings
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from neurocollapse.hooks import CaptureWarning, Positions, Recorder, SiteKey, is_linear, select, weight_and_bias
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.quiet import in_mode
from neurocollapse.theory.folding import Affine, Folding, Place, fits

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class LinearTail:
    """What a network does last, if that is a chain of affine maps.

    Attributes
    ----------
    names, weights, biases
        The linear layers at whose inputs the maps begin, input side first, and the maps; empty if the network does not
        end with one. What lies between two layers and is affine (BatchNorm in eval mode, skip connections) is part of
        the map of the first.
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
    biases: tuple[Tensor, ...]
    features: Tensor
    is_whole: bool
    obstacle: str
    moments: dict[str, ClassMoments]


def linear_tail(model: nn.Module, inputs: Tensor, labels: Tensor, num_classes: int | None = None) -> LinearTail:
    """Run the network in evaluation mode and find the affine maps it ends with.

    A linear layer belongs to the run if its output is its weight times its input plus its bias, within rounding, and,
    value for value, what the next layer receives; the last output is the network's. Where something else happens before
    the next layer, the network is run again with other features in place of the layer's input: if the next layer
    receives an affine function of them, and the same one on the data, it is that function. So what is verified is what
    the network computes on these inputs, whatever its code looks like. What counts as a linear layer, and what its
    weight is, says `neurocollapse.hooks.weight_and_bias`: adapters and factors are worked in.

    Raises
    ------
    ValueError
        If the network has no layer with a weight, or its output is no matrix with one row per sample, or not finite.
    """
    watch = _Watch(model, int(labels.max()) + 1 if num_classes is None else num_classes)
    reference = next((one for one in model.parameters() if one.is_floating_point()), torch.empty(0))
    with in_mode(model), torch.no_grad(), warnings.catch_warnings():
        # A layer that never runs, or gives no features, is no part of the run.
        warnings.filterwarnings("ignore", "no features of", CaptureWarning)
        try:
            with watch.recorder:
                for chunk, expected in zip(inputs.split(CHUNK), labels.cpu().split(CHUNK), strict=True):
                    given = chunk.to(reference.device)
                    watch.run(given.to(reference.dtype) if given.is_floating_point() else given, expected)
        finally:
            watch.recorder.close()  # where an interrupt has kept the recorder's block from doing it
        one = inputs[:1].to(reference.device)
        sample = one.to(reference.dtype) if one.is_floating_point() else one
        folding = Folding(watch.recorder.model, sample, _matrix)
        return _trailing_run(watch, folding, inputs)


@dataclass(eq=False)
class _Call:
    """One call of a layer with a weight, summed over the chunks of the data."""

    module: nn.Module
    key: SiteKey
    dtype: torch.dtype
    place: Place
    joined: bool = True
    is_linear: bool = True
    features: list[Tensor] = field(default_factory=list)
    moments: ClassMoments | None = None

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias; None for a convolution."""
        return weight_and_bias(self.module)


class _Watch:
    """Every call of a layer with a weight, beside the call before it."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        leaves = [replace(tap, selectors=()) for tap in select(model, "leaves")]
        exits = [tap for tap in leaves if is_linear(tap.module)]
        weighted = [*exits, *(tap for tap in leaves if isinstance(tap.module, CONVOLUTIONS))]
        if not weighted:
            raise ValueError(f"`model` must have a linear or convolutional layer, {type(model).__name__} has none")
        entries = [replace(tap, name=f"{tap.name}@in", at_input=True) for tap in weighted]
        self.recorder = Recorder(model, [*entries, *exits], sink=self._take)
        self.num_classes = num_classes
        self.calls: dict[tuple[str, int], _Call] = {}
        self.outputs: list[Tensor] = []
        self._labels = torch.empty(0)
        self._last: tuple[_Call, Tensor | None] | None = None

    def run(self, inputs: Tensor, labels: Tensor) -> None:
        """Run the network on a chunk of the data."""
        self._labels, self._last = labels, None
        self.recorder.expect(len(labels))
        output = _matrix(self.recorder.model(inputs), len(labels))
        self.outputs.append(output.cpu().clone())
        self._join(output)

    def named_calls(self) -> dict[str, _Call]:
        """All calls in the order in which they began, numbered where a layer was called more than once."""
        names = [self.recorder.sites[call.key].name for call in self.calls.values()]
        return {name.replace("@in", "", 1): call for name, call in zip(names, self.calls.values(), strict=True)}

    def _take(self, key: SiteKey, features: Tensor, positions: Positions) -> None:
        """What enters a layer, or leaves a linear one."""
        tap, site = self.recorder.taps[key.tap], self.recorder.sites[key]
        place = (tap.path, key.call)
        is_row = len(site.shape) == 1 and len(features) == len(self._labels)
        if tap.at_input:
            self._join(features)
            call = self.calls.setdefault(place, _Call(tap.module, key, site.dtype, Place(tap.module, key.call)))
            self._last = (call, None)
            if is_row and call.pair is not None:
                call.features.append(features.cpu().clone())
            moments = ClassMoments.from_features(features.cpu(), self._labels, self.num_classes)
            call.moments = moments if call.moments is None else call.moments.merge(moments)
        elif place in self.calls:
            call = self.calls[place]
            call.is_linear &= is_row and _is_linear(call, features, site.dtype)
            self._last = (call, features.clone() if is_row else None)  # the next operation may work in place

    def _join(self, features: Tensor) -> None:
        """Whether the last call's output is, value for value, what comes next."""
        if self._last is not None:
            call, output = self._last
            call.joined &= output is not None and output.shape == features.shape and torch.equal(output, features)


def _trailing_run(watch: _Watch, folding: Folding, inputs: Tensor) -> LinearTail:
    """Walk back from the output; a layer that is no part of a map may lie inside the map of an earlier one."""
    calls = watch.named_calls()
    run: list[tuple[str, _Call, Affine]] = []
    end, images, following = Place(None), torch.cat(watch.outputs), True
    obstacle = ""
    for name, call in reversed(calls.items()):
        problem = _unreadable(name, call)
        if problem:
            obstacle = problem
            break
        found = _map(call, folding, end, images, adjacent=following)
        following = found is not None
        if found is None:
            obstacle = obstacle or _between(name, is_last=not run)
            continue
        obstacle = ""
        run.insert(0, (name, call, found))
        end, images = call.place, torch.cat(call.features)
    whole = bool(run) and _same_values(images, inputs.detach().flatten(1).cpu(), run[0][1].dtype)
    return LinearTail(
        names=tuple(name for name, _, _ in run),
        weights=tuple(found.weight for _, _, found in run),
        biases=tuple(found.bias for _, _, found in run),
        features=images if run and not whole else inputs.detach().flatten(1),
        is_whole=whole,
        obstacle=obstacle,
        moments={name: call.moments for name, call in calls.items() if call.moments is not None},
    )


def _unreadable(name: str, call: _Call) -> str:
    """Say why no map can begin at a call, or nothing."""
    if call.pair is None:
        return f"layer {name!r} is a {type(call.module).__name__}"
    if not call.features:
        return f"layer {name!r} does not receive one row per sample"
    if not call.is_linear:
        return f"layer {name!r} does not compute Wx (a hook, quantisation or a forward of its own)"
    return ""


def _map(call: _Call, folding: Folding, end: Place, images: Tensor, *, adjacent: bool) -> Affine | None:
    """The map from a call's input to where the run begins so far; None if there is none."""
    assert call.pair is not None
    weight, bias = call.pair
    if adjacent and call.joined:
        return Affine(weight, torch.zeros(len(weight)) if bias is None else bias)
    features = torch.cat(call.features)
    found = folding.between(call.place, end, features.shape[1])
    unit = max(torch.finfo(kind).eps for kind in (call.dtype, weight.dtype) if kind.is_floating_point)
    return found if found is not None and fits(found, features, images, unit) else None


def _between(name: str, *, is_last: bool) -> str:
    """Say that something nonlinear comes after a call."""
    target = "the output" if is_last else "the next linear layer"
    return f"something else happens between layer {name!r} and {target}"


def _is_linear(call: _Call, output: Tensor, dtype: torch.dtype) -> bool:
    """Whether the output, after all hooks, is the weight times the features plus the bias, within rounding."""
    if call.pair is None or not call.features or not call.pair[0].is_floating_point():
        return False
    weight, bias = call.pair
    features = call.features[-1].to(output.device)
    if features.shape[1] != weight.shape[1] or output.shape[1] != weight.shape[0]:
        return False
    wide = torch.promote_types(output.dtype, weight.dtype)
    expected = linear(features.to(wide), weight.to(wide), None if bias is None else bias.to(wide))
    # Sums of `in_features` products in another order differ by about the root of their number, in rounding units.
    unit = max(torch.finfo(kind).eps for kind in (dtype, weight.dtype))
    room = unit * math.sqrt(weight.shape[1]) * features.norm(dtype=wide) * weight.norm(dtype=wide)
    return bool((output.to(wide) - expected).norm() <= room)


def _matrix(output: Any, num_samples: int) -> Tensor:
    """The network's output as a finite matrix: itself, its `logits`, or the first entry of a tuple."""
    tensor = getattr(output, "logits", output)
    tensor = tensor[0] if isinstance(tensor, tuple | list) and tensor else tensor
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or tensor.shape[0] != num_samples:
        found = f"a Tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the network must return a matrix with one row per sample ({num_samples}), got {found}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("the network's output holds NaN or infinite values; verify a network whose training converged")
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))  # as features are


def _same_values(features: Tensor, inputs: Tensor, dtype: torch.dtype) -> bool:
    """Whether the features are the inputs, as far as the dtype in which they entered can tell."""
    return features.shape == inputs.shape and torch.equal(features, inputs.to(dtype).to(features.dtype))
