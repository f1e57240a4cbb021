"""Names of a package that are imported when they are first used."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any


def names_when_used(
    package: str, homes: Mapping[str, Iterable[str]], *, modules: Mapping[str, str] = MappingProxyType({})
) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports a module when a name of it is first used.

    Parameters
    ----------
    package
        The package's `__name__`.
    homes
        Module, relative to the package → names that the package offers from it.
    modules
        Name → module, relative to the package, that the package offers by this name.

    Returns
    -------
    callable
        To be assigned to `__getattr__`, which Python asks for what a package does not hold (PEP 562). What it finds is
        kept in the package, so that it is asked once for each name.

    Examples
    --------
    >>> find = names_when_used("neurocollapse.support", {"text": ["visible"]}, modules={"tables": "table"})
    >>> find("visible").__module__, find("tables").__name__
    ('neurocollapse.support.text', 'neurocollapse.support.table')
    """
    home_of = {name: home for home, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name in home_of:
            found = getattr(import_module(f"{package}.{home_of[name]}"), name)
        elif name in modules:
            found = import_module(f"{package}.{modules[name]}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        vars(sys.modules[package])[name] = found
        return found

    return find
