"""Tracking measures what `nc.analyze` measures, keeps every finished record, and disturbs no training."""

import itertools
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc
from neurocollapse.tracking.rhythm import Rhythm

QUANTITIES = ["compression", "geometry", "nc1", "margin"]
LAYERS = ["leaves", "penultimate"]


def build(seed: int = 0) -> nn.Module:
    """Dropout and batch normalisation, which tracking could disturb."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))


def samples(count: int = 60) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 3
    centres = torch.randn(3, 6, generator=generator)
    return TensorDataset(centres[labels] + 0.5 * torch.randn(count, 6, generator=generator), labels)


class Noisy(TensorDataset):
    """Draws from every random state there is, as augmentation does."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, label = super().__getitem__(index)
        noise = torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002  # what augmentations draw from
        return inputs + 0.01 * float(noise), label


class Restarting:
    """An iterator that begins again whenever it is asked for one, as some loaders do."""

    def __iter__(self) -> "Restarting":
        self.batches = iter(BATCHES)
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self.batches)


def trained(loader: Any, *, epochs: int = 3, look: Any = None) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Train, and look after each epoch and in the middle of it."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # the state that augmentations draw from
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for epoch in range(epochs):
        for number, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            if look is not None and number == 1:
                look(model, epoch + 0.5)
            optimizer.step()
        if look is not None:
            look(model, epoch + 1.0)
    return model, optimizer


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Weights, buffers, gradients, moments of the optimizer, and random states."""
    state = [part for one in optimizer.state.values() for part in one.values()]
    python = torch.tensor([hash(random.getstate()) % 2**40])
    numpy = torch.from_numpy(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002  # see above
    gradients = [parameter.grad for parameter in model.parameters()]
    return [
        *model.state_dict().values(),
        *gradients,
        *map(torch.as_tensor, state),
        torch.get_rng_state(),
        python,
        numpy,
    ]


def loaders() -> tuple[DataLoader, DataLoader]:
    """A training loader with a generator of its own, over samples that draw; and a probe loader that shuffles."""
    data = Noisy(*samples().tensors)
    return (
        DataLoader(data, 16, shuffle=True, generator=torch.Generator().manual_seed(3)),
        DataLoader(data, 20, shuffle=True),
    )


@pytest.mark.parametrize("probe", ["its own", "the training loader"])
def test_training_is_the_same_to_the_last_bit(probe: str, tmp_path: Path) -> None:
    loader, _ = loaders()
    expected = trained(loader)
    loader, own = loaders()
    tracker = None

    def look(model: nn.Module, step: float) -> None:
        nonlocal tracker
        tracker = tracker or nc.track(
            model, own if probe == "its own" else loader, path=tmp_path / "run.nc", layers=LAYERS, probes=True,
            quantities=QUANTITIES, alarms=["compression@last < -1"],
        )  # fmt: skip
        modes = [module.training for module in model.modules()]
        tracker.record(step, accuracy=0.5)
        assert [module.training for module in model.modules()] == modes
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())

    found = trained(loader, look=look)
    assert len(tracker.to_dataset()["step"]) == 6
    for one, other in zip(everything(*expected), everything(*found), strict=True):
        assert torch.equal(one, other)


def test_recorded_numbers_are_those_of_analyze() -> None:
    data = samples()
    loader = DataLoader(data, 16)
    analyses: list[xr.Dataset] = []
    options = {"layers": LAYERS, "quantities": QUANTITIES, "probes": True, "weighting": "frequency"}
    trackers = []

    def look(model: nn.Module, step: float) -> None:
        trackers.append(trackers[-1] if trackers else nc.track(model, loader, **options))
        trackers[-1].record(step)
        analyses.append(nc.analyze(model, loader, progress=False, **options))

    trained(loader, look=look)
    run = trackers[0].to_dataset()
    assert run["step"].values.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    for at, one in enumerate(analyses):
        row = run.isel(step=at)
        assert set(row.data_vars) == set(one.data_vars)
        for name in one.data_vars:
            assert row[name].dims == one[name].dims
            np.testing.assert_array_equal(row[name].values, one[name].values)
            assert run[name].attrs == one[name].attrs
        for name in ("depth", "module_type", "feature_dtype", "class"):
            np.testing.assert_array_equal(run[name].values, one[name].values)
    assert run["compression"].dims == ("step", "layer")
    assert run.attrs["num_samples"] == 60


BATCHES = [(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)]


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def changed(model: nn.Module) -> None:
    """One step of something like training."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1).add_(0.01)


def recorded(path: Path | None, steps: Any, **options: Any) -> nc.FeatureTracker:
    """Steps of one run, the model at each being what it is there."""
    model = linear()
    tracker = nc.track(model, BATCHES, path=path, **{"quantities": "compression", **options})
    for step in range(max(steps) + 1):
        if step in steps:
            tracker.record(step, twice=2 * step)
        changed(model)
    return tracker


def numbers(run: xr.Dataset) -> xr.Dataset:
    """Without the time at which it was made."""
    return run.drop_vars(["created", "elapsed_seconds"]).drop_attrs(deep=False)


def test_scalars_and_provenance_stand_along_the_steps() -> None:
    model = linear()
    tracker = nc.track(model, BATCHES)
    tracker.record(0, accuracy=torch.tensor(0.25))
    tracker.record(0.5, loss=np.float32(2.0))
    run = tracker.to_dataset()
    assert run["accuracy"].dims == ("step",)
    np.testing.assert_array_equal(run["accuracy"], [0.25, np.nan])
    np.testing.assert_array_equal(run["loss"], [np.nan, 2.0])
    for name in ("created", "elapsed_seconds", "command", "warnings"):
        assert run[name].dims == ("step",)
    assert run.attrs["model"] == "Sequential"


def test_scalars_that_come_later_stand_beside_the_last_record(tmp_path: Path) -> None:
    logged: list[tuple[float, dict[str, float]]] = []
    tracker = nc.track(
        linear(), BATCHES, path=tmp_path / "run.nc", log=lambda numbers, step: logged.append((step, numbers))
    )
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        tracker.supplement(loss=1.0)
    for step in range(2):
        tracker.record(step, accuracy=0.5)
        tracker.supplement(**{"test/loss": step + 2.0})
    assert nc.open(tmp_path / "run.nc")["test_loss"].values.tolist() == [2.0, 3.0]
    assert tracker.to_dataset()["accuracy"].values.tolist() == [0.5, 0.5]
    assert logged[-1] == (1, {"test/loss": 3.0})
    with pytest.raises(nc.TrackingError, match="'compression' is recorded already"):
        tracker.supplement(compression=1.0)


def test_a_run_in_a_file_is_the_run_in_memory_and_opens_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    model = linear()
    tracker, other = (nc.track(model, BATCHES, path=one, quantities="compression, nc2_norms") for one in (path, None))
    for step in range(4):
        tracker.record(step, accuracy=step / 4)
        other.record(step, accuracy=step / 4)
        while_written = nc.open(path)
        xr.testing.assert_identical(numbers(while_written), numbers(other.to_dataset()))
        changed(model)
    assert [one.name for one in tmp_path.iterdir()] == ["run.nc"]


@pytest.mark.parametrize("pause", [1, 3])
def test_a_continued_run_equals_the_unbroken_one(tmp_path: Path, pause: int) -> None:
    unbroken = recorded(tmp_path / "one.nc", range(6)).to_dataset()
    recorded(tmp_path / "two.nc", range(pause))
    continued = recorded(tmp_path / "two.nc", range(pause, 6))
    xr.testing.assert_identical(numbers(continued.to_dataset()), numbers(unbroken))
    xr.testing.assert_identical(numbers(nc.open(tmp_path / "two.nc")), numbers(nc.open(tmp_path / "one.nc")))


def test_a_run_that_goes_back_to_a_checkpoint_overwrites_what_it_repeats(tmp_path: Path) -> None:
    unbroken = recorded(tmp_path / "one.nc", range(6)).to_dataset()
    recorded(tmp_path / "two.nc", range(5))
    again = recorded(tmp_path / "two.nc", range(2, 6))
    xr.testing.assert_identical(numbers(again.to_dataset()), numbers(unbroken))


def test_what_a_run_that_was_given_up_recorded_later_is_dropped(tmp_path: Path) -> None:
    recorded(tmp_path / "run.nc", range(6))
    tracker = nc.track(linear(), BATCHES, path=tmp_path / "run.nc", quantities="compression")
    tracker.resume(2)
    tracker.record(10)
    assert nc.open(tmp_path / "run.nc")["step"].values.tolist() == [0, 1, 2, 10]
    tracker.resume(0.5)
    assert tracker.to_dataset()["step"].values.tolist() == [0]


def test_slashes_in_names_of_scalars_become_underscores(tmp_path: Path) -> None:
    tracker = nc.track(linear(), BATCHES, path=tmp_path / "run.nc")
    tracker.record(0, **{"val/loss": 0.5, "val/top/5": 0.25})
    run = nc.open(tmp_path / "run.nc")
    assert (run["val_loss"].item(), run["val_top_5"].item()) == (0.5, 0.25)
    with pytest.raises(nc.TrackingError, match="there is a 'val_loss' already"):
        tracker.record(1, **{"val/loss": 0.5, "val_loss": 0.5})


def test_a_run_that_starts_over_may_be_of_other_layers(tmp_path: Path) -> None:
    recorded(tmp_path / "run.nc", range(3))
    other = recorded(tmp_path / "run.nc", range(2), layers="linear")
    assert other.to_dataset().sizes["step"] == 2
    assert nc.open(tmp_path / "run.nc").sizes["layer"] == 2


def test_other_layers_in_the_middle_are_an_error_that_names_them(tmp_path: Path) -> None:
    recorded(tmp_path / "run.nc", range(3))
    before = (tmp_path / "run.nc").read_bytes()
    with pytest.raises(nc.TrackingError, match=r"step 3 has other layers .*\(missing: 1\)"):
        recorded(tmp_path / "run.nc", [3], layers="linear")
    with pytest.raises(nc.TrackingError, match=r"step 3 has other quantities .*: separation, compression"):
        recorded(tmp_path / "run.nc", [3], quantities="separation")
    assert (tmp_path / "run.nc").read_bytes() == before


def test_new_classes_are_an_error_that_says_what_to_do() -> None:
    model, batches = linear(), [BATCHES[0]]
    tracker = nc.track(model, batches)
    tracker.record(0)
    batches[0] = (BATCHES[0][0], torch.arange(30) % 5)
    with pytest.raises(nc.TrackingError, match=r"class_count has shape \(3, 5\) after \(3, 3\); pass num_classes="):
        tracker.record(1)


def test_two_trackers_of_one_file_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    first, second = (nc.track(linear(), BATCHES, path=path) for _ in range(2))
    first.record(0)
    with pytest.raises(nc.TrackingError, match="was changed by something else; give each tracker a file of its own"):
        second.record(0)


def test_a_file_of_something_else_is_refused_before_training(tmp_path: Path) -> None:
    nc.save(nc.analyze(linear(), BATCHES, progress=False), tmp_path / "analysis.nc")
    with pytest.raises(nc.TrackingError, match=r"analysis\.nc is not the file of a tracked run"):
        nc.track(linear(), BATCHES, path=tmp_path / "analysis.nc")
    (tmp_path / "text.nc").write_text("no")
    with pytest.raises(nc.ResultFileError, match=r"text\.nc is not a NetCDF file"):
        nc.track(linear(), BATCHES, path=tmp_path / "text.nc")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda tracker: tracker.record("1"), TypeError, "`step` must be a finite number, got '1'"),
        (lambda tracker: tracker.record(float("nan")), TypeError, "`step` must be a finite number, got nan"),
        (lambda tracker: tracker.record(0, loss="low"), TypeError, r"record\(…, loss=…\) must be a number, got str"),
        (lambda tracker: tracker.record(0, compression=1), nc.TrackingError, "'compression' is recorded already"),
        (lambda tracker: tracker.record(0, elapsed_seconds=1), nc.TrackingError, "'elapsed_seconds' is recorded"),
        (lambda tracker: tracker.record(0, warnings=1), nc.TrackingError, "'warnings' is recorded already"),
        (lambda tracker: tracker.to_dataset(), ValueError, "nothing has been recorded yet"),
    ],
)
def test_mistakes_are_one_line(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(nc.track(linear(), BATCHES))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "0"}, TypeError, "unexpected keyword argument 'layer'; did you mean 'layers'"),
        ({"layers": "3"}, ValueError, "`layers` names '3'"),
        ({"quantities": "compresion"}, ValueError, "did you mean 'compression'"),
    ],
)
def test_options_that_there_are_not_are_refused_before_training(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = linear()
    model.register_forward_hook(lambda *_: pytest.fail("the model ran"))
    with pytest.raises(error, match=message):
        nc.track(model, BATCHES, **options)


@pytest.mark.parametrize("every", ["always", "5", "0%", "101%", 0, -1, float("nan")])
def test_rhythms_that_are_none_are_refused(every: Any) -> None:
    with pytest.raises(ValueError, match="`every` must be"):
        nc.track(linear(), BATCHES, every=every)


def steps_of(every: Any, steps: Any) -> list[float]:
    rhythm, last, found = Rhythm(every), None, []
    for step in steps:
        if rhythm.due(step, last):
            last = step
            found.append(step)
    return found


def test_rhythms_choose_their_steps() -> None:
    assert steps_of(None, [0, 0.5, 1, 7]) == [0, 0.5, 1, 7]
    assert steps_of("epoch", range(4)) == [0, 1, 2, 3]
    assert steps_of(3, range(10)) == [0, 3, 6, 9]
    assert steps_of(0.5, [0, 0.25, 0.5, 0.75, 1.0]) == [0, 0.5, 1.0]
    found = steps_of("log", range(1000))
    assert found[:8] == [0, 1, 2, 3, 4, 5, 7, 9]
    assert all(new >= 1.25 * old for old, new in itertools.pairwise(found[1:]))
    assert len([step for step in found if step >= 100]) < 12


def test_a_share_of_wall_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    rhythm, last = Rhythm("5%"), None
    for step in range(60_000):  # a minute in steps of a millisecond, and records of a twentieth of a second
        now += 1e-3
        if rhythm.due(step, last):
            last = step
            now += 0.05
            rhythm.add(0.05)
    assert 0.04 < rhythm.spent / now <= 0.05


@pytest.mark.parametrize(
    "loader",
    [
        (batch for batch in BATCHES),
        map(tuple, BATCHES),
        iter(BATCHES),
        itertools.chain(BATCHES),
        iter(DataLoader(BATCHES, None)),
    ],
    ids=["generator", "map", "list", "chain", "loader"],
)
def test_what_can_be_read_only_once_is_refused_before_training(loader: Any) -> None:
    with pytest.raises(TypeError, match=r"`loader` is read at each record, but a .* can be read only once; pass"):
        nc.track(linear(), loader, alarms=["compression@last > 1e9"])
    for name in ("test_loader", "ood_loader"):
        with pytest.raises(TypeError, match=f"`{name}` is read at each record"):
            nc.track(linear(), BATCHES, **{name: loader})


def test_an_iterator_that_begins_again_is_read_at_each_record() -> None:
    tracker = nc.track(linear(), Restarting(), quantities="compression")
    assert all(tracker.record(step) for step in range(2))


def test_what_is_not_due_costs_no_forward_pass() -> None:
    model, calls = linear(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    tracker = nc.track(model, BATCHES, every=10)
    assert [tracker.record(step) for step in range(12)] == [True, *[False] * 9, True, False]
    assert len(calls) == 2


def test_a_log_gets_every_number_by_name() -> None:
    lines: list[tuple[dict[str, float], float]] = []
    tracker = nc.track(linear(), BATCHES, log=lambda found, step: lines.append((found, step)), quantities="compression")
    tracker.record(4, loss=0.5)
    ((found, step),) = lines
    run = tracker.to_dataset()
    assert step == 4
    assert found["loss"] == 0.5
    for layer in ("0", "1", "2"):
        assert found[f"compression/{layer}"] == run["compression"].sel(layer=layer, step=4).item()
    assert all(isinstance(value, float) for value in found.values())
    with pytest.raises(TypeError, match="`log` must be a function"):
        nc.track(linear(), BATCHES, log="tensorboard")


def test_runs_are_drawn_and_reported(tmp_path: Path) -> None:
    run = recorded(None, range(3), quantities=None).to_dataset()
    assert nc.table(run).step == "step 2"
    assert "step by step" in nc.report(run, tmp_path / "run.html").read_text(encoding="utf-8")


def test_it_shows_itself(tmp_path: Path) -> None:
    tracker = recorded(tmp_path / "run.nc", [0])
    assert repr(tracker) == f"FeatureTracker(1 record of Sequential, in {tmp_path / 'run.nc'})"
    assert tracker.seconds > 0
