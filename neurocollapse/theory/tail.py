"""The affine maps that any network ends with, and the class moments on the way to them."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurocollapse.statistics import ClassMoments
from neurocollapse.support.quiet import in_mode
from neurocollapse.theory.folding import Affine, Folding, Place, fits
from neurocollapse.theory.watching import Call, Watch, as_matrix

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
        Class moments of the (pooled) input of every linear and convolution layer, in the order in which they ran.
    """

    names: tuple[str, ...]
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    features: Tensor
    is_whole: bool
    obstacle: str
    moments: dict[str, ClassMoments]


def linear_tail(model: nn.Module, inputs: Tensor, labels: Tensor) -> LinearTail:
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
    watch = Watch(model)
    with watch.recording():
        for chunk, expected in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
            watch.run(chunk, expected)
    with in_mode(watch.network), torch.no_grad():
        return _trailing_run(watch, Folding(watch.network, watch.placed(inputs[:1]), as_matrix), inputs)


def _trailing_run(watch: Watch, folding: Folding, inputs: Tensor) -> LinearTail:
    """Walk back from the output; a layer that is no part of a map may lie inside the map of an earlier one."""
    calls = watch.named_calls()
    run: list[tuple[str, Call, Affine]] = []
    end, images, following = Place(None), torch.cat(watch.outputs), True
    obstacle = ""
    for name, call in reversed(calls.items()):
        problem = _unreadable(name, call) if watch.is_steady(call) else f"layer {name!r} does not run for every sample"
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
        moments=watch.moments,
    )


def _unreadable(name: str, call: Call) -> str:
    """Say why no map can begin at a call, or nothing."""
    if call.pair is None:
        return f"layer {name!r} is a {type(call.module).__name__}"
    if not call.features:
        return f"layer {name!r} does not receive one row per sample"
    if not call.is_linear:
        return f"layer {name!r} does not compute Wx (a hook, quantisation or a forward of its own)"
    return ""


def _map(call: Call, folding: Folding, end: Place, images: Tensor, *, adjacent: bool) -> Affine | None:
    """The map from a call's input to where the run begins so far; None if there is none."""
    assert call.pair is not None
    weight, bias = call.pair
    if adjacent and call.joined:
        return Affine(weight, weight.new_zeros(len(weight)) if bias is None else bias)
    features = torch.cat(call.features)
    found = folding.between(call.place, end, features.shape[1])
    return found if found is not None and fits(found, features, images, call.unit) else None


def _between(name: str, *, is_last: bool) -> str:
    """Say that something nonlinear comes after a call."""
    target = "the output" if is_last else "the next linear layer"
    return f"something else happens between layer {name!r} and {target}"


def _same_values(features: Tensor, inputs: Tensor, dtype: torch.dtype) -> bool:
    """Whether the features are the inputs, as far as the dtype in which they entered can tell."""
    return features.shape == inputs.shape and torch.equal(features, inputs.to(dtype).to(features.dtype))
