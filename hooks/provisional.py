"""Taps that a preset only proposes; what fires in the first forward pass shows which of them are meant."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from neurocollapse.hooks.outputs import tensors_in
from neurocollapse.hooks.presets import can_be_called
from neurocollapse.hooks.select import LAST, LEAF, OUTPUT, Tap
from neurocollapse.hooks.wrappers import children

ROUNDING = 1e-3
"""Part of a row's range by which values in half precision may be out of order."""
MOST_ROWS = 256
"""Rows of two outputs that are compared."""
FLATTENED = "_flat_param"
"""Name under which FullyShardedDataParallel keeps the parameters of all modules inside one."""


class Provisional:
    """Decides in the first forward pass which of the proposed taps are kept.

    A container is a leaf if nothing inside it fires, so that it uses its children without calling them; if it has
    parameters, and nothing inside it that fires has any; or if it has a weight or bias beside its parts, as a graph
    convolution does. Of the inputs of all linear layers, the last to fire is the penultimate one; where the model's
    output does not come from that layer but from what follows it, as in an encoder without a head, the output itself
    is meant.

    Attributes
    ----------
    dropped : set of int
        The taps that are not meant.
    remark : str
        Why the output was taken in place of the classifier's input; empty otherwise.
    """

    def __init__(self, taps: Sequence[Tap], modules: Mapping[str, nn.Module]) -> None:
        self._taps = taps
        self._names = {id(module): path for path, module in modules.items()}
        self._linear = {id(tap.module) for tap in taps if LAST in tap.when}
        self.containers = [index for index, tap in enumerate(taps) if LEAF in tap.when]
        self.restart()

    def restart(self) -> None:
        """Forget an unfinished first forward pass."""
        self.dropped: set[int] = set()
        self.remark = ""
        self._num_fired = self._num_learned = 0
        self._entered: list[tuple[int, int]] = []
        self._last: int | None = None
        self._output: Tensor | None = None
        self._final: nn.Module | None = None
        self._after = ""
        self._widths: set[int] = set()

    def enter(self) -> None:
        """Note that a proposed container is called."""
        self._entered.append((self._num_fired, self._num_learned))

    def note(self, module: nn.Module, value: Any) -> None:
        """Note that a module has given its output."""
        learns = _learns(module)
        self._num_fired += 1
        self._num_learned += learns
        if id(module) in self._linear:
            self._output = next(iter(tensors_in(value)), None)
            self._final, self._after = module, ""
        elif learns and self._final is not None and not self._after and not _is_inside(self._final, module):
            self._after = self._names.get(id(module), type(module).__name__)

    def fire(self, index: int, value: Any) -> set[int]:
        """The tap `index` has fired; the taps that are dropped for it, itself perhaps among them."""
        tap, last = self._taps[index], set() if self._last is None else {self._last}
        dropped: set[int] = set()
        if LAST in tap.when:
            self._widths |= {tensor.shape[-1] for tensor in tensors_in(value) if tensor.dim()}
            self._last, dropped = index, last - {index}
        elif not self._is_leaf(tap) and not self._is_headless(tap, value):
            dropped = {index}
        elif self.remark:
            dropped = last
        self.dropped = (self.dropped | dropped) - ({index} - dropped)
        return dropped

    def finish(self, counts: Sequence[int]) -> None:
        """Drop what has not fired, as long as another proposal of its kind has."""
        silent = {index for index, tap in enumerate(self._taps) if tap.when and not counts[index]}
        found = self._last is not None or bool(self.remark)
        self._output = self._final = None  # nothing of the model's is kept
        self.dropped |= {index for index in silent if found or LAST not in self._taps[index].when}

    def _is_leaf(self, tap: Tap) -> bool:
        """Whether a container that has just ended is one layer."""
        if LEAF not in tap.when:
            return False
        fired, learned = self._entered.pop()
        learns = _learns(tap.module)
        if self._num_fired - 1 == fired or (learns and self._num_learned - 1 == learned):
            return True
        return bool(tap.path) and any(name in tap.module._parameters for name in ("weight", "bias"))

    def _is_headless(self, tap: Tap, value: Any) -> bool:
        """Whether the model's output is not that of its last linear layer; if so, say what is instead."""
        if OUTPUT not in tap.when:
            return False
        if self._final is None:
            self.remark = "no linear layer was called"
        elif not _comes_from(self._output, value):
            name = self._names.get(id(self._final), "")
            if self._after:
                self.remark = f"the last linear layer is {name!r}, and {self._after!r} follows it"
            elif self._is_added_to(value) or self._is_multiplied(tap.module, value):
                self.remark = f"what the last linear layer, {name!r}, gives is changed before it is the output"
        return bool(self.remark)

    def _is_added_to(self, value: Any) -> bool:
        """Whether an output is of the last layer's shape, and as wide as what layers read: a residual stream."""
        given = self._output
        if given is None or not given.dim() or given.shape[-1] not in self._widths:
            return False
        return any(tensor.shape == given.shape for tensor in tensors_in(value))

    def _is_multiplied(self, model: nn.Module, value: Any) -> bool:
        """Whether a matrix that belongs to no linear layer leads from the last layer's width to that of an output.

        Such as the embedding of a language model with tied weights, or a classifier that is a bare parameter.
        """
        given = self._output
        if given is None or not given.dim():
            return False
        matrices = [
            tuple(parameter.shape)
            for module in model.modules()
            if id(module) not in self._linear
            for parameter in module.parameters(recurse=False)
            if parameter.dim() == 2
        ]
        widths = {size for one in matrices for width, size in (one, one[::-1]) if width == given.shape[-1]}
        outputs = [one for one in tensors_in(value) if one.is_floating_point() and one.shape[:-1] == given.shape[:-1]]
        return any(one.shape[-1] in widths - {given.shape[-1]} for one in outputs)


def _learns(module: nn.Module) -> bool:
    """Whether a module has parameters of its own, or in a child that is never called, such as a ParameterList."""
    own = [name for name, parameter in module._parameters.items() if parameter is not None and name != FLATTENED]
    return bool(own) or any(_learns(child) for _, child in children(module) if not can_be_called(child))


def _is_inside(part: nn.Module, module: nn.Module) -> bool:
    """Whether a module is part of another."""
    return any(one is part for one in module.modules())


def _comes_from(given: Tensor | None, value: Any) -> bool:
    """Whether a tensor of the model's output is a linear layer's output, or that in another form.

    That is a view or a part of it, some of its rows, or the same order in every row, as after softmax or a change of
    scale, or a constant offset.
    """
    if given is None:
        return True
    try:
        return any(_is_form_of(one.detach(), given.detach()) for one in tensors_in(value) if one.is_floating_point())
    except RuntimeError:  # tensors without numbers, on the meta device or of a transform that has ended
        return True


def _is_form_of(tensor: Tensor, given: Tensor) -> bool:
    """Whether a tensor holds another, or a form of it in which its rows are in the same order."""
    if tensor.untyped_storage().data_ptr() == given.untyped_storage().data_ptr():
        return True
    if not tensor.dim() or (tensor.shape[0], tensor.shape[-1]) != (given.shape[0], given.shape[-1]):
        return False
    if tensor.dim() < given.dim():  # one position of each sample, say
        some = (
            given[:MOST_ROWS].flatten(1, -2),
            tensor[:MOST_ROWS].reshape(len(tensor[:MOST_ROWS]), -1, tensor.shape[-1]),
        )
        return bool((some[0].unsqueeze(1) == some[1].unsqueeze(2)).all(-1).any(2).all())
    if tensor.shape != given.shape:
        return False
    rows, other = (one.reshape(-1, one.shape[-1])[:MOST_ROWS].float() for one in (given, tensor))
    if rows.shape[1] == 1:  # one output: the order of the samples
        rows, other = rows.T, other.T
    offset, ordered = other - rows, other.gather(1, rows.argsort(dim=1))
    constant = bool(((offset - offset[:1]).abs() <= ROUNDING * rows.abs().amax()).all())
    room = ROUNDING * (other.amax(1) - other.amin(1)).unsqueeze(1)
    return constant or bool((ordered.diff(dim=1) >= -room).all())
