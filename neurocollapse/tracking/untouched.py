"""Going over a loader in the middle of training without changing what training will draw."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from neurocollapse.support.quiet import kept_random_state

_HOLDERS = ("sampler", "batch_sampler", "dataset", "loader")
"""Where, beside itself, a loader may keep a generator."""


@contextmanager
def untouched_random_states(model: nn.Module, loader: Any) -> Iterator[None]:
    """Put back the random states of torch, Python and NumPy, and of the generators of a loader and its samplers.

    A probe loader may be the training loader itself, whose order follows from a generator of its own.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # the state that others draw from
    generators = {id(one): (one, one.get_state()) for one in _generators(loader)}
    try:
        with kept_random_state(*{parameter.device for parameter in model.parameters()}):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002  # the same
        for generator, state in generators.values():
            generator.set_state(state)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """The torch generators of a loader, its samplers and its dataset."""
    parts, seen = [loader], set()
    while parts:
        part = parts.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator
        parts += [getattr(part, name, None) for name in _HOLDERS]
