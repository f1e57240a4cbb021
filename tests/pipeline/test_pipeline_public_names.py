"""What `import neurocollapse` offers, and what it does not load."""

import ast
import json
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import neurocollapse as nc

PUBLIC = [
    "analyze",
    "capture",
    "collect",
    "layer_tree",
    "layers",
    "measure",
    "open",
    "plot",
    "report",
    "save",
    "table",
    "verify",
]
PLOTS = ["bounds", "class_spread", "collapse", "compression", "decay", "features", "layers", "quantities", "separation"]
HEAVY = [
    "IPython",
    "PIL",
    "jinja2",
    "matplotlib",
    "scipy",
    "sklearn",
    "timm",
    "torch._dynamo",
    "torch._inductor",
    "torch.utils.tensorboard",
    "torchvision",
    "transformers",
    "typer",
]
"""What would make the import slow (seconds on a cold disk), or is optional."""


def loaded_by(program: str) -> list[str]:
    """The modules that are imported when a fresh interpreter has run a program, which says nothing."""
    code = f"{program}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    modules: list[str] = json.loads(run.stdout)
    return modules


def test_import_is_silent_and_loads_nothing_but_itself() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("import neurocollapse")}
    assert not loaded & {"torch", "numpy", "xarray", "pandas", *HEAVY}


def test_what_is_used_loads_nothing_heavy() -> None:
    before = loaded_by("import torch, xarray")
    names = [name for name in nc.__all__ if name not in ("experiment", "plot")]
    loaded = set(loaded_by(f"import torch, xarray\nfrom neurocollapse import {', '.join(names)}")) - set(before)
    assert [name for name in HEAVY if name in loaded] == []
    assert len([name for name in loaded if not name.startswith("neurocollapse")]) < 200  # 95 when written


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_exist_and_are_listed(name: str) -> None:
    assert name in nc.__all__
    assert callable(getattr(nc, name)) or isinstance(getattr(nc, name), ModuleType)


def test_everything_listed_exists_and_has_a_docstring() -> None:
    for name in nc.__all__:
        assert getattr(nc, name).__doc__, name


def test_dir_shows_public_names_and_packages_only() -> None:
    shown = {name for name in dir(nc) if not name.startswith("__")}
    assert shown == {*nc.__all__, *nc._PACKAGES}
    assert not {"import_module", "version", "Any", "TYPE_CHECKING", "cli", "support"} & shown


def test_names_are_what_type_checkers_take_them_for() -> None:
    tree = ast.parse(Path(nc.__file__).read_text(encoding="utf-8"))
    checked = next(part for part in tree.body if isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING")
    seen: dict[str, object] = {}
    exec(compile(ast.Module(checked.body, []), "<the imports for type checkers>", "exec"), seen)
    del seen["__builtins__"]
    assert set(seen) == {*nc.__all__, *nc._PACKAGES}
    assert [name for name, value in seen.items() if getattr(nc, name) is not value] == []


def test_a_function_is_not_replaced_by_the_package_of_its_name() -> None:
    import_module("neurocollapse.report.tables")
    assert callable(nc.report)
    loaded_by("from neurocollapse.report import table\nimport neurocollapse as nc\nassert callable(nc.report)")


def test_the_package_can_be_loaded_again() -> None:
    loaded_by("import importlib, neurocollapse as nc\nimportlib.reload(nc)\nassert callable(nc.report)")


def test_errors_and_results_are_pickled_where_they_are_defined() -> None:
    error = pickle.loads(pickle.dumps(nc.LabelError("no such label")))
    assert type(error) is nc.LabelError
    assert pickle.loads(pickle.dumps(nc.analyze)) is nc.analyze


def test_every_package_can_be_imported_first() -> None:
    program = """
import sys, torch, xarray
from importlib import import_module
for name in {names}:
    for module in [module for module in sys.modules if module.partition(".")[0] == "neurocollapse"]:
        del sys.modules[module]
    import_module(f"neurocollapse.{{name}}")
"""
    loaded_by(program.format(names=[name for name in nc._PACKAGES if name != "experiments"]))


def test_packages_are_there_without_an_import_of_their_own() -> None:
    program = "import neurocollapse as nc; print(*(getattr(nc, name).__name__ for name in nc._PACKAGES))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [f"neurocollapse.{name}" for name in nc._PACKAGES]


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_reached_through_the_package(name: str) -> None:
    assert callable(getattr(nc.plot, name))


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'neurocollapse' has no attribute 'analyse'"):
        getattr(nc, "analyse")  # noqa: B009 - the very look-up is tested
