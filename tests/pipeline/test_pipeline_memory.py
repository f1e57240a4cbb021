"""Row 9: how much memory the statistics take is known before the first batch counts, and does not grow with it."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.passes import moments as stream
from neurocollapse.statistics import MomentAccumulator, StateBytes, kernel_on, read_state, state_bytes

NARROW, WIDE = 8, 300


@pytest.fixture
def model(hand: Any) -> nn.Module:
    return hand.seeded(lambda: nn.Sequential(nn.Linear(6, NARROW), nn.Linear(NARROW, WIDE)))


@pytest.fixture
def allocated(monkeypatch: pytest.MonkeyPatch) -> list[MomentAccumulator]:
    """Every accumulator that a run makes."""
    made: list[MomentAccumulator] = []

    def make(*args: Any, **kwargs: Any) -> MomentAccumulator:
        made.append(MomentAccumulator(*args, **kwargs))
        monkeypatch.setattr(made[-1], "released", made[-1].moments)  # a state that is given up could not be counted
        return made[-1]

    monkeypatch.setattr(stream, "MomentAccumulator", make)
    return made


def num_bytes(accumulator: MomentAccumulator) -> int:
    """Bytes of all tensors that an accumulator holds, each storage once."""
    tensors = {value.data_ptr(): value.nbytes for name, value in accumulator.state().items() if name != "progress"}
    return sum(tensors.values())


def plan_of(
    num_classes: int, *, covariance: bool = False, precision: str = "single", per_element: StateBytes = 16
) -> int:
    """Bytes that both layers of the model take."""
    wide = torch.float64 if precision == "double" else torch.float32
    return state_bytes(num_classes, NARROW, working=torch.float64, covariance=covariance) + state_bytes(
        num_classes, WIDE, working=wide, covariance=covariance, per_element=per_element
    )


def test_a_plan_that_cannot_fit_is_refused_with_its_gigabytes_and_nothing_allocated(
    hand: Any, allocated: list[MomentAccumulator]
) -> None:
    model = hand.seeded(lambda: nn.Sequential(nn.Linear(6, 65_536)))
    # 12 bytes for each of 65,536² entries are 48 GiB, and the four classes some megabytes
    with (
        hand.left_alone(model),
        pytest.raises(nc.MemoryPlanError, match=r"1 layers and 3 classes need 48\.00 GiB") as caught,
    ):
        nc.collect(model, [hand.clustered(4, 6)], covariance=True, max_memory=2**34)
    assert "only 16.00 GiB may be used (largest, in GiB: 0 48.00)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not allocated


def test_layers_that_fit_one_by_one_are_refused_together(
    hand: Any, model: nn.Module, allocated: list[MomentAccumulator]
) -> None:
    limit = plan_of(3) - 1
    with pytest.raises(nc.MemoryPlanError, match="2 layers"):
        nc.collect(model, [hand.clustered(10, 6)], max_memory=limit, state_bytes=16)
    assert sum(map(num_bytes, allocated)) <= limit


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_max_memory_is_kept_to_the_byte(hand: Any, model: nn.Module, covariance: bool, precision: str) -> None:
    limit = plan_of(3, covariance=covariance, precision=precision)
    options: dict[str, Any] = {"covariance": covariance, "precision": precision, "state_bytes": 16}
    nc.collect(model, [hand.clustered(10, 6)], max_memory=limit, **options)
    with pytest.raises(nc.MemoryPlanError):
        nc.collect(model, [hand.clustered(10, 6)], max_memory=limit - 1, **options)


@pytest.mark.parametrize("covariance", [False, True])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_the_plan_covers_what_is_allocated(
    hand: Any, model: nn.Module, allocated: list[MomentAccumulator], covariance: bool, precision: str
) -> None:
    nc.collect(model, hand.in_batches(*hand.clustered(30, 6), 7), covariance=covariance, precision=precision)
    planned = plan_of(3, covariance=covariance, precision=precision)
    assert 0.95 * planned <= sum(map(num_bytes, allocated)) <= planned


def test_classes_that_turn_up_later_are_planned_again(
    hand: Any, model: nn.Module, allocated: list[MomentAccumulator]
) -> None:
    inputs, labels = hand.clustered(10, 6)
    late = labels.clone()
    late[4] = 999
    limit = plan_of(999, per_element=12)
    batches = [(inputs, labels), (inputs, late)]
    nc.collect(model, batches, max_memory=plan_of(1000, per_element=12), state_bytes=12)
    allocated.clear()
    with hand.left_alone(model), pytest.raises(nc.MemoryPlanError, match=r"2 layers and 1000 classes .*in GiB: 1 0"):
        nc.collect(model, batches, max_memory=limit, state_bytes=12)
    assert sum(map(num_bytes, allocated)) <= limit


def test_state_does_not_grow_with_the_samples(hand: Any, model: nn.Module, tmp_path: Any) -> None:
    sizes = []
    for num_samples in (20, 2000):
        path = tmp_path / f"{num_samples}.state"
        nc.collect(model, hand.in_batches(*hand.clustered(num_samples, 6), 20), resume=path, covariance=True)
        sizes.append(sum(tensor.nbytes for tensor in read_state(path, "pass")[1].values()))
    counters, random_state = 100, torch.get_rng_state().nbytes
    assert sizes[0] == sizes[1] <= plan_of(3, covariance=True) + counters + random_state


def test_a_module_called_twice_needs_twice_the_memory(hand: Any) -> None:
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, layer)
    one = state_bytes(3, 6, working=torch.float64, covariance=False)
    nc.collect(model, [hand.clustered(10, 6)], max_memory=2 * one)
    with pytest.raises(nc.MemoryPlanError, match=r"0#0 .*0#1"):
        nc.collect(model, [hand.clustered(10, 6)], max_memory=2 * one - 1)


@pytest.mark.parametrize(("per_element", "lacking"), [(16, 0), (12, 0), (8, 0), (12, 1)])
def test_the_most_bytes_that_fit_are_taken_and_said(
    hand: Any, model: nn.Module, per_element: StateBytes, lacking: int
) -> None:
    limit = plan_of(3, per_element=per_element) - lacking
    most = 16 if kernel_on("cpu").most_in_total < 4 else 12
    taken = 8 if lacking else min(per_element, most)
    dataset = nc.analyze(model, [hand.clustered(10, 6)] * 3, max_memory=limit)
    assert dataset.attrs["state_bytes"] == taken
    expected = nc.analyze(model, [hand.clustered(10, 6)] * 3)
    assert expected.attrs["state_bytes"] == most
    np.testing.assert_allclose(dataset["compression"], expected["compression"], rtol=1e-6)


def test_what_fits_at_no_width_is_refused_with_the_fewest_bytes(hand: Any, model: nn.Module) -> None:
    wanted = plan_of(3, per_element=8)
    with pytest.raises(nc.MemoryPlanError, match=r"at 8 bytes per class and feature, but only"):
        nc.collect(model, [hand.clustered(10, 6)], max_memory=wanted - 1)
    with pytest.raises(nc.MemoryPlanError, match=r"3 classes need 0\.00 GiB, but only"):
        nc.collect(model, [hand.clustered(10, 6)], max_memory=wanted, precision="double")


def test_new_classes_make_the_state_narrow(hand: Any, model: nn.Module, allocated: list[MomentAccumulator]) -> None:
    inputs, labels = hand.clustered(10, 6)
    late = labels.clone()
    late[4] = 999
    moments = nc.collect(model, [(inputs, labels), (inputs, late)], max_memory=plan_of(1000, per_element=12))
    assert moments.attributes["state_bytes"] == 12
    assert sum(map(num_bytes, allocated)) <= plan_of(1000, per_element=12)


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_keeps_the_bytes_of_its_file(hand: Any, model: nn.Module, tmp_path: Any, stop: int) -> None:
    batches = [hand.clustered(10, 6)] * 4

    def interrupted() -> Any:
        yield from batches[:stop]
        raise RuntimeError("stop")

    limit = plan_of(3, per_element=8)
    with pytest.raises(RuntimeError, match="stop"):
        nc.collect(model, interrupted(), resume=tmp_path / "state", max_memory=limit)
    found = nc.collect(model, batches, resume=tmp_path / "state")  # there would be room for 16 bytes now
    expected = nc.collect(model, batches, max_memory=limit)
    assert found.attributes["state_bytes"] == 8
    assert all(torch.equal(found[name].mean, expected[name].mean) for name in expected)
    with pytest.raises(nc.StateFileError, match="state_bytes of moments"):
        nc.collect(model, batches, resume=tmp_path / "state", state_bytes=12)


@pytest.mark.parametrize("wrong", [4, 0, "8", None, True, 8.5, [8]])
def test_other_state_bytes_are_refused(hand: Any, model: nn.Module, wrong: Any) -> None:
    with pytest.raises(ValueError, match=r'`state_bytes` must be "auto", 16, 12 or 8, got '):
        nc.collect(model, [hand.clustered(10, 6)], state_bytes=wrong)


def test_double_precision_takes_sixteen_bytes(hand: Any, model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r'precision="double" takes 16 bytes; leave out `state_bytes`'):
        nc.collect(model, [hand.clustered(10, 6)], state_bytes=8, precision="double")
