"""Models by name: "torchvision:resnet18", "timm:NAME", "hf:FOLDER", and the user's own "package.module:factory"."""

import copy
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from neurocollapse.models.checkpoint import load_weights
from neurocollapse.models.errors import ModelError, one_line
from neurocollapse.models.hugging_face import build, read_config
from neurocollapse.support.checks import checked_seed
from neurocollapse.support.names import did_you_mean
from neurocollapse.support.text import visible

KNOWN = ("package.module:factory", "torchvision:NAME", "timm:NAME", "hf:FOLDER")


def open(
    spec: str, *, checkpoint: str | Path | None = None, num_classes: int | None = None, seed: int = 0
) -> nn.Module:
    """Open a model by name.

    Parameters
    ----------
    spec
        ======================  ============================================================================
        package.module:factory  a function or class, found from the current folder too, that returns a module; or a
                                module, of which a copy is taken where a checkpoint is loaded
        torchvision:NAME        a model of torchvision, with random weights
        timm:NAME               a model of timm, with random weights
        hf:FOLDER               a Hugging Face model saved in a folder: the architecture that its config.json names,
                                with the weights of its safetensors, all of which must be there; nothing is
                                downloaded, and code in the folder is not run
        ======================  ============================================================================
    checkpoint : path-like, optional
        Weights to load: a .safetensors file, the .index.json of one in shards, or a torch file that is read with
        weights_only=True. See `load_weights`.
    num_classes : int, optional
        Handed on to torchvision, timm, or a factory that takes `num_classes`.
    seed : int, default 0
        Seed of random initial weights; torch's global random state is left as it was.

    Raises
    ------
    ModelError
        If the model is unknown, its package is missing, its construction fails, or the checkpoint does not fit.

    Examples
    --------
    >>> open("torch.nn:Identity")
    Identity()
    """
    if not isinstance(spec, str):
        raise TypeError(f"`model` must be a string like 'torchvision:resnet18', got a {type(spec).__name__}")
    family, _, name = spec.partition(":")
    if not family or not name:
        raise _unknown(spec)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(checked_seed(seed))
            match family:
                case "torchvision":
                    model = _torchvision(name, num_classes)
                case "timm":
                    model = _timm(name, num_classes)
                case "hf":
                    model = _hugging_face(name, num_classes, with_weights=checkpoint is None)
                case _:
                    model = _from_factory(spec, num_classes, copied=checkpoint is not None)
        if checkpoint is not None:
            load_weights(model, checkpoint)
    except OSError as error:  # such as a name that no file can have
        raise ModelError(
            f"{visible(error.filename or spec)} cannot be read: {error.strerror}; check the path"
        ) from error
    return model


def _torchvision(name: str, num_classes: int | None) -> nn.Module:
    """Build a torchvision model with random weights."""
    package = _imported("torchvision.models", "vision")
    _check_name(name, package.list_models(), "torchvision")
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if "weights_backbone" in inspect.signature(package.get_model_builder(name)).parameters:  # by default a download
        options["weights_backbone"] = None
    return _built(f"torchvision:{name}", lambda: package.get_model(name, weights=None, **options))


def _timm(name: str, num_classes: int | None) -> nn.Module:
    """Build a timm model with random weights."""
    package = _imported("timm", "vision")
    _check_name(name.partition(".")[0], package.list_models(), "timm")
    options = {} if num_classes is None else {"num_classes": num_classes}
    return _built(f"timm:{name}", lambda: package.create_model(name, pretrained=False, **options))


def _hugging_face(folder: str, num_classes: int | None, with_weights: bool) -> nn.Module:
    """Build the transformers model that a folder describes, with its weights or only by its configuration."""
    path = Path(folder).expanduser()
    config = read_config(path)
    if num_classes is not None:
        raise ModelError("`num_classes` does not go with 'hf:FOLDER', whose config.json fixes the model; leave it out")
    package = _imported("transformers", "text")
    return _built(f"hf:{folder}", lambda: build(package, path, config, with_weights=with_weights))


def _from_factory(spec: str, num_classes: int | None, copied: bool) -> nn.Module:
    """Call the user's function or take their module; the current folder is put on the import path if need be."""
    module_name, _, attribute = spec.partition(":")
    if not all(part.isidentifier() for dotted in (module_name, attribute) for part in dotted.split(".")):
        raise _unknown(spec)
    factory: Any = _own_module(module_name, spec)
    for part in attribute.split("."):
        if not hasattr(factory, part):
            near = did_you_mean(part, [name for name in vars(factory) if not name.startswith("_")])
            raise ModelError(f"{module_name} has no {attribute!r}{near}; name a function that returns a module")
        factory = getattr(factory, part)
    if isinstance(factory, nn.Module):
        if num_classes is not None:
            raise ModelError(f"{spec} is a module already, which takes no `num_classes`; leave it out")
        return _built(spec, lambda: copy.deepcopy(factory)) if copied else factory
    if not callable(factory):
        raise ModelError(f"{spec} must be a function that returns a module, got a {type(factory).__name__}")
    if num_classes is not None and not _takes(factory, "num_classes"):
        raise ModelError(f"{spec} has no argument 'num_classes'; add it, or leave out num_classes={num_classes}")
    options = {} if num_classes is None else {"num_classes": num_classes}
    return _built(spec, lambda: factory(**options))


def _own_module(name: str, spec: str) -> ModuleType:
    """Import a module of the user's, from the current folder too."""
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        with torch.random.fork_rng(devices=[]):  # what the module draws must not move the weights of its factories
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise ModelError(f"{_unknown(spec)} (there is no module {error.name!r})") from error
        raise ModelError(f"{name} cannot be imported: {one_line(error)}") from error
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise ModelError(f"{name} cannot be imported: {one_line(error)}") from error


def _imported(name: str, extra: str) -> Any:
    """Import an optional package, or say which extra brings it."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise ModelError(f"{package} is installed but cannot be imported: {one_line(error)}") from error
        raise ModelError(f"{package} is not installed; pip install 'neurocollapse[{extra}]'") from error
    except Exception as error:  # a build that does not match torch's raises RuntimeError and more
        raise ModelError(f"{package} is installed but cannot be imported: {one_line(error)}") from error


def _built(spec: str, build: Callable[[], Any]) -> nn.Module:
    """Build a model; whatever that raises becomes one line."""
    model = _built_value(spec, build)
    if not isinstance(model, nn.Module):
        raise ModelError(f"{spec} must return a torch.nn.Module, got a {type(model).__name__}")
    return model


def _built_value(spec: str, build: Callable[[], Any]) -> Any:
    """Return what a function returns; whatever it raises becomes one line."""
    try:
        return build()
    except ModelError:
        raise
    except (Exception, SystemExit) as error:  # foreign code may raise anything
        raise ModelError(f"{spec} cannot be built: {one_line(error)}") from error


def _check_name(name: str, known: Iterable[str], package: str) -> None:
    """Raise, with the nearest matches, unless a package knows the model."""
    known = list(known)
    if name not in known:
        raise ModelError(f"{package} has no model {name!r}{did_you_mean(name, known)}")


def _takes(function: Callable[..., Any], argument: str) -> bool:
    """Tell whether a function can be called with a keyword argument of that name."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(parameter.name == argument or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def _unknown(spec: str) -> ModelError:
    """Return the error that lists what can be opened, with the nearest match."""
    families = {known.partition(":")[0]: known for known in KNOWN[1:]}
    hint = did_you_mean(spec.partition(":")[0].lower(), families, most=1, shown_as=families)
    return ModelError(f"`model` must be one of {', '.join(KNOWN)}, got {visible(spec)!r}{hint}")
