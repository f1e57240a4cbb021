"""Objects show themselves in notebooks, as small tables in which names are text."""

import re

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.dynamics import WeightTracker
from neurocollapse.statistics import MomentCollection, Reader
from neurocollapse.statistics.moments import MOST_SHOWN

EVIL = "<script>"


def cells(page: str) -> str:
    """The cells of a page's tables, row after row."""
    return " | ".join(re.findall(r"<td [^>]*>(.*?)</td>", page))


@pytest.fixture
def moments() -> nc.ClassMoments:
    """Three classes, one of them absent."""
    return nc.ClassMoments.from_features([[3.0, 4.0], [3.0, 6.0], [0.0, 1.0]], [0, 0, 2], 3)


def test_class_moments_show_a_row_a_class(moments: nc.ClassMoments) -> None:
    page = moments._repr_html_()
    assert page.count("<tr>") == 4
    assert "0 | 2 | 5.831 | 1 | 1 | 0 | – | –" in cells(page)  # |(3, 5)|, and each sample is 1 away from it


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
    assert "1 | ReLU | 8 | 6" in cells(page)
    read = MomentCollection({"fc": moments}, readers={"fc": Reader(torch.zeros(3, 2, dtype=torch.float64))})
    assert "3 outputs" in cells(read._repr_html_())
    assert EVIL not in MomentCollection({EVIL: moments})._repr_html_()
    assert "<table>" in MomentCollection({})._repr_html_()


def test_features_show_what_was_captured_and_what_was_not() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    with nc.capture(model, "1") as features:
        assert features._repr_html_().count("<tr>") == 1
        model(torch.zeros(3, 4))
        assert "1 | ReLU | (3, 8)" in cells(features._repr_html_())


def test_a_tracker_shows_its_weights() -> None:
    tracker = WeightTracker(nn.Sequential(nn.Linear(4, 8)))
    assert cells(tracker._repr_html_()) == "0 | 8 × 4"
    assert WeightTracker(path=f"{EVIL}.nc")._repr_html_().count(EVIL) == 0
