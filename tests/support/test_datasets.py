"""What a dataset says of its layers and of the dimension in front of them."""

import numpy as np
import pytest
import xarray as xr

from neurocollapse.support.dataset import ends_of, labels, last, layered, leading, networks, shown


def dataset(*dims: str, **coordinates: object) -> xr.Dataset:
    """One variable along some dimensions of two entries each."""
    return xr.Dataset({"D": (dims, np.arange(2.0 ** len(dims)).reshape((2,) * len(dims)))}, coordinates)


@pytest.mark.parametrize(
    "dims", [("epoch", "layer"), ("epoch", "layer", "class"), ("epoch", "layer", "pair"), ("epoch",)]
)
def test_the_dimension_in_front_is_found(dims: tuple[str, ...]) -> None:
    assert leading(dataset(*dims)) == "epoch"


@pytest.mark.parametrize("rest", [("layer",), ()])
def test_a_dimension_of_a_single_variable_is_not_taken_for_one_in_front(rest: tuple[str, ...]) -> None:
    one = dataset(*rest).assign(S=dataset(*rest)["D"], own=dataset(*rest, "direction")["D"])
    assert leading(one) is None
    assert leading(xr.concat([one, one], dim="epoch")) == "epoch"
    assert leading(xr.concat([one, one], dim="epoch").transpose(*rest, ...)) == "epoch"


@pytest.mark.parametrize("dims", [("layer",), ("layer", "class"), ("layer", "class", "class_"), ()])
def test_a_single_measurement_has_none(dims: tuple[str, ...]) -> None:
    assert leading(dataset(*dims)) is None


def test_numbered_steps_are_put_in_order_and_named_ones_stay() -> None:
    assert layered(dataset("epoch", "layer", epoch=[5, 2]))["D"].values.tolist() == [[2.0, 3.0], [0.0, 1.0]]
    assert layered(dataset("epoch", "layer", epoch=["z", "a"]))["D"].values.tolist() == [[0.0, 1.0], [2.0, 3.0]]


@pytest.mark.parametrize(
    ("coordinate", "names"),
    [
        ([1, 20], ["1", "20"]),
        ([0.5, 1e-4], ["0.5", "0.0001"]),
        (["a", "b"], ["a", "b"]),
        (np.array(["2024-01-01", "2024-01-02"], "datetime64[D]"), ["2024-01-01", "2024-01-02"]),
    ],
)
def test_labels_are_text(coordinate: object, names: list[str]) -> None:
    found = labels(dataset("epoch", "layer", epoch=coordinate), "epoch")
    assert [text[: len(name)] for text, name in zip(found, names, strict=True)] == names


def test_entries_without_labels_are_counted() -> None:
    assert last(dataset("epoch", "layer"))[1] == "epoch 1"
    assert list(networks(dataset("run", "layer"), "MLP")) == ["MLP, run 0", "MLP, run 1"]


def test_a_dropped_layer_is_put_back_without_a_name() -> None:
    one = layered(dataset("epoch"))
    assert one["D"].dims == ("epoch", "layer")
    assert leading(one) == "epoch"
    assert one["layer"].values.tolist() == ["–"]


def test_numbers_without_a_heading_are_shown_only_where_none_has_one() -> None:
    plain = dataset("layer").assign(words=("layer", ["a", "b"]), count=("layer", [1, 2]))
    assert shown(plain) == ["D"]
    assert shown(plain.assign(S=("layer", [1.0, 2.0], {"heading": "S"}))) == ["S"]


def with_intervals() -> xr.Dataset:
    """Two layers with intervals of D and of the whole network's slope."""
    names = {"layer": ["a", "b"], "bound": ["lower", "upper"]}
    ends = {"compression_interval": (("layer", "bound"), [[1.0, 2.0], [3.0, 4.0]])}
    return xr.Dataset({"D": ("layer", [1.5, 3.5]), "slope_interval": ("bound", [-1.0, 1.0]), **ends}, names)


@pytest.mark.parametrize(
    "part",
    [
        with_intervals().isel(bound=[0]),
        with_intervals().sel(bound="upper"),
        with_intervals().isel(bound=1, drop=True),
        with_intervals().drop_vars("bound").isel(bound=[1]),
    ],
)
def test_intervals_without_one_of_their_ends_are_left_out(part: xr.Dataset) -> None:
    assert list(layered(part).data_vars) == ["D"]


def test_ends_of_intervals_are_in_order_whatever_came() -> None:
    for given in (with_intervals(), with_intervals().isel(bound=[1, 0]), with_intervals().drop_vars("bound")):
        assert layered(given)["compression_interval"].values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
        assert ends_of(layered(given), "slope_interval") == (-1.0, 1.0)


def test_an_interval_of_a_single_layer_is_none_of_the_network() -> None:
    assert np.isnan(ends_of(layered(with_intervals().isel(layer=0)), "slope_interval")).all()


@pytest.mark.parametrize("dims", [("step", "layer"), ("layer", "class")])
def test_stacked_layers_are_refused_with_the_way_back(dims: tuple[str, str]) -> None:
    stacked = dataset(*dims, layer=["a", "b"]).stack(z=dims)
    with pytest.raises(ValueError, match=r"has its layers along 'z'; undo \.stack\(\) by \.unstack\('z'\)"):
        layered(stacked)
    assert layered(stacked.unstack("z")).sizes["layer"] == 2
