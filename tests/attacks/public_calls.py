"""Calls of public functions that are right, and values that callers put in the place of right ones by mistake."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import nn
from torch.utils.data import TensorDataset

import neurocollapse as nc
from neurocollapse import data, dynamics, lowrank, models, train
from neurocollapse.passes import FeatureSink, run_pass

INPUTS = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def network() -> nn.Module:
    """A model that may be changed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))


def moments() -> dict[str, nc.ClassMoments]:
    """Moments of two layers."""
    return {name: nc.ClassMoments.from_features(INPUTS, LABELS, covariance=True) for name in ("a", "b")}


def dataset() -> xr.Dataset:
    """A result."""
    return nc.measure(moments())


def taken(model: Any, layers: Any, inputs: Any, **options: Any) -> Any:
    """Features out of a capture."""
    with nc.capture(model, layers, **options) as features:
        network()(INPUTS) if not isinstance(model, nn.Module) else model(inputs)
    return features


def tracked(weights: Any, step: Any, **options: Any) -> Any:
    """A tracker that sees one step."""
    tracker = dynamics.WeightTracker(**options)
    tracker.record(step, weights)
    return tracker.to_dataset()


def arguments(folder: Path) -> dict[str, tuple[Callable[..., Any], dict[str, Callable[[], Any]]]]:
    """Name → function and right arguments, made anew for each call."""
    loader = lambda: [(INPUTS, LABELS)]  # noqa: E731
    plain: dict[str, Any] = {"layers": "leaves", "pool": "auto", "num_classes": 3, "mode": "eval", "calls": "all"}
    passed = {name: lambda value=value: value for name, value in plain.items()} | {
        "model": network,
        "loader": loader,
        "device": lambda: "cpu",
        "resume": lambda: None,
        "label_fn": lambda: None,
        "output": lambda: None,
        "include_input": lambda: False,
        "progress": lambda: False,
    }
    quantities = {"quantities": lambda: None, "weighting": lambda: "equal", "pairs": lambda: False}
    collected = passed | {"precision": lambda: "single", "covariance": lambda: True, "non_finite": lambda: "raise"}
    weights = lambda: [torch.eye(5), torch.ones(3, 5)]  # noqa: E731
    fitted: dict[str, Any] = {"epochs": 1, "batch_size": 4, "learning_rate": 0.1, "optimizer": "adam", "seed": 0}
    fitted |= {
        "resume": None,
        "weight_decay": 0.0,
        "schedule": "constant",
        "loss": "mse",
        "momentum": None,
        "events": None,
    }
    descent: dict[str, Any] = {"learning_rate": 0.1, "num_steps": 2, "weight_decay": 0.0, "reduction": "half_sum"}
    descent |= {"resume": None, "tolerance": 0.0, "output_scale": 1.0, "save_every": 10, "events": None}
    return {
        "measure": (nc.measure, {"moments": moments, **quantities}),
        "layer_tree": (nc.layer_tree, {"moments": moments, "weighting": lambda: "equal"}),
        "from_features": (
            nc.ClassMoments.from_features,
            {
                "features": lambda: INPUTS,
                "labels": lambda: LABELS,
                "num_classes": lambda: 3,
                "covariance": lambda: True,
            },
        ),
        "merge": (moments()["a"].merge, {"other": lambda: moments()["b"]}),
        "analyze": (nc.analyze, {**collected, **quantities, "probes": lambda: False, "probe_samples": lambda: 10}),
        "collect": (nc.collect, {**collected, "max_memory": lambda: None}),
        "run_pass": (run_pass, {**passed, "sinks": lambda: {"f": FeatureSink(num_samples=4)}}),
        "capture": (
            taken,
            {"model": network, "layers": lambda: ["0"], "inputs": lambda: INPUTS, "pool": lambda: "auto"}
            | {"calls": lambda: "all", "output": lambda: None, "mask": lambda: None},
        ),
        "similarity": (nc.similarity, {**passed, "other": lambda: None}),
        "layers": (nc.layers, {"model": network, "example": lambda: INPUTS}),
        "table": (nc.table, {"dataset": dataset}),
        "save": (nc.save, {"results": dataset, "path": lambda: folder / "out.nc"}),
        "open": (nc.open, {"path": lambda: folder / "none.nc"}),
        "report": (nc.report, {"results": lambda: {"net": dataset()}, "path": lambda: folder / "out.html"}),
        "plot.layers": (nc.plot.layers, {"dataset": dataset}),
        "plot.compression": (nc.plot.compression, {"dataset": dataset}),
        "verify": (nc.verify, {"model": weights, "inputs": lambda: torch.eye(5), "labels": lambda: [0, 0, 1, 1, 2]}),
        "fit": (
            train.fit,
            {"model": network, "data": lambda: TensorDataset(INPUTS, LABELS), "progress": lambda: False}
            | {name: lambda value=value: value for name, value in fitted.items()},
        ),
        "descend": (
            train.descend,
            {"model": weights, "inputs": lambda: torch.eye(5), "targets": lambda: torch.ones(5, 3)}
            | {name: lambda value=value: value for name, value in descent.items()},
        ),
        "tracker": (
            tracked,
            {"weights": weights, "step": lambda: 1, "every": lambda: 1, "edge": lambda: 1, "components": lambda: None}
            | {"reference": lambda: 1, "path": lambda: None, "seed": lambda: 0, "layers": lambda: None},
        ),
        "inject": (
            lowrank.inject,
            {"model": network, "layers": lambda: "**", "kind": lambda: lowrank.LoRA(rank=2)},
        ),
        "factorize": (lowrank.factorize, {"model": network, "layers": lambda: "0", "rank": lambda: 2}),
        "data.open": (data.open, {"spec": lambda: "digits", "split": lambda: "train"}),
        "mlp": (
            models.mlp,
            {"in_features": lambda: 5, "width": lambda: 4, "num_classes": lambda: 3, "depth": lambda: 2},
        ),
        "experiment": (
            nc.experiment,
            {"name": lambda: "svd-evolution", "num_steps": lambda: 2, "scale": lambda: "small"},
        ),
    }


HUGE = 10**30
ENDLESS = ("epochs", "num_steps")
"""Options of which a huge number is no mistake, but more than anybody can wait for."""


class Odd:
    """An object that is nothing in particular."""


WRONG: list[Callable[[], Any]] = [
    *(lambda value=value: value for value in (None, True, False, -1, 0, 1, HUGE, 1.5, float("nan"), float("inf"))),
    *(
        lambda value=value: value
        for value in ("", "x", "no such thing", "\x1b[31m\n", "a" * 10_000, "[", "**", b"x", 1j)
    ),
    *(lambda value=value: value for value in ((), (1, 2), {1}, {"a": 1}, {1: 2}, range(3), Ellipsis, NotImplemented)),
    *(list, dict, Odd, object, lambda: [[]], lambda: [None], lambda: [1, "x"], lambda: [[1, 2], [3]], lambda: Odd),
    *(lambda: Path("none/such"), lambda: Path("."), lambda: (step for step in range(2)), lambda: len, lambda: print),
    *(lambda: torch.empty(0), lambda: torch.tensor(3), lambda: torch.tensor(float("nan")), lambda: torch.eye(2)),
    *(lambda: torch.full((12, 5), torch.nan), lambda: torch.ones(2, 3, 4, 5), lambda: torch.ones(12, 5).to_sparse()),
    *(lambda: torch.ones(12, 5, dtype=torch.complex64), lambda: torch.ones(12, dtype=torch.bool), lambda: -LABELS - 1),
    *(
        lambda: torch.ones(3, 5, device="meta"),
        lambda: LABELS.float() + 0.5,
        lambda: LABELS[:5],
        lambda: 2**40 * LABELS,
    ),
    *(
        lambda: np.array(["a", "b"]),
        lambda: np.array([1, None], dtype=object),
        lambda: np.ones((12, 5)),
        lambda: np.nan,
    ),
    *(
        network,
        nn.Identity,
        lambda: nn.ModuleList([network()]),
        lambda: nn.LSTM(5, 3),
        lambda: nn.Linear(2, 2),
        nn.ReLU,
    ),
    *(xr.Dataset, xr.DataTree, lambda: xr.Dataset({"a": ("x", [1.0])}), dataset, moments, lambda: xr.DataArray([1.0])),
    *(lambda: [(INPUTS, LABELS)], lambda: [INPUTS], lambda: [(INPUTS, LABELS[:3])], lambda: [(INPUTS[0], 1)]),
    *(lambda: [{}], lambda: [{"x": INPUTS}], lambda: [(INPUTS, LABELS, LABELS)], lambda: [("text", "label")]),
    *(lambda: [(INPUTS, LABELS.float().log())], lambda: TensorDataset(INPUTS), lambda: TensorDataset(INPUTS, LABELS)),
    *(lambda: "torch.nn:Linear", lambda: "npz:none", lambda: "folder:", lambda: "hf:none", lambda: {"net": Odd()}),
]
"""What gets into an argument by mistake."""
