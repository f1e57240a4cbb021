"""What `import neurocollapse` offers, and what it does not load."""

import json
import subprocess
import sys
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
    "matplotlib",
    "scipy.stats",
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


def test_import_is_silent_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; import torch, xarray; before = set(sys.modules)\n"
        "import neurocollapse, json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr == ""
    loaded = json.loads(run.stdout)
    assert [name for name in HEAVY if name in loaded] == []
    assert len([name for name in loaded if not name.startswith("neurocollapse")]) < 500  # about 450 when written


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
