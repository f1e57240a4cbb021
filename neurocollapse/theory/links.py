"""Which function leads from one place of a chain to the next: told by what it computes, in all batches."""

from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from neurocollapse.passes.sink import Sink
from neurocollapse.statistics import ClassBatch
from neurocollapse.support.transfer import Readback

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (torch.relu, 1.0),
    "tanh": (torch.tanh, 1.0),
    "sigmoid": (torch.sigmoid, 0.25),
    "gelu": (functional.gelu, 1.129),
    "gelu (tanh)": (lambda x: functional.gelu(x, approximate="tanh"), 1.129),
    "silu": (functional.silu, 1.09984),
    "elu": (functional.elu, 1.0),
    "leaky_relu": (functional.leaky_relu, 1.0),
    "relu6": (functional.relu6, 1.0),
    "softplus": (functional.softplus, 1.0),
}
"""Activations without parameters, which a model may call without a module, and their largest slopes."""
_ULPS = 4
"""Rounding units by which one evaluation of such a function may differ from another."""
Link = tuple[str, str]
"""Two places of the chain, one behind the other, by site."""


class _Asked(NamedTuple):
    """What a device has been asked about a link in a batch: which of some functions fit, a bool for each."""

    batch: int
    link: Link
    names: tuple[str, ...]
    fits: Readback


class LinkSink(Sink):
    """The functions that lead from one place to the next, in all batches; a device answers a batch late which do."""

    def __init__(self) -> None:
        self.links: dict[Link, tuple[str, ...]] = {}
        self._last: tuple[str, Tensor] | None = None
        self._asked: deque[_Asked] = deque()
        self._batch = 0

    def begin(self, batch: ClassBatch) -> None:
        """Start a batch."""
        self._batch = batch.number

    def add(self, site: str, features: Tensor, rows: ClassBatch) -> None:
        """Compare some features with those before them."""
        if self._last is not None:
            before, given = self._last
            link = before, site
            names = self.links.get(link, ("", *FUNCTIONS)) if given.shape == features.shape else ()
            self.links[link] = names
            if names:
                fits = torch.stack([_leads_to(name, given, features) for name in names])
                self._asked.append(_Asked(self._batch, link, names, Readback(fits)))
        self._last = (site, features.clone())  # the next operation may work in place

    def end(self, logits: Tensor | None) -> None:
        """Let the last features go: the next batch starts at the input."""
        self._last = None
        while self._asked and (self._asked[0].batch < self._batch or self._asked[0].fits.is_there):
            self._hear()

    def state(self) -> Mapping[str, Tensor]:
        """Nothing: this pass is not continued from a file."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing."""

    def result(self) -> dict[Link, tuple[str, ...]]:
        """Two sites → names of functions, the identity being empty."""
        while self._asked:
            self._hear()
        return self.links

    def _hear(self) -> None:
        """Leave out the functions that the earliest answer rules out."""
        asked = self._asked.popleft()
        fits = zip(asked.names, asked.fits.numbers().tolist(), strict=True)
        ruled_out = {name for name, fit in fits if not fit}
        self.links[asked.link] = tuple(name for name in self.links[asked.link] if name not in ruled_out)


def _leads_to(name: str, given: Tensor, features: Tensor) -> Tensor:
    """Whether a function, or the identity, makes one of the other: a bool, where they are."""
    if not name:
        return (given == features).all()
    room = _ULPS * torch.finfo(features.dtype).eps
    return torch.isclose(FUNCTIONS[name][0](given), features, rtol=room, atol=room).all()
