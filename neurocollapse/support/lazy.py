"""Names of a package that are imported when they are first used, and modules that follow another."""

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
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


def import_after(name: str, follower: str) -> None:
    """Import a module as soon as another one has been imported, which may never be.

    Parameters
    ----------
    name
        The module that is waited for, of any package.
    follower
        The module that is then imported.
    """
    if name in sys.modules:
        import_module(follower)
    elif not any(isinstance(finder, _Follower) and finder.follower == follower for finder in sys.meta_path):
        sys.meta_path.insert(0, _Follower(name, follower))


class _Follower(MetaPathFinder):
    """Finds one module as everybody else does, once, and has another one imported behind it."""

    def __init__(self, name: str, follower: str) -> None:
        self.name, self.follower = name, follower

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The spec of the module that is waited for; None of any other."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_both(module: ModuleType) -> None:
                execute(module)
                import_module(self.follower)

            spec.loader.exec_module = execute_both  # type: ignore[method-assign]  # of this one loader
        return spec
