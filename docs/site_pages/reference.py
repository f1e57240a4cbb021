"""Pages of the API: one a package, from its public `__all__`."""

import ast
import importlib
import inspect
import pkgutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from types import ModuleType
from typing import Any

import neurocollapse
from site_pages import gallery

NOT_A_LIBRARY = ("cli",)
"""Packages that nobody imports from."""

KNOWN_BY_SHORTER_NAMES = ("neurocollapse.data.labels", "neurocollapse.tracking.callbacks")
"""Modules that the top level offers under names of their own, each with a page."""

LONGEST_VALUE = 80
"""Characters of a constant's value that are worth printing."""

_PICTURE = """\
   .. image:: ../gallery/{name}.png
      :alt: {alt}
      :class: figure

   Drawn by the code in the :ref:`gallery <figure-{name}>`.
"""
"""Below the docstring of a function that draws."""

GROUPS = {
    "Analyse": ("analyze", "collect", "measure", "layers", "layer_tree", "capture"),
    "Verify": ("verify", "verify_parsimony", "experiment"),
    "Show and keep": ("plot", "report", "table", "save", "open"),
}
"""The verbs of the top level; what is not named here is a value, or an error or a warning."""


@dataclass(frozen=True)
class Entry:
    """A public name: where it is documented, and what it is.

    Attributes
    ----------
    name
        As in `__all__`.
    home
        The package on whose page it is documented.
    value
        What it names.
    """

    name: str
    home: str
    value: Any

    @property
    def directive(self) -> str:
        """How Sphinx documents it."""
        if inspect.ismodule(self.value):
            return "automodule"
        if inspect.isclass(self.value):
            return "autoexception" if issubclass(self.value, BaseException) else "autoclass"
        return "autofunction" if inspect.isroutine(self.value) else "py:data"

    @property
    def text(self) -> str:
        """The docstring; of a constant, the string that follows its assignment."""
        if self.directive == "py:data":
            return _text_after_assignment(self)
        return inspect.getdoc(self.value) or ""

    @property
    def summary(self) -> str:
        """The first paragraph of the docstring, on one line."""
        return " ".join(self.text.partition("\n\n")[0].split())


def packages() -> dict[str, ModuleType]:
    """Name → the library itself and each of its packages that has public names."""
    names = {info.name for info in pkgutil.iter_modules(neurocollapse.__path__) if info.ispkg}
    names |= {"hooks"}  # lies in a folder of its own in the source tree
    names -= {*NOT_A_LIBRARY}
    found = {f"neurocollapse.{name}": importlib.import_module(f"neurocollapse.{name}") for name in sorted(names)}
    found |= {name: importlib.import_module(name) for name in KNOWN_BY_SHORTER_NAMES}
    public = {name: module for name, module in found.items() if getattr(module, "__all__", ())}
    return {"neurocollapse": neurocollapse, **public}


def entries(module: ModuleType, homes: dict[int, Entry]) -> Iterator[Entry]:
    """Public names of a package; what is public in a package seen before keeps its home."""
    for name in module.__all__:
        try:
            value = getattr(module, name)
        except (ImportError, RuntimeError):  # for a library that is not installed where the site is built, or broken
            continue
        entry = Entry(name, module.__name__, value)
        if entry.directive == "py:data":  # equal constants may be one object
            yield entry
        else:
            yield homes.setdefault(id(value), entry)


def pages() -> dict[str, str]:
    """Name → content of the overview and of one page a package."""
    homes: dict[int, Entry] = {}
    modules = packages()
    public = {name: list(entries(module, homes)) for name, module in modules.items()}
    shown = {
        name: modules[name]
        for name, own in public.items()
        if name in KNOWN_BY_SHORTER_NAMES or any(entry.home == name for entry in own)
    }
    written = {f"api/{_file(name)}.rst": page(module, public[name]) for name, module in shown.items()}
    return {"api/index.rst": overview(shown), **written}


def overview(modules: dict[str, ModuleType]) -> str:
    """The page that lists the packages."""
    rows = [f"   * - :doc:`{name} <{_file(name)}>`\n     - {_first_line(module)}" for name, module in modules.items()]
    names = "\n".join(f"   {_file(name)}" for name in modules)
    return "\n".join(
        [
            _heading("API reference", "="),
            "What most people need is in ``neurocollapse`` itself; the packages hold the parts it is made of. A name",
            "that is not on these pages is private and may change without notice.",
            "",
            ".. list-table::",
            "   :widths: 35 65",
            "",
            *rows,
            "",
            ".. toctree::",
            "   :hidden:",
            "",
            names,
            "",
        ]
    )


def page(module: ModuleType, public: list[Entry]) -> str:
    """A package: what it is for, its names with their first sentence, and their documentation."""
    name = module.__name__
    parts = [
        _heading(_file(name), "="),
        f".. py:module:: {name}",
        "",
        f"``{name}``",
        "",
        inspect.getdoc(module) or "",
        "",
    ]
    groups = _grouped(public) if name == "neurocollapse" else {"": public}
    for title, members in groups.items():
        parts += [_heading(title, "-") if title else "", _table(members) if members else "", ""]
    for entry in public:
        if entry.home == name and entry.directive != "automodule":
            parts += _documentation(entry)
    return "\n".join(parts)


def _grouped(public: list[Entry]) -> dict[str, list[Entry]]:
    """The names of the top level by what they are for."""
    by_name = {entry.name: entry for entry in public}
    groups = {title: [by_name.pop(name) for name in names if name in by_name] for title, names in GROUPS.items()}
    errors = [entry for entry in by_name.values() if entry.directive == "autoexception"]
    values = [entry for entry in by_name.values() if entry.directive != "autoexception"]
    return {**groups, "Values": values, "Errors and warnings": errors}


def _table(members: list[Entry]) -> str:
    """Names, as links, and first sentences."""
    rows = [f"   * - {_link(entry)}\n     - {entry.summary}" for entry in members]
    return "\n".join([".. list-table::", "   :widths: 35 65", "   :class: names", "", *rows])


def _link(entry: Entry) -> str:
    """A link to where a name is documented."""
    if entry.directive == "automodule":
        return f":py:mod:`{entry.name} <{entry.value.__name__}>`"
    return f":py:obj:`{entry.name} <{entry.home}.{entry.name}>`"


def _documentation(entry: Entry) -> list[str]:
    """The directive that documents a name."""
    options, text = ["   :members:"] if entry.directive == "autoclass" else [], ""
    if fields := getattr(entry.value, "_fields", ()):  # a NamedTuple says of each that it is an alias for its number
        options += [f"   :exclude-members: {', '.join(fields)}"]
    if entry.directive == "py:data":
        value = repr(entry.value)
        options = [f"   :value: {value}"] if len(value) < LONGEST_VALUE else []
        text = textwrap.indent(entry.text, "   ")
    if entry.home == neurocollapse.plots.__name__ and entry.name in gallery.FIGURES:
        text = _PICTURE.format(name=entry.name, alt=entry.summary.rstrip("."))
    return [f".. {entry.directive}:: {entry.name}", *options, "", text, ""]


def _text_after_assignment(entry: Entry) -> str:
    """The string after the assignment of a constant, in whichever module of its package or of the support that is."""
    below = (f"{entry.home}.", "neurocollapse.support.")
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith(below)]
    for module in modules:
        if vars(module).get(entry.name) is not entry.value:
            continue
        body = ast.parse(inspect.getsource(module)).body
        for statement, following in pairwise(body):
            if entry.name in _assigned(statement) and isinstance(following, ast.Expr):
                return inspect.cleandoc(str(ast.literal_eval(following.value)))
    return ""


def _assigned(statement: ast.stmt) -> list[str]:
    """The names that a statement assigns to."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _first_line(module: ModuleType) -> str:
    """The first line of a module's docstring."""
    return (inspect.getdoc(module) or "").partition("\n")[0]


def _file(name: str) -> str:
    """The file of a package's page, without its ending."""
    return name.rpartition(".")[2]


def _heading(text: str, mark: str) -> str:
    """A heading in reStructuredText."""
    return f"{text}\n{mark * len(text)}\n"
