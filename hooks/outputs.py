"""Which tensor of a module's output is meant."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

from neurocollapse.hooks.errors import AmbiguousOutputError
from neurocollapse.hooks.shards import whole
from neurocollapse.support.checks import shown
from neurocollapse.support.text import visible

Path = str | Callable[[Any], Tensor]


def pick_tensor(output: Any, *, num_samples: int | None, batch_axis: int = 0, path: Path | None = None) -> Tensor:
    """Return the one tensor of `output` that holds a module's features.

    A tensor is taken as it is. A mapping or dataclass (such as the outputs of transformers) gives its
    `last_hidden_state`, else its only floating-point tensor with one entry per sample; a tuple gives the first such
    tensor, a list its only one. Nothing is chosen by position alone: ``output[0]`` of a tensor is sample 0.

    Parameters
    ----------
    output
        What the module returned.
    num_samples : int or None
        The batch size; None accepts floating-point tensors of any length.
    batch_axis : int
        The axis in which the samples are counted.
    path : str or callable, optional
        Overrides the choice: keys, attributes and indices with dots ("hidden_states.3", "0.hidden"), or a function
        from the output to the tensor.

    Raises
    ------
    AmbiguousOutputError
        If there is no such tensor or more than one; the message shows the tree of the output.

    Examples
    --------
    >>> pick_tensor((None, torch.zeros(4, 7), torch.zeros(4, 2)), num_samples=4).shape
    torch.Size([4, 7])
    >>> pick_tensor({"a": {"b": torch.zeros(4, 5)}}, num_samples=4, path="a.b").shape
    torch.Size([4, 5])
    """
    if callable(path):
        chosen = path(output)
    elif path is not None:
        chosen = follow(output, path)
    else:
        chosen = output if isinstance(output, Tensor) else _search(output, num_samples, batch_axis)
    if not isinstance(chosen, Tensor):
        raise AmbiguousOutputError(f"`output` must lead to a tensor, got {describe(chosen)}")
    if type(chosen) is not Tensor:
        chosen = whole(chosen)
    elif torch._C._functorch.is_functorch_wrapped_tensor(chosen):
        chosen = _outside_transforms(chosen)
    _refuse_special(chosen)
    return chosen


def follow(output: Any, path: str) -> Any:
    """Return the part of `output` at a dotted path of keys, attributes and indices."""
    part = output
    for step in path.split("."):
        entries = dict(_entries(part))
        if step not in entries:
            raise AmbiguousOutputError(f"`output` path {shown(path)} fails at {shown(step)} in {describe(output)}")
        part = entries[step]
    return part


def describe(output: Any) -> str:
    """Return the tree of an output on one short line: types, keys, shapes and dtypes."""
    return visible(_tree(output, 3), most=160)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor with at least one axis inside `value`, depth first."""
    return next((tensor for tensor in tensors_in(value) if tensor.dim()), None)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Walk over all tensors inside `value`, depth first."""
    if isinstance(value, Tensor):
        yield value
    else:
        for _, part in _entries(value):
            yield from tensors_in(part)


def _tree(output: Any, depth: int) -> str:
    """The outer levels of an output."""
    if isinstance(output, Tensor):
        shape = "nested" if output.is_nested else tuple(output.shape)
        return f"Tensor({shape}, {str(output.dtype).removeprefix('torch.')})"
    entries = list(_entries(output))
    if not entries or depth == 0:
        return type(output).__name__
    inner = ", ".join(f"{key}: {_tree(value, depth - 1)}" for key, value in entries[:8])
    more = f", … {len(entries) - 8} more" if len(entries) > 8 else ""
    return f"{type(output).__name__}({inner}{more})"


def _search(output: Any, num_samples: int | None, batch_axis: int) -> Tensor:
    """Choose among the tensors of a structured output."""
    entries = dict(_entries(output))
    preferred = entries.get("last_hidden_state")
    if isinstance(preferred, Tensor):
        return preferred
    found = list(_candidates(output, num_samples, batch_axis))
    if not found:
        size = "" if num_samples is None else f" with {num_samples} entries (the samples) in axis {batch_axis}"
        raise AmbiguousOutputError(
            f"no floating-point tensor{size} in {describe(output)}; pass output= with a path or a function"
        )
    if len(found) > 1 and not isinstance(output, tuple):
        raise AmbiguousOutputError(
            f"{len(found)} tensors could be meant in {describe(output)}; pass output= with a path such as "
            f"{next(iter(entries))!r}, or a function"
        )
    return found[0]


def _candidates(output: Any, num_samples: int | None, batch_axis: int) -> Iterator[Tensor]:
    """Floating-point tensors with the samples in `batch_axis`: the direct entries, else those further inside."""
    values = [value for _, value in _entries(output)]
    direct = [value for value in values if isinstance(value, Tensor) and _fits(value, num_samples, batch_axis)]
    if direct:
        yield from direct
        return
    for value in values:
        if not isinstance(value, Tensor):
            yield from _candidates(value, num_samples, batch_axis)


def _fits(tensor: Tensor, num_samples: int | None, batch_axis: int) -> bool:
    """Whether a tensor could hold features of this batch."""
    if tensor.is_nested:
        return True  # refused later, with the reason
    if not tensor.is_floating_point() or tensor.dim() <= batch_axis:
        return False
    return num_samples is None or tensor.shape[batch_axis] == num_samples


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """The named parts of a container; nothing for anything else."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        yield from ((str(index), part) for index, part in enumerate(value))
    elif isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))


def _outside_transforms(tensor: Tensor) -> Tensor:
    """The tensor that a transform of torch.func carries along; vmap leaves out an axis of it, which may be any."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        if torch._C._functorch.is_batchedtensor(tensor):
            raise AmbiguousOutputError(
                "the layer runs inside torch.func.vmap, which hides an axis of its features; select a layer outside of "
                "it, or run the model without vmap"
            )
        tensor = torch._C._functorch.get_unwrapped(tensor)
    with temporarily_clear_interpreter_stack():
        return tensor.detach()


def _refuse_special(tensor: Tensor) -> None:
    """Raise on tensors that have no plain array of numbers, naming the way out."""
    if tensor.is_nested:
        raise AmbiguousOutputError(
            "the output is a nested tensor (samples of different length); build nn.TransformerEncoder with "
            "enable_nested_tensor=False, or pass output=lambda out: out.to_padded_tensor(0.0)"
        )
    if tensor.layout != torch.strided:
        raise AmbiguousOutputError(
            f"the output is a sparse tensor ({tensor.layout}); pass output=lambda out: out.to_dense()"
        )
    if not tensor.is_floating_point():
        raise AmbiguousOutputError(f"no floating-point tensor in {describe(tensor)}")
