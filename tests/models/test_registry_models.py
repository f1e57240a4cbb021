"""Models by name: the user's factories, optional packages, and the names that are wrong."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from neurocollapse import models
from neurocollapse.models import ModelError

FACTORIES = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(4, num_classes)

def build(): return nn.Linear(4, 3)
def sized(*, num_classes): return nn.Linear(4, num_classes)
def any_options(**options): return nn.Linear(4, options.get("num_classes", 2))
def needs(width): return nn.Linear(4, width)
def broken(): raise RuntimeError("no weights\\nsecond line")
def nothing(): return None
ready = nn.Linear(4, 3)
constant = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a folder of the user's, from which nothing stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    (tmp_path / "own_models.py").write_text(FACTORIES)
    yield tmp_path / "own_models.py"
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def torchvision() -> None:
    """Torchvision, which tests/conftest.py lets import beside a CPU build of torch."""
    pytest.importorskip("torchvision", reason="torchvision is an optional dependency and not installed")


@pytest.mark.parametrize(
    ("spec", "num_classes", "outputs"),
    [
        ("own_models:Net", None, 10),
        ("own_models:Net", 5, 5),
        ("own_models:build", None, 3),
        ("own_models:sized", 7, 7),
        ("own_models:any_options", None, 2),
        ("own_models:any_options", 6, 6),
    ],
)
@pytest.mark.usefixtures("own_module")
def test_factories_are_found_in_the_current_folder(spec: str, num_classes: int | None, outputs: int) -> None:
    model = models.open(spec, num_classes=num_classes)
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == [outputs]


@pytest.mark.usefixtures("own_module")
def test_a_module_that_is_ready_made_is_taken() -> None:
    assert models.open("own_models:ready") is importlib.import_module("own_models").ready


@pytest.mark.usefixtures("own_module")
def test_a_checkpoint_leaves_a_module_that_is_ready_made_as_it_was(tmp_path: Path) -> None:
    torch.save({"weight": torch.full((3, 4), 7.0), "bias": torch.zeros(3)}, tmp_path / "net.pt")
    assert models.open("own_models:ready", checkpoint="net.pt").weight.eq(7).all()
    assert not importlib.import_module("own_models").ready.weight.eq(7).any()


@pytest.mark.usefixtures("own_module")
def test_random_weights_follow_from_the_seed_and_leave_the_random_state() -> None:
    before = torch.get_rng_state()
    first, again, other = (models.open("own_models:build", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


@pytest.mark.usefixtures("own_module")
def test_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3, 4), "bias": torch.zeros(3)}, tmp_path / "net.pt")
    assert models.open("own_models:build", checkpoint="net.pt").weight.eq(1).all()


@pytest.mark.parametrize(
    ("spec", "num_classes", "message"),
    [
        ("own_models:needs", None, "own_models:needs cannot be built: TypeError: needs.. missing 1 required"),
        ("own_models:broken", None, "own_models:broken cannot be built: RuntimeError: no weights$"),
        ("own_models:nothing", None, "must return a torch.nn.Module, got a NoneType"),
        ("own_models:constant", None, "must be a function that returns a module, got a int"),
        ("own_models:biuld", None, "own_models has no 'biuld'; did you mean 'build'"),
        ("own_models:build", 5, "own_models:build has no argument 'num_classes'; add it, or leave out"),
        ("own_models:ready", 5, "own_models:ready is a module already, which takes no `num_classes`; leave it out"),
        ("own_model:build", None, "there is no module 'own_model'"),
        ("own_failing:build", None, "own_failing cannot be imported: ZeroDivisionError: division by zero"),
        ("own_lacking:build", None, "own_lacking cannot be imported: ModuleNotFoundError: No module named 'absent'"),
        ("resnet18", None, "`model` must be one of package.module:factory, torchvision:NAME"),
        ("torchvison:resnet18", None, "did you mean 'torchvision:NAME'?"),
        ("hf:", None, "`model` must be one of"),
        ("a b:c", None, "`model` must be one of"),
        ("hf:./nowhere", None, "no config.json in nowhere; give a folder that save_pretrained wrote"),
    ],
)
def test_wrong_names_get_one_clear_line(own_module: Path, spec: str, num_classes: int | None, message: str) -> None:
    own_module.with_name("own_failing.py").write_text("1 / 0")
    own_module.with_name("own_lacking.py").write_text("import absent")
    with pytest.raises(ModelError, match=message) as caught:
        models.open(spec, num_classes=num_classes)
    assert "\n" not in str(caught.value)


def test_a_specification_must_be_a_string() -> None:
    with pytest.raises(TypeError, match="`model` must be a string"):
        models.open(nn.Linear(1, 1))  # wrong on purpose


@pytest.mark.parametrize(
    ("spec", "package", "extra"),
    [
        ("torchvision:resnet18", "torchvision", "vision"),
        ("timm:vit_tiny_patch16_224", "timm", "vision"),
        ("hf:{}", "transformers", "text"),
    ],
)
def test_a_missing_package_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, package: str, extra: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(importlib, "import_module", _import_without(package))
    with pytest.raises(ModelError, match=rf"{package} is not installed; pip install 'neurocollapse\[{extra}\]'"):
        models.open(spec.format(tmp_path))


def _import_without(package: str) -> Callable[[str], None]:
    """Stand in for importlib.import_module where a package is not installed."""

    def import_module(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    return import_module


def test_a_package_that_does_not_import_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist\nmore")

    monkeypatch.setattr(importlib, "import_module", import_module)
    with pytest.raises(
        ModelError, match=r"torchvision is installed but cannot be imported: RuntimeError: operator .*st$"
    ):
        models.open("torchvision:resnet18")


@pytest.mark.usefixtures("torchvision")
def test_torchvision_models_are_built_by_name() -> None:
    model = models.open("torchvision:resnet18", num_classes=7)
    assert model.fc.out_features == 7
    with pytest.raises(ModelError, match=r"torchvision has no model 'resnet19'; did you mean .*'resnet18'"):
        models.open("torchvision:resnet19")


@pytest.mark.usefixtures("torchvision")
def test_timm_models_are_built_by_name() -> None:
    pytest.importorskip("timm", reason="timm is an optional dependency")
    model = models.open("timm:vit_tiny_patch16_224", num_classes=7)
    assert model.head.out_features == 7
    with pytest.raises(
        ModelError, match=r"timm has no model 'vit_tiny_patch16_225'; did you mean .*vit_tiny_patch16_224"
    ):
        models.open("timm:vit_tiny_patch16_225")


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "fcn_resnet50", "retinanet_resnet50_fpn", "ssd300_vgg16"])
def test_a_torchvision_model_downloads_no_weights_of_its_backbone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def downloaded(*_: object, **__: object) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", downloaded)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", downloaded)
    assert isinstance(models.open(f"torchvision:{name}", num_classes=3), nn.Module)
