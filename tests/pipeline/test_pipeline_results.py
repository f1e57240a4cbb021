"""The labelled result: what it carries, and that it comes back from disk as it was."""

import ast
import datetime
import json
import os
import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc
from neurocollapse.statistics import LayerRecord
from neurocollapse.support import provenance

LAYER_VARIABLES = (
    "within_trace",
    "between_trace",
    "compression",
    *("within_trace_unbiased", "between_trace_unbiased", "compression_unbiased"),
    "separation",
    "separation_etf",
    "discrimination",
    "decay_ratio",
    *("cdnv", "cdnv_max", "nc2_norms", "nc2_angles", "nc2_simplex", "nc2_distance", "nc2_orthogonal"),
    *("gnc2", "gnc2_variation", "minority_angle", "seli_distance"),
)
CLASS_VARIABLES = ("class_count", "class_scatter")
SCALARS = (
    "decay_slope",
    "decay_intercept",
    "decay_r_squared",
    "decay_slope_lower_of_line",
    "decay_slope_upper_of_line",
)
COORDINATES = ("depth", "feature_dimension", "module_type", "pooling", "layout", "feature_dtype")
PROVENANCE = {
    "title": str,
    "neurocollapse_version": str,
    "torch_version": str,
    "python_version": str,
    "created": str,
    "model": str,
    "num_parameters": int,
    "num_samples": int,
    "num_classes": int,
    "weighting": str,
    "precision": str,
    "statistics_kernel": str,
    "mode": str,
    "device": str,
    "seed": str,
    "command": str,
    "skipped_layers": str,
    "warnings": str,
    "elapsed_seconds": float,
}


@pytest.fixture
def model(hand: Any) -> nn.Module:
    return hand.seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)))


@pytest.fixture
def loader(hand: Any) -> DataLoader[Any]:
    data = TensorDataset(*hand.clustered(30, 1, 6, 6))
    data.classes = ("cat", "dog", "élan")
    return DataLoader(data, batch_size=8)


@pytest.fixture
def moments(model: nn.Module, loader: Any) -> nc.MomentCollection:
    return nc.collect(model, loader, covariance=True)


@pytest.fixture
def dataset(moments: nc.MomentCollection) -> xr.Dataset:
    return nc.measure(moments)


def test_variables_are_those_agreed_on(dataset: xr.Dataset) -> None:
    assert set(dataset.data_vars) == {*LAYER_VARIABLES, *CLASS_VARIABLES, *SCALARS, "cdnv_max_pair"}
    for names, dims in ((LAYER_VARIABLES, ("layer",)), (CLASS_VARIABLES, ("layer", "class")), (SCALARS, ())):
        assert all(dataset[name].dims == dims for name in names)
    assert dataset["cdnv_max_pair"].dims == ("layer", "pair")
    assert all(dataset[name].dtype == np.float64 for name in dataset.data_vars if name != "class_count")
    assert dataset["class_count"].dtype == np.int64


def test_every_variable_says_what_it_is(dataset: xr.Dataset, moments: nc.MomentCollection) -> None:
    nodes = [dataset, *(node.to_dataset() for node in nc.layer_tree(moments).children.values())]
    for node in nodes:
        for name, variable in node.data_vars.items():
            for attribute in ("long_name", "units", "symbol", "convention", "reference"):
                assert variable.attrs.get(attribute), f"{name} has no {attribute}"
            assert "$" not in variable.attrs["symbol"]


def test_the_conventions_follow_the_weighting(moments: nc.MomentCollection) -> None:
    equal, frequency = (nc.measure(moments, weighting=weighting) for weighting in ("equal", "frequency"))
    trees = [nc.layer_tree(moments, weighting=weighting) for weighting in ("equal", "frequency")]
    for one, other, tree in ((equal, "1/K", trees[0]), (frequency, "n_k/N", trees[1])):
        assert other in one["between_trace"].attrs["convention"]
        assert other in one["compression"].attrs["convention"]
        assert other in tree["0"]["between_class_covariance"].attrs["convention"]
        assert other in one["within_trace"].attrs["convention"].replace("1/N over samples", "n_k/N")
    assert nc.measure(moments, weighting="papers")["within_trace"].attrs == frequency["within_trace"].attrs


def test_coordinates_label_layers_and_classes(dataset: xr.Dataset) -> None:
    assert dataset["layer"].values.tolist() == ["0", "1", "2", "3"]
    assert {name: dataset[name].values.tolist() for name in COORDINATES} == {
        "depth": [1, 2, 3, 4],
        "feature_dimension": [4, 4, 64, 3],
        "module_type": ["Conv2d", "ReLU", "Flatten", "Linear"],
        "pooling": ["mean", "mean", "none", "none"],
        "layout": ["channels-first", "channels-first", "features", "features"],
        "feature_dtype": ["float32"] * 4,
    }
    assert dataset["class"].values.tolist() == [0, 1, 2]
    assert dataset["class_name"].values.tolist() == ["cat", "dog", "élan"]


def test_provenance_says_where_the_numbers_come_from(model: nn.Module, dataset: xr.Dataset) -> None:
    assert {name: type(dataset.attrs.get(name)) for name in PROVENANCE} == PROVENANCE
    attrs = dataset.attrs
    assert (attrs["num_samples"], attrs["num_classes"], attrs["num_parameters"]) == (30, 3, 40 + 195)
    assert (attrs["model"], attrs["mode"], attrs["precision"], attrs["weighting"]) == (
        "Sequential",
        "eval",
        "single",
        "equal",
    )
    assert attrs["device"] == "cpu"
    assert attrs["torch_version"] == str(torch.__version__)
    assert json.loads(attrs["skipped_layers"]) == {}
    assert [note[:23] for note in json.loads(attrs["warnings"])] == ["few samples per class ("]
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(attrs["created"])
    assert datetime.timedelta(seconds=-1) < age < datetime.timedelta(minutes=5)
    assert all(isinstance(value, str | int | float) for value in attrs.values())


def test_a_seed_is_named_only_where_one_was_set() -> None:
    device = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        assert provenance.describe_run(nn.Identity(), device)["seed"] == "12"
        torch.set_rng_state(torch.Generator().get_state())  # what a process starts with
        assert provenance.describe_run(nn.Identity(), device)["seed"] == "not set"


def test_moments_from_elsewhere_can_be_measured() -> None:
    moments = nc.ClassMoments.from_features([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0]], [0, 0, 1])
    dataset = nc.measure({"a": moments, "b": moments})
    assert dataset["layer"].values.tolist() == ["a", "b"]
    assert dataset["depth"].values.tolist() == [1, 2]
    assert dataset.attrs["num_samples"] == 3


def test_warnings_from_collecting_are_kept_beside_those_of_measuring() -> None:
    moments = nc.ClassMoments.from_features([[0.0], [1e-9], [1.0], [1.0]], [0, 0, 1, 1])
    record = {"a": LayerRecord("a", 1, feature_dtype="float32")}
    collection = nc.MomentCollection({"a": moments}, record, {"warnings": '["look out"]'})
    with pytest.warns(nc.PrecisionWarning):
        dataset = nc.measure(collection)
    first, second, *_ = json.loads(dataset.attrs["warnings"])
    assert first == "look out"
    assert second.startswith("compression below 10⁻¹² at a")


def test_the_tree_holds_one_node_a_layer(moments: nc.MomentCollection) -> None:
    tree = nc.layer_tree(moments)
    assert list(tree.children) == list(moments)
    assert tree["3"]["class_mean"].shape == (3, 3)
    assert tree["2"]["within_class_covariance"].shape == (64, 64)
    assert tree["3"]["class"].values.tolist() == [0, 1, 2]
    assert tree.attrs["model"] == "Sequential"
    without = nc.MomentCollection({"a/b": nc.ClassMoments.from_features([[0.0], [1.0]], [0, 1])})
    assert list(nc.layer_tree(without)["a|b"].data_vars) == ["class_mean"]


# Files --------------------------------------------------------------------------------------------------------------


def test_a_dataset_comes_back_as_it_was(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    found = nc.open(path)
    xr.testing.assert_identical(found, dataset)
    for name in dataset.data_vars:
        assert found[name].dtype == dataset[name].dtype
        np.testing.assert_array_equal(found[name].values, dataset[name].values)  # to the last bit, NaN included
    assert list(map(type, found.attrs.values())) == list(map(type, dataset.attrs.values()))
    assert [entry.name for entry in tmp_path.iterdir()] == ["analysis.nc"]


def test_a_tree_comes_back_as_it_was(moments: nc.MomentCollection, tmp_path: Path) -> None:
    tree = nc.layer_tree(moments)
    found = nc.open(nc.save(tree, str(tmp_path / "layers.nc")))
    xr.testing.assert_identical(found, tree)


def test_a_result_that_was_read_can_be_saved_over_its_own_file(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    nc.save(nc.open(path), path)
    xr.testing.assert_identical(nc.open(path), dataset)


def test_a_new_file_can_be_read_by_whom_the_umask_lets_read(dataset: xr.Dataset, tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        path = nc.save(dataset, tmp_path / "analysis.nc")
    finally:
        os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "overwritten"])
def test_what_is_not_a_result_is_refused_in_one_line(dataset: xr.Dataset, tmp_path: Path, kind: str) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    contents = bytearray(path.read_bytes())
    match kind:
        case "missing":
            path.unlink()
        case "folder":
            path = tmp_path
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("my notes\n")
        case "truncated":
            path.write_bytes(contents[: len(contents) // 2])
        case "overwritten":
            contents[:48] = bytes(48)  # the superblock
            path.write_bytes(contents)
    with pytest.raises(nc.ResultFileError, match=str(path)) as caught:
        nc.open(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_file_cut_off_anywhere_is_refused(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    contents = path.read_bytes()
    for length in range(1, len(contents), len(contents) // 40):
        path.write_bytes(contents[:length])
        with pytest.raises(nc.ResultFileError, match=r"is not a NetCDF file of results|is damaged"):
            nc.open(path)


# Flipping bytes is not tried for real: what HDF5 raises then is anything, and now and then it loops for ever.
@pytest.mark.parametrize("error", [RuntimeError("bad checksum\nand more"), AttributeError(), TypeError("x" * 1000)])
def test_whatever_hdf5_raises_on_damage_is_an_error_of_ours(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def damaged(*args: Any, **options: Any) -> None:
        raise error

    path = nc.save(dataset, tmp_path / "analysis.nc")
    monkeypatch.setattr(xr, "open_datatree", damaged)
    with pytest.raises(nc.ResultFileError) as caught:
        nc.open(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_failed_write_leaves_the_old_file_and_nothing_else(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    contents = path.read_bytes()
    unwritable = dataset.assign_attrs(model=object())
    with pytest.raises((TypeError, ValueError)):
        nc.save(unwritable, path)
    assert path.read_bytes() == contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["analysis.nc"]


def test_a_full_disk_is_an_error_of_ours_and_leaves_the_old_file(
    dataset: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    contents = path.read_bytes()

    def full(handle: int) -> None:
        os.truncate(handle, 100)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(nc.ResultFileError, match="No space left on device"):
        nc.save(dataset, path)
    assert path.read_bytes() == contents
    assert [entry.name for entry in tmp_path.iterdir()] == ["analysis.nc"]


def test_an_opened_file_is_closed_again(dataset: xr.Dataset, tmp_path: Path) -> None:
    path = nc.save(dataset, tmp_path / "analysis.nc")
    found = nc.open(path)
    with h5py.File(path, "r+") as file:  # refused while another handle is open for reading
        assert "compression" in file
    path.unlink()
    assert found["compression"].sum().item() > 0


def test_anybodys_tools_open_the_file(dataset: xr.Dataset, tmp_path: Path) -> None:
    with h5py.File(nc.save(dataset, tmp_path / "analysis.nc")) as file:
        np.testing.assert_array_equal(file["compression"][:], dataset["compression"])
        long_name = file["compression"].attrs["long_name"]
    assert (long_name if isinstance(long_name, str) else long_name.decode()) == "compression"


# The table of layers ------------------------------------------------------------------------------------------------


def test_the_table_of_layers_leaves_the_model_as_it_was(hand: Any, model: nn.Module) -> None:
    model.train()
    with hand.left_alone(model):
        table = nc.layers(model, torch.zeros(2, 1, 6, 6))
    assert table.names == ["0", "1", "2", "3"]
    assert table["num_features"] == [4, 4, 64, 3]
    assert table[1:].names == ["1", "2", "3"]
    assert "Conv2d" in repr(table)
    assert table._repr_html_().count("<tr>") == 5
    with pytest.raises(KeyError, match="no column 'width'; there are name"):
        table["width"]


def test_the_result_is_plain_enough_to_print(dataset: xr.Dataset) -> None:
    assert "compression" in repr(dataset)
    assert ast.literal_eval(dataset.attrs["warnings"])[0].startswith("few samples")


def test_tiny_features_in_single_precision_are_a_warning_and_fine_in_double() -> None:
    features = 1e-22 * torch.randn(60, 300, generator=torch.Generator().manual_seed(0))
    batches = [(features, torch.arange(60) % 3)]
    model = torch.nn.Sequential(torch.nn.Identity())
    with pytest.warns(nc.PrecisionWarning, match="underflow"):
        single = nc.analyze(model, batches)
    assert "underflow" in single.attrs["warnings"]
    double = nc.analyze(model, batches, precision="double")
    exact = nc.measure({"0": nc.ClassMoments.from_features(features, torch.arange(60) % 3)})
    assert double["compression"].item() == pytest.approx(exact["compression"].item(), rel=1e-12)


def test_one_hot_labels_count_their_columns() -> None:
    labels = torch.nn.functional.one_hot(torch.tensor([0, 1, 0, 1]), 4)
    collected = nc.collect(torch.nn.Linear(2, 2), [(torch.randn(4, 2), labels)])
    assert collected["(root)"].num_classes == 4
    assert nc.ClassMoments.from_features(torch.randn(4, 2), labels).num_classes == 4
