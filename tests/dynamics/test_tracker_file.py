"""A tracker's file: it grows, opens after an interruption, and goes on."""

import subprocess
import sys
import time
from pathlib import Path

import h5netcdf
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import neurocollapse as nc
from neurocollapse.dynamics import TrackerError, WeightTracker
from neurocollapse.dynamics.rows import start_file


def weights_at(step: int, width: int = 6) -> list[Tensor]:
    """Two matrices that move with the step."""
    generator = torch.Generator().manual_seed(5)
    start, move = (torch.randn(2, width, width, dtype=torch.float64, generator=generator) for _ in range(2))
    return list(start + 0.1 * step * move)


def tracked(steps: range, path: Path | None = None, **options: object) -> xr.Dataset:
    """A run without interruption."""
    tracker = WeightTracker(path=path, **options)  # type: ignore[arg-type]
    for step in steps:
        tracker.record(step, weights_at(step))
    return tracker.to_dataset()


def assert_same(found: xr.Dataset, expected: xr.Dataset) -> None:
    """The same numbers, but for the rounding of batched decompositions."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name].values, expected[name].values, atol=1e-12, err_msg=str(name))
    assert list(found["layer"].values) == list(expected["layer"].values)
    assert list(found["step"].values) == list(expected["step"].values)


def test_a_file_holds_what_memory_holds(tmp_path: Path) -> None:
    in_file = tracked(range(20), tmp_path / "run.nc")
    in_memory = tracked(range(20))
    assert_same(in_file, in_memory)
    assert in_file["middle_angle"].attrs == in_memory["middle_angle"].attrs
    with h5netcdf.File(tmp_path / "run.nc") as file:
        assert file.dimensions["step"].isunlimited()


def test_a_file_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(8), path)
    continued = tracked(range(8, 20), path)
    assert_same(continued, tracked(range(20)))


def test_a_run_from_an_earlier_checkpoint_overwrites_what_it_repeats(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(12), path)
    assert_same(tracked(range(5, 20), path), tracked(range(20)))


def test_a_run_from_the_beginning_overwrites_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(12), path)
    assert_same(tracked(range(6), path), tracked(range(6)))


def test_another_run_in_the_same_file_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracker = WeightTracker(path=path)
    for scale in (5.0, 1.0):
        for step in range(6):
            tracker.record(step, [scale * weight for weight in weights_at(step + int(scale == 5.0))])
        tracker.flush()
    assert_same(tracked(range(6, 12), path), tracked(range(12)))


def test_the_reference_may_come_after_an_interruption(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(5), path, reference=7)
    tracked(range(5, 10), path, reference=7)
    assert_same(tracked(range(10, 20), path, reference=7), tracked(range(20), reference=7))


def seen(steps: range, path: Path, *, every: int = 1, scale: float = 1.0) -> xr.DataArray:
    """The drift of a run whose weight is `scale` · step; its tracker has the weights before its first step."""
    tracker = WeightTracker([scale * (steps[0] - 1) * torch.eye(2)], every=every, path=path)
    for step in steps:
        tracker.record(step, [scale * step * torch.eye(2)])
    return tracker.to_dataset()["drift_singular_values"][:, 0, 0]


def test_a_start_that_was_given_outlives_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    seen(range(1, 19), path, every=16)
    np.testing.assert_allclose(seen(range(13, 49), path, every=16), [16, 32, 48])


def test_the_same_program_run_again_measures_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    np.testing.assert_allclose(seen(range(1, 5), path), [1, 2, 3, 4])
    np.testing.assert_allclose(seen(range(1, 5), path), [1, 2, 3, 4])
    np.testing.assert_allclose(seen(range(1, 5), path, scale=3.0), [3, 6, 9, 12])


def test_a_start_is_kept_before_there_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    seen(range(1, 60), path, every=100)
    np.testing.assert_allclose(seen(range(51, 201), path, every=100), [100, 200])


def test_another_run_that_begins_again_has_its_own_start(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    seen(range(1, 60), path, every=50)
    np.testing.assert_allclose(seen(range(1, 60), path, every=20, scale=2.0), [40, 80])


def test_a_run_without_a_start_takes_the_first_row_again(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    for steps in (range(1, 19), range(13, 49)):
        tracker = WeightTracker(every=16, path=path)
        for step in steps:
            tracker.record(step, [step * torch.eye(2)])
        tracker.flush()
    np.testing.assert_allclose(tracker.to_dataset()["drift_singular_values"][:, 0, 0], [0, 16, 32])


def test_a_reference_whose_row_was_lost_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(5), path, reference=7)
    lost = WeightTracker(path=path, reference=7)
    for step in range(5, 9):
        lost.record(step, [weight.T for weight in weights_at(step)])
    lost._run._analyse()  # type: ignore[union-attr]  # a full block; killed before its rows are written
    assert_same(tracked(range(5, 12), path, reference=7), tracked(range(12), reference=7))


def test_two_trackers_in_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    first, second = WeightTracker(path=path), WeightTracker(path=path)
    first.record(0, weights_at(0))
    second.record(0, weights_at(0))
    first.flush()
    with pytest.raises(TrackerError, match="ends at step 0, not at None, where this tracker left it; give each"):
        second.flush()
    assert list(first.to_dataset()["step"].values) == [0]


def test_a_start_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracker = WeightTracker(weights_at(0), path=path)
    start_file(path).mkdir()
    with pytest.raises(TrackerError, match=r"^cannot write .*run\.nc\.start\.safetensors: Is a directory; name"):
        tracker.record(0, weights_at(0))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["run.nc", "run.nc.start.safetensors"]


def test_a_start_left_by_a_deleted_file_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    seen(range(1, 5), path)
    path.unlink()
    WeightTracker([torch.eye(2)], path=path)
    np.testing.assert_allclose(seen(range(3, 5), path), [1, 2])


def test_an_error_in_training_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"

    def train() -> None:
        with WeightTracker(path=path) as tracker:
            for step in range(7):
                tracker.record(step, weights_at(step))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    found = nc.open(path)
    assert isinstance(found, xr.Dataset)
    assert_same(found, tracked(range(7)))


def test_a_killed_process_leaves_a_file_that_opens_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_tracker_file import weights_at
from neurocollapse.dynamics import WeightTracker, rows
rows.WRITING_SHARE = float("inf")
rows.SECONDS_BETWEEN_WRITES = 0.0
run = WeightTracker(path={str(path)!r})
for step in range(10**9):
    run.record(step, weights_at(step))
"""
    process = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (path.exists() and path.stat().st_size > 60_000):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    found = nc.open(path)
    assert isinstance(found, xr.Dataset)
    last = int(found["step"][-1])
    assert list(found["step"].values) == list(range(last + 1))
    assert_same(tracked(range(last + 1, last + 4), path), tracked(range(last + 4)))


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    tracker = WeightTracker(path=tmp_path / "run.nc")
    tracker.record(0, weights_at(0))
    assert tracker._run is not None
    assert tracker._run.snapshots is not None
    capacity = tracker._run.snapshots.capacity
    for step in range(1, 2 * capacity + 3):
        tracker.record(step, weights_at(0))
        assert len(tracker._run.snapshots.steps) <= capacity
    assert tracker.to_dataset().sizes["step"] == 2 * capacity + 3


def test_a_tracker_without_weights_reads_its_file(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(5), path)
    assert_same(WeightTracker(path=path).to_dataset(), tracked(range(5)))


def test_files_of_others_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    tracked(range(3), path)
    with pytest.raises(TrackerError, match=r"another run \(W_1 of shape \(6, 6\), not \(4, 4\)\); name another file$"):
        WeightTracker(weights_at(0, width=4), path=path)
    with pytest.raises(TrackerError, match=r"\(layers W_1, W_2, not W_1\)"):
        WeightTracker(weights_at(0)[:1], path=path)
    with pytest.raises(TrackerError, match=r"\(edge=1, not 2\)"):
        WeightTracker(weights_at(0), edge=2, path=path)
    other = tmp_path / "other.nc"
    xr.Dataset({"a": ("x", [1.0])}).to_netcdf(other, engine="h5netcdf")
    with pytest.raises(TrackerError, match="holds no tracked weights"):
        WeightTracker(weights_at(0), path=other)
    with pytest.raises(TrackerError, match="cannot write"):
        WeightTracker(weights_at(0), path=tmp_path / "missing" / "run.nc")
    older = tmp_path / "older.nc"
    xr.load_dataset(path).drop_vars("weight_effective_rank").to_netcdf(older, engine="h5netcdf")
    with pytest.raises(TrackerError, match="has no weight_effective_rank: another version wrote it; name another file"):
        WeightTracker(weights_at(0), path=older)
    start_file(path).unlink()
    with pytest.raises(TrackerError, match=r"start\.safetensors is missing or damaged"):
        WeightTracker(weights_at(0), path=path)
