"""The tracker against decompositions made by hand, in every way in which it can be used."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurocollapse import data, models
from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.dynamics import TrackerError, WeightTracker, imbalance, principal_angles
from neurocollapse.dynamics.analysis import _sketched
from neurocollapse.dynamics.layout import Layout, Options
from neurocollapse.dynamics.reference import Frame
from neurocollapse.models.linear import DeepLinear, linear_weights
from neurocollapse.train import fit
from neurocollapse.train.descent import Trajectory, descend

EDGE = 2


@pytest.fixture
def run() -> tuple[Trajectory, WeightTracker]:
    """Gradient descent of a deep linear network with one narrow layer, kept whole and tracked."""
    weights = linear_weights([9, 9, 12, 5], "norm", 1.0, seed=3)
    trajectory, tracker = Trajectory(), WeightTracker(edge=EDGE)

    def both(progress: object) -> None:
        trajectory(progress)  # type: ignore[arg-type]
        tracker(progress)

    target = low_rank_target(9, 5, 2, seed=1) / 3
    eye = torch.eye(9, dtype=torch.float64)
    descend(weights, eye, target, learning_rate=0.05, num_steps=12, events={"on_step": both})
    return trajectory, tracker


def test_spectra_are_those_of_every_weight(run: tuple[Trajectory, WeightTracker]) -> None:
    trajectory, tracker = run
    dataset = tracker.to_dataset()
    assert list(dataset["step"].values) == list(trajectory)
    assert list(dataset["layer"].values) == ["W_1", "W_2", "W_3"]
    for step, weights in trajectory.items():
        for layer, weight in enumerate(weights):
            here = dataset.sel(step=step).isel(layer=layer)
            values = np.linalg.svd(weight.numpy(), compute_uv=False)
            drift = np.linalg.svd((weight - trajectory[0][layer]).numpy(), compute_uv=False)
            # Two LAPACK drivers differ by a few units of rounding of the largest value.
            np.testing.assert_allclose(here["singular_values"].values[: len(values)], values, atol=1e-13)
            np.testing.assert_allclose(here["drift_singular_values"].values[: len(drift)], drift, atol=1e-13)
            assert np.isnan(here["singular_values"].values[len(values) :]).all()
            parts = values / values.sum()
            assert float(here["weight_effective_rank"]) == pytest.approx(np.exp(-(parts * np.log(parts)).sum()))
            assert float(here["stable_rank"]) == pytest.approx(float(weight.square().sum()) / values[0] ** 2)


def test_angles_are_those_of_separate_decompositions(run: tuple[Trajectory, WeightTracker]) -> None:
    trajectory, tracker = run
    dataset = tracker.to_dataset()
    for step in (1, 5, 12):
        for layer, weight in enumerate(trajectory[step]):
            here = dataset.sel(step=step).isel(layer=layer)
            for side, now, then in zip(
                ("left", "right"), _vectors(weight), _vectors(trajectory[1][layer]), strict=True
            ):
                size = now.shape[1]
                single = [float(principal_angles(now[:, [i]], then[:, [i]])) for i in range(size)]
                middle = float(principal_angles(now[:, EDGE : size - EDGE], then[:, EDGE : size - EDGE])[-1])
                # The vectors of values 0.01 apart carry rounding errors of 1e-14.
                expect = {"top_angle": single[:EDGE], "bottom_angle": single[::-1][:EDGE], "middle_angle": middle}
                for name, value in expect.items():
                    np.testing.assert_allclose(here[name].sel(side=side).values, value, atol=1e-12)


def test_rows_before_the_reference_have_no_angle(run: tuple[Trajectory, WeightTracker]) -> None:
    dataset = run[1].to_dataset()
    for name in ("top_angle", "bottom_angle", "middle_angle"):
        assert np.isnan(dataset[name].sel(step=0)).all()
        assert float(abs(dataset[name].sel(step=1)).max()) < 1e-14
    assert float(dataset["top_angle"].sel(step=12).max()) > 0.01


def test_imbalance_is_that_of_neighbours(run: tuple[Trajectory, WeightTracker]) -> None:
    trajectory, tracker = run
    found = tracker.to_dataset()["imbalance"].sel(step=7).values
    weights = trajectory[7]
    expected = [float(imbalance(*pair)) for pair in pairwise(weights)]
    np.testing.assert_allclose(found[:-1], expected, rtol=1e-13)
    assert np.isnan(found[-1])


def test_weights_that_do_not_follow_each_other_have_no_imbalance() -> None:
    tracker = WeightTracker()
    tracker.record(0, [torch.ones(4, 3), torch.ones(2, 5)])
    assert np.isnan(tracker.to_dataset()["imbalance"].values).all()


def test_blocks_do_not_change_the_rows(run: tuple[Trajectory, WeightTracker]) -> None:
    trajectory, tracker = run
    often = WeightTracker(edge=EDGE)
    for step, weights in trajectory.items():
        often.record(step, weights)
        often.flush()
    _assert_close(often.to_dataset(), tracker.to_dataset())


def test_module_list_and_event_agree() -> None:
    trained = models.mlp(64, 8, 10, depth=2)
    tracker, snapshots = WeightTracker(trained, every=5), {}

    def look(progress: object) -> None:
        tracker(progress)
        snapshots[progress.step] = [m.weight.detach().clone() for m in trained.modules() if isinstance(m, nn.Linear)]  # type: ignore[attr-defined]

    digits = data.open("digits")
    fit(trained, digits, epochs=1, batch_size=128, learning_rate=1e-2, events={"after_batch": look}, progress=False)
    dataset = tracker.to_dataset()
    assert list(dataset["step"].values) == [5, 10]
    by_hand = WeightTracker(every=5)
    for step, weights in snapshots.items():
        by_hand.record(step, weights)
    again = by_hand.to_dataset()
    np.testing.assert_array_equal(dataset["singular_values"], again["singular_values"])
    # Only the model's tracker knows the weights before the first update.
    assert float(dataset["drift_singular_values"].sel(step=5).max()) > 0
    assert float(again["drift_singular_values"].sel(step=5).max()) == 0


def test_descend_on_a_module_is_followed_by_name() -> None:
    network = DeepLinear([4, 4, 4], dtype=torch.float64)
    tracker = WeightTracker(network)
    eye = torch.eye(4, dtype=torch.float64)
    descend(network, eye, 2 * eye, learning_rate=0.1, num_steps=3, events={"on_step": tracker})
    assert list(tracker.to_dataset()["layer"].values) == ["layers.0", "layers.1"]


def test_convolutions_are_out_by_everything_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    tracker = WeightTracker(reference=None)
    tracker.record(0, model)
    dataset = tracker.to_dataset()
    assert list(zip(dataset["rows"].values, dataset["columns"].values, strict=True)) == [(8, 75), (2, 8)]
    weight = model[0].weight.detach().double().reshape(8, 75)
    np.testing.assert_allclose(dataset["singular_values"][0, 0], torch.linalg.svdvals(weight), rtol=1e-12)


def test_layers_are_chosen_by_name_and_glob() -> None:
    model = nn.ModuleDict({"body": nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), "words": nn.Embedding(5, 3)})
    tracker = WeightTracker(model, layers=["body.*", "words"])
    tracker.record(0, model)
    assert list(tracker.to_dataset()["layer"].values) == ["body.0", "body.1", "words"]
    with pytest.raises(ValueError, match=r"'bodi\.0'.*did you mean 'body\.0'"):
        WeightTracker(model, layers="bodi.0")


def test_attention_weights_are_found_by_parameter_name() -> None:
    model = nn.MultiheadAttention(4, 2)
    tracker = WeightTracker(model, layers=["in_proj_weight", "out_proj"])
    tracker.record(0, model)
    assert tracker.to_dataset().sizes["layer"] == 2


def test_shared_weights_count_once() -> None:
    layer = nn.Linear(3, 3)
    tracker = WeightTracker(nn.Sequential(layer, nn.ReLU(), layer))
    tracker.record(0, nn.Sequential(layer, nn.ReLU(), layer))
    assert list(tracker.to_dataset()["layer"].values) == ["0"]


def test_only_wanted_steps_are_recorded() -> None:
    chosen = WeightTracker(steps=[3, 7])
    for step in range(10):
        chosen.record(step, [torch.eye(2)])
    assert list(chosen.to_dataset()["step"].values) == [3, 7]


def test_a_step_back_drops_what_it_repeats() -> None:
    tracker = WeightTracker()
    for step in (0, 1, 2, 3, 4, 2, 3):
        tracker.record(step, [torch.diag(torch.tensor([2.0 + step, 1.0]))])
    dataset = tracker.to_dataset()
    assert list(dataset["step"].values) == [0, 1, 2, 3]
    np.testing.assert_allclose(dataset["drift_singular_values"].values[:, 0, 0], [0, 1, 2, 3])


def test_a_run_from_the_beginning_has_a_new_start_and_reference() -> None:
    tracker = WeightTracker(reference=0)
    tracker.record(0, [torch.diag(torch.tensor([2.0, 1.0]))])
    tracker.record(1, [torch.diag(torch.tensor([3.0, 1.0]))])
    tracker.flush()
    tracker.record(0, [torch.diag(torch.tensor([1.0, 4.0]))])
    dataset = tracker.to_dataset()
    assert float(dataset["drift_singular_values"].max()) == 0
    assert float(dataset["top_angle"].max()) == 0


def test_weights_that_are_not_finite_give_nan_and_no_error() -> None:
    tracker = WeightTracker()
    for step in range(4):
        tracker.record(step, [torch.full((3, 3), torch.nan) if step == 2 else (1 + step) * torch.eye(3)])
    values = tracker.to_dataset()["singular_values"].values[:, 0, 0]
    np.testing.assert_array_equal(values, [1, 2, np.nan, 4])


@pytest.mark.parametrize("components", [None, 2])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_start_that_is_not_finite_leaves_all_but_the_drift(components: int | None, value: float) -> None:
    tracker = WeightTracker([torch.full((40, 40), value)], components=components)
    for step in (1, 2):
        tracker.record(step, [step * torch.eye(40)])
    dataset = tracker.to_dataset()
    assert np.isnan(dataset["drift_singular_values"]).all()
    np.testing.assert_allclose(dataset["singular_values"][:, 0, 0], [1, 2], rtol=1e-6)
    assert not np.isnan(dataset["top_angle"]).any()


@pytest.mark.parametrize("components", [None, 2])
@pytest.mark.parametrize("value", [torch.nan, 0.0])
def test_a_reference_without_directions_gives_no_angles(components: int | None, value: float, tmp_path: Path) -> None:
    weight = torch.diag(0.1 ** torch.arange(40.0))  # decays so fast that a sketch is exact
    for through_file in (False, True):
        tracker = WeightTracker(components=components, path=tmp_path / "run.nc" if through_file else None)
        for step in range(4):
            tracker.record(step, [torch.full((40, 40), value) if step == 1 else weight, weight])
            tracker.flush()
            if through_file and step == 2:
                tracker = WeightTracker(components=components, path=tmp_path / "run.nc")
        dataset = tracker.to_dataset()
        for name in ("top_angle", "bottom_angle", "middle_angle"):
            assert np.isnan(dataset[name].sel(layer="W_1")).all(), name
        assert float(dataset["top_angle"].sel(layer="W_2", step=3).max()) < 1e-6


def test_a_zero_weight_has_no_angles() -> None:
    tracker = WeightTracker(reference=0)
    for step in range(3):
        tracker.record(step, [torch.zeros(3, 3) if step == 1 else torch.diag(torch.tensor([3.0, 2.0, 1.0]))])
    found = tracker.to_dataset()["top_angle"][:, 0, 0, 0]
    np.testing.assert_array_equal(found, [0, np.nan, 0])


def test_a_start_and_frames_elsewhere_are_brought_to_the_weights() -> None:
    layout = Layout(("W_1",), ((60, 60),), Options(5, 1, 0, 0))
    found, _ = _sketched(0, [0], torch.empty(1, 60, 60, device="meta"), layout, torch.empty(60, 60), first=1)
    assert found["drift_singular_values"].device.type == "meta"
    frame = Frame(torch.empty(60, 5), torch.empty(60, 0), None)
    angles, _ = frame.edge_angles(torch.empty(1, 60, 5, device="meta"), 1)
    assert angles.device.type == "meta"


def test_recording_in_inference_mode_and_out_of_it_agree() -> None:
    tracker = WeightTracker()
    with torch.inference_mode():
        tracker.record(0, [torch.eye(3)])
    tracker.record(1, [2 * torch.eye(3)])
    np.testing.assert_allclose(tracker.to_dataset()["singular_values"][:, 0, 0], [1, 2])


def test_autocast_does_not_change_a_sketch() -> None:
    weights = list(torch.randn(2, 300, 300, generator=torch.Generator().manual_seed(0)))
    plain, mixed = WeightTracker(reference=0), WeightTracker(reference=0)
    plain.record(0, weights)
    expected = plain.to_dataset()
    with torch.autocast("cpu", torch.bfloat16):
        mixed.record(0, weights)
        found = mixed.to_dataset()
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=str(name))


def test_integers_of_any_kind_are_options() -> None:
    tracker = WeightTracker(
        every=np.int64(1), components=np.int64(2), edge=torch.tensor(1), reference=np.int64(1), seed=np.int64(0)
    )
    chosen = WeightTracker(steps=torch.arange(2))
    for step in range(4):
        tracker.record(step, [torch.eye(3)])
        chosen.record(step, [torch.eye(3)])
    assert tracker.to_dataset().sizes["component"] == 2
    assert list(chosen.to_dataset()["step"].values) == [0, 1]
    with pytest.raises(TypeError, match=r"`steps` must be an integer, got 0\.5"):
        WeightTracker(steps=[0.5])
    with pytest.raises(TypeError, match="`every` must be an integer of at least 1, got '3'"):
        WeightTracker(every="3")  # type: ignore[arg-type]


def test_an_edge_takes_no_more_room_than_the_largest_layer() -> None:
    tracker = WeightTracker(edge=10**6)
    tracker.record(0, [torch.eye(3), torch.eye(5)])
    assert tracker.to_dataset().sizes["edge"] == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (2, 2), (5, 2), (3, 40)])
def test_every_shape_is_measured(shape: tuple[int, int]) -> None:
    tracker, generator = WeightTracker(edge=3), torch.Generator().manual_seed(0)
    for step in range(3):
        tracker.record(step, [torch.randn(shape, generator=generator)])
    dataset = tracker.to_dataset()
    singles = min(3, min(shape) // 2)
    assert int((~np.isnan(dataset["top_angle"].sel(step=2, side="left"))).sum()) == singles
    assert bool(np.isnan(dataset["middle_angle"].sel(step=2)).all()) == (min(shape) == 2 * singles)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_precision_is_measured(dtype: torch.dtype) -> None:
    tracker = WeightTracker()
    tracker.record(0, [(3 * torch.eye(2)).to(dtype)])
    np.testing.assert_allclose(tracker.to_dataset()["singular_values"].values.ravel(), [3, 3])


def test_recording_changes_neither_weights_nor_random_state() -> None:
    model = nn.Linear(300, 300)
    weight, state = model.weight.detach().clone(), torch.get_rng_state()
    tracker = WeightTracker(model)
    for step in range(2):
        tracker.record(step, model)
    tracker.to_dataset()
    assert torch.equal(model.weight, weight)
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), state)


def test_bad_options_and_other_networks_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"`every` must be an integer of at least 1, got 0"):
        WeightTracker(every=0)
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        WeightTracker().to_dataset()
    with pytest.raises(ValueError, match="no linear or convolutional layer"):
        WeightTracker(nn.ReLU())
    with pytest.raises(ValueError, match="at least one matrix"):
        WeightTracker([torch.ones(3)])
    tracker = WeightTracker()
    tracker.record(0, [torch.eye(2)])
    with pytest.raises(TrackerError, match=r"shapes \[\(3, 3\)\], not \[\(2, 2\)\]"):
        tracker.record(1, [torch.eye(3)])


def test_every_variable_says_what_it_is(run: tuple[Trajectory, WeightTracker]) -> None:
    dataset = run[1].to_dataset()
    for name, values in dataset.data_vars.items():
        assert {"long_name", "units", "reference"} <= set(values.attrs), name


def _vectors(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors."""
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    return left, right.mT


def _assert_close(found: object, expected: object) -> None:
    """Equal but for the rounding of angles."""
    for name in expected.data_vars:  # type: ignore[attr-defined]
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=1e-12, err_msg=str(name))  # type: ignore[index]


@pytest.mark.parametrize(
    ("step", "error"), [(1.5, TypeError), (float("inf"), TypeError), ("1", TypeError), (2**63, ValueError)]
)
def test_a_step_that_files_cannot_keep_is_refused(step: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="`step` must be an integer"):
        WeightTracker().record(step, [torch.eye(3)])


@pytest.mark.parametrize("weights", [[None], [torch.eye(2), None], [torch.eye(2), "x"], ["x"]])
def test_a_list_of_other_things_than_tensors_is_refused(weights: Any) -> None:
    with pytest.raises(TypeError, match="`model` must be a module or a list of tensors, got "):
        WeightTracker().record(0, weights)
