"""Processes that divide the features of every layer have the numbers of one process, and a part of the state each."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc

DRIVER = Path(__file__).with_name("sharded_ranks.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
CASES = ["uneven", "none", "first has none", "readers", "narrow", "skip", "tokens", "single", "odd"]
SINGLE = ["single", "odd"]
WORLD_SIZE = 2
DOUBLE = 1e-12  # sums in another order


def run_ranks(folder: Path, *arguments: str, world_size: int = WORLD_SIZE) -> list[tuple[int, str]]:
    """Exit status and errors of every rank."""
    command = [sys.executable, "-W", "error", str(DRIVER)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world_size), str(folder), *arguments], stderr=subprocess.PIPE, text=True
        )
        for rank in range(world_size)
    ]
    errors = [rank.communicate()[1] for rank in ranks]
    return [(rank.returncode, error) for rank, error in zip(ranks, errors, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have written."""
    folder = tmp_path_factory.mktemp("shards")
    ended = run_ranks(folder, ",".join(CASES))
    assert [status for status, _ in ended] == [0] * WORLD_SIZE, "\n".join(error for _, error in ended)
    return folder


def joined(parts: list[nc.MomentCollection], name: str) -> nc.ClassMoments:
    """The moments of all features from those of the ranks' columns."""
    moments = [part[name] for part in parts]
    return nc.ClassMoments(
        count=moments[0].count,
        reference=torch.cat([one.reference for one in moments], dim=1),
        offset_sum=torch.cat([one.offset_sum for one in moments], dim=1),
        offset_square=sum(one.offset_square for one in moments),
    )


def alone(name: str, analyze: Any = nc.analyze) -> Any:
    """The same in one process."""
    model, loader, options = driver.case_of(name)
    return analyze(model, loader, **options)


def assert_same_numbers(found: xr.Dataset, expected: xr.Dataset, tolerance: float) -> None:
    assert set(found.data_vars) == set(expected.data_vars)
    for name in expected.data_vars:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)
    for name in ("num_skipped", "feature_dimension", "positions"):
        assert found[name].equals(expected[name]), name


@pytest.mark.filterwarnings("ignore::neurocollapse.SampleWarning")
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_measure_what_one_process_does(folder: Path, name: str) -> None:
    expected, found = alone(name), nc.open(folder / f"{name}.0.nc")
    assert_same_numbers(found, expected, 1e-6 if name in SINGLE else DOUBLE)
    assert found.attrs["num_samples"] == expected.attrs["num_samples"]
    assert found.attrs["shards"] == WORLD_SIZE
    if name == "readers":
        assert np.isfinite(found["nc3"]).all()


@pytest.mark.parametrize("name", CASES)
def test_every_rank_has_the_same_dataset(folder: Path, name: str) -> None:
    assert nc.open(folder / f"{name}.1.nc").identical(nc.open(folder / f"{name}.0.nc"))


@pytest.mark.parametrize("name", CASES)
def test_each_rank_holds_its_columns_of_the_moments_of_all_samples(folder: Path, name: str) -> None:
    parts = [nc.MomentCollection.load(folder / f"{name}.{rank}.moments") for rank in range(WORLD_SIZE)]
    expected = alone(name, nc.collect)
    assert list(parts[0]) == list(parts[1]) == list(expected)
    tolerance = 1e-6 if name in SINGLE else DOUBLE
    for layer, moments in expected.items():
        found = joined(parts, layer)
        assert torch.equal(found.count, moments.count)
        torch.testing.assert_close(found.mean, moments.mean, rtol=tolerance, atol=tolerance, equal_nan=True)
        torch.testing.assert_close(found.scatter, moments.scatter, rtol=tolerance, atol=tolerance)
        widths = [part[layer].num_features for part in parts]
        assert sum(widths) == moments.num_features
        assert max(widths) - min(widths) <= 1


def test_files_hold_half_of_the_state_each(folder: Path) -> None:
    model, loader, options = driver.case_of("uneven")
    whole = folder / "whole.state"
    nc.collect(model, loader, resume=whole, **options)
    for rank in range(WORLD_SIZE):
        assert (folder / f"uneven.state.rank{rank}").stat().st_size < 0.6 * whole.stat().st_size


def test_columns_are_not_measured_as_if_they_were_all_features(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"`moments` holds some of the features only.*distributed=\"shard\""):
        nc.measure(nc.MomentCollection.load(folder / "uneven.0.moments"))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3])
def test_a_killed_rank_ends_the_others_and_all_go_on_to_the_last_bit(tmp_path: Path, world_size: int) -> None:
    ended = run_ranks(tmp_path, "killed", "kill", world_size=world_size)
    assert ended[0][0] == -9
    assert all(status == 1 for status, _ in ended[1:]), ended
    unbroken = tmp_path / "unbroken"
    unbroken.mkdir()
    for folder in (tmp_path, unbroken):
        ended = run_ranks(folder, "killed", world_size=world_size)
        assert [status for status, _ in ended] == [0] * world_size, ended
    for rank in range(world_size):
        found, expected = (nc.MomentCollection.load(each / f"killed.{rank}.moments") for each in (tmp_path, unbroken))
        for layer in expected:
            for part in ("count", "reference", "offset_sum", "offset_square"):
                assert torch.equal(getattr(found[layer], part), getattr(expected[layer], part)), (rank, layer, part)


@pytest.mark.slow
def test_files_of_different_steps_go_back_to_the_last_common_one(tmp_path: Path) -> None:
    run_ranks(tmp_path, "killed", "kill")
    state = tmp_path / "killed.state.rank1"
    state.with_name(f"{state.name}.previous").replace(state)  # as if it had been killed while the other was saving
    assert [status for status, _ in run_ranks(tmp_path, "killed")] == [0, 0]
    assert_same_numbers(nc.open(tmp_path / "killed.0.nc"), alone("killed"), DOUBLE)
    (tmp_path / "killed.state.rank1").unlink()
    (tmp_path / "killed.state.rank1.previous").unlink()
    for meeting in tmp_path.glob("meet*"):
        meeting.unlink()
    ended = run_ranks(tmp_path, "killed")
    assert all(status == 1 and "not of the same run; delete all of them" in error for status, error in ended), ended


@pytest.mark.slow
def test_features_that_are_not_finite_end_all_ranks(tmp_path: Path) -> None:
    ended = run_ranks(tmp_path, "bad")
    assert all(status == 1 for status, _ in ended)
    assert "NonFiniteError: layer '0': the features of sample 7 of a batch are NaN or infinite" in ended[1][1]
    assert "process 1 has failed, which ends this run on all" in ended[0][1]


@pytest.fixture
def one_rank(tmp_path: Path) -> Any:
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance": True}, r"covariance=True needs all features in one process"),
        ({"quantities": "nc1"}, r"quantity 'nc1' goes through `loader` a second time, with all features of a sample"),
        ({"uncertainty": True}, r"'compression_corrected' goes through `loader` a second time"),
        ({"probes": True}, r"`probes` work in one process"),
        ({"distributed": "shards"}, r"`distributed` must be True, False or \"shard\", got 'shards'"),
    ],
)
def test_what_needs_all_features_of_a_sample_is_refused(options: dict[str, Any], message: str) -> None:
    model, loader, plain = driver.case_of("uneven")
    with pytest.raises(ValueError, match=message):
        nc.analyze(model, loader, **plain, **({"distributed": "shard"} | options))


@pytest.mark.usefixtures("one_rank")
@pytest.mark.filterwarnings("ignore::neurocollapse.SampleWarning")
def test_a_single_rank_keeps_everything() -> None:
    model, loader, options = driver.case_of("uneven")
    found = nc.analyze(model, loader, distributed="shard", **options)
    assert_same_numbers(found, alone("uneven"), DOUBLE)


def test_shards_need_a_process_group() -> None:
    model, loader, options = driver.case_of("uneven")
    with pytest.raises(RuntimeError, match=r"`distributed` needs torch\.distributed"):
        nc.analyze(model, loader, distributed="shard", **options)


@pytest.mark.usefixtures("one_rank")
def test_a_bad_sample_is_told_by_its_place_in_the_batch_where_classes_are_chosen() -> None:
    inputs = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    inputs[3, 0] = torch.nan
    with pytest.raises(nc.NonFiniteError, match="the features of sample 3 of a batch are NaN"):
        nc.analyze(torch.nn.Identity(), [(inputs, torch.tensor([2, 1, 2, 0]))], classes=[0, 1], distributed="shard")
