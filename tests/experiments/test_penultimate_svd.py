"""Singular values of penultimate weights over training, in our networks and in other people's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import neurocollapse as nc
from neurocollapse import data
from neurocollapse.dynamics import WeightTracker, named_matrices
from neurocollapse.experiments import Outcome, Workplace
from neurocollapse.experiments.classifiers import penultimate_svd
from neurocollapse.experiments.classifiers.penultimate_svd import EXPERIMENT, PenultimateSvd, claims
from neurocollapse.train import fit

QUIET = Workplace(progress=False)
SETTING = PenultimateSvd(epochs=6, learning_rate=0.05, every=46, seed=5)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    """One run for all tests; it must leave random state and threads alone."""
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = EXPERIMENT(SETTING, workplace=QUIET)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    return found


def outcomes(dataset: xr.Dataset) -> list[str]:
    return [verdict.outcome for verdict in claims(dataset)]


def with_change(dataset: xr.Dataset, kind: str, change: np.ndarray) -> xr.Dataset:
    """The dataset as if a weight had changed by another matrix."""
    copy = dataset.copy(deep=True)
    start = np.eye(*change.shape) * SETTING.init_scale
    last = {"network": kind, "step": int(copy["step"][-1])}
    drift = np.linalg.svd(change, compute_uv=False)
    copy["singular_values"].loc[last] = np.linalg.svd(start + change, compute_uv=False)
    copy["drift_singular_values"].loc[last] = drift
    copy["drift_rank"].loc[last] = 1 + (np.cumsum(drift**2) < 0.95 * np.sum(drift**2)).sum()
    return copy


def reopened(outcome: Outcome, path: Path) -> xr.Dataset:
    """What comes back from the file of an outcome."""
    found = nc.open(nc.save(outcome.to_dataset(), path))
    assert isinstance(found, xr.Dataset)
    return found


def test_every_claim_holds(outcome: Outcome) -> None:
    assert outcome.status == "holds"
    assert len(outcome.verdicts) == 8


def test_all_networks_start_flat_at_the_same_scale(outcome: Outcome) -> None:
    start = outcome.dataset["singular_values"].sel(step=0)
    np.testing.assert_allclose(start, SETTING.init_scale, rtol=1e-6)  # the weights are float32


def test_in_the_linear_network_two_per_class_move_and_the_others_do_not(outcome: Outcome) -> None:
    values = outcome.dataset["singular_values"].sel(network="linear").transpose("step", "component").values
    assert (np.abs(values[-1] - values[0])[10:-10] < 0.01).all()
    assert values[-1][0] > 2 * values[0][0]


def test_the_transformer_moves_more_directions_than_the_linear_network(outcome: Outcome) -> None:
    rank = outcome.dataset["drift_rank"].isel(step=-1)
    assert float(rank.sel(network="ViT")) > float(rank.sel(network="linear"))


def test_each_penultimate_weight_is_the_last_before_the_classifier(outcome: Outcome) -> None:
    named = dict(zip(outcome.dataset["network"].values, outcome.dataset["weight"].values, strict=True))
    assert named == {
        "linear": "layers.2",
        "MLP": "layers.2.linear",
        "CNN": "hidden",
        "ViT": "blocks.1.mlp.contract",
    }
    assert outcome.dataset["columns"].values.tolist() == [64, 64, 64, 128]


def test_it_can_be_saved_and_drawn_from_the_file(outcome: Outcome, tmp_path: Path) -> None:
    loaded = nc.open(nc.save(outcome.to_dataset(), tmp_path / "svd.nc"))
    assert isinstance(loaded, xr.Dataset)
    assert outcomes(loaded) == ["holds"] * 8
    figure = EXPERIMENT.draw(loaded)
    assert len(figure.axes) == 8
    plt.close(figure)


def test_a_change_in_all_directions_violates_both_claims(outcome: Outcome) -> None:
    change = np.random.default_rng(0).standard_normal((64, 64))
    found = outcomes(with_change(outcome.dataset, "MLP", change))
    assert [index for index, one in enumerate(found) if one == "violated"] == [2, 3]


def test_a_change_of_low_rank_violates_none(outcome: Outcome) -> None:
    left, right = np.random.default_rng(0).standard_normal((2, 64, 10))
    assert outcomes(with_change(outcome.dataset, "MLP", left @ right.T)) == ["holds"] * 8


def test_networks_that_have_not_learnt_meet_no_assumption(outcome: Outcome) -> None:
    untrained = outcome.dataset.copy(deep=True)
    untrained["accuracy"].loc[{"network": "CNN"}] = 0.5
    assert outcomes(untrained) == [*["holds"] * 4, *["assumptions unmet"] * 2, *["holds"] * 2]
    assert "CNN reaches 50.0%" in claims(untrained)[4].reason


def test_a_narrow_weight_meets_no_assumption() -> None:
    narrow = EXPERIMENT(PenultimateSvd(networks=("linear",), width=16, epochs=1), workplace=QUIET)
    assert narrow.status == "assumptions unmet"
    assert "16 singular values are not many beside 10 classes" in narrow.verdicts[0].reason


def test_an_interrupted_run_goes_on_as_if_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = PenultimateSvd(networks=("linear", "ViT"), width=32, epochs=2, every=10, seed=1)
    unbroken = reopened(EXPERIMENT(setting, workplace=QUIET), tmp_path / "unbroken.nc")

    def fail_in_the_second_epoch(model: nn.Module, samples: Any, **options: Any) -> None:
        def after_batch(progress: Any) -> None:
            options["events"]["after_batch"](progress)
            if progress.step == 35:
                raise KeyboardInterrupt

        fit(model, samples, **options | {"events": {**options["events"], "after_batch": after_batch}})

    place = Workplace(folder=tmp_path / "parts", progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(penultimate_svd, "fit", fail_in_the_second_epoch)
        with pytest.raises(KeyboardInterrupt):
            EXPERIMENT(setting, workplace=place)
    assert (tmp_path / "parts" / "linear.safetensors").exists()
    for name in ("continued.nc", "read.nc"):
        again = reopened(EXPERIMENT(setting, workplace=place), tmp_path / name)
        xr.testing.assert_identical(again.drop_attrs(deep=False), unbroken.drop_attrs(deep=False))
        assert set(again.attrs) == set(unbroken.attrs) - {"wall_seconds"}  # its time is that of the rest
    assert unbroken["weight"].values.tolist() == ["layers.2", "blocks.1.mlp.contract"]


@pytest.mark.parametrize("networks", [(), ("linear", "CNM")])
def test_unknown_networks_are_refused(networks: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"`networks` must be some of linear, MLP, CNN, ViT, got (none|CNM)"):
        PenultimateSvd(networks=networks)


def timm_vit() -> SimpleNamespace:
    timm = pytest.importorskip("timm", reason="timm is an optional dependency")
    options = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 24, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=10, **options)
    return SimpleNamespace(model=model, layer="blocks.1.mlp.fc2", channels=1)


def torchvision_resnet() -> SimpleNamespace:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is an optional dependency")
    resnet = torchvision.models.resnet
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10, width_per_group=64)
    return SimpleNamespace(model=model, layer="layer1.0.conv2", channels=3)


def test_transformers_go_through_the_same_tracker() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=12, n_layer=1, n_head=2)
        model = transformers.GPT2Model(config)
    tracker = WeightTracker(model, reference=None)
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight.add_(torch.ones(12, 48))  # Conv1D keeps in × out
    tracker.record(1, model)
    dataset = tracker.to_dataset()
    names = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    assert dataset["layer"].values.tolist() == [f"h.0.{name}" for name in names]
    drift = dataset["drift_singular_values"].sel(layer="h.0.mlp.c_fc").isel(step=0).dropna("component").values
    assert {tuple(read().shape) for read in named_matrices(model, "h.0.mlp.c_fc").values()} == {(48, 12)}
    np.testing.assert_allclose(drift, [24.0, *[0.0] * 11], atol=1e-5)  # √(12·48), rounded in float32


@pytest.mark.parametrize("build", [timm_vit, torchvision_resnet])
def test_models_of_other_libraries_go_through_the_same_tracker(build: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        found = build()
    digits = data.open("digits").subset(range(0, 1437, 30))
    samples = [(image.expand(found.channels, 8, 8), label) for image, label in digits]
    weight = found.model.get_submodule(found.layer).weight
    start = weight.detach().clone()
    tracker = WeightTracker(layers=found.layer, reference=None, components=64)
    events = {"on_start": tracker, "after_batch": tracker}
    fit(found.model, samples, epochs=1, batch_size=24, learning_rate=1e-3, events=events, progress=False)
    dataset = tracker.to_dataset().sel(layer=found.layer)
    assert dataset["step"].values.tolist() == [0, 1, 2]
    for name, matrix in {"singular_values": weight, "drift_singular_values": weight - start}.items():
        expected = torch.linalg.svdvals(matrix.detach().double().flatten(1)).numpy()
        measured = dataset[name].isel(step=-1).dropna("component").values
        np.testing.assert_allclose(measured, expected, rtol=1e-6, atol=1e-7)  # W(t) − W(0) is rounded in float32 here
