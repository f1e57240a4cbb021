"""Objects show themselves in notebooks, as small tables in which names are text."""

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.dynamics import WeightTracker
from neurocollapse.statistics import MomentCollection, Reader
from neurocollapse.statistics.moments import MOST_SHOWN

EVIL = "<script>"


@pytest.fixture
def moments() -> nc.ClassMoments:
    """Three classes, one of them absent."""
    return nc.ClassMoments.from_features([[3.0, 4.0], [3.0, 6.0], [0.0, 1.0]], [0, 0, 2], 3)


def test_class_moments_show_a_row_a_class(moments: nc.ClassMoments) -> None:
    page = moments._repr_html_()
    assert page.count("<tr>") == 4
    assert "<td>0</td><td>2</td><td>5.831</td><td>1</td>" in page  # |(3, 5)|, and each sample is 1 away from it
    assert "<td>1</td><td>0</td><td>–</td><td>–</td>" in page


def test_many_classes_are_cut_short() -> None:
    labels = torch.arange(50)
    page = nc.ClassMoments.from_features(torch.randn(50, 2), labels, covariance=True)._repr_html_()
    assert page.count("<tr>") == MOST_SHOWN + 1
    assert f"and {50 - MOST_SHOWN} more classes" in page


def test_a_collection_shows_a_row_a_layer(moments: nc.ClassMoments) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    loader = [(torch.randn(6, 4), torch.arange(6) % 2)]
    page = nc.collect(model, loader, layers=["1", "penultimate"], progress=False)._repr_html_()
    assert page.count("<tr>") == 3
    assert "<td>1</td><td>ReLU</td><td>8</td><td>6</td>" in page
    read = MomentCollection({"fc": moments}, readers={"fc": Reader(torch.zeros(3, 2, dtype=torch.float64))})
    assert "<td>3 outputs</td>" in read._repr_html_()
    assert EVIL not in MomentCollection({EVIL: moments})._repr_html_()
    assert "<table>" in MomentCollection({})._repr_html_()


def test_features_show_what_was_captured_and_what_was_not() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with nc.capture(model, "1") as features:
        assert features._repr_html_().count("<tr>") == 1
        model(torch.zeros(3, 4))
        assert "<td>1</td><td>ReLU</td><td>(3, 8)</td>" in features._repr_html_()


def test_a_tracker_shows_its_weights() -> None:
    tracker = WeightTracker(nn.Sequential(nn.Linear(4, 8)))
    assert "<td>0</td><td>8 × 4</td>" in tracker._repr_html_()
    assert WeightTracker(path=f"{EVIL}.nc")._repr_html_().count(EVIL) == 0
