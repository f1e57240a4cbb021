"""Messages of the library in the words of the command line, which has options and no keyword arguments."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

PHRASES = {
    'distributed="shard"': "--shard",
    'probes="mse"': "--probes --probe mse",
    'probes="logistic"': "--probes --probe logistic",
    "`loader`": "--data",
    "`ood_loader`": "--ood",
}
"""What is called differently, or said by another option."""
COMMANDS = {"neurocollapse.layers(model)": "neurocollapse layers"}
"""Functions that are commands."""
_QUOTES = "\"'"
OTHERS = ("labels", "output")
"""Options that share no more than the name with an argument of the library."""
_VALUE = r"True|False|None|\"[^\"\s]*\"|'[^'\s]*'|\[[\d, ]*\]|-?\d[\w.+-]*\w|\d"
"""Values that can be written on a command line: flags, words, lists of numbers, numbers."""


def options_of(parameters: Iterable[Any]) -> dict[str, tuple[str, str]]:
    """What a command calls the arguments of the library: the option, and the one that says no (empty without one)."""
    found = {}
    for parameter in parameters:
        if parameter.param_type_name == "option" and parameter.name not in OTHERS:
            found[parameter.name] = parameter.opts[0], next(iter(parameter.secondary_opts), "")
    return found


def spoken(message: str, options: Mapping[str, tuple[str, str]]) -> str:
    """A message with options in place of keyword arguments, where the command has such an option.

    Words of plain English stay what they are: an argument is known by backticks, a value or an underscore.

    Examples
    --------
    >>> options = {"num_classes": ("--num-classes", ""), "mode": ("--mode", "")}
    >>> spoken('pass num_classes=13, mode="train" or `halt`', options)
    'pass --num-classes 13, --mode train or `halt`'
    """
    for function, command in COMMANDS.items():
        message = message.replace(function, command)
    for phrase, said in PHRASES.items():
        if said.split()[0] in (option for option, _ in options.values()):
            message = message.replace(phrase, said)
    if not options:
        return message
    names = "|".join(sorted(map(re.escape, options), key=len, reverse=True))
    marked = rf"`(?P<marked>{names})`"
    with_value = rf"(?P<name>{names})=(?P<value>{_VALUE})(?![\w=(]|\.\w)"
    alone = rf"(?P<alone>{names})(?![\w/=()'\"`-]|\.\w)"
    before = r"(?<![\w./`'\"-])"
    return re.sub(rf"{marked}|{before}(?:{with_value}|{alone})", lambda found: _said(found, options), message)


def _said(found: "re.Match[str]", options: Mapping[str, tuple[str, str]]) -> str:
    """One argument as an option, with its value if it has one; unchanged where it may be a word."""
    if found["alone"]:
        return options[found["alone"]][0] if "_" in found["alone"] else found[0]
    option, negative = options[found["marked"] or found["name"]]
    value = found["value"]
    if value in (None, "True"):
        return option
    if value in ("False", "None"):
        return negative or f"no {option}"
    if value[0] == "[":
        return f"{option} {value[1:-1].replace(' ', '')}"
    return f"{option} {value.strip(_QUOTES)}"
