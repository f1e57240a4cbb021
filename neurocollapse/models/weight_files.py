"""Weights in files, with the names that they have there: safetensors, whole or in shards, and torch files as data."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from neurocollapse.models.errors import ModelError, one_line
from neurocollapse.support.state import read_tensors
from neurocollapse.support.text import listed

INDEX_SUFFIX = ".index.json"
OPTIMIZER_PREFIX = "optimizer/"  # of this package's own training checkpoints
STATE_KEYS = ("state_dict", "model", "model_state_dict", "module")
AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_MAX_INDEX_BYTES = 100 * 2**20
_SAFETENSORS = "model.safetensors"


def stored_state(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read the tensors of a weight file by name, and say what may surprise about them.

    Raises
    ------
    ModelError
        If there is no such file, it is damaged, or holds something besides tensors.
    """
    notes: list[str] = []
    loaded = _loaded(path)
    if isinstance(loaded, Mapping):
        held = [key for key in (*STATE_KEYS, *AVERAGED_KEYS) if isinstance(loaded.get(key), Mapping)]
        if held and (averaged := [key for key in held[1:] if key in AVERAGED_KEYS]):
            notes.append(f"read {held[0]!r}, not the averaged weights under {averaged[0]!r}")
        loaded = loaded[held[0]] if held else loaded
    _check_tensors(loaded, path)
    return dict(loaded), notes


def weight_file(folder: Path) -> Path:
    """Return the safetensors file of a folder, or the index of its shards.

    Raises
    ------
    ModelError
        If it has neither.
    """
    for name in (_SAFETENSORS, _SAFETENSORS + INDEX_SUFFIX):
        if (folder / name).is_file():
            return folder / name
    raise ModelError(
        f"no {_SAFETENSORS} (or {_SAFETENSORS}{INDEX_SUFFIX}) in {folder}; pickled weights are never read, save the "
        "model with save_pretrained"
    )


def _loaded(path: Path) -> Any:
    """Return what a file, or an index with all files it names, holds."""
    if path.is_dir():
        raise ModelError(f"{path} is a folder; give one of its files, such as {_SAFETENSORS}")
    if not path.is_file():
        raise ModelError(f"there is no checkpoint {path}")
    if path.name.endswith(INDEX_SUFFIX):
        return _load_shards(path)
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)


def _load_shards(index: Path) -> dict[str, Any]:
    """Read all weights that an index lists, from the files beside it that it names."""
    weight_map = _read_index(index)
    state: dict[str, Any] = {}
    for name in sorted(set(weight_map.values())):
        if not (index.parent / name).is_file():
            raise ModelError(f"{index} names {name!r}, which is not beside it; download all of its files")
        shard = _loaded(index.parent / name)
        state |= {key: shard[key] for key, file in weight_map.items() if file == name and key in shard}
    if missing := [key for key in weight_map if key not in state]:
        raise ModelError(f"{index} lists weights that its files do not hold: {listed(missing)}; download it again")
    return state


def _read_index(index: Path) -> dict[str, str]:
    """Return the file that each weight is in."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError("it is larger than any index")
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = set(weight_map.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index} is not an index of weight files ({one_line(error)})") from error
    if not names or not all(isinstance(name, str) and name and _is_plain(name) for name in names):
        raise ModelError(f"{index} must name files beside it that hold weights; write it again with save_pretrained")
    return {str(key): name for key, name in weight_map.items()}


def _is_plain(name: str) -> bool:
    """Whether a name is that of a weight file, without a path to elsewhere or to another index."""
    return Path(name).name == name != ".." and "\\" not in name and not name.endswith(INDEX_SUFFIX)


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


def _check_tensors(loaded: Any, path: Path) -> None:
    """Raise unless what was read maps names to tensors."""
    if not isinstance(loaded, Mapping):
        raise ModelError(f"{path} must hold a state dict (name → tensor), got a {type(loaded).__name__}")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(
                f"{path} must hold a state dict (name → tensor), got a {type(value).__name__} under {name!r}; "
                "save model.state_dict()"
            )
    if not loaded:
        raise ModelError(f"{path} holds no tensors; save model.state_dict()")
