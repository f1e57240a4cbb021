"""Checkpoints as steps: each measured as it is, in order, and read once."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import neurocollapse as nc
from neurocollapse.cli import main
from neurocollapse.tracking import checkpoints as tracking
from neurocollapse.tracking.checkpoints import in_natural_order

pytestmark = pytest.mark.filterwarnings("ignore:.*removed the prefix 'model.'")  # what loading Lightning's file says
BATCHES = [(torch.randn(30, 64, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 10)]
OPTIONS: dict[str, Any] = {"quantities": "compression", "progress": False}


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))


@pytest.fixture
def saved(tmp_path: Path) -> list[Path]:
    """Three checkpoints: safetensors, of torch, and of Lightning."""
    first, second, third = (network(seed).state_dict() for seed in (1, 2, 3))
    paths = [tmp_path / "step1.safetensors", tmp_path / "step2.pt", tmp_path / "step10.ckpt"]
    save_file(first, paths[0])
    torch.save(second, paths[1])
    torch.save({"state_dict": {f"model.{name}": value for name, value in third.items()}}, paths[2])
    return paths


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checkpoints that are read."""
    names: list[str] = []
    load = tracking.models.load_weights
    monkeypatch.setattr(
        tracking.models, "load_weights", lambda model, path: (names.append(Path(path).name), load(model, path))
    )
    return names


@pytest.mark.parametrize("given", ["module", "function"])
def test_each_checkpoint_is_measured_as_it_is(saved: list[Path], given: str) -> None:
    own = network()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    run = nc.track_checkpoints(own if given == "module" else network, saved, BATCHES, **OPTIONS)
    assert run["step"].values.tolist() == [0, 1, 2]
    assert run["checkpoint"].values.tolist() == ["step1.safetensors", "step2.pt", "step10.ckpt"]
    for step, seed in enumerate((1, 2, 3)):
        expected = nc.analyze(network(seed), BATCHES, **OPTIONS)["compression"]
        np.testing.assert_array_equal(run["compression"].isel(step=step).values, expected.values)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_folder_of_hugging_faces_and_shards_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    save_file(network(4).state_dict(), folder / "model.safetensors")
    run = nc.track_checkpoints(network, [folder], BATCHES, **OPTIONS)
    expected = nc.analyze(network(4), BATCHES, **OPTIONS)["compression"]
    np.testing.assert_array_equal(run["compression"][0], expected)
    assert run["checkpoint"].values.tolist() == ["checkpoint-5"]


def test_a_longer_list_goes_on_and_nothing_is_read_twice(saved: list[Path], tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "run.nc"
    nc.track_checkpoints(network, saved[:2], BATCHES, path=path, **OPTIONS)
    assert read == ["step1.safetensors", "step2.pt"]
    longer = nc.track_checkpoints(network, saved, BATCHES, path=path, **OPTIONS)
    assert read == ["step1.safetensors", "step2.pt", "step10.ckpt"]
    whole = nc.track_checkpoints(network, saved, BATCHES, **OPTIONS)
    np.testing.assert_array_equal(longer["compression"], whole["compression"])
    assert nc.open(path)["checkpoint"].values.tolist() == whole["checkpoint"].values.tolist()


def test_an_interrupted_list_keeps_what_is_finished(saved: list[Path], tmp_path: Path, read: list[str]) -> None:
    path = tmp_path / "run.nc"
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no")
    with pytest.raises(nc.models.ModelError, match=r"broken\.safetensors"):
        nc.track_checkpoints(network, [saved[0], broken], BATCHES, path=path, **OPTIONS)
    assert nc.open(path)["checkpoint"].values.tolist() == ["step1.safetensors"]
    nc.track_checkpoints(network, saved, BATCHES, path=path, **OPTIONS)
    assert read == ["step1.safetensors", "broken.safetensors", "step2.pt", "step10.ckpt"]


def test_other_checkpoints_than_those_in_the_file_are_refused(saved: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    nc.track_checkpoints(network, saved[:2], BATCHES, path=path, **OPTIONS)
    with pytest.raises(nc.TrackingError, match=r"run\.nc holds other checkpoints, or in another order"):
        nc.track_checkpoints(network, saved[1:], BATCHES, path=path, **OPTIONS)
    nc.track(network(), BATCHES, path=tmp_path / "other.nc", **OPTIONS).record(0)
    with pytest.raises(nc.TrackingError, match="holds other checkpoints"):
        nc.track_checkpoints(network, saved, BATCHES, path=tmp_path / "other.nc", **OPTIONS)


@pytest.mark.parametrize(
    ("model", "paths", "error", "message"),
    [
        (network, [], ValueError, "`checkpoints` must hold at least one path"),
        (network, ["a.pt", "a.pt"], ValueError, "`checkpoints` holds a.pt twice"),
        (5, ["a.pt"], TypeError, "`model` must be a spec, a module or a function that builds one, got int"),
        (network, ["none.pt"], nc.models.ModelError, r"none\.pt"),
    ],
)
def test_mistakes_are_one_line(model: Any, paths: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        nc.track_checkpoints(model, paths, BATCHES, **OPTIONS)
    assert "\n" not in str(caught.value)


def test_names_are_told_apart_by_their_folders(saved: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "b"
    other.mkdir()
    (other / "step1.safetensors").write_bytes(saved[0].read_bytes())
    run = nc.track_checkpoints(network, [saved[0], other / "step1.safetensors"], BATCHES, **OPTIONS)
    assert run["checkpoint"].values.tolist() == [f"{tmp_path.name}/step1.safetensors", "b/step1.safetensors"]


def test_files_are_ordered_by_their_numbers() -> None:
    names = ["e2/s10", "e2/s9", "e10/s1", "e2/s9b", "e02/s1"]
    assert [str(path) for path in in_natural_order(map(Path, names))] == [
        "e02/s1",
        "e2/s9",
        "e2/s9b",
        "e2/s10",
        "e10/s1",
    ]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in a folder with a factory; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "tracked_model.py").write_text(
        "from torch import nn\n\n\ndef build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))\n"
    )

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            main(["track", "--model", "tracked_model:build", "--data", "digits", *arguments])
        printed = capsys.readouterr()
        return exit_.value.code, printed.out, printed.err

    return call


def test_the_command_ends_forward_passes_early(run: Any, saved: list[Path], tmp_path: Path) -> None:
    arguments = ("--limit", "100", "--batch-size", "40", "--layers", "1", "--checkpoints", "step*")
    assert run(*arguments, "--halt", "--output", "halted.nc")[0] == run(*arguments, "--output", "whole.nc")[0] == 0
    halted, whole = nc.open(tmp_path / "halted.nc"), nc.open(tmp_path / "whole.nc")
    assert halted["compression"].values.tolist() == whole["compression"].values.tolist()
    code, _, err = run(*arguments, "--halt", "--quantities", "nc4", "--output", "refused.nc")
    assert code != 0
    assert "which --halt does not compute" in err


def test_the_command_orders_files_and_writes_run_and_report(run: Any, saved: list[Path], tmp_path: Path) -> None:
    arguments = ("--limit", "100", "--quantities", "compression", "--checkpoints")
    code, out, err = run(*arguments, "step*", "--report", "run.html")
    assert code == 0, err
    found = nc.open(tmp_path / "run.nc")
    assert found["checkpoint"].values.tolist() == [path.name for path in saved]
    assert "step 2" in out
    assert "Over training" in (tmp_path / "run.html").read_text(encoding="utf-8")
    code, _, err = run(*arguments, "nothing*")
    assert code == 2
    assert "'nothing*' matches no file" in err
