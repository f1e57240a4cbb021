"""Weights from a file into a model: safetensors, or torch files of which nothing is run."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurocollapse.models.errors import ModelError, one_line
from neurocollapse.support.state import read_tensors
from neurocollapse.support.text import listed

STATE_KEYS = ("state_dict", "model", "model_state_dict")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
OPTIMIZER_PREFIX = "optimizer/"  # of this package's own training checkpoints


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict: name → tensor, on the CPU.

    A torch file may hold the state dict itself, or keep it under "state_dict", "model" or "model_state_dict".
    Prefixes that DistributedDataParallel and torch.compile leave ("module.", "_orig_mod.") are removed if every name
    has them.

    Parameters
    ----------
    path
        A .safetensors file; any other name is read by torch.load with weights_only=True, so that no code in it runs.

    Raises
    ------
    ModelError
        If there is no such file, it is damaged, or holds something besides tensors.
    """
    *_, state = _unwrapped(_read_as_stored(Path(path).expanduser()))
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Copy a checkpoint into a model whose names and shapes it matches exactly.

    Wrappers' prefixes (see `read_state`) are removed only as far as the model's own names do not have them.

    Raises
    ------
    ModelError
        If the file cannot be read (see `read_state`), or names or shapes differ; then the model is unchanged.
    """
    own = model.state_dict()
    stages = list(_unwrapped(_read_as_stored(Path(path).expanduser())))
    state = next((stage for stage in stages if not any(_mismatched(own, stage))), stages[-1])
    missing, unexpected = _mismatched(own, state)
    if missing or unexpected:
        parts = [
            f"{listed(names)} {word}" for names, word in ((missing, "missing"), (unexpected, "unexpected")) if names
        ]
        raise ModelError(
            f"{path} does not fit {type(model).__name__}: {'; '.join(parts)}; give the checkpoint's own model"
        )
    for name, value in state.items():
        if own[name].shape != value.shape:
            raise ModelError(
                f"{path} does not fit {type(model).__name__}: {name} has shape {tuple(value.shape)} in the file and "
                f"{tuple(own[name].shape)} in the model; is the number of classes the same?"
            )
    model.load_state_dict(state, strict=False)


def _read_as_stored(path: Path) -> dict[str, Tensor]:
    """Read a state dict with the names that it has in the file."""
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    loaded = _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path} must hold a state dict (name → tensor), got a {type(loaded).__name__}")
    state = cast(
        Mapping[Any, Any], next((v for key in STATE_KEYS if isinstance(v := loaded.get(key), Mapping)), loaded)
    )
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path} must hold a state dict (name → tensor), got a {type(value).__name__} under {name!r}; "
                "save model.state_dict()"
            )
    if not state:
        raise ModelError(f"{path} holds no tensors; save model.state_dict()")
    return dict(state)


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the weights of a safetensors file."""
    _, tensors = read_tensors(path, error=ModelError)
    return {name: value for name, value in tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}


def _load_torch(path: Path) -> Any:
    """Read a torch file without running anything in it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the formats of old files, which are read all the same
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the unpickler raise nearly anything
        raise ModelError(
            f"{path} cannot be read as plain weights ({one_line(error)}); files that hold code are refused, "
            "save model.state_dict()"
        ) from error


def _unwrapped(state: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state as it is, and after each removal of a wrapper's prefix that every name has; there may be several."""
    yield state
    for prefix in WRAPPER_PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            yield state


def _mismatched(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Names that a model has and a checkpoint lacks, and the reverse."""
    missing = [name for name in own if name not in state and not _dispensable(name, own, state)]
    return missing, [name for name in state if name not in own]


def _dispensable(name: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> bool:
    """Tell whether a missing tensor does no harm: a counter old files lack, or a tied weight stored once."""
    if name.endswith("num_batches_tracked"):
        return True
    return any(own[other].data_ptr() == own[name].data_ptr() and other in state for other in own if other != name)
