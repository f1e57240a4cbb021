"""A tracker's file and the training that it follows have one commit point: a crash at any write loses no step."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from neurocollapse.dynamics import TrackerError, WeightTracker
from neurocollapse.support import atomic
from neurocollapse.train import descend, fit

EPOCHS, BATCHES = 2, 3


class Crash(BaseException):
    """The end of a process, as far as files can tell."""


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def trained(
    folder: Path,
    events: tuple[str, ...],
    *,
    given: bool = False,
    more: Any = None,
    **options: Any,
) -> xr.Dataset:
    """A program that trains, tracks and goes on where its files say so; all its rows."""
    source = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(18, 5, generator=source), torch.arange(18) % 3)
    model = network()
    tracker = WeightTracker(model if given else None, path=folder / "weights.nc", **options)
    fit(
        model,
        data,
        epochs=EPOCHS,
        batch_size=6,
        learning_rate=0.1,
        events={**dict.fromkeys(events, tracker), **(more or {})},
        resume=folder / "run.safetensors",
        progress=False,
    )
    return tracker.to_dataset()


def descended(folder: Path, **options: Any) -> xr.Dataset:
    """The same of gradient descent."""
    tracker = WeightTracker(path=folder / "weights.nc", **options)
    inputs = torch.eye(4, dtype=torch.float64)
    weights = [torch.eye(4), torch.arange(16.0).reshape(4, 4) / 16]
    events: dict[str, Any] = {"on_start": tracker, "on_step": tracker}
    run = {"learning_rate": 0.05, "num_steps": 7, "save_every": 4}
    descend(weights, inputs, 2 * inputs, events=events, resume=folder / "run.safetensors", **run)
    return tracker.to_dataset()


@contextmanager
def crash_at_replacement(number: int, *, late: bool) -> Iterator[None]:
    """End the block just before, or just behind, the n-th file takes its place."""
    replace, left = os.replace, [number]

    def replaced(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] == 0 and not late:
            raise Crash
        replace(source, target)
        if left[0] == 0:
            raise Crash

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(atomic.os, "replace", replaced)
        yield


def assert_same_bits(found: xr.Dataset, expected: xr.Dataset) -> None:
    for name in expected.variables:
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=str(name))


def crash_everywhere(program: Callable[[Path], xr.Dataset], folder: Path) -> int:
    """Run a program that crashes at each of its writes, then again to its end; the number of crashes."""
    (folder / "unbroken").mkdir()
    unbroken = program(folder / "unbroken")
    for number in range(1, 100):
        for late in (False, True):
            place = folder / f"{number}{late}"
            place.mkdir()
            try:
                with crash_at_replacement(number, late=late):
                    program(place)
            except Crash:
                assert_same_bits(program(place), unbroken)
            else:
                return number - 1
    raise AssertionError("the program writes without end")


@pytest.mark.parametrize(
    ("events", "options"),
    [
        (("on_start", "after_batch"), {"reference": 5}),
        pytest.param(("after_batch",), {}, marks=pytest.mark.slow),
        pytest.param(("after_batch",), {"every": 4, "given": True}, marks=pytest.mark.slow),
        pytest.param(("after_epoch",), {}, marks=pytest.mark.slow),
        pytest.param(("before_epoch", "on_end"), {"given": True}, marks=pytest.mark.slow),
        pytest.param(("on_end",), {}, marks=pytest.mark.slow),
        pytest.param(("on_start", "on_end"), {}, marks=pytest.mark.slow),
    ],
)
def test_a_crash_at_any_write_of_a_training_loses_no_step(
    tmp_path: Path, events: tuple[str, ...], options: dict[str, Any]
) -> None:
    assert crash_everywhere(lambda folder: trained(folder, events, **options), tmp_path) > EPOCHS


@pytest.mark.slow
def test_a_crash_at_any_write_of_a_descent_loses_no_step(tmp_path: Path) -> None:
    assert crash_everywhere(lambda folder: descended(folder, every=2), tmp_path) > 2


def test_every_step_is_there_once(tmp_path: Path) -> None:
    with pytest.raises(Crash), crash_at_replacement(5, late=False):
        trained(tmp_path, ("on_start", "after_batch"))
    found = trained(tmp_path, ("on_start", "after_batch"))
    assert found["step"].values.tolist() == list(range(EPOCHS * BATCHES + 1))


def stop_after(epoch: int) -> dict[str, Any]:
    """An event that crashes in the middle of an epoch."""

    def stop(progress: Any) -> None:
        if progress.epoch == epoch:
            raise Crash

    return {"before_epoch": stop}


def test_a_training_whose_tracker_lost_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Crash):
        trained(tmp_path, ("after_batch",), more=stop_after(1))
    (tmp_path / "weights.nc").unlink()
    with pytest.raises(
        TrackerError, match=r"weights\.nc lacks steps 0 to 3 of the run .* at step 4; continue from"
    ) as told:
        trained(tmp_path, ("after_batch",))
    assert "\n" not in str(told.value)


def test_a_tracker_that_the_training_cannot_see_refuses_what_it_lost(tmp_path: Path) -> None:
    def hidden(**more: Any) -> WeightTracker:
        tracker = WeightTracker(path=tmp_path / "weights.nc")
        trained(tmp_path / "run", (), more={"after_batch": lambda progress: tracker(progress), **more})
        return tracker

    (tmp_path / "run").mkdir()
    with pytest.raises(Crash):
        hidden(**stop_after(1))
    with pytest.raises(TrackerError, match=r"lacks steps 1 to 3 of the run that continues at step 4"):
        hidden()


def test_a_tracker_in_memory_says_what_it_lacks(tmp_path: Path) -> None:
    model, tracker = network(), WeightTracker()
    data = TensorDataset(torch.eye(5), torch.arange(5) % 3)
    settings = {"batch_size": 5, "learning_rate": 0.1, "resume": tmp_path / "run", "progress": False}
    fit(model, data, epochs=2, **settings)
    with pytest.warns(
        UserWarning, match="lacks steps 0 to 2 of the run that continues, and drift counts from its later"
    ):
        fit(network(), data, epochs=3, events={"after_batch": tracker}, **settings)
    assert tracker.to_dataset()["step"].values.tolist() == [3]


def shown(seen: range, path: Path, **options: Any) -> list[int]:
    """The rows of a loop of one's own."""
    tracker = WeightTracker(path=path, **options)
    for step in seen:
        tracker.record(step, [(1.0 + step) * torch.eye(2)])
    return tracker.to_dataset()["step"].values.tolist()


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, range(10), range(11, 20)),
        ({"every": 5}, range(9), range(16, 20)),
        ({"steps": [3, 12]}, range(9), range(14, 20)),
        ({}, range(0, 300, 100), range(400, 600, 100)),
    ],
)
def test_a_loop_that_goes_on_behind_lost_steps_is_refused(
    tmp_path: Path, options: dict[str, Any], before: range, after: range
) -> None:
    rows = shown(before, tmp_path / "run.nc", **options)
    with pytest.raises(
        TrackerError, match=f"lacks steps? {before[-1] + 1} .*of the run that continues at step {after[0]};"
    ):
        shown(after, tmp_path / "run.nc", **options)
    assert WeightTracker(path=tmp_path / "run.nc", **options).to_dataset()["step"].values.tolist() == rows


@pytest.mark.parametrize(
    ("options", "before", "after"),
    [
        ({}, range(10), range(10, 12)),
        ({"every": 5}, range(9), range(10, 12)),
        ({"every": 50}, range(9), range(20, 60)),
        ({"steps": [3, 12]}, range(9), range(11, 20)),
        ({}, range(0, 300, 100), range(300, 500, 100)),
    ],
)
def test_a_loop_may_leave_out_steps_that_nobody_wants(
    tmp_path: Path, options: dict[str, Any], before: range, after: range
) -> None:
    first = shown(before, tmp_path / "run.nc", **options)
    assert shown(after, tmp_path / "run.nc", **options)[: len(first)] == first


def test_a_run_whose_first_rows_were_never_written_is_refused(tmp_path: Path) -> None:
    lost = WeightTracker(path=tmp_path / "run.nc")
    for step in range(1, 9):
        lost.record(step, [torch.eye(2)])  # killed before five seconds are over
    with pytest.raises(TrackerError, match="lacks steps 1 to 8 of the run that continues at step 9"):
        shown(range(9, 12), tmp_path / "run.nc")


def weights_at(step: int, shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Weights that move and turn."""
    source = torch.Generator().manual_seed(3)
    return [
        torch.randn(shape, generator=source) + 0.02 * step * torch.randn(shape, generator=source) for shape in shapes
    ]


@pytest.mark.parametrize("shapes", [[(6, 6), (5, 6)], [(33, 17), (10, 33)]])
@pytest.mark.parametrize("cuts", [range(70), (10, 20, 50)])
def test_the_bits_of_a_row_do_not_depend_on_when_it_was_analysed(
    shapes: list[tuple[int, int]], cuts: range | tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"edge": 2, "reference": 5}
    whole, cut = WeightTracker(**options), WeightTracker(**options)
    for step in range(70):
        whole.record(step, weights_at(step, shapes))
        cut.record(step, weights_at(step, shapes))
        if step in cuts:
            cut.flush()
    assert_same_bits(cut.to_dataset(), whole.to_dataset())
