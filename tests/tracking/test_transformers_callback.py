"""A tracker inside the Trainer of transformers: the same numbers, and the same training to the last bit."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import neurocollapse as nc

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and accelerate warn of their own future


class Sentences(Dataset):
    """Token ids whose first one tells the class."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(24) % 3
        self.ids = torch.randint(10, 30, (24, 5), generator=generator)
        self.ids[:, 0] = self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.labels[index]}


PROBE = DataLoader(Sentences(), 8, shuffle=True)
OPTIONS: dict[str, Any] = {"layers": ["penultimate"], "quantities": ["compression", "margin"]}


class Counted:
    """A loader that counts how often it is read."""

    def __init__(self, loader: Any, read: list[int]) -> None:
        self.loader, self.read = loader, read

    def __iter__(self) -> Any:
        self.read.append(1)
        return iter(self.loader)


def trained(folder: Path, *callbacks: Any, evaluate: Any = None, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **sizes))
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "eval_strategy": "epoch", "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3, **changes,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **settings)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Sentences(), eval_dataset=evaluate or Sentences(), callbacks=list(callbacks)
    )
    trainer.train()
    return trainer


def test_training_is_the_same_to_the_last_bit_and_numbers_are_those_of_analyze(tmp_path: Path) -> None:
    expected = trained(tmp_path)
    callback = nc.callbacks.Transformers(PROBE, path=tmp_path / "run.nc", log=True, **OPTIONS)
    found = trained(tmp_path, callback)
    for one, other in zip(expected.model.state_dict().values(), found.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    run = callback.to_dataset()
    assert run["step"].values.tolist() == [3, 6]
    assert run["epoch"].values.tolist() == [1.0, 2.0]
    assert run["eval_loss"].notnull().all()
    last = nc.analyze(found.model, PROBE, progress=False, **OPTIONS)
    np.testing.assert_allclose(run["compression"][-1], last["compression"], rtol=1e-12)  # another order of samples
    assert nc.open(tmp_path / "run.nc")["step"].values.tolist() == [3, 6]
    logged = [line for line in found.state.log_history if any(name.startswith("compression/") for name in line)]
    assert [line["step"] for line in logged] == [3, 6]
    assert not any("eval_loss" in line for line in logged)


def test_a_prefix_tells_two_callbacks_apart_and_a_function_gets_everything(tmp_path: Path) -> None:
    lines: list[dict[str, float]] = []
    logs = ("train/", "test/", lambda numbers, step: lines.append({"step": step, **numbers}))
    found = trained(tmp_path, *(nc.callbacks.Transformers(PROBE, log=log, **OPTIONS) for log in logs))
    for prefix in ("train/", "test/"):
        logged = [
            line for line in found.state.log_history if any(one.startswith(f"{prefix}compression/") for one in line)
        ]
        assert [line["step"] for line in logged] == [3, 6]
    assert [line["step"] for line in lines] == [3, 6]
    assert all("eval_loss" in line and any(one.startswith("compression/") for one in line) for line in lines)


def test_a_training_that_starts_over_begins_its_file_again(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    for every, steps in ((1, [1, 2, 3, 4, 5, 6]), ("epoch", [3, 6])):
        trained(tmp_path, nc.callbacks.Transformers(PROBE, every=every, path=path, **OPTIONS))
        assert nc.open(path)["step"].values.tolist() == steps


@pytest.mark.parametrize(
    ("every", "steps"), [("epoch", [3, 6]), ("2 epochs", [6]), (2, [2, 4, 6]), ("log", [1, 2, 3, 4, 5])]
)
def test_it_records_as_often_as_asked(tmp_path: Path, every: Any, steps: list[int]) -> None:
    callback = nc.callbacks.Transformers(PROBE, every=every, **OPTIONS)
    trained(tmp_path, callback, eval_strategy="no")
    assert callback.to_dataset()["step"].values.tolist() == steps


def test_several_evaluation_sets_stand_beside_one_record(tmp_path: Path) -> None:
    read: list[int] = []
    lines: list[dict[str, float]] = []
    probe, compression = Counted(PROBE, read), {**OPTIONS, "quantities": "compression"}
    path = tmp_path / "run.nc"
    callbacks = [
        nc.callbacks.Transformers(probe, path=path, log=True, **compression),
        nc.callbacks.Transformers(PROBE, log=lambda numbers, step: lines.append({"step": step, **numbers}), **OPTIONS),
    ]
    found = trained(tmp_path, *callbacks, evaluate={"near": Sentences(), "far": Sentences()})
    run = nc.open(path)
    assert run["step"].values.tolist() == [3, 6]
    assert run["eval_near_loss"].notnull().all()
    assert run["eval_far_loss"].notnull().all()
    assert len(read) == 2
    logged = [line for line in found.state.log_history if any(one.startswith("compression/") for one in line)]
    assert [line["step"] for line in logged] == [3, 6]
    assert [line["step"] for line in lines if "eval_near_loss" in line] == [3, 6]
    assert [line["step"] for line in lines if "eval_far_loss" in line] == [3, 6]


def test_an_evaluation_after_the_training_leaves_the_last_record_as_it_is(tmp_path: Path) -> None:
    callback = nc.callbacks.Transformers(PROBE, **OPTIONS)
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": True}
    trainer = trained(tmp_path, callback, save_strategy="epoch", **best)
    assert trainer.state.best_global_step == 3  # the weights are now those of the first epoch
    run = callback.to_dataset()
    trainer.evaluate()
    trainer.evaluate(metric_key_prefix="test")
    assert callback.to_dataset().identical(run)
    trainer.train()
    assert callback.to_dataset()["step"].values.tolist() == [3, 6]


def test_a_training_without_evaluations_says_that_nothing_will_be_recorded(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="nothing will be recorded.*pass every="):
        trained(tmp_path, nc.callbacks.Transformers(PROBE, **OPTIONS), eval_strategy="no")


@pytest.mark.slow
def test_an_alarm_of_the_first_process_ends_both(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    command = [sys.executable, str(Path(__file__).with_name("transformers_ranks.py")), str(tmp_path)]
    ranks = [
        subprocess.Popen(command, env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2", "2"]


def test_an_alarm_ends_the_training_and_a_wrong_one_is_refused_before_it(tmp_path: Path) -> None:
    alarm = nc.Alarm("compression@penultimate > 0", action="stop")
    callback = nc.callbacks.Transformers(PROBE, every=2, alarms=[alarm], **OPTIONS)
    assert trained(tmp_path, callback, eval_strategy="no").state.global_step == 2
    wrong = nc.callbacks.Transformers(PROBE, alarms=["compresion@penultimate > 0"], **OPTIONS)
    with pytest.raises(ValueError, match="did you mean 'compression'"):
        trained(tmp_path, wrong)


def test_mistakes_are_one_line() -> None:
    with pytest.raises(
        ValueError, match='`every` must be "evaluate", "epoch", "10 epochs", a number of updates, "log"'
    ):
        nc.callbacks.Transformers(PROBE, every="save")
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        nc.callbacks.Transformers(PROBE).to_dataset()
    with pytest.raises(AttributeError, match="there are Lightning, Transformers"):
        _ = nc.callbacks.Keras


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "neurocollapse.tracking.transformers_callback", raising=False)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"transformers is not installed; pip install 'neurocollapse\[text\]'"):
        _ = nc.callbacks.Transformers
