"""What is checked before training begins, so that a mistake does not show after hours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from neurocollapse.hooks.select import select
from neurocollapse.metrics.catalogue import QUANTITIES, chosen_quantities
from neurocollapse.passes.analyze import check_names
from neurocollapse.passes.collect import collect
from neurocollapse.passes.loaders import check_loader
from neurocollapse.support.quiet import without_warnings
from neurocollapse.tracking.alarm import Alarm
from neurocollapse.tracking.untouched import untouched_random_states

_OF_LAYERS = ("layers", "pool", "num_classes", "device", "mode", "calls", "output", "label_fn", "include_input")
"""The options on which it depends which layers there are, and whether a batch can be read."""


_READ_ONCE = ("builtins", "itertools", "torch.utils.data.dataloader")
"""Modules whose iterators begin only once; those of others may begin again each time, as some loaders do."""


def check_repeatable(loader: Any, name: str = "loader") -> None:
    """Raise for what is no loader, and for a generator or the like, which is used up after one record."""
    check_loader(loader, name)
    if isinstance(loader, Iterator) and type(loader).__module__ in _READ_ONCE:
        raise TypeError(
            f"`{name}` is read at each record, but a {type(loader).__name__} can be read only once; "
            "pass a DataLoader, or list(…) of the batches"
        )


def check_beforehand(
    model: nn.Module, loader: Iterable[Any], options: Mapping[str, Any], alarms: Sequence[Alarm]
) -> None:
    """Raise for options, layers and quantities that there are not, alarms about such, and loaders that end.

    The network runs on a batch only if there are alarms: what is not initialised before its first batch stays so.
    """
    check_names(options)
    others = {name: options[name] for name in ("test_loader", "ood_loader") if options.get(name) is not None}
    for name, one in {"loader": loader, **others}.items():
        check_repeatable(one, name)
    chosen = chosen_quantities(options.get("quantities"), pairs=bool(options.get("pairs"))).quantities
    select(model, options.get("layers", "leaves"), proposals=True)
    if not alarms:
        return
    names = [one.name for one in chosen]
    if options.get("probes", False) is not False:
        names += [one.name for one in QUANTITIES if one.family in ("probes", "rank")]
    for alarm in alarms:
        alarm.condition.check_quantity(names)
    known = {name: options[name] for name in _OF_LAYERS if name in options}
    # One batch shows which layers there are; warnings about numbers come later, when all batches have been measured.
    with untouched_random_states(model, loader), without_warnings(UserWarning):
        first = next(iter(loader), None)
        layers = list(collect(model, [first], progress=False, **known)) if first is not None else []
    for alarm in alarms:
        if alarm.condition.layer:
            alarm.condition.layers(layers)
