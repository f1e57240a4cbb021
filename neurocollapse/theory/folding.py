"""Affine maps between two places of a network, found by running it with other features at the first one."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

PROBES = 1024
"""Probes of one forward pass at most."""


class Affine(NamedTuple):
    """x ↦ Wx + b, in the precision in which the network computed it."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Place:
    """Where features enter a module: the call-th time that it is called in one forward pass.

    Attributes
    ----------
    module
        None for the network's output.
    call
    """

    module: nn.Module | None
    call: int = 0


@dataclass(eq=False)
class Folding:
    """The map from the input of one module to the input of a later one, or to the output.

    BatchNorm in eval mode, Dropout, scales, and skip connections in between fold into W and b, whatever the code looks
    like. Whether the map is affine is settled on the data: see `fits`.

    Attributes
    ----------
    model
        Without wrappers, in eval mode.
    sample : Tensor of shape (1, …)
        An input of the network, in its dtype and on its device; everything before the place is computed from it.
    read
        What makes a matrix of the model's output.
    """

    model: nn.Module
    sample: Tensor
    read: Any

    def between(self, start: Place, end: Place, num_features: int) -> Affine | None:
        """The map, from its values at 0 and at every basis vector; None if it is not affine at three random points."""
        probes = self._probes(num_features)
        images = self._images(start, end, next(probes))
        if images is None or not _is_additive(images):
            return None
        offset = images[:1]
        columns = [self._images(start, end, some) for some in probes]
        if any(one is None for one in columns):
            return None
        weight = torch.cat([one - offset for one in columns if one is not None]).T
        return Affine(weight.contiguous(), offset[0].clone())

    def _probes(self, num_features: int) -> Iterator[Tensor]:
        """First 0, two random points and their sum; then the basis, chunk by chunk."""
        generator = torch.Generator().manual_seed(0)
        one, other = torch.randn(2, num_features, generator=generator, device="cpu").to(self.sample)
        yield torch.stack([torch.zeros_like(one), one, other, one + other])
        for begin in range(0, num_features, PROBES):
            rows = range(begin, min(begin + PROBES, num_features))
            basis = self.sample.new_zeros(len(rows), num_features)
            basis[torch.arange(len(rows), device="cpu"), torch.tensor(rows, device="cpu")] = 1
            yield basis

    def _images(self, start: Place, end: Place, probes: Tensor) -> Tensor | None:
        """What arrives at the end, one row a probe; None if it is no matrix of that many rows."""
        found: list[Tensor] = []
        inputs = self.sample.expand(len(probes), *self.sample.shape[1:]).contiguous()
        with _replaced(self.model, start, probes), _watched(end, found):
            output = self.model(inputs)
        image = self.read(output, len(probes)) if end.module is None else found[0] if found else None
        return image if image is not None and image.ndim == 2 and len(image) == len(probes) else None


def fits(affine: Affine, features: Tensor, images: Tensor, unit: float) -> bool:
    """Whether images are W features + b within rounding, for every sample.

    Parameters
    ----------
    features, images : Tensors of shape (samples, in) and (samples, out)
    unit
        Relative rounding of the network's arithmetic.
    """
    weight, bias = affine.weight.double(), affine.bias.double()
    if features.shape[1] != weight.shape[1] or images.shape[1] != weight.shape[0]:
        return False
    features, images = features.double(), images.double()
    # W is a difference of two values of the network, each rounded, so the offset counts as often as a product does.
    room = weight.norm() * features.norm(dim=1) + (1 + features.norm(dim=1)) * bias.norm() + images.norm(dim=1)
    error = (features @ weight.T + bias - images).norm(dim=1)
    return bool((error <= 4 * unit * math.sqrt(weight.shape[1]) * room).all())


def _is_additive(images: Tensor) -> bool:
    """Whether f(x + y) − f(x) − f(y) + f(0) is nothing but rounding."""
    zero, one, other, both = images
    unit = torch.finfo(images.dtype).eps
    size = float(images.norm(dim=1).max())
    return float((both - one - other + zero).norm()) <= 64 * unit * math.sqrt(images.shape[1]) * max(size, 1e-300)


@contextmanager
def _replaced(model: nn.Module, place: Place, features: Tensor) -> Iterator[None]:
    """Other features at the input of a module, at one of its calls; a skip connection around it takes them, too.

    The tensor that enters is overwritten, because what goes around the module holds the same tensor. One that belongs
    to the model, or that is no memory of its own, is left alone, and only the module receives other features.
    """
    calls = 0
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}

    def replace(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal calls
        calls += 1
        if calls != place.call + 1 or not args or not isinstance(args[0], Tensor):
            return None
        given = args[0]
        if given.shape != features.shape or given.untyped_storage().data_ptr() in own or 0 in given.stride():
            return (features, *args[1:])
        given.copy_(features)
        return None

    assert place.module is not None
    handle = place.module.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _watched(place: Place, found: list[Tensor]) -> Iterator[None]:
    """The input of a module at one of its calls."""
    if place.module is None:
        yield
        return
    calls = 0

    def watch(_module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == place.call + 1 and args and isinstance(args[0], Tensor):
            found.append(args[0].detach().clone())

    handle = place.module.register_forward_pre_hook(watch)
    try:
        yield
    finally:
        handle.remove()
