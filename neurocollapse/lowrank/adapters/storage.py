"""Adapters in a file, without the model they belong to."""

import dataclasses
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

from torch import Tensor, nn

from neurocollapse.lowrank.adapters.injection import Adapters, inject_factors
from neurocollapse.lowrank.adapters.kinds import CompressedDeepLoRA, DeepLoRA, Kind, LoRA
from neurocollapse.lowrank.adapters.selection import AdapterError
from neurocollapse.support.state import read_state, write_state

FILE_KIND = "adapters"
KINDS: Mapping[str, type[Kind]] = {kind.__name__: kind for kind in (LoRA, DeepLoRA, CompressedDeepLoRA)}


def save_adapters(adapters: Adapters, path: str | PathLike[str]) -> Path:
    """Write the factors and the kind of all adapters to one safetensors file.

    The model's own weights are not in it. The file replaces an older one only when it is complete.

    Parameters
    ----------
    adapters : Adapters
        As `inject` returns them.
    path : path-like
        The file to write.

    Raises
    ------
    AdapterError
        If the file cannot be written.
    """
    target = Path(path)
    state = {
        f"{name}.factors.{index}": factor
        for name, chain in adapters.items()
        for index, factor in enumerate(chain.factors)
    }
    kind = {"kind": type(adapters.kind).__name__, **dataclasses.asdict(adapters.kind)}
    write_state(target, FILE_KIND, {"adapter": kind}, state, error=AdapterError)
    return target


def load_adapters(model: nn.Module, path: str | PathLike[str]) -> Adapters:
    """Add the adapters of a file to a model, which is then frozen as by `inject`.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the adapters were made for, without adapters.
    path : path-like
        A file that `save_adapters` wrote.

    Raises
    ------
    AdapterError
        If the file is missing, damaged or holds no adapters, the model lacks a layer or has another shape, or has
        adapters already. The model is then as it was.
    """
    header, state = read_state(path, FILE_KIND, error=AdapterError)
    try:
        values = dict(header["adapter"])
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
