"""Adapters in a file, without the model they belong to."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from neurocollapse.lowrank.adapters.injection import Adapters, inject_factors
from neurocollapse.lowrank.adapters.kinds import CompressedDeepLoRA, DeepLoRA, Kind, LoRA
from neurocollapse.lowrank.adapters.selection import AdapterError
from neurocollapse.support.atomic import replacing

FORMAT = "neurocollapse adapters 1"
KINDS: Mapping[str, type[Kind]] = {kind.__name__: kind for kind in (LoRA, DeepLoRA, CompressedDeepLoRA)}


def save_adapters(adapters: Adapters, path: str | PathLike[str]) -> Path:
    """Write the factors of all adapters, and of what kind they are, to one safetensors file.

    The model's own weights are not in it. The file replaces an older one only when it is complete.

    Raises
    ------
    AdapterError
        If the file cannot be written.
    """
    target = Path(path)
    state = {
        f"{name}.factors.{index}": factor.detach().cpu().contiguous()
        for name, chain in adapters.items()
        for index, factor in enumerate(chain.factors)
    }
    kind = {"kind": type(adapters.kind).__name__, **dataclasses.asdict(adapters.kind)}
    with written(target) as part:
        save_file(state, part, {"format": FORMAT, "kind": json.dumps(kind)})
    return target


def load_adapters(model: nn.Module, path: str | PathLike[str]) -> Adapters:
    """Put the adapters of a file on a model, which is then frozen as by `inject`.

    Raises
    ------
    AdapterError
        If the file is missing, damaged or holds no adapters, the model lacks a layer or has another shape, or has
        adapters already. The model is then as it was.
    """
    state, metadata = read_safetensors(Path(path))
    if metadata.get("format") != FORMAT:
        raise AdapterError(f"{path} holds no adapters of this package; for a folder of PEFT's use load_peft")
    try:
        values = json.loads(metadata["kind"])
        kind = KINDS[values.pop("kind")](**values)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise AdapterError(f"{path} names no kind of adapter that is known here; save it with this version") from error
    factors: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        name, _, index = key.rpartition(".factors.")
        if not name or not index.isdigit():
            raise AdapterError(f"{path} holds {key!r}, which is no factor of an adapter; save it with save_adapters")
        factors.setdefault(name, {})[int(index)] = value
    ordered = {name: [parts[index] for index in sorted(parts)] for name, parts in factors.items()}
    return inject_factors(model, kind, ordered, source=str(path))


@contextmanager
def written(target: Path) -> Iterator[Path]:
    """`replacing`, whose errors are AdapterErrors."""
    try:
        with replacing(target) as part:
            yield part
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"cannot write {target}: {error}; name a file in a folder that exists") from error


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a file by name, and the texts beside them."""
    if not path.is_file():
        raise AdapterError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise AdapterError(f"{path} is not a readable safetensors file: {error}") from error
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise AdapterError(f"{path} holds no tensors")
    return state, metadata
