"""Every call of a layer with a weight while a network runs: what enters it, and whether it computes Wx + b."""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from neurocollapse.hooks import CaptureWarning, Positions, Recorder, SiteKey, is_linear, select, weight_and_bias
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.quiet import in_mode
from neurocollapse.theory.folding import Place

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(eq=False)
class Call:
    """One call of a layer with a weight, summed over the chunks of the data."""

    module: nn.Module
    key: SiteKey
    dtype: torch.dtype
    place: Place
    joined: bool = True
    is_linear: bool = True
    leaving: set[torch.dtype] = field(default_factory=set)
    features: list[Tensor] = field(default_factory=list)
    moments: ClassMoments | None = None

    @cached_property
    def pair(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias; None for a convolution."""
        return weight_and_bias(self.module)

    @property
    def unit(self) -> float:
        """Relative rounding of the coarsest among what enters, what leaves, and the weight."""
        kinds = self.leaving | {self.dtype} | (set() if self.pair is None else {self.pair[0].dtype})
        return max(torch.finfo(kind).eps for kind in kinds if kind.is_floating_point)


class Watch:
    """Every call of a layer with a weight, beside the call before it."""

    def __init__(self, model: nn.Module) -> None:
        leaves = [replace(tap, selectors=()) for tap in select(model, "leaves")]
        exits = [tap for tap in leaves if is_linear(tap.module)]
        weighted = [*exits, *(tap for tap in leaves if isinstance(tap.module, CONVOLUTIONS))]
        if not weighted:
            raise ValueError(f"`model` must have a linear or convolutional layer, {type(model).__name__} has none")
        entries = [replace(tap, name=f"{tap.name}@in", at_input=True) for tap in weighted]
        self.recorder = Recorder(model, [*entries, *exits], sink=self._take)
        self.network = self.recorder.model
        self._reference = next(
            (one for one in model.parameters() if one.is_floating_point()), torch.empty(0, device="cpu")
        )
        self.calls: dict[tuple[str, int], Call] = {}
        self.outputs: list[Tensor] = []
        self._labels = torch.empty(0, device="cpu")
        self._last: tuple[Call, Tensor | None] | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch, in evaluation mode and without gradients."""
        with in_mode(self.network), torch.no_grad(), warnings.catch_warnings():
            # A layer that never runs, or gives no features, is no part of the run; nor is one that runs sometimes.
            warnings.filterwarnings("ignore", "no features of", CaptureWarning)
            warnings.filterwarnings("ignore", ".*no longer fit", CaptureWarning)
            try:
                with self.recorder:
                    yield
            finally:
                self.recorder.close()  # where an interrupt has kept the recorder's block from doing it

    def run(self, inputs: Tensor, labels: Tensor) -> None:
        """Run the network on a chunk of the data."""
        self._labels, self._last = labels.cpu(), None
        self.recorder.expect(len(labels))
        output = as_matrix(self.network(self.placed(inputs)), len(labels))
        self.outputs.append(output.cpu().clone())
        self._join(output)

    def placed(self, inputs: Tensor) -> Tensor:
        """Inputs on the network's device, in its dtype."""
        given = inputs.to(self._reference.device)
        return given.to(self._reference.dtype) if given.is_floating_point() else given

    def forget(self) -> None:
        """Drop the features and outputs of the samples so far, and keep their moments."""
        self.outputs.clear()
        for call in self.calls.values():
            call.features.clear()

    def named_calls(self) -> dict[str, Call]:
        """All calls in the order in which they began, numbered where a layer was called more than once."""
        return {self._name(call): call for call in self.calls.values()}

    @property
    def moments(self) -> dict[str, ClassMoments]:
        """Class moments of what enters every layer that runs for every sample, all with the same classes."""
        steady = {self._name(call): call.moments for call in self.calls.values() if self.is_steady(call)}
        found = {name: one for name, one in steady.items() if one is not None}
        count = max((one.num_classes for one in found.values()), default=0)
        return {name: one.padded(count) for name, one in found.items()}

    def is_steady(self, call: Call) -> bool:
        """Whether the layer has run equally often, on features of one layout, in every forward pass."""
        return call.key in self.recorder.sites

    def _name(self, call: Call) -> str:
        site = self.recorder.sites.get(call.key)
        return (self.recorder.taps[call.key.tap] if site is None else site).name.replace("@in", "", 1)

    def _take(self, key: SiteKey, features: Tensor, positions: Positions) -> None:
        """What enters a layer, or leaves a linear one."""
        tap, site = self.recorder.taps[key.tap], self.recorder.sites[key]
        place = (tap.path, key.call)
        is_row = len(site.shape) == 1 and len(features) == len(self._labels)
        if tap.at_input:
            self._join(features)
            call = self.calls.setdefault(place, Call(tap.module, key, site.dtype, Place(tap.module, key.call)))
            self._last = (call, None)
            if is_row and call.pair is not None:
                call.features.append(features.cpu().clone())
            call.moments = self._with_moments(call.moments, features)
        elif place in self.calls:
            call = self.calls[place]
            call.leaving.add(site.dtype)
            call.is_linear &= is_row and _is_linear(call, features)
            self._last = (call, features.clone() if is_row else None)  # the next operation may work in place

    def _with_moments(self, before: ClassMoments | None, features: Tensor) -> ClassMoments:
        """The moments of a layer with more features; classes may turn up late."""
        found = ClassMoments.from_features(features.cpu(), self._labels)
        if before is None:
            return found
        count = max(before.num_classes, found.num_classes)
        return before.padded(count).merge(found.padded(count))

    def _join(self, features: Tensor) -> None:
        """Whether the last call's output is, value for value, what comes next."""
        if self._last is not None:
            call, output = self._last
            call.joined &= output is not None and output.shape == features.shape and torch.equal(output, features)


def _is_linear(call: Call, output: Tensor) -> bool:
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
    room = call.unit * math.sqrt(weight.shape[1]) * features.norm(dtype=wide) * weight.norm(dtype=wide)
    return bool((output.to(wide) - expected).norm() <= room)


def as_matrix(output: Any, num_samples: int) -> Tensor:
    """The network's output as a finite matrix: itself, its `logits`, or the first entry of a tuple."""
    tensor = getattr(output, "logits", output)
    tensor = tensor[0] if isinstance(tensor, tuple | list) and tensor else tensor
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or tensor.shape[0] != num_samples:
        found = f"a Tensor of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"the network must return a matrix with one row per sample ({num_samples}), got {found}")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("the network's output holds NaN or infinite values; verify a network whose training converged")
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))  # as features are
