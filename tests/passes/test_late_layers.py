"""A layer that is made in the first forward pass is named, and measured from the next run on."""

import json

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureWarning, capture


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 6, generator=generator), torch.arange(12) % 4) for _ in range(2)]


class Late(nn.Module):
    """Makes some of its layers once it knows the width of its input."""

    def __init__(self, make):
        super().__init__()
        torch.manual_seed(0)
        self.later = nn.ModuleList()
        self.made, self.head, self.make = None, nn.Linear(5, 4), make

    def forward(self, x):
        if self.made is None:
            self.make(self, x.shape[1])
        return self.head(self.made(x))


def attribute(model, width):
    model.made = nn.Linear(width, 5)


def block(model, width):
    model.made = nn.Sequential(nn.Linear(width, 5), nn.ReLU())


def in_a_list(model, width):
    model.later.append(nn.Linear(width, 5))
    model.made = model.later[0]


def by_name(model, width):
    model.add_module("fc", nn.Linear(width, 5))
    model.made = model.fc


MAKERS = [(attribute, "made"), (block, "made"), (in_a_list, r"later\.0"), (by_name, "fc")]


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_a_late_layer_is_named_and_measured_from_the_next_run_on(make, name):
    model = Late(make)
    with pytest.warns(CaptureWarning, match=f"{name}: made in the first forward pass"):
        first = nc.analyze(model, batches(), progress=False)
    assert list(first.layer.values) == ["head"]
    assert name.replace("\\", "") in json.loads(first.attrs["skipped_layers"])
    second = nc.analyze(model, batches(), progress=False)
    assert len(second.layer) > 1
    assert json.loads(second.attrs["skipped_layers"]) == {}
    assert second.compression.sel(layer="head").values == first.compression.sel(layer="head").values


@pytest.mark.filterwarnings("ignore::neurocollapse.hooks.CaptureWarning")
def test_a_second_pass_adds_up_the_layers_of_the_first():
    """Of which there are more by then, so that their numbers have moved."""
    model = Late(in_a_list)
    found = nc.analyze(model, batches(), quantities=["nc1"], progress=False)
    expected = nc.analyze(model, batches(), layers=["head"], quantities=["nc1"], progress=False)
    assert list(found.layer.values) == ["head"]
    assert found.nc1.values == expected.nc1.values


def test_nothing_is_said_where_only_named_layers_are_asked_for():
    model = Late(attribute)
    with capture(model, ["head"]) as features:
        model(batches()[0][0])
    assert features.skipped == {}
