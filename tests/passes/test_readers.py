"""A tap at the input of a linear layer carries the layer's weight and bias, through files, merges and quantities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.lowrank import LowRankLinear
from neurocollapse.metrics import Quantity
from neurocollapse.statistics import Reader


class Twice(nn.Module):
    """A linear layer without a bias that is called twice, after one of another kind, and before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.thin = nn.Conv1d(2, 6, 3), LowRankLinear(24, 24, rank=2)
        self.twice, self.head = nn.Linear(24, 24, bias=False), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.twice(self.twice(self.thin(self.conv(x).flatten(1)))))


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Twice()


def batches(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    inputs = torch.randn(30, 2, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(8), (torch.arange(30) % 3).split(8), strict=True))


LAYERS = ["conv@in", "conv", "thin@in", "twice@in", "head@in", "head"]


def test_inputs_of_linear_layers_have_readers_and_nothing_else(model: nn.Module) -> None:
    readers = nc.collect(model, batches(), layers=LAYERS).readers
    assert list(readers) == ["thin@in", "twice@in#0", "twice@in#1", "head@in"]
    assert readers["thin@in"].weight.dtype == torch.float64
    inputs = torch.randn(5, 24)
    torch.testing.assert_close(
        inputs @ readers["thin@in"].weight.float().T + readers["thin@in"].bias.float(), model.thin(inputs)
    )
    assert torch.equal(readers["twice@in#1"].weight, model.twice.weight.double())
    assert readers["twice@in#1"].bias is None
    assert torch.equal(readers["head@in"].bias, model.head.bias.double())


def test_readers_have_the_names_of_aliases_and_of_penultimate(model: nn.Module) -> None:
    assert list(nc.collect(model, batches(), layers="penultimate").readers) == ["head@in"]
    assert list(nc.collect(model, batches(), layers={"features": "head@in"}).readers) == ["features"]


def test_features_that_the_weight_does_not_take_have_no_reader() -> None:
    model, loader = nn.Linear(6, 3), [(torch.randn(8, 4, 6), torch.arange(8) % 3)]
    for pool, has_reader in (("mean", True), ("tokens", True), ("flatten", False), (lambda x: x[:, 0, :5], False)):
        moments = nc.collect(model, loader, layers="(root)@in", pool=pool)
        assert bool(moments.readers) is has_reader, pool


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_readers_are_copies(dtype: torch.dtype) -> None:
    model = nn.Linear(6, 3).to(dtype)
    (reader,) = nc.collect(
        model, [(torch.randn(8, 6).to(dtype), torch.arange(8) % 3)], layers="penultimate"
    ).readers.values()
    before = reader.weight.clone()
    model.weight.data.zero_()
    assert torch.equal(reader.weight, before)


def test_readers_come_back_from_files_and_finished_runs(model: nn.Module, tmp_path: Path) -> None:
    first = nc.collect(model, batches(), layers=LAYERS, resume=tmp_path / "state")
    first.save(tmp_path / "moments")
    for found in (
        nc.MomentCollection.load(tmp_path / "moments"),
        nc.collect(model, batches(), layers=LAYERS, resume=tmp_path / "state"),
    ):
        assert list(found.readers) == list(first.readers)
        assert all(reader.equals(first.readers[name]) for name, reader in found.readers.items())


def test_a_merge_keeps_the_readers_that_are_equal(model: nn.Module) -> None:
    first, second = (nc.collect(model, batches(seed), layers=LAYERS) for seed in (0, 1))
    assert list(first.merge(second).readers) == list(first.readers)
    with torch.no_grad():
        model.head.bias += 1
    third = nc.collect(model, batches(), layers=LAYERS)
    assert list(first.merge(third).readers) == ["thin@in", "twice@in#0", "twice@in#1"]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Reader(torch.eye(2), torch.ones(2)), True),
        (Reader(torch.eye(2), torch.zeros(2)), False),
        (Reader(torch.eye(2)), False),
        (Reader(2 * torch.eye(2), torch.ones(2)), False),
        (None, False),
    ],
)
def test_readers_are_equal_to_the_last_bit(other: Reader | None, same: bool) -> None:
    assert Reader(torch.eye(2), torch.ones(2)).equals(other) is same


class Opaque(nn.Linear):
    """A linear layer whose weight cannot be read."""

    def effective_weight(self) -> Any:
        raise RuntimeError("this layer\nkeeps its weight elsewhere")


def test_a_weight_that_cannot_be_read_leaves_a_note_and_the_moments() -> None:
    model, loader = nn.Sequential(nn.Linear(6, 4), Opaque(4, 3)), [(torch.randn(8, 6), torch.arange(8) % 3)]
    moments = nc.collect(model, loader, layers=["0@in", "1@in"])
    assert list(moments.readers) == ["0@in"]
    assert json.loads(moments.attributes["warnings"]) == [
        "the weights behind 1@in cannot be read (this layer): what needs them is undefined"
    ]


def test_a_users_quantity_of_each_kind_arrives_in_the_dataset(model: nn.Module, tmp_path: Path) -> None:
    def residual(layer: Any, rows: Any) -> Tensor:
        return (rows.features - layer.moments.mean[rows.labels]).square().sum()

    def margin(layer: Any) -> float:
        scores = layer.moments.mean @ layer.reader.weight.T
        return float((scores.diagonal() - scores.mean(dim=1)).min())

    own = [
        Quantity(name="mean_norm", of=lambda layer: layer.moments.mean.norm(), heading="‖M‖", symbol=r"\|M\|"),
        Quantity(name="margin", of=margin, needs="reader", better="higher"),
        Quantity(name="within", of=lambda layer: layer.total(residual) / 30, gather=residual, at_collapse=0.0),
    ]
    dataset = nc.analyze(model, batches(), layers=["twice", "head@in"], quantities=[*own, "within_trace"])
    moments = nc.collect(model, batches(), layers=["twice", "head@in"])
    assert list(dataset) == ["mean_norm", "margin", "within", "within_trace"]
    assert dataset["mean_norm"].values.tolist() == [float(value.mean.norm()) for value in moments.values()]
    means = moments["head@in"].mean
    scores = means @ model.head.weight.detach().double().T
    assert dataset["margin"].sel(layer="head@in").item() == float((scores.diagonal() - scores.mean(dim=1)).min())
    assert dataset["margin"].isnull().values.tolist() == [True, True, False]
    np.testing.assert_allclose(dataset["within"], dataset["within_trace"], rtol=1e-6)
    assert dataset["mean_norm"].attrs["heading"] == "‖M‖"
    assert (dataset["margin"].attrs["better"], dataset["within"].attrs["at_collapse"]) == ("higher", 0.0)
    assert nc.open(nc.save(dataset, tmp_path / "own.nc")).identical(dataset)
