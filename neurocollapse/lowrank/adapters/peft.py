"""Adapters in the format of Hugging Face PEFT: a folder with adapter_config.json and adapter_model.safetensors."""

import json
import math
import re
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from neurocollapse.hooks.linear import is_transposed
from neurocollapse.hooks.wrappers import named_modules
from neurocollapse.lowrank.adapters.chain import Chain
from neurocollapse.lowrank.adapters.injection import Adapters, inject_factors
from neurocollapse.lowrank.adapters.kinds import LoRA
from neurocollapse.lowrank.adapters.selection import AdapterError
from neurocollapse.support.atomic import replacing
from neurocollapse.support.state import read_tensors, write_tensors
from neurocollapse.support.text import listed

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
SIDES = (".lora_A.weight", ".lora_B.weight")
READ = frozenset({"peft_type", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"})
"""Settings of PEFT that are read here."""
HARMLESS = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "fan_in_fan_out"),
        *("inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "megatron_core", "peft_version"),
        *("qalora_group_size", "revision", "runtime_config", "target_modules", "task_type"),
    }
)
"""Those that do not change what a stored adapter computes; any other may, also one that PEFT does not have yet."""
PLAIN_STARTS = (True, False, None, "eva", "gaussian", "orthogonal")
"""Values of "init_lora_weights" that leave the base weights as they were; pissa, olora and others change them."""


def save_peft(adapters: Adapters, path: str | PathLike[str]) -> Path:
    """Write adapters of any kind as plain LoRA in PEFT's format.

    Deep adapters are multiplied out to two factors of the same rank, so that what PEFT loads computes the same to
    rounding, and no longer trains the same way.

    Parameters
    ----------
    adapters : Adapters
        As `inject` returns them.
    path : path-like
        The folder to write; it is made if need be.

    Raises
    ------
    AdapterError
        If a file cannot be written.
    """
    target = Path(path)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AdapterError(f"cannot make the folder {target}: {error.strerror or error}") from error
    state = {
        f"{PREFIX}{name}{side}": factor
        for name, chain in adapters.items()
        for side, factor in zip(SIDES, _two_factors(chain), strict=True)
    }
    text = json.dumps(_config(adapters), indent=2, sort_keys=True)
    with replacing(target / WEIGHTS, error=AdapterError) as weights:
        write_tensors(weights, state, {"format": "pt"})
        with replacing(target / CONFIG, error=AdapterError) as config:  # both complete before either takes its place
            config.write_text(text + "\n", encoding="utf-8")
    return target


def load_peft(model: nn.Module, path: str | PathLike[str]) -> Adapters:
    """Add the plain LoRA adapters of a PEFT folder to a model, which is then frozen as by `inject`.

    Parameters
    ----------
    model : torch.nn.Module
        The model that the adapters were made for, without adapters.
    path : path-like
        A folder that PEFT or `save_peft` wrote.

    Raises
    ------
    AdapterError
        If a file is missing or damaged, the adapter is of another kind than plain LoRA on linear layers, belongs to
        base weights that its start changed (PiSSA, OLoRA), or does not fit the model. The model is then as it was.
    """
    source = Path(path)
    config = _read_config(source / CONFIG)
    _, state = read_tensors(source / WEIGHTS, error=AdapterError)
    pairs: dict[str, list[Tensor]] = {}
    for key in sorted(state):  # A before B
        side = next((side for side in SIDES if key.endswith(side)), None)
        if side is None or not key.startswith(PREFIX):
            raise AdapterError(f"{source / WEIGHTS} holds {key!r}; only lora_A and lora_B of dense layers can be read")
        pairs.setdefault(key.removeprefix(PREFIX).removesuffix(side), []).append(state[key])
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    kind = LoRA(rank=config["r"], alpha=scale * config["r"])
    return inject_factors(model, kind, pairs, source=str(source))


def _two_factors(chain: Chain) -> tuple[Tensor, Tensor]:
    """A of shape (r, inputs) and B of shape (outputs, r) with BA = W_p ⋯ W_1."""
    first, *others = (factor.detach().double() for factor in chain.factors)
    second = others.pop()
    for factor in reversed(others):
        second = second @ factor
    dtype = chain.factors[0].dtype
    return first.to(dtype), second.to(dtype)


def _config(adapters: Adapters) -> dict[str, Any]:
    """What PEFT needs to rebuild the adapters."""
    transposed = any(is_transposed(layer) for layer in adapters.layers.values())
    return {
        "peft_type": "LORA",
        "r": adapters.kind.rank,
        "lora_alpha": adapters.kind.scale * adapters.kind.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": _targets(adapters),
        "base_model_name_or_path": getattr(adapters.model, "name_or_path", None) or None,
        "inference_mode": True,
        "task_type": None,
    }


def _targets(adapters: Adapters) -> list[str] | str:
    """The adapted layers: PEFT takes a list by the ends of names, and a text as a regular expression."""
    others = [name for name, _ in named_modules(adapters.model) if name not in adapters]
    if any(other.endswith(f".{name}") for other in others for name in adapters):
        return "|".join(re.escape(name) for name in adapters)
    return list(adapters)


def _read_config(path: Path) -> Mapping[str, Any]:
    """A PEFT configuration of plain LoRA."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdapterError(f"cannot read {path}: {error.strerror or error}; name a folder that PEFT wrote") from error
    except ValueError as error:
        raise AdapterError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise AdapterError(f"{path} must describe a LORA adapter, got peft_type={_get(config, 'peft_type')!r}")
    unsupported = _unsupported(config)
    if unsupported:
        raise AdapterError(
            f"{path} sets {listed(unsupported)}, which plain LoRA does not have; merge it with PEFT first"
        )
    for key, number in (("r", int), ("lora_alpha", int | float)):
        value = config.get(key)
        if isinstance(value, bool) or not isinstance(value, number) or not 0 < value < math.inf:
            noun = "integer" if number is int else "number"
            raise AdapterError(f"{path} must give {key!r} as a positive {noun}, got {value!r}")
    return config


def _unsupported(config: Mapping[str, Any]) -> list[str]:
    """The settings that are not those of plain LoRA on base weights as they were."""
    found = [key for key, value in config.items() if value and key not in READ | HARMLESS]
    if config.get("bias", "none") != "none":
        found.append("bias")
    start = config.get("init_lora_weights")
    return found if start in PLAIN_STARTS else [*found, f"init_lora_weights={start!r}"]


def _get(config: Any, key: str) -> Any:
    """An entry of what should be a JSON object."""
    return config.get(key) if isinstance(config, dict) else None
