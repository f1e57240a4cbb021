"""Bad input gets one clear line, and leaves model, hooks, modes, random states, figures and files as they were."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import neurocollapse as nc
from neurocollapse import data, models
from neurocollapse.data import DataError
from neurocollapse.models import ModelError


class Victim(nn.Module):
    """A map, a structured output, a module that never fires, and modes of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.pair = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), Pair()
        self.drop, self.head, self.idle = nn.Dropout(), nn.Linear(4, 3), nn.Linear(4, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.drop(self.pair(self.norm(self.conv(pixels)))["one"]))


class Pair(nn.Module):
    """Returns two tensors that could be meant."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"one": x.mean((2, 3)), "two": x.amax((2, 3))}


@pytest.fixture(scope="module")
def given() -> SimpleNamespace:
    """Good input, of which every case spoils a part."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(12, 1, 6, 6, generator=generator), torch.arange(12) % 3
    moments = nc.ClassMoments.from_features(inputs.flatten(1), labels)
    dataset = nc.measure({"a": moments, "b": moments})
    opened = data.open("digits")
    return SimpleNamespace(inputs=inputs, labels=labels, moments=moments, dataset=dataset, opened=opened)


@pytest.fixture
def case(given: SimpleNamespace, hand: Any, tmp_path: Path) -> SimpleNamespace:
    """The good input with a model and files of its own."""
    model = hand.seeded(Victim).train()
    model.norm.eval()
    (tmp_path / "notes.txt").write_text("not a result\n")
    (tmp_path / "empty").mkdir()
    return SimpleNamespace(model=model, loader=[(given.inputs, given.labels)], tmp=tmp_path, **vars(given))


def analyze(**options: Any) -> Callable[[SimpleNamespace], Any]:
    """Analyse good input with a bad option."""
    return lambda c: nc.analyze(c.model, c.loader, **{"layers": ["conv", "head"], **options})


def batch(make: Callable[[SimpleNamespace], Any], **options: Any) -> Callable[[SimpleNamespace], Any]:
    """Analyse a good batch and then a bad one."""
    return lambda c: nc.analyze(c.model, [*c.loader, make(c)], **{"layers": ["conv", "head"], **options})


def labelled(make: Callable[[Tensor], Any], **options: Any) -> Callable[[SimpleNamespace], Any]:
    """Analyse a good batch and then one with bad labels."""
    return batch(lambda c: (c.inputs, make(c.labels)), **options)


def replaced(labels: Tensor, value: int) -> Tensor:
    """Labels with one of them wrong."""
    labels = labels.clone()
    labels[4] = value
    return labels


def captured(layers: Any, **options: Any) -> Callable[[SimpleNamespace], Any]:
    """Capture in a loop of the user's own."""

    def run(c: SimpleNamespace) -> None:
        with nc.capture(c.model, layers, **options), torch.no_grad(), torch.random.fork_rng(devices=[]):
            c.model(c.inputs)  # drops out at random

    return run


def not_a_weight(c: SimpleNamespace) -> Any:
    (c.tmp / "empty" / "weights.pt").write_bytes(b"not weights")
    try:
        return models.open("torch.nn:Identity", checkpoint=c.tmp / "empty" / "weights.pt")
    finally:
        (c.tmp / "empty" / "weights.pt").unlink()


BAD: dict[str, tuple[Callable[[SimpleNamespace], Any], type[BaseException], str]] = {
    # The model and the loader
    "model is a number": (lambda c: nc.analyze(3, c.loader), TypeError, r"`model` must be a torch.nn.Module, got int"),
    "model is a class": (lambda c: nc.analyze(nn.Linear, c.loader), TypeError, r"`model` must be .*, got type"),
    "loader is a number": (lambda c: nc.analyze(c.model, 3), TypeError, r"`loader` must be an iterable of batches"),
    "loader is a tensor of one number": (
        lambda c: nc.analyze(c.model, torch.tensor(3)),
        TypeError,
        r"`loader` must be an iterable of batches, got Tensor",
    ),
    "loader is an array of one number": (
        lambda c: nc.analyze(c.model, torch.tensor(3.0).numpy()),
        TypeError,
        r"`loader` must be an iterable of batches, got ndarray",
    ),
    "resume has a name too long": (
        lambda c: nc.analyze(c.model, c.loader, resume=c.tmp / ("a" * 10_000)),
        ValueError,
        r"`resume` cannot be the name of a file: File name too long, got .{,60}$",
    ),
    "quantity of many letters": (
        analyze(quantities="q" * 10_000),
        ValueError,
        r"there is no quantity .{,60}; families are",
    ),
    "loader is a dataset": (
        lambda c: nc.analyze(c.model, TensorDataset(c.inputs, c.labels)),
        TypeError,
        r"got the dataset TensorDataset; wrap it in a torch.utils.data.DataLoader",
    ),
    "loader is opened data": (
        lambda c: nc.analyze(c.model, c.opened),
        TypeError,
        r"got the dataset LabelledData; wrap",
    ),
    "loader is empty": (lambda c: nc.analyze(c.model, []), ValueError, r"no samples; check that it is not empty"),
    "loader is used up": (lambda c: nc.analyze(c.model, iter([])), ValueError, r"empty or already used up"),
    "loader is a text": (lambda c: nc.analyze(c.model, "mnist"), ValueError, r"must be a pair .* got a str"),
    "batch without labels": (batch(lambda c: c.inputs), ValueError, r"must be a pair \(inputs, labels\).*label_fn"),
    "batch of one": (batch(lambda c: (c.inputs,)), ValueError, r"got a tuple of 1; pass label_fn"),
    "dict without labels": (batch(lambda c: {"pixels": c.inputs}), ValueError, r"needs its labels under one of"),
    "dict with other names": (
        batch(lambda c: {"image": c.inputs, "label": c.labels}),
        ValueError,
        r"Victim.forward takes \(pixels\); got the keys image beside",
    ),
    "inputs of another size": (batch(lambda c: (c.inputs[:, :, :1], c.labels)), RuntimeError, r"Kernel size"),
    "inputs of another length": (batch(lambda c: (c.inputs[:5], c.labels)), nc.LabelError, r"12 labels for 5 samples"),
    "samples that are NaN": (
        batch(lambda c: (c.inputs * torch.nan, c.labels)),
        nc.NonFiniteError,
        r"sample 0 in batch 1",
    ),
    # Labels
    "labels too large": (
        labelled(lambda y: replaced(y, 5), num_classes=3),
        nc.LabelError,
        r"got 5 at position 4; pass",
    ),
    "labels negative": (labelled(lambda y: replaced(y, -100)), nc.LabelError, r"got -100 at position 4; leave such"),
    "labels are floats": (labelled(lambda y: y.float()), nc.LabelError, r"must hold integers, got torch.float32"),
    "labels are names": (labelled(lambda y: ["cat"] * len(y)), nc.LabelError, r"encode class names as 0, 1, 2"),
    "labels are missing": (labelled(lambda y: None), nc.LabelError, r"got NoneType"),
    "labels too few": (labelled(lambda y: y[:7]), nc.LabelError, r"got 7 labels for 12 samples"),
    "labels too many": (labelled(lambda y: torch.cat([y, y])), nc.LabelError, r"got 24 labels for 12 samples"),
    "labels of one sample": (labelled(lambda y: 2), nc.data.DataError, r"single number 2, not one for each sample"),
    "labels in columns": (labelled(lambda y: y.unsqueeze(1)), nc.LabelError, r"not one-hot"),
    "labels in three axes": (labelled(lambda y: y.reshape(3, 2, 2)), nc.LabelError, r"got \(3, 2, 2\)"),
    "labels with two ones": (labelled(lambda y: torch.ones(12, 3)), nc.LabelError, r"not one-hot"),
    "labels with more columns": (
        labelled(lambda y: nn.functional.one_hot(y, 5), num_classes=3),
        nc.LabelError,
        r"5 columns, but num_classes is 3",
    ),
    "label_fn is no function": (analyze(label_fn="labels"), TypeError, r"`label_fn` must be a function.*got str"),
    "label_fn returns nothing": (analyze(label_fn=lambda b: None), nc.LabelError, r"got NoneType"),
    # Which layers, and how
    "layers misspelt": (analyze(layers="haed"), nc.NoMatchError, r"names 'haed', .* did you mean 'head'\?"),
    "layers without match": (analyze(layers="block*"), nc.NoMatchError, r"'block\*' matches no module of Victim"),
    "layers empty": (analyze(layers=[]), nc.NoMatchError, r"leaves no module"),
    "layers is a number": (analyze(layers=3), TypeError, r"`layers` must hold names.* got 3 of type int"),
    "layers never called": (analyze(layers="idle"), nc.NeverFiredError, r"layer 'idle': never called"),
    "layers with two names": (
        analyze(layers={"a": "conv", "b": "conv"}),
        nc.hooks.errors.CaptureError,
        r"calls 'conv' both 'a' and 'b'",
    ),
    "layers of two tensors": (
        analyze(layers="pair"),
        nc.AmbiguousOutputError,
        r"layer 'pair': .*one: Tensor\(\(12, 4\)",
    ),
    "layers of another model": (analyze(layers=nn.ReLU()), nc.NoMatchError, r"a ReLU that is no part of Victim"),
    "pool unknown": (analyze(pool="average"), ValueError, r"`pool` must be one of auto, mean.* got 'average'"),
    "pool of no layer": (analyze(pool={"hed": "mean"}), nc.NoMatchError, r"`pool` names 'hed'.*did you mean 'head'\?"),
    "pool that does not fit": (analyze(pool={"conv": "cls"}), nc.LayoutError, r"layer 'conv': .*does not fit"),
    "pool with a bad answer": (analyze(pool=lambda z: z.sum()), nc.LayoutError, r"must return a floating-point tensor"),
    "output is a fraction": (analyze(output=0.5), TypeError, r"`output` must be a dotted path"),
    "output without such a part": (
        analyze(layers=["pair"], output="three"),
        nc.AmbiguousOutputError,
        r"path 'three' fails at 'three'",
    ),
    "calls unknown": (analyze(calls="second"), ValueError, r"`calls` must be one of 'all', 'first', 'last'"),
    # Other options
    "num_classes zero": (analyze(num_classes=0), ValueError, r"`num_classes` must be an integer of at least 1, got 0"),
    "num_classes a fraction": (analyze(num_classes=2.5), TypeError, r"an integer of at least 1, got 2.5"),
    "num_classes a truth": (analyze(num_classes=True), TypeError, r"an integer of at least 1, got True"),
    "num_classes a text": (analyze(num_classes="ten"), TypeError, r"an integer of at least 1, got 'ten'"),
    "device unknown": (analyze(device="gpu"), ValueError, r'`device` must name a device such as "cpu"'),
    "device a fraction": (analyze(device=1.5), ValueError, r"`device` must name a device .* got 1.5"),
    "device not the model's": (analyze(device="meta"), ValueError, r"the model is on cpu; call model.to\('meta'\)"),
    "mode unknown": (
        analyze(mode="test"),
        ValueError,
        r"`mode` must be one of 'eval', 'train', 'unchanged', got 'test'",
    ),
    "non_finite unknown": (analyze(non_finite="ignore"), ValueError, r"`non_finite` must be one of 'raise', 'skip'"),
    "precision unknown": (analyze(precision="half"), ValueError, r"`precision` must be one of 'single', 'double'"),
    "weighting unknown": (
        analyze(weighting="sum"),
        ValueError,
        r"`weighting` must be one of 'equal', 'frequency', 'papers', got 'sum'",
    ),
    "option misspelt": (
        analyze(layer="head"),
        TypeError,
        r"analyze\(\) got an unexpected keyword argument 'layer'; did you mean 'layers'",
    ),
    "max_memory negative": (analyze(max_memory=-1), ValueError, r"`max_memory` must be a positive number of bytes"),
    "max_memory a text": (analyze(max_memory="8GB"), TypeError, r"`max_memory` must be .* got '8GB'"),
    "max_memory too small": (analyze(max_memory=10), nc.MemoryPlanError, r"2 layers and 3 classes need 0.00 GiB"),
    "input of integers": (
        lambda c: nc.analyze(
            nn.Embedding.from_pretrained(torch.zeros(3, 4)), [(c.labels, c.labels)], include_input=True
        ),
        ValueError,
        r"`include_input` needs a floating-point input",
    ),
    "distributed alone": (analyze(distributed=True), RuntimeError, r"call init_process_group or start with torchrun"),
    "resume in no folder": (
        lambda c: nc.analyze(c.model, c.loader, resume=c.tmp / "missing" / "state"),
        nc.StateFileError,
        r"there is no such folder; name a folder that exists",
    ),
    "resume from notes": (
        lambda c: nc.analyze(c.model, c.loader, resume=c.tmp / "notes.txt"),
        nc.StateFileError,
        r"notes.txt is not a readable safetensors file",
    ),
    "resume from a folder": (
        lambda c: nc.analyze(c.model, c.loader, resume=c.tmp / "empty"),
        nc.StateFileError,
        r"is not a file",
    ),
    "resume a number": (analyze(resume=3), TypeError, r"`resume` must be a path, got 3"),
    # capture and layers
    "capture of a number": (lambda c: nc.capture(3, "leaves").__enter__(), TypeError, r"`model` must be a torch.nn"),
    "capture misspelt": (captured("cnov"), nc.NoMatchError, r"names 'cnov', .* did you mean 'conv' or 'norm'\?"),
    "capture of what never fires": (captured("idle"), nc.NeverFiredError, r"layer 'idle': never called"),
    "capture with unknown calls": (captured("head", calls=1), ValueError, r"`calls` must be one of"),
    "capture asked too early": (
        lambda c: nc.capture(c.model, "head").__enter__()["head"],
        KeyError,
        r"call the model inside the `with` block",
    ),
    "table of a number": (lambda c: nc.layers(3), TypeError, r"`model` must be a torch.nn.Module, got int"),
    "table with a bad example": (lambda c: nc.layers(c.model, torch.zeros(2, 3)), RuntimeError, r"conv2d"),
    # measure and the tree
    "measure nothing": (lambda c: nc.measure({}), ValueError, r"`moments` holds no layer; collect at least one"),
    "measure a number": (lambda c: nc.measure(3), TypeError, r"must map layer names to ClassMoments, got int"),
    "measure one layer alone": (lambda c: nc.measure(c.moments), TypeError, r"layer names to ClassMoments, got ClassM"),
    "measure features": (lambda c: nc.measure({"a": c.inputs}), TypeError, r"to ClassMoments, got Tensor"),
    "measure with unknown weighting": (
        lambda c: nc.measure({"a": c.moments}, weighting="mean"),
        ValueError,
        r"'equal', 'frequency', 'papers', got 'mean'",
    ),
    "measure unequal classes": (
        lambda c: nc.measure({"a": c.moments, "b": c.moments.padded(5)}),
        ValueError,
        r"same classes at every layer, got \[3, 5\]",
    ),
    "tree of nothing": (lambda c: nc.layer_tree({}), ValueError, r"`moments` holds no layer"),
    "tree with unknown weighting": (
        lambda c: nc.layer_tree({"a": c.moments}, weighting=None),
        ValueError,
        r"got None",
    ),
    # Results on disk
    "open what is not there": (lambda c: nc.open(c.tmp / "a.nc"), nc.ResultFileError, r"a.nc does not exist"),
    "open notes": (lambda c: nc.open(c.tmp / "notes.txt"), nc.ResultFileError, r"notes.txt is not a NetCDF file"),
    "open a folder": (lambda c: nc.open(c.tmp), nc.ResultFileError, r"is not a file"),
    "open a number": (lambda c: nc.open(3), TypeError, r"`path` must be a path, got 3"),
    "save a number": (
        lambda c: nc.save(3, c.tmp / "a.nc"),
        TypeError,
        r"must be an xarray Dataset or DataTree, got int",
    ),
    "save in no folder": (lambda c: nc.save(c.dataset, c.tmp / "b" / "a.nc"), nc.ResultFileError, r"no such folder"),
    "save over a folder": (lambda c: nc.save(c.dataset, c.tmp / "empty"), nc.ResultFileError, r"cannot write .*empty"),
    "save what NetCDF cannot hold": (
        lambda c: nc.save(c.dataset.assign_attrs(model={}), c.tmp / "a.nc"),
        nc.ResultFileError,
        r"cannot be kept in a NetCDF file: .*attr 'model'",
    ),
    # Data and models by name
    "data misspelt": (lambda c: data.open("digts"), DataError, r"did you mean 'digits'\?"),
    "data of no split": (lambda c: data.open("digits", split="dev"), DataError, r"`split` must be 'train' or 'test'"),
    "data a number": (lambda c: data.open(3), TypeError, r"`data` must be a string"),
    "data in no folder": (lambda c: data.open(f"mnist:{c.tmp}/b"), DataError, r"give the folder that holds"),
    "data in no file": (lambda c: data.open(f"npz:{c.tmp}/a.npz"), DataError, r"there is no file"),
    "data in notes": (lambda c: data.open(f"npz:{c.tmp}/notes.txt"), DataError, r"is not a readable .npz file"),
    "data in an empty folder": (lambda c: data.open(f"folder:{c.tmp}/empty"), DataError, r"empty"),
    "model misspelt": (lambda c: models.open("torchvison:resnet18"), ModelError, r"did you mean 'torchvision:NAME'\?"),
    "model without a name": (lambda c: models.open("resnet18"), ModelError, r"`model` must be one of"),
    "model a number as name": (lambda c: models.open(3), TypeError, r"`model` must be a string"),
    "model that is none": (lambda c: models.open("json:loads"), ModelError, r"json:loads cannot be built"),
    "model in no folder": (lambda c: models.open(f"hf:{c.tmp}"), ModelError, r"no config.json"),
    "checkpoint not there": (
        lambda c: models.open("torch.nn:Identity", checkpoint=c.tmp / "a.pt"),
        ModelError,
        r"there is no checkpoint",
    ),
    "checkpoint of nonsense": (not_a_weight, ModelError, r"cannot be read as plain weights"),
    # Pictures and pages
    "plot a number": (lambda c: nc.plot.layers(3), TypeError, r"`dataset` must be an xarray.Dataset"),
    "plot nothing": (lambda c: nc.plot.compression({}), ValueError, r"at least one Dataset"),
    "plot what was not measured": (
        lambda c: nc.plot.separation(c.dataset.drop_vars("separation"), ax=None),
        ValueError,
        r"has no variable 'separation'",
    ),
    "plot on a number": (lambda c: nc.plot.decay(c.dataset, ax=3), TypeError, r"`ax` must be"),
    "report on a number": (lambda c: nc.report(3, c.tmp / "a.html"), TypeError, r"`results` must be the Dataset"),
    "report on nothing": (lambda c: nc.report([], c.tmp / "a.html"), ValueError, r"at least one Dataset"),
    "report in no folder": (
        lambda c: nc.report(c.dataset, c.tmp / "b" / "a.html"),
        FileNotFoundError,
        r"which does not exist; create it first",
    ),
    "report over a folder": (lambda c: nc.report(c.dataset, c.tmp / "empty"), IsADirectoryError, r"must be a file"),
    "report on a dataset of no layers": (
        lambda c: nc.report(c.dataset[["class_count"]], c.tmp / "a.html"),
        ValueError,
        r"holds no number along 'layer'; pass the result of nc.analyze",
    ),
}


def contents(folder: Path) -> dict[str, str]:
    """Every file in a folder with a digest of what is in it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def open_figures() -> list[int]:
    """The figures that pyplot holds, where it has been imported."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    return [] if pyplot is None else pyplot.get_fignums()


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_line_and_changes_nothing(hand: Any, case: SimpleNamespace, name: str) -> None:
    call, error, pattern = BAD[name]
    files, figures = contents(case.tmp), open_figures()
    with hand.left_alone(case.model), pytest.raises(error, match=pattern) as caught:
        call(case)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 300
    assert type(caught.value).__module__.partition(".")[0] in ("builtins", "neurocollapse")
    assert contents(case.tmp) == files
    assert open_figures() == figures


def test_a_wrong_weighting_is_noticed_before_the_loader_is_read(case: SimpleNamespace) -> None:
    loader = iter(case.loader)
    with pytest.raises(ValueError, match="weighting"):
        nc.analyze(case.model, loader, weighting="sum")
    assert len(list(loader)) == 1


def test_the_table_is_long_enough() -> None:
    assert len(BAD) >= 40
