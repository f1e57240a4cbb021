"""A tracker inside Lightning's Trainer: the same numbers, and the same training to the last bit."""

import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

lightning = pytest.importorskip("lightning.pytorch")
pytorch_lightning = pytest.importorskip("pytorch_lightning")
pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning advises about workers, devices and its own future

NUM_BATCHES = 3


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.randn(3, 6, generator=generator)
    return TensorDataset(centres[labels] + 0.5 * torch.randn(60, 6, generator=generator), labels)


PROBE = DataLoader(samples(), 20, shuffle=True)
OPTIONS: dict[str, Any] = {"layers": ["net.0", "net.4"], "quantities": ["compression"]}


def module_of(package: ModuleType, *, manual: bool = False) -> Any:
    """A network with dropout and batch normalisation, and one optimizer, or two that are stepped by hand."""

    class Classifier(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = not manual
            self.net = nn.Sequential(
                nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 8), nn.Linear(8, 3)
            )

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)

        def training_step(self, batch: Any, index: int) -> Any:
            inputs, labels = batch
            loss = functional.cross_entropy(self(inputs), labels)
            self.log("train/loss", loss, on_step=True, on_epoch=True)
            if not manual:
                return loss
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()
            return None

        def validation_step(self, batch: Any, index: int) -> None:
            inputs, labels = batch
            self.log("val_accuracy", (self(inputs).argmax(1) == labels).float().mean())

        def configure_optimizers(self) -> Any:
            if not manual:
                return torch.optim.Adam(self.parameters(), lr=1e-2)
            return [
                torch.optim.Adam(self.net[:3].parameters(), lr=1e-2),
                torch.optim.SGD(self.net[4:].parameters(), lr=1e-2, momentum=0.9),
            ]

    return Classifier()


def trained(
    folder: Path, *callbacks: Any, package: ModuleType = lightning, manual: bool = False, ckpt: Any = None,
    validate: bool = True, **changes: Any,
) -> Any:  # fmt: skip
    """A Trainer behind its training."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # the state that augmentations draw from
    module = module_of(package, manual=manual)
    settings: dict[str, Any] = {
        "max_epochs": 2, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
        "enable_model_summary": False, "accelerator": "cpu", "default_root_dir": folder, **changes,
    }  # fmt: skip
    trainer = package.Trainer(callbacks=list(callbacks), **settings)
    loaders = (DataLoader(samples(), 20, shuffle=True), DataLoader(samples(), 30) if validate else None)
    trainer.fit(module, *loaders, ckpt_path=ckpt)
    return trainer


def everything(trainer: Any) -> list[Tensor]:
    """Weights, buffers, moments of all optimizers, and random states."""
    state = [part for one in trainer.optimizers for row in one.state.values() for part in row.values()]
    python = torch.tensor([hash(random.getstate()) % 2**40])
    numpy = torch.from_numpy(np.random.get_state()[1].astype(np.int64))  # noqa: NPY002  # see above
    weights = trainer.lightning_module.state_dict().values()
    return [*weights, *map(torch.as_tensor, state), torch.get_rng_state(), python, numpy]


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual, two optimizers"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_is_the_same_to_the_last_bit(tmp_path: Path, manual: bool, precision: str) -> None:
    expected = trained(tmp_path, manual=manual, precision=precision)
    callback = nc.callbacks.Lightning(PROBE, every=2, path=tmp_path / "run.nc", log=True, **OPTIONS)
    found = trained(tmp_path, callback, manual=manual, precision=precision)
    assert len(callback.to_dataset()["step"]) >= NUM_BATCHES
    for one, other in zip(everything(expected), everything(found), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("package", [lightning, pytorch_lightning], ids=lambda package: package.__name__)
def test_numbers_are_those_of_analyze_under_either_name_of_lightning(tmp_path: Path, package: ModuleType) -> None:
    callback = nc.callbacks.Lightning(PROBE, path=tmp_path / "run.nc", **OPTIONS)
    trainer = trained(tmp_path, callback, package=package)
    run = callback.to_dataset()
    assert run["step"].values.tolist() == [3, 6]
    assert run["epoch"].values.tolist() == [0.0, 1.0]
    for name in ("val_accuracy", "train_loss_epoch"):
        assert run[name].notnull().all()
    assert float(run["val_accuracy"][-1]) == pytest.approx(float(trainer.callback_metrics["val_accuracy"]))
    torch.manual_seed(1)
    last = nc.analyze(trainer.lightning_module, PROBE, progress=False, **OPTIONS)
    np.testing.assert_allclose(run["compression"][-1], last["compression"], rtol=1e-12)  # another order of samples
    assert nc.open(tmp_path / "run.nc")["step"].values.tolist() == [3, 6]


@pytest.mark.parametrize(
    ("every", "steps", "changes"),
    [
        ("epoch", [3, 6, 9, 12], {}),
        ("2 epochs", [6, 12], {}),
        (5, [5, 10], {}),
        ("log", [1, 2, 3, 4, 5, 7, 9, 12], {}),
        (1, [1, 2, 3, 4, 5, 6, 7, 8], {"accumulate_grad_batches": 2}),
        (5, [6, 10, 16, 20], {"manual": True}),  # two optimizers: two updates at once
    ],
)
def test_it_records_as_often_as_asked(tmp_path: Path, every: Any, steps: list[int], changes: dict[str, Any]) -> None:
    callback = nc.callbacks.Lightning(PROBE, every=every, **OPTIONS)
    trained(tmp_path, callback, max_epochs=4, validate=False, **changes)
    assert callback.to_dataset()["step"].values.tolist() == steps


def test_it_records_within_a_share_of_wall_time(tmp_path: Path) -> None:
    callback = nc.callbacks.Lightning(PROBE, every="0.01%", **OPTIONS)
    trained(tmp_path, callback, max_epochs=4, validate=False)
    assert callback.to_dataset()["step"].values.tolist() == [1]


@pytest.mark.parametrize("every", ["epoch", 2])
def test_the_modules_log_gets_the_numbers(tmp_path: Path, every: Any) -> None:
    logger = lightning.loggers.CSVLogger(tmp_path, name="", version="")
    train, test = (nc.callbacks.Lightning(PROBE, every=every, log=prefix, **OPTIONS) for prefix in ("train/", "test/"))
    trainer = trained(tmp_path, train, test, logger=logger, log_every_n_steps=5)
    run = train.to_dataset()
    assert not any("compression" in str(name) for name in run.data_vars if name != "compression")
    rows = np.genfromtxt(tmp_path / "metrics.csv", delimiter=",", names=True, deletechars="", replace_space=" ")
    for prefix in ("train", "test"):
        column = rows[f"{prefix}/compression/net.4"]
        np.testing.assert_allclose(column[~np.isnan(column)], run["compression"].sel(layer="net.4"), rtol=1e-6)
        assert f"{prefix}/compression/net.0" in trainer.callback_metrics


def test_what_is_logged_under_a_name_that_is_taken_gets_another_one(tmp_path: Path) -> None:
    logged = {"logged_layer": 3.0, "compression": 0.5, "layer": 1.0, "elapsed_seconds": 2.0, "a/b": 4.0, "a_b": 5.0}

    class Logging(lightning.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            module.log_dict(logged)

    callback = nc.callbacks.Lightning(PROBE, path=tmp_path / "run.nc", **OPTIONS)
    trained(tmp_path, Logging(), callback)
    run = nc.open(tmp_path / "run.nc")
    expected = {
        "logged_compression": 0.5, "logged_layer": 3.0, "logged_logged_layer": 1.0, "logged_elapsed_seconds": 2.0,
        "a_b": 5.0, "logged_a_b": 4.0,
    }  # fmt: skip
    assert {name: run[name].values.tolist() for name in expected} == {name: [one] * 2 for name, one in expected.items()}
    assert run["elapsed_seconds"].values.tolist() != [2.0, 2.0]
    assert run["compression"].dims == ("step", "layer")


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_weights_of_another_precision_are_measured_on_batches_of_theirs(tmp_path: Path, precision: str) -> None:
    seeds = [DataLoader(samples(), 20, shuffle=True, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    expected = trained(tmp_path, precision=precision)
    callback = nc.callbacks.Lightning(seeds[0], **OPTIONS)
    found = trained(tmp_path, callback, precision=precision)
    assert all(map(torch.equal, everything(expected), everything(found)))
    kind = next(found.lightning_module.parameters()).dtype
    batches = [(inputs.to(kind), labels) for inputs, labels in seeds[1]]
    last = nc.analyze(found.lightning_module, batches, progress=False, **OPTIONS)
    np.testing.assert_array_equal(callback.to_dataset()["compression"][-1], last["compression"])


def test_another_callback_can_monitor_the_numbers(tmp_path: Path) -> None:
    ours = nc.callbacks.Lightning(PROBE, log=True, **OPTIONS)
    stopping = lightning.callbacks.EarlyStopping(
        "compression/net.4", stopping_threshold=1e9, check_on_train_epoch_end=True
    )
    assert trained(tmp_path, stopping, ours, max_epochs=5).current_epoch == 1


def test_a_function_gets_the_numbers_and_what_stands_beside(tmp_path: Path) -> None:
    lines: list[tuple[dict[str, float], float]] = []
    callback = nc.callbacks.Lightning(PROBE, log=lambda found, step: lines.append((found, step)), **OPTIONS)
    trained(tmp_path, callback)
    assert [step for _, step in lines] == [3, 6]
    assert {"compression/net.0", "val_accuracy", "train/loss_epoch", "epoch"} <= set(lines[0][0])


def test_a_training_that_resumes_goes_on_in_its_file(tmp_path: Path) -> None:
    saving = lightning.callbacks.ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    first, second = (nc.callbacks.Lightning(PROBE, every=1, path=tmp_path / "run.nc", **OPTIONS) for _ in range(2))
    trained(tmp_path, first, saving, enable_checkpointing=True)
    before = first.to_dataset()
    trained(tmp_path, second, max_epochs=3, ckpt=tmp_path / "epoch=0.ckpt")
    run = nc.open(tmp_path / "run.nc")
    assert run["step"].values.tolist() == list(range(1, 10))
    np.testing.assert_array_equal(run["compression"][:3], before["compression"][:3])
    # The second epoch came again, in an order of its own
    assert not np.isin(run["compression"][3:6], before["compression"]).any()


def test_a_training_that_starts_over_begins_its_file_again(tmp_path: Path) -> None:
    path = tmp_path / "run.nc"
    for every, steps in ((1, [1, 2, 3, 4, 5, 6]), ("epoch", [3, 6])):
        trained(tmp_path, nc.callbacks.Lightning(PROBE, every=every, path=path, **OPTIONS))
        assert nc.open(path)["step"].values.tolist() == steps


def test_a_second_fit_goes_on_in_memory(tmp_path: Path) -> None:
    callback = nc.callbacks.Lightning(PROBE, **OPTIONS)
    trainer = trained(tmp_path, callback)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(trainer.lightning_module, DataLoader(samples(), 20))
    assert callback.to_dataset()["step"].values.tolist() == [3, 6, 9]


def test_a_trial_of_one_batch_writes_nothing(tmp_path: Path) -> None:
    callback = nc.callbacks.Lightning(PROBE, path=tmp_path / "run.nc", **OPTIONS)
    trained(tmp_path, callback, fast_dev_run=True)
    assert callback.to_dataset()["step"].values.tolist() == [1]
    assert not (tmp_path / "run.nc").exists()


def test_a_training_after_a_trial_writes_its_file(tmp_path: Path) -> None:
    callback = nc.callbacks.Lightning(PROBE, path=tmp_path / "run.nc", **OPTIONS)
    trial = trained(tmp_path, callback, fast_dev_run=True)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    real = lightning.Trainer(max_epochs=2, callbacks=callback, **settings)
    real.fit(trial.lightning_module, DataLoader(samples(), 20))
    assert nc.open(tmp_path / "run.nc")["step"].values.tolist() == [3, 6]


def test_a_second_fit_measures_the_loader_that_is_its_own() -> None:
    callback = nc.callbacks.Lightning(lambda trainer: trainer.train_dataloader, **OPTIONS)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    module, inputs = module_of(lightning), samples().tensors
    for count in (60, 30):
        trainer = lightning.Trainer(max_epochs=1, callbacks=callback, **settings)
        trainer.fit(module, DataLoader(TensorDataset(inputs[0][:count], inputs[1][:count]), 10))
        assert callback.to_dataset().attrs["num_samples"] == count


def test_a_second_fit_does_not_end_by_the_alarm_of_the_first() -> None:
    alarms = [nc.Alarm("compression@net.4 > 0", action="stop")]
    callback = nc.callbacks.Lightning(PROBE, every=1, alarms=alarms, **OPTIONS)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(max_epochs=1, callbacks=callback, **settings)
    trainer.fit(module_of(lightning), DataLoader(samples(), 20))
    assert trainer.global_step == 1
    trainer.should_stop = False
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, DataLoader(samples(), 20))
    assert callback.to_dataset()["step"].values.tolist() == [1, 2, 3, 4]  # the condition is met all the time


def test_an_alarm_ends_the_training_and_a_wrong_one_is_refused_before_it(tmp_path: Path) -> None:
    alarm = nc.Alarm("compression@net.4 > 0", action="stop")
    callback = nc.callbacks.Lightning(PROBE, every=2, alarms=[alarm], **OPTIONS)
    assert trained(tmp_path, callback).global_step == 2
    for options, message in (
        ({"alarms": ["compression@net.9 > 0"], **OPTIONS}, r"no layer 'net.9'; did you mean"),
        ({"layers": "net.9"}, r"`layers` names 'net.9'"),
        ({"quantities": "compresion"}, "no quantity 'compresion'; did you mean 'compression'"),
    ):
        wrong = nc.callbacks.Lightning(PROBE, **options)
        with pytest.raises(ValueError, match=message):
            trained(tmp_path, wrong)
        assert wrong.tracker is None


class Samples(lightning.LightningDataModule):
    """Batches that are dicts."""

    def setup(self, stage: str) -> None:
        self.rows = [{"x": inputs, "label": label} for inputs, label in samples()]

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, 20, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.rows, 30)


class Wrapped(lightning.LightningModule):
    """A module without a forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.encoder(batch["x"]), batch["label"])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fitted(callback: Any) -> Any:
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
    lightning.Trainer(max_epochs=1, callbacks=callback, **options).fit(Wrapped(), datamodule=Samples())
    return callback


def test_a_part_is_measured_on_the_batches_of_a_data_module() -> None:
    def probe(trainer: Any) -> Any:
        return [(batch["x"], batch["label"]) for batch in trainer.datamodule.val_dataloader()]

    callback = nc.callbacks.Lightning(probe, part="encoder", layers=["leaves", "penultimate"])
    assert fitted(callback).to_dataset()["layer"].values.tolist() == ["0", "1", "2@in", "2"]


def test_mistakes_are_one_line() -> None:
    with pytest.raises(ValueError, match='`every` must be "epoch", "10 epochs", a number of updates, "log"'):
        nc.callbacks.Lightning(PROBE, every="save")
    with pytest.raises(TypeError, match="`log` must be True, a prefix of names or a function, got 3"):
        nc.callbacks.Lightning(PROBE, log=3)
    with pytest.raises(ValueError, match="nothing has been recorded yet"):
        nc.callbacks.Lightning(PROBE).to_dataset()
    with pytest.raises(ValueError, match="Wrapped defines no forward; name the part to measure: part='encoder'"):
        fitted(nc.callbacks.Lightning(PROBE))
    with pytest.raises(ValueError, match="`part`: Wrapped has no 'encode'; did you mean 'encoder'"):
        fitted(nc.callbacks.Lightning(PROBE, part="encode"))
    with pytest.raises(TypeError, match="`part` must be the name of a part of the module, got 3"):
        nc.callbacks.Lightning(PROBE, part=3)
    with pytest.raises(TypeError, match=r"got the dataset TensorDataset; wrap it in a torch\.utils\.data\.DataLoader"):
        fitted(nc.callbacks.Lightning(samples(), part="encoder"))
    with pytest.raises(TypeError, match="`loader` must be an iterable of batches, got NoneType"):
        fitted(nc.callbacks.Lightning(lambda trainer: None, part="encoder"))


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"lightning is not installed; pip install 'neurocollapse\[lightning\]'"):
        _ = nc.callbacks.Lightning
