"""Training runs on disk: written in one step, resumed to the last bit, and refused where they do not fit."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from neurocollapse import models
from neurocollapse.train import History, Progress, TrainingError, fit, load_checkpoint, save_checkpoint


def dataset(num_samples: int = 30, *, classes: int = 3, seed: int = 0) -> TensorDataset:
    source = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(num_samples, 4, generator=source), torch.arange(num_samples) % classes)


def network(width: int = 6) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.Dropout(0.3), nn.Linear(width, 3))


def run(model: nn.Module, data: TensorDataset | None = None, **options: Any) -> History:
    defaults = {"epochs": 6, "batch_size": 7, "learning_rate": 0.01, "seed": 3, "progress": False}
    return fit(model, data or dataset(), **{**defaults, **options})


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


def stop_after(epoch: int) -> dict[str, Callable[[Progress], None]]:
    def stop(progress: Progress) -> None:
        if progress.epoch == epoch:
            raise KeyboardInterrupt

    return {"after_batch": stop}


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
def test_a_resumed_run_equals_the_unbroken_one_to_the_last_bit(tmp_path: Path, optimizer: str, schedule: str) -> None:
    options = {"optimizer": optimizer, "schedule": schedule, "weight_decay": 1e-3}
    unbroken, resumed = network(), network()
    history = run(unbroken, **options)
    for epoch in (0, 2, 3):
        resumed = network()
        with pytest.raises(KeyboardInterrupt):
            run(resumed, resume=tmp_path / "run.safetensors", events=stop_after(epoch), **options)
    resumed = network()
    assert run(resumed, resume=tmp_path / "run.safetensors", **options) == history
    assert_same(resumed, unbroken)


def test_a_killed_process_resumes_to_the_last_bit(tmp_path: Path) -> None:
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_training_checkpoints import network, run
run(network(), resume="run.safetensors", events={{"after_batch": lambda p: p.step == 13 and os.kill(os.getpid(), 9)}})
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False, timeout=120)
    assert killed.returncode == -9
    resumed, unbroken = network(), network()
    assert load_checkpoint(tmp_path / "run.safetensors").epoch == 2
    assert run(resumed, resume=tmp_path / "run.safetensors") == run(unbroken)
    assert_same(resumed, unbroken)


def test_a_finished_run_is_loaded_and_more_epochs_may_follow(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    first, again, longer, unbroken = (network() for _ in range(4))
    history = run(first, resume=file, epochs=2)
    assert run(again, resume=file, epochs=2) == history
    assert_same(first, again)
    assert run(longer, resume=file, epochs=4) == run(unbroken, epochs=4)
    assert_same(longer, unbroken)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.5}, "was written with learning_rate=0.01, not 0.5"),
        ({"optimizer": "sgd"}, "was written with optimizer='adam', not 'sgd'"),
        ({"seed": 9}, "was written with seed=3, not 9"),
        ({"data": dataset(29)}, "was written with 30 samples, not 29"),
        ({"data": dataset(seed=1)}, "was written with other inputs; use the same settings and data, or another file"),
        ({"data": dataset(classes=2)}, "was written with other labels"),
        ({"model": network().double()}, r"was written with '0.weight' in torch.float32, not torch.float64"),
        ({"epochs": 1}, "was written with 2 finished epochs, more than epochs=1"),
        ({"model": network(5)}, "belongs to another model"),
    ],
)
def test_another_run_is_not_resumed(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    file = tmp_path / "run.safetensors"
    run(network(), resume=file, epochs=2)
    model = options.pop("model", None) or network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingError, match=message) as caught:
        run(model, resume=file, **options)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_run_stopped_in_its_first_epoch_starts_anew_on_the_same_model(tmp_path: Path, error: type) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 3:
            raise error

    stopped, unbroken = network(), network()
    with pytest.raises(error):
        run(stopped, resume=tmp_path / "run", events={"after_batch": stop})
    assert_same(stopped, network())
    assert run(stopped, resume=tmp_path / "run") == run(unbroken)
    assert_same(stopped, unbroken)


def test_a_first_batch_that_fails_in_the_model_leaves_its_running_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(5, 3))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(model)
    assert model[1].num_batches_tracked == 0


def test_augmented_inputs_do_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    class Augmented(TensorDataset):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
            inputs, label = super().__getitem__(index)
            return inputs + torch.randn(4), label

    data = Augmented(*dataset().tensors)
    resumed, unbroken = network(), network()
    run(network(), data, resume=tmp_path / "run", epochs=1)
    assert run(resumed, data, resume=tmp_path / "run", epochs=3) == run(unbroken, data, epochs=3)
    assert_same(resumed, unbroken)


def test_a_file_that_knows_nothing_of_its_data_is_resumed(tmp_path: Path) -> None:
    run(network(), resume=tmp_path / "run", epochs=1)
    saved = load_checkpoint(tmp_path / "run")
    optimizer = torch.optim.Adam((model := network()).parameters())
    saved.restore(model, optimizer)
    record = {name: value for name, value in saved.record.items() if name != "data"}
    save_checkpoint(tmp_path / "old", model, epoch=1, optimizer=optimizer, record=record)
    assert run(network(), resume=tmp_path / "old") == run(network())


def test_a_cosine_is_not_stretched_by_more_epochs(tmp_path: Path) -> None:
    run(network(), resume=tmp_path / "run", epochs=1, schedule="cosine")
    with pytest.raises(TrainingError, match="was written with epochs=1, not 2"):
        run(network(), resume=tmp_path / "run", epochs=2, schedule="cosine")


@pytest.mark.parametrize("contents", [b"", b"junk" * 20, (10**12).to_bytes(8, "little") + b"{}"])
def test_damaged_files_are_refused_with_their_name(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "run.safetensors").write_bytes(contents)
    with pytest.raises(TrainingError, match=r"run.safetensors is not a readable safetensors file"):
        run(network(), resume=tmp_path / "run.safetensors")


def test_other_safetensors_files_are_not_taken_for_runs(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(network().state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(TrainingError, match="but not one of neurocollapse's"):
        load_checkpoint(tmp_path / "net.safetensors")
    save_checkpoint(tmp_path / "net.safetensors", network(), epoch=1)
    with pytest.raises(TrainingError, match="holds no run of fit to resume"):
        run(network(), resume=tmp_path / "net.safetensors")


def test_a_missing_file_or_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="does not exist or is not a file"):
        load_checkpoint(tmp_path / "absent")
    with pytest.raises(TrainingError, match=r"cannot write .*: there is no such folder"):
        run(network(), resume=tmp_path / "no" / "folder", epochs=1)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.safetensors"
    save_checkpoint(file, network(), epoch=1)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TrainingError, match="No space left"):
        save_checkpoint(file, network(), epoch=2)
    assert load_checkpoint(file).epoch == 1
    assert os.listdir(tmp_path) == ["run.safetensors"]


def test_weights_of_a_run_open_as_a_models_checkpoint(tmp_path: Path) -> None:
    model = models.mlp(4, 5, 3, depth=2)
    run(model, resume=tmp_path / "run.safetensors", epochs=1)
    fresh = models.mlp(4, 5, 3, depth=2)
    models.load_weights(fresh, tmp_path / "run.safetensors")
    assert_same(model, fresh)


def test_a_loaded_checkpoint_outlives_its_file(tmp_path: Path) -> None:
    model = network()
    save_checkpoint(tmp_path / "net", model, epoch=0)
    checkpoint = load_checkpoint(tmp_path / "net")
    (tmp_path / "net").write_bytes(b"")
    checkpoint.restore(restored := network())
    assert_same(restored, model)


def test_tied_weights_are_stored_and_restored(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    save_checkpoint(tmp_path / "net", model, epoch=0, record={"note": [1, 2.5]})
    checkpoint = load_checkpoint(tmp_path / "net")
    expected = model[0].weight.clone()
    model[0].weight.data.zero_()
    checkpoint.restore(model)
    assert torch.equal(model[1].weight, expected)
    assert checkpoint.record == {"note": [1, 2.5]}
