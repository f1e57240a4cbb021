"""Hugging Face models from a folder: the architecture that its config.json names, with no weight left to chance."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from torch import nn

from neurocollapse.models.errors import ModelError, one_line
from neurocollapse.models.weight_files import stored_state, weight_file
from neurocollapse.support.text import listed

_MAX_CONFIG_BYTES = 10 * 2**20
# What in a config.json may name code, other files or downloads, at any depth. Attention is set here instead.
_NEVER_READ = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal", "_attn_implementation_autoset",
    "experts_implementation", "_experts_implementation", "_experts_implementation_internal", "auto_map",
    "custom_generate", "fusion_config", "kernel_config", "transformers_weights", "use_kernels",
    "use_pretrained_backbone",
)  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json, without what in it could lead to code or downloads.

    Raises
    ------
    ModelError
        If there is none, it is damaged, or the weights are quantised or those of an adapter.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"no config.json in {folder}; give a folder that save_pretrained wrote (nothing is downloaded)"
        )
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("it is larger than any configuration")
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON ({one_line(error)})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold a configuration, got a {type(config).__name__}")
    if (folder / "adapter_config.json").exists():
        raise ModelError(f"{folder} holds an adapter (adapter_config.json), which is not applied; open it in a factory")
    if config.get("quantization_config"):
        raise ModelError(f"{path} describes quantised weights, which need code of other packages; open it in a factory")
    return _cleaned(config)


def build(package: Any, folder: Path, config: dict[str, Any], *, with_weights: bool) -> nn.Module:
    """Build the architecture that a configuration names, offline, with the folder's weights or random ones.

    Parameters
    ----------
    package
        The module `transformers`.
    folder
        Holds model.safetensors, or its shards and their index.
    config
        See `read_config`.
    with_weights
        Read the weights; those that the folder lacks are an error, those that the model lacks a warning.

    Raises
    ------
    ModelError
        If transformers has no such architecture, or its weights are not all there.
    """
    kind = _architecture(package, folder, config)
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    state, _ = stored_state(weight_file(folder)) if with_weights else ({}, [])
    with _offline_and_quiet(package):
        # From a state dict instead of the folder: transformers itself would also read pickled checkpoints, adapters
        # and whatever files the configuration names.
        model, found = kind.from_pretrained(
            None,
            config=kind.config_class.from_dict(config),
            state_dict=state,
            attn_implementation=attention,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    if with_weights:
        _check_found(found, kind.__name__, folder)
    return cast(nn.Module, model)


def _cleaned(config: Any) -> Any:
    """A configuration without what is never read, at any depth."""
    if isinstance(config, dict):
        return {key: _cleaned(value) for key, value in config.items() if key not in _NEVER_READ}
    return [_cleaned(value) for value in config] if isinstance(config, list) else config


def _architecture(package: Any, folder: Path, config: dict[str, Any]) -> Any:
    """The class that a configuration names; where it names none, the headless model of its type."""
    names = config.get("architectures")
    if isinstance(names, list) and names:
        name = names[0]
        found = getattr(package, name, None) if isinstance(name, str) and name.isidentifier() else None
    else:
        name = config.get("model_type")
        is_known = isinstance(name, str) and name in package.CONFIG_MAPPING
        found = package.MODEL_MAPPING.get(package.CONFIG_MAPPING[name], None) if is_known else None
    if not isinstance(found, type) or not issubclass(found, package.PreTrainedModel):
        raise ModelError(
            f"{folder / 'config.json'} names the architecture {name!r}, which transformers {package.__version__} does "
            "not have; code in the folder is never run, so name a factory of your own"
        )
    return found


def _check_found(found: dict[str, Any], name: str, folder: Path) -> None:
    """Raise for weights that the folder lacks; warn of those that the model lacks."""
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{folder} lacks {len(missing)} weights of {name}, which would be random: {listed(missing)}; name the "
            "architecture that was saved under `architectures` in config.json"
        )
    if unexpected := sorted(found["unexpected_keys"]):
        warnings.warn(
            f"{folder} holds {len(unexpected)} weights that {name} has no place for: {listed(unexpected)}",
            stacklevel=4,
        )


@contextmanager
def _offline_and_quiet(package: Any) -> Iterator[None]:
    """Refuse every request of the hub's client, and keep transformers from printing."""
    from huggingface_hub import constants  # comes with transformers

    log = package.utils.logging
    before = constants.HF_HUB_OFFLINE, log.get_verbosity(), log.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    log.set_verbosity(log.CRITICAL)
    log.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        log.set_verbosity(before[1])
        if before[2]:
            log.enable_progress_bar()
