"""Every kind of file from which the package goes on or reads back its own numbers: how to write one, and read it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import xarray as xr
from torch import nn
from torch.utils.data import TensorDataset

import neurocollapse as nc
from neurocollapse.dynamics import WeightTracker
from neurocollapse.dynamics.rows import start_file
from neurocollapse.experiments.adapters.small_bert import FILE_KIND as BERT_KIND
from neurocollapse.experiments.adapters.small_bert import pretrained_small_bert
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import LoRA, inject, load_adapters, save_adapters
from neurocollapse.support.state import write_state
from neurocollapse.train import descend, fit
from neurocollapse.transfer import load_tuned, skip_finetune

INPUTS = torch.randn(24, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


class Kind(NamedTuple):
    """A kind of file: `make` writes one into a folder and returns its path, `read` goes on from it."""

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]


def network() -> nn.Module:
    """The same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def collected(path: Path) -> Any:
    """A pass that keeps its state."""
    return nc.collect(network(), [(INPUTS, LABELS)] * 2, resume=path, progress=False)


def trained(path: Path, epochs: int = 1) -> Any:
    """A training that keeps its state."""
    data = TensorDataset(INPUTS, LABELS)
    return fit(network(), data, epochs=epochs, batch_size=8, learning_rate=0.1, resume=path, progress=False)


def descended(path: Path) -> Any:
    """A descent that keeps its state."""
    return descend([torch.eye(3)], torch.eye(3), torch.eye(3) * 2, learning_rate=0.1, num_steps=3, resume=path)


def tracked(path: Path, steps: range = range(4)) -> Any:
    """A tracker that keeps its rows."""
    tracker = WeightTracker(path=path)
    for step in steps:
        tracker.record(step, [(1.0 + step) * torch.eye(4)])
    return tracker.to_dataset()


def started(path: Path) -> Any:
    """What a tracker's rows are compared to."""
    return tracked(path.with_name(path.name.removesuffix(".start.safetensors")), range(4, 6))


def written(function: Callable[[Path], Any], name: str) -> Callable[[Path], Path]:
    """What a function writes to a path."""

    def make(folder: Path) -> Path:
        function(folder / name)
        return folder / name

    return make


def make_start(folder: Path) -> Path:
    """The file beside a tracker's rows."""
    tracked(folder / "rows.nc")
    return start_file(folder / "rows.nc")


def make_adapters(folder: Path) -> Path:
    """Adapters of one layer."""
    return save_adapters(inject(network(), "0", kind=LoRA(rank=2)), folder / "adapters.safetensors")


def workplace(folder: Path) -> Workplace:
    """Where an experiment keeps its parts."""
    return Workplace(folder=folder, progress=False, claim="{}")


def part(path: Path) -> Any:
    """A part of an experiment."""
    return workplace(path.parent).part(path.stem, lambda: xr.Dataset({"a": ("x", [1.0, 2.0, 3.0])}))


def measured() -> xr.Dataset:
    """A result."""
    return nc.measure({"fc": nc.ClassMoments.from_features(INPUTS, LABELS)})


KINDS = {
    "pass": Kind(written(collected, "pass.state"), collected),
    "moments": Kind(
        written(lambda path: nc.collect(network(), [(INPUTS, LABELS)], progress=False).save(path), "m.safetensors"),
        nc.MomentCollection.load,
    ),
    "training": Kind(written(trained, "run.safetensors"), lambda path: trained(path, epochs=2)),
    "descent": Kind(written(descended, "descent.safetensors"), descended),
    "tracker rows": Kind(written(tracked, "rows.nc"), lambda path: tracked(path, range(4, 6))),
    "tracker start": Kind(make_start, started),
    "adapters": Kind(make_adapters, lambda path: load_adapters(network(), path)),
    "tuned layers": Kind(
        written(lambda path: skip_finetune(network(), "0", INPUTS).save(path), "tuned.safetensors"),
        lambda path: load_tuned(network(), path),
    ),
    "pretrained encoder": Kind(
        written(lambda path: write_state(path, BERT_KIND, {}, {"w": torch.randn(6, 6)}), "bert.safetensors"),
        lambda path: pretrained_small_bert(1, seed=0, file=path),
    ),
    "part of an experiment": Kind(written(part, "part.nc"), part),
    "result": Kind(written(lambda path: nc.save(measured(), path), "result.nc"), nc.open),
}
