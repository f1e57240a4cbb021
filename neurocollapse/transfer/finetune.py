"""Fine-tuning one layer of a model, alone or with a connection from it to the head."""

from collections.abc import Mapping
from os import PathLike
from typing import Any, Literal

import torch
from torch import Tensor, nn

from neurocollapse.hooks import CaptureError, Features, NoMatchError, capture, choose, is_linear
from neurocollapse.hooks.inspection import call_of
from neurocollapse.hooks.layout import declared_batch_axis
from neurocollapse.hooks.plan import Site
from neurocollapse.hooks.presets import can_be_called, penultimate
from neurocollapse.hooks.select import ROOT
from neurocollapse.hooks.wrappers import named_modules, unwrap
from neurocollapse.support.checks import shown
from neurocollapse.support.choices import check_choice
from neurocollapse.support.quiet import in_mode, kept_random_state
from neurocollapse.support.state import read_state
from neurocollapse.support.text import first_line, listed, visible
from neurocollapse.transfer.errors import TransferError
from neurocollapse.transfer.skip import POOLINGS, Skip, has_skip
from neurocollapse.transfer.tuned import FILE_KIND, Tuned

SkipPool = Literal["auto", "mean", "max", "cls", "last"]
"""How the layer's positions become one row per sample; "auto" is the mean."""


def layer_finetune(model: nn.Module, layer: Any, *, head: str | None = None) -> Tuned:
    """Freeze a model except for one layer, or a few, and its head (Layer-FT).

    Parameters
    ----------
    model : torch.nn.Module
        With the head that the new classes need: put it in first, ``model.fc = nn.Linear(512, 10)``.
    layer
        The layer to tune, as `neurocollapse.hooks.select` takes it: a dotted name, or a glob for several.
    head : str, optional
        Name of the classifier. Default: the last linear layer in definition order.

    Returns
    -------
    Tuned

    Raises
    ------
    TransferError
        If a layer does not exist, has no parameters, or holds the head, or a skip is on the model. The model is then as
        it was.

    References
    ----------
    Li et al., "Principled and Efficient Transfer Learning of Deep Models via Neural Collapse", arXiv 2212.12206.
    """
    return Tuned(model, _modules(model, layer, head))


def skip_finetune(
    model: nn.Module, layer: str, example: Any, *, head: str | None = None, pool: SkipPool = "auto"
) -> Tuned:
    """Freeze a model except for one layer and its head, and connect the two (SCL-FT).

    The layer's output is pooled to one row per sample, padded with zeros to the width that the head reads, and added to
    what the head reads. Features of the layer thereby collapse with those of the penultimate layer, at the cost of
    training one layer.

    Parameters
    ----------
    model : torch.nn.Module
        With the head that the new classes need.
    layer : str
        The layer to tune: one dotted name.
    example : Tensor, tuple or dict
        One batch of inputs: a tensor, positional arguments, or keyword arguments. The model runs on it once, in eval
        mode and without gradients, to show what shapes there are; its modes and torch's random state stay as they are.
    head : str, optional
        Name of the classifier. Default: the last linear layer in definition order.
    pool : {"auto", "mean", "max", "cls", "last"}, default "auto"
        How positions become one row per sample; "auto" is the mean. Padding that an `attention_mask` tells is left out.
        Where the head reads every position, the layer's are added to them one by one.

    Returns
    -------
    Tuned

    Raises
    ------
    TransferError
        If the layer is wider than what the head reads, runs behind the head or more than once, or has no parameters, if
        the model fails on the example, or a skip is on it already. The model is then as it was.

    References
    ----------
    Li et al., arXiv 2212.12206, Section 4.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> skip_finetune(model, "0", torch.zeros(3, 4))
    Tuned(0, 4: 48 of 104 parameters, 46.2 %, with a skip connection)
    """
    check_choice("pool", pool, SkipPool)
    modules = _modules(model, layer, head)
    if len(modules) != 2:
        raise TransferError(f"a skip starts at one layer, but `layer` = {visible(layer)} names {listed(modules)}")
    return Tuned(model, modules, _planned(model, modules, example, pool))


def load_tuned(model: nn.Module, path: str | PathLike[str]) -> Tuned:
    """Load what `Tuned.save` wrote into the model from which it was trained: tuned layers, head and skip.

    Parameters
    ----------
    model : torch.nn.Module
        The model that was tuned, with its original weights.
    path : path-like
        A file that `Tuned.save` wrote.

    Raises
    ------
    TransferError
        If the file is missing, damaged or of another kind, the model lacks a module or has another shape, or a skip is
        on it. The model is then as it was.
    """
    _check_model(model)
    header, tensors = read_state(path, FILE_KIND, error=TransferError)
    known = dict(named_modules(model))
    try:
        names, skip = [str(name) for name in header["modules"]], _read_skip(header["skip"])
    except (KeyError, TypeError, ValueError) as error:
        raise TransferError(f"{visible(path)} is not a complete file of tuned layers; save it again") from error
    missing = [name for name in names if name not in known]
    if missing or (skip is not None and not {skip.layer, skip.head} <= set(names)):
        raise TransferError(f"{visible(path)} does not fit: {type(model).__name__} has no {listed(missing or names)}")
    modules = {name: known[name] for name in names}
    own = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    wrong = [
        name
        for name in {**own, **tensors}
        if name not in own or name not in tensors or own[name].shape != tensors[name].shape
    ]
    if wrong:
        raise TransferError(f"{visible(path)} does not fit: {listed(wrong)} is missing or has another shape here")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
    return Tuned(model, modules, skip)


def _modules(model: nn.Module, layer: Any, head: str | None) -> dict[str, nn.Module]:
    """The layers to tune and the head, by name."""
    _check_model(model)
    known = dict(named_modules(model))
    if head is None:
        head = next(iter(penultimate(unwrap(model))), None)
        if head is None:
            raise TransferError(f"{type(model).__name__} has no linear layer that could be its head; pass head=")
    if head not in known or not is_linear(known[head]):
        raise TransferError(f"`head` = {visible(head)} is no linear layer of {type(model).__name__}")
    try:
        chosen = choose(model, layer, fits=_is_tunable, kind="layer with parameters")
    except NoMatchError as error:
        raise TransferError(first_line(error, most=250).replace("`layers`", "`layer`")) from error
    inside = {id(part) for part in known[head].modules()}
    names = {id(module): name for name, module in known.items()}
    found = {names[id(module)]: module for module in chosen.values() if id(module) not in inside}
    holding = [name for name, module in found.items() if any(part is known[head] for part in module.modules())]
    if holding:
        raise TransferError(
            f"{listed(name or ROOT for name in holding)} holds the head {head!r}; name a layer before it, or pass head="
        )
    if not found:
        raise TransferError(f"`layer` = {visible(layer)} names nothing but the head, which is tuned anyway")
    return {**found, head: known[head]}


def _check_model(model: Any) -> None:
    """Raise unless it is a module without a skip: two would both be added."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {shown(model)}")
    if has_skip(model):
        raise TransferError(
            f"{type(model).__name__} has a skip already; call remove() or merge() of what tunes it, or start from a "
            "model without"
        )


def _is_tunable(module: nn.Module) -> bool:
    """Whether a module is called and has parameters that can be trained."""
    return can_be_called(module) and any(parameter.is_floating_point() for parameter in module.parameters())


def _planned(model: nn.Module, modules: Mapping[str, nn.Module], example: Any, pool: SkipPool) -> Skip:
    """The skip that fits what one forward pass shows."""
    layer, head = modules
    if declared_batch_axis(modules[layer]) == 1:
        raise TransferError(f"{layer!r} counts its samples in axis 1, which a skip does not; use batch_first=True")
    features, output = _run(model, modules, example)
    sites = list(features.sites.values())
    if [site.num_calls for site in sites] != [1, 1]:
        raise TransferError(f"{layer!r} or {head!r} runs more than once in a forward pass; choose other layers")
    source, target = features.sites[layer], features.sites[f"{head}@in"]
    if source.depth > target.depth:
        raise TransferError(f"{layer!r} runs behind the head {head!r}; choose a layer before it")
    width = source.shape[-1] if source.layout != "channels-first" else source.shape[0]
    head_width = target.shape[-1]
    if width > head_width:
        raise TransferError(
            f"{layer!r} has {width} features and {head!r} reads {head_width}: zeros cannot make them fit; choose a "
            "layer that is no wider, or use layer_finetune"
        )
    pooling, nested = _pooling(source, target, pool), not isinstance(output, Tensor)
    return Skip(layer, head, source.layout, pooling, nested, len(source.shape) + 1, width, head_width)


def _run(model: nn.Module, modules: Mapping[str, nn.Module], example: Any) -> tuple[Features, Any]:
    """What capturing shows of the layer's output and the head's input in one forward pass, and the former as it is."""
    layer, head = modules
    args, kwargs = call_of(example)
    devices = {parameter.device for parameter in model.parameters()}
    outputs: list[Any] = []
    handle = modules[layer].register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        with (
            torch.no_grad(),
            in_mode(model),
            kept_random_state(*devices),
            capture(model, [layer, f"{head}@in"], mask=False) as features,
        ):
            model(*args, **kwargs)
    except CaptureError as error:
        raise TransferError(first_line(error, most=250)) from error
    except Exception as error:  # whatever a model's own code raises on an input that it cannot take
        raise TransferError(f"the model fails on `example`: {first_line(error, most=200)}") from error
    finally:
        handle.remove()
    return features, outputs[-1]


def _pooling(source: Site, target: Site, pool: SkipPool) -> Any:
    """How the layer's positions meet what the head reads."""
    if len(source.shape) == 1:
        return "none"
    if len(target.shape) == 1:
        mode = "mean" if pool == "auto" else pool
        if mode in ("cls", "last") and source.layout != "tokens":
            raise TransferError(f'`pool` = {mode!r} is for tokens, and {source.name!r} gives a map; use "mean"')
        if mode == "max" and source.layout == "tokens":
            raise TransferError(f'`pool` = "max" is for maps, and {source.name!r} gives tokens; use "mean"')
        return mode
    if source.shape[:-1] != target.shape[:-1] or source.layout == "channels-first":
        raise TransferError(
            f"the head reads positions {target.shape[:-1]} and {source.name!r} gives {source.shape}; choose a layer "
            "with the same positions"
        )
    return "none"


def _read_skip(values: Mapping[str, Any] | None) -> Skip | None:
    """The skip of a file's header."""
    if values is None:
        return None
    skip = Skip(**values)
    if skip.pooling not in POOLINGS or not 0 < skip.width <= skip.head_width:
        raise ValueError(f"no such skip: {skip}")
    return skip
