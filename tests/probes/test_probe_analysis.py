"""`analyze(probes=True)`: the right features reach the probes, and the run leaves nothing behind."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc
from neurocollapse.passes import FeatureSink, run_pass
from neurocollapse.probes import (
    accuracy,
    effective_rank,
    held_out,
    linear_probe_accuracy,
    mse_probe_accuracy,
    nearest_class_mean_accuracy,
    numerical_rank,
)

ADDED = (
    "probe_accuracy_train",
    "probe_accuracy_test",
    "ncm_accuracy_train",
    "ncm_accuracy_test",
    "numerical_rank",
    "effective_rank",
)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)).train()


def samples(num_samples: int, seed: int = 0) -> TensorDataset:
    """Images around one centre a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    labels = torch.randint(3, (num_samples,), generator=generator)
    return TensorDataset(centres[labels] + 2 * torch.randn(num_samples, 1, 6, 6, generator=generator), labels)


@pytest.fixture
def loader() -> DataLoader[Any]:
    return DataLoader(samples(60), batch_size=16)


def by_hand(model: nn.Module, data: TensorDataset) -> dict[str, Tensor]:
    """Features of the convolution, averaged over positions, and of the last layer."""
    inputs = data.tensors[0]
    conv = model[0](inputs)
    return {"0": conv.mean(dim=(2, 3)).detach(), "4": model[4](conv.relu().flatten(1)).detach()}


def expected_of(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], everything: Tensor) -> list[float]:
    """The six numbers of a layer, from the pure functions."""
    linear, nearest = linear_probe_accuracy(*train, *test), nearest_class_mean_accuracy(*train, *test)
    return [*linear[:2], *nearest[:2], numerical_rank(everything), effective_rank(everything)]


def found_in(dataset: xr.Dataset, layer: str) -> list[float]:
    return [dataset[name].sel(layer=layer).item() for name in ADDED]


def test_a_stratified_part_is_held_out(model: nn.Module, loader: Any) -> None:
    dataset = nc.analyze(model, loader, layers=["0", "4"], probes=True, probe_samples=50, probe_seed=3)
    labels = loader.dataset.tensors[1][:50]
    test = torch.from_numpy(held_out(labels, share=0.3, seed=3))
    for name, features in by_hand(model, loader.dataset).items():
        kept = features[:50]
        expected = expected_of((kept[~test], labels[~test]), (kept[test], labels[test]), kept)
        # Batches of 16 and one of 60 differ in the last bits of float32, which only the effective rank shows.
        np.testing.assert_allclose(found_in(dataset, name), expected, rtol=1e-5)
    assert (dataset.attrs["probe_train_samples"], dataset.attrs["probe_test_samples"]) == (34, 16)
    assert dataset.attrs["probe_seed"] == 3


def test_a_test_loader_leaves_all_of_the_loader_for_training(model: nn.Module, loader: Any) -> None:
    other = samples(40, seed=5)
    dataset = nc.analyze(model, loader, layers=["0", "4"], probes=True, test_loader=DataLoader(other, batch_size=30))
    test = by_hand(model, other)
    for name, features in by_hand(model, loader.dataset).items():
        expected = expected_of((features, loader.dataset.tensors[1]), (test[name], other.tensors[1]), features)
        np.testing.assert_allclose(found_in(dataset, name), expected, rtol=1e-5)
    assert (dataset.attrs["probe_train_samples"], dataset.attrs["probe_test_samples"]) == (60, 40)


def test_the_linear_probe_can_be_least_squares(model: nn.Module, loader: Any) -> None:
    options = {"layers": ["0", "4"], "probe_seed": 3}
    dataset = nc.analyze(model, loader, probes="mse", **options)
    labels = loader.dataset.tensors[1]
    test = torch.from_numpy(held_out(labels, share=0.3, seed=3))
    for name, features in by_hand(model, loader.dataset).items():
        expected = mse_probe_accuracy(features[~test], labels[~test], features[test], labels[test])
        assert found_in(dataset, name)[:2] == list(expected[:2])
    assert dataset.attrs["probe"] == "mse"
    assert "least squares" in dataset["probe_accuracy_test"].attrs["convention"]
    logistic = nc.analyze(model, loader, probes="logistic", **options)
    assert logistic[list(ADDED)].equals(nc.analyze(model, loader, probes=True, **options)[list(ADDED)])
    assert logistic[list(ADDED[2:])].equals(dataset[list(ADDED[2:])])


def test_probes_add_variables_and_change_none(model: nn.Module, loader: Any) -> None:
    plain, probed = nc.analyze(model, loader), nc.analyze(model, loader, probes=True)
    added = {*ADDED, "probe_depth", "tunnel_length"}
    assert set(probed.data_vars) - set(plain.data_vars) == added
    assert probed.drop_vars(added).equals(plain)
    assert plain.attrs.keys() < probed.attrs.keys()


def test_every_variable_says_what_it_is_and_comes_back_from_disk(model: nn.Module, loader: Any, tmp_path: Path) -> None:
    dataset = nc.analyze(model, loader, probes=True)
    for name in ADDED:
        assert dataset[name].dims == ("layer",)
        assert dataset[name].dtype == np.float64
        assert all(dataset[name].attrs[key] for key in ("long_name", "units", "symbol", "convention", "reference"))
    nc.save(dataset, tmp_path / "probed.nc")
    assert nc.open(tmp_path / "probed.nc").identical(dataset)


def test_without_probes_there_is_one_pass_and_no_scikit_learn(
    model: nn.Module, loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    monkeypatch.setitem(sys.modules, "sklearn", None)
    nc.analyze(model, loader)
    handle.remove()
    assert len(calls) == len(loader)


def test_the_second_pass_ends_when_there_are_enough_samples(model: nn.Module, loader: Any) -> None:
    calls: list[int] = []
    handle = model[0].register_forward_hook(lambda *_: calls.append(1))
    nc.analyze(model, loader, layers="4", probes=True, probe_samples=17)
    handle.remove()
    assert len(calls) == len(loader) + 2


@pytest.mark.parametrize("mode", ["eval", "train", "unchanged"])
def test_the_model_and_the_random_states_are_left_alone(model: nn.Module, loader: Any, mode: str) -> None:
    before, state, numpy_state = [part.training for part in model.modules()], torch.get_rng_state(), np_state()
    nc.analyze(model, DataLoader(loader.dataset, batch_size=16, shuffle=True), probes=True, mode=mode)
    assert [part.training for part in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert np_state() == numpy_state
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def np_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002 - the global state is meant


def test_a_failing_second_pass_leaves_no_hooks(model: nn.Module, loader: Any) -> None:
    bad = [(torch.zeros(2, 1, 6, 6), torch.tensor([0, 3]))]
    with pytest.raises(nc.LabelError, match=r"integers in \[0, 3\), got 3 at position 1"):
        nc.analyze(model, loader, probes=True, test_loader=bad)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    assert model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_are_copies_in_their_own_dtype_also_in_inference_mode(loader: Any, dtype: torch.dtype) -> None:
    in_place = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True))
    batches = [(inputs.to(dtype, copy=True), labels) for inputs, labels in loader]
    expected = torch.cat([inputs.flatten(1) for inputs, _ in batches])
    with torch.inference_mode():
        kept = run_pass(in_place, batches, {"features": FeatureSink(100)})["features"]
    assert torch.equal(kept.features["0"], expected)
    assert (kept.features["1"] >= 0).all()
    assert kept.features["0"].dtype == dtype
    assert not kept.features["0"].is_inference()


def test_the_rows_of_a_sample_stay_on_one_side(model: nn.Module, loader: Any) -> None:
    sinks = {"features": FeatureSink(20)}
    kept = run_pass(model, loader, sinks, layers=["0", "4"], pool={"0": "positions"})["features"]
    assert kept.features["0"].shape == (20 * 16, 4)
    assert kept.samples["0"].tolist() == [sample for sample in range(20) for _ in range(16)]
    chosen = held_out(kept.labels)
    features, labels = kept.rows("0", chosen)
    assert features.shape == (16 * chosen.sum(), 4)
    assert labels.tolist() == [int(kept.labels[sample]) for sample in np.flatnonzero(chosen) for _ in range(16)]
    assert torch.equal(kept.features["0"][:16], model[0](loader.dataset.tensors[0])[0].flatten(1).T)
    dataset = nc.analyze(model, loader, layers=["0"], pool="positions", probes=True)
    assert np.isfinite(found_in(dataset, "0")).all()


def test_the_input_counts_as_a_layer_where_asked(model: nn.Module, loader: Any) -> None:
    dataset = nc.analyze(model, loader, layers="4", include_input=True, probes=True)
    assert dataset["layer"].values.tolist() == ["input", "4"]
    images = loader.dataset.tensors[0].flatten(1)
    assert found_in(dataset, "input")[4:] == pytest.approx([numerical_rank(images), effective_rank(images)], rel=1e-6)


def test_dict_batches_and_label_functions_work_in_the_second_pass(loader: Any) -> None:
    model = nn.Flatten()
    batches = [{"input": inputs, "truth": labels} for inputs, labels in loader]
    dataset = nc.analyze(model, batches, label_fn=lambda batch: batch["truth"], probes=True, layers=model)
    plain = nc.analyze(model, loader, probes=True, layers=model)
    assert dataset[list(ADDED)].equals(plain[list(ADDED)])


def test_features_that_are_not_finite_are_left_out(loader: Any) -> None:
    model = nn.Flatten()
    spoilt = [(inputs.clone(), labels) for inputs, labels in loader]
    spoilt[0][0][3, 0, 0, 0] = float("nan")
    dataset = nc.analyze(model, spoilt, layers=model, probes=True, non_finite="skip")
    images = torch.cat([inputs.flatten(1) for inputs, _ in spoilt])
    images = images[images.isfinite().all(dim=1)]
    assert len(images) == 59
    assert dataset["effective_rank"].item() == pytest.approx(effective_rank(images), rel=1e-6)
    hopeless = [(torch.full((4, 1, 6, 6), float("nan")), torch.tensor([0, 1, 0, 1]))]
    dataset = nc.analyze(model, hopeless, layers=model, probes=True, non_finite="skip")
    assert np.isnan([dataset[name].item() for name in ADDED]).all()


def test_layers_that_are_left_out_are_warned_of_once(loader: Any) -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat, self.idle = nn.Flatten(), nn.ReLU()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.flat(inputs)

    with pytest.warns(nc.CaptureWarning, match="idle") as caught:
        dataset = nc.analyze(Idle(), loader, probes=True)
    assert [one.category for one in caught].count(nc.CaptureWarning) == 1
    assert dataset["layer"].values.tolist() == ["flat"]


def test_probes_that_do_not_converge_leave_a_note(
    model: nn.Module, loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", nc.SampleWarning)
        dataset = nc.analyze(model, loader, probes=True)
    (*_, note) = json.loads(dataset.attrs["warnings"])
    assert note == "the linear probe did not converge at 0, 1, 2 and 2 more: its accuracy may be too low"


def test_classes_that_the_kept_samples_lack_leave_a_note(model: nn.Module) -> None:
    data = samples(60)
    order = data.tensors[1].argsort()
    batches = list(zip(data.tensors[0][order].split(10), data.tensors[1][order].split(10), strict=True))
    dataset = nc.analyze(model, batches, layers="4", probes=True, probe_samples=12)
    (*_, note) = json.loads(dataset.attrs["warnings"])
    assert note == ("the probes saw 1 of 3 classes in the first 12 samples; shuffle the loader or raise probe_samples")
    assert np.isnan(dataset["probe_accuracy_train"].item())


def test_features_that_do_not_fit_are_refused_in_one_line(model: nn.Module, loader: Any) -> None:
    with pytest.raises(nc.MemoryPlanError, match=r"probing 5 layers on 60 samples needs .* pass a smaller probe_sam"):
        nc.analyze(model, loader, probes=True, max_memory=100_000)
    assert "probe_seed" in nc.analyze(model, loader, probes=True, probe_samples=9, max_memory=100_000).attrs
    tests = DataLoader(samples(75), batch_size=8)
    with pytest.raises(nc.MemoryPlanError, match=r"on 135 samples"):  # all 60 of one loader and all 75 of the other
        nc.analyze(model, loader, probes=True, probe_samples=80, test_loader=tests, max_memory=100_000)


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "too few samples": ({"probe_samples": 0}, ValueError, r"`probe_samples` must be an integer of at least 1, got 0"),
    "half a sample": ({"probe_samples": 1.5}, TypeError, r"`probe_samples` must be an integer"),
    "seed is no number": ({"probe_seed": None}, TypeError, r"`probe_seed` must be an integer of at least 0, got None"),
    "test loader is a number": ({"test_loader": 3}, TypeError, r"`test_loader` must be an iterable of batches"),
    "test loader without probes": ({"probes": False, "test_loader": []}, ValueError, r"pass probes=True as well"),
    "no such probe": (
        {"probes": "ridge"},
        ValueError,
        r"`probes` must be False, True or one of 'logistic', 'mse', got",
    ),
    "probes is a number": ({"probes": 1}, TypeError, r"`probes` must be True or False, got 1"),
    "test loader is empty": ({"test_loader": []}, ValueError, r"`test_loader`: the loader gave no samples"),
    "several processes": ({"distributed": True}, ValueError, r"`probes` work in one process"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused_with_one_line(model: nn.Module, loader: Any, case: str) -> None:
    options, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        nc.analyze(model, loader, **{"probes": True, **options})
    assert "\n" not in str(caught.value)


def test_a_loader_that_can_be_read_once_is_refused_before_it_is_read(model: nn.Module, loader: Any) -> None:
    once = iter(loader)
    with pytest.raises(TypeError, match=r"probes go through `loader` a second time"):
        nc.analyze(model, once, probes=True)
    assert len(list(once)) == len(loader)
