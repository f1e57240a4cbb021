"""Every parameter of a public function or class is described, and says its default where it has one."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from site_pages import reference

import neurocollapse as nc

SECTION = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
PROTOCOLS = {"neurocollapse.passes.sink.Sink"}
"""Classes to inherit from, which take whatever their children take."""
GATHERED = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


class Documented(NamedTuple):
    name: str
    value: Callable[..., Any]
    described: dict[str, str]


def sections(value: Any) -> dict[str, str]:
    """Title → text of the numpydoc sections of a docstring."""
    _, *parts = SECTION.split(inspect.cleandoc(value.__doc__ or ""))
    return dict(zip(parts[::2], parts[1::2], strict=True))


def described(text: str) -> dict[str, str]:
    """Name → type and description, which several names may share."""
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in filter(str.strip, text.splitlines()):
        if not line.startswith(" "):
            head, _, kind = line.partition(" : ")
            names = [name.strip().lstrip("*") for name in head.split(",")]
            found |= {name: [kind] for name in names}
        else:
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(lines).strip() for name, lines in found.items()}


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods that a class defines itself, unless they are those of another library's class."""
    foreign = [base for base in cls.__mro__[1:] if not base.__module__.startswith("neurocollapse")]
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if inspect.isfunction(function) and not name.startswith("_") and not any(name in vars(one) for one in foreign):
            yield f"{cls.__module__}.{cls.__qualname__}.{name}", function


def inherited(cls: type, name: str) -> dict[str, str]:
    """What the classes above say of a method's parameters."""
    above = [vars(base).get(name) for base in reversed(cls.__mro__[1:])]
    found: dict[str, str] = {}
    for value in filter(inspect.isfunction, above):
        found |= described(sections(value).get("Parameters", ""))
    return found


def public() -> list[Documented]:
    """Functions and classes of all packages, and the methods of those classes."""
    found: dict[str, Any] = {}
    from_above: dict[str, dict[str, str]] = {}
    for module in reference.packages().values():
        for name in module.__all__:
            value = getattr(module, name, None)
            if inspect.isclass(value) and not issubclass(value, BaseException):
                found[f"{value.__module__}.{value.__qualname__}"] = value
                own = dict(methods(value))
                found |= own
                from_above |= {place: inherited(value, place.rpartition(".")[2]) for place in own}
            elif inspect.isfunction(value):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    entries = []
    for name, value in found.items():
        parts = sections(value)
        texts = parts.get("Attributes", "") if inspect.isclass(value) else ""
        own_words = described(texts) | described(parts.get("Parameters", ""))
        entries.append(Documented(name, value, from_above.get(name, {}) | own_words))
    return [entry for entry in entries if entry.name not in PROTOCOLS]


def parameters(value: Callable[..., Any]) -> list[inspect.Parameter]:
    hidden = ("self", "cls")
    found = inspect.signature(value).parameters.values()
    return [one for one in found if one.name not in hidden and not one.name.startswith("_")]


def says_default(text: str, default: Any) -> bool:
    """Whether a description names a default: as it is written in Python; "optional", or in words, where it is empty."""
    if default in (None, "", ()) or "with the defaults of" in text or "whose defaults these are" in text:
        return bool(re.search(r"optional|[Dd]efault", text))
    words = {repr(default), str(default), f'"{default}"', f"{default:g}" if isinstance(default, float) else ""}
    words |= {re.sub(r"e([+-])0", r"e\1", word) for word in words}
    words |= {"−100"} if default == nc.labels.IGNORED else set()
    words |= {default.__name__} if inspect.isclass(default) else {str(default).removeprefix("torch.")}
    found = re.search(r"[Dd]efault:? (.*)", text)
    return bool(found) and any(word and word in found[1] for word in words)


PUBLIC = public()
each = pytest.mark.parametrize("entry", PUBLIC, ids=lambda entry: entry.name.removeprefix("neurocollapse."))


@each
def test_every_parameter_is_described(entry: Documented) -> None:
    missing = [one.name for one in parameters(entry.value) if not entry.described.get(one.name)]
    assert missing == [], f"{entry.name} does not describe {', '.join(missing)}"


@each
def test_every_default_is_said(entry: Documented) -> None:
    if inspect.isclass(entry.value) and not sections(entry.value).get("Parameters"):
        return  # a value, whose attributes the library fills in
    optional = [one for one in parameters(entry.value) if one.default is not one.empty and one.kind not in GATHERED]
    silent = [one.name for one in optional if not says_default(entry.described.get(one.name, ""), one.default)]
    assert silent == [], f"{entry.name} does not say the default of {', '.join(silent)}"
