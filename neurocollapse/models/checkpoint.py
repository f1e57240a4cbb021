"""Weights from a file into a model, whatever trained them: wrappers' names are taken off, nothing else is guessed."""

import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from neurocollapse.models.errors import ModelError
from neurocollapse.models.weight_files import INDEX_SUFFIX, stored_state
from neurocollapse.support.text import listed

_WRAPPERS = ("module.", "_orig_mod.", "_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_INNER_WRAPPERS = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What compiled, sharded or checkpointed parts of a model leave inside its names."""
_LIGHTNING = "model."
_COUNTER = "n_averaged"
"""What torch's AveragedModel counts beside the weights."""


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: name → tensor, on the CPU.

    A torch file may hold the state dict itself, or keep it under "state_dict", "model", "model_state_dict" or
    "module", or the averaged weights alone under "state_dict_ema", "model_ema", "ema_state_dict" or "ema".
    What DistributedDataParallel, FSDP, torch.compile, AveragedModel and activation checkpointing add is removed; a
    prefix only if every name has it.

    Parameters
    ----------
    path
        A .safetensors file, or the .index.json of one in shards; any other name is read by torch.load with
        weights_only=True, so that no code in it runs.

    Raises
    ------
    ModelError
        If there is no such file, it is damaged, or holds something besides tensors.
    """
    state, _ = stored_state(Path(path).expanduser())
    *_, stage = _unwrapped(_Stage(state, ()))
    return stage.state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy a checkpoint into a model whose names and shapes it matches exactly.

    What wrappers add to names (see `read_state`) is removed only as far as the model's own names do not have it. Of a
    checkpoint of Lightning's, what is called "model." is taken if it is the model; a warning names what is left out.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    path : path-like
        A safetensors file, the index of its shards, or a torch file.

    Raises
    ------
    ModelError
        If the file cannot be read (see `read_state`), or names or shapes differ; then the model is unchanged.
    """
    own = model.state_dict()
    state, notes = stored_state(Path(path).expanduser())
    stages = list(_stages(_Stage(state, tuple(notes))))
    stage = min(stages, key=lambda stage: sum(map(len, _mismatched(own, stage.state))))  # the first that fits
    missing, unexpected = _mismatched(own, stage.state)
    if missing or unexpected:
        raise ModelError(_misfit(model, path, missing, unexpected, state))
    for name, value in stage.state.items():
        if own[name].shape != value.shape:
            raise ModelError(
                f"{path} does not fit {type(model).__name__}: {name} has shape {tuple(value.shape)} in the file and "
                f"{tuple(own[name].shape)} in the model; is the number of classes the same?"
            )
    model.load_state_dict(stage.state, strict=False)
    if stage.notes:
        warnings.warn(f"{path}: {'; '.join(stage.notes)}", stacklevel=2)


class _Stage(NamedTuple):
    """A state dict on its way to the model's names, and what was done to it that a user may want to know."""

    state: dict[str, Tensor]
    notes: tuple[str, ...]


def _stages(stored: _Stage) -> Iterator[_Stage]:
    """The state dict as stored, after each removal of a wrapper's names, and what is called "model." in it."""
    for stage in _unwrapped(stored):
        yield stage
        state, notes = stage
        inner = {name.removeprefix(_LIGHTNING): value for name, value in state.items() if name.startswith(_LIGHTNING)}
        if inner:
            others = [name for name in state if not name.startswith(_LIGHTNING)]
            left_out = f", and left out {listed(others)}" if others else ""
            yield from _unwrapped(_Stage(inner, (*notes, f"removed the prefix {_LIGHTNING!r}{left_out}")))


def _unwrapped(stage: _Stage) -> Iterator[_Stage]:
    """A state dict as it is, and after each removal of what wrappers add; there may be several around each other."""
    yield stage
    state, notes = stage
    prefix = next((prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in state)), "")
    if prefix:
        yield from _unwrapped(_Stage({name.removeprefix(prefix): value for name, value in state.items()}, notes))
    elif _COUNTER in state and len(state) > 1:
        weights = {name: value for name, value in state.items() if name != _COUNTER}
        yield from _unwrapped(_Stage(weights, (*notes, f"the weights are an average ({_COUNTER})")))
    elif any(_INNER_WRAPPERS.search(name) for name in state):
        yield _Stage({_INNER_WRAPPERS.sub("", name): value for name, value in state.items()}, notes)


def _misfit(
    model: nn.Module, path: str | Path, missing: list[str], unexpected: list[str], state: Mapping[str, Tensor]
) -> str:
    """Say what does not fit, and what to do."""
    parts = [f"{listed(names)} {word}" for names, word in ((missing, "missing"), (unexpected, "unexpected")) if names]
    advice = "give the checkpoint's own model"
    if shard := re.fullmatch(r"(.+)-\d{5}-of-\d{5}(\.\w+)", Path(path).name):
        advice = f"it is a part of several; give {shard[1]}{shard[2]}{INDEX_SUFFIX}"
    elif (prefix := _prefix(missing, state)) is not None:
        advice = f"the weights are there under {prefix!r}, so save that part's own state_dict()"
    return f"{Path(path).name} does not fit {type(model).__name__}: {'; '.join(parts)}; {advice}"


def _prefix(missing: list[str], state: Mapping[str, Tensor]) -> str | None:
    """The prefix under which a state dict holds all that is missing, if there is one."""
    candidates = [name.removesuffix(missing[0]) for name in state if missing and name.endswith(f".{missing[0]}")]
    return next((prefix for prefix in candidates if all(prefix + name in state for name in missing)), None)


def _mismatched(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names that a model has and a checkpoint lacks, and the reverse."""
    missing = [name for name in own if name not in state and not _dispensable(name, own, state)]
    return missing, [name for name in state if name not in own]


def _dispensable(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Tell whether a missing tensor does no harm: a counter old files lack, or a tied weight stored once."""
    if name.endswith("num_batches_tracked"):
        return True
    return any(own[other].data_ptr() == own[name].data_ptr() and other in state for other in own if other != name)
