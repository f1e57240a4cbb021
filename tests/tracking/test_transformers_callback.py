"""A tracker inside the Trainer of transformers: the same numbers, and the same training to the last bit."""

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


def trained(folder: Path, *callbacks: Any, **changes: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=30, num_labels=3, **sizes))
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 8, "eval_strategy": "epoch", "save_strategy": "no",
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-3, **changes,
    }  # fmt: skip
    arguments = transformers.TrainingArguments(str(folder), **settings)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Sentences(), eval_dataset=Sentences(), callbacks=list(callbacks)
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
