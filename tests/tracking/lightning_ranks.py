"""Train under Lightning on two processes: alone, with a tracker, and with an alarm that ends it; keep how each ends."""

# ruff: noqa: E402  # torchvision is made ready before Lightning imports it

import atexit
import os
import runpy
import sys
import warnings
from pathlib import Path
from typing import Any

OPERATORS = runpy.run_path(str(Path(__file__).parents[1] / "conftest.py"))  # of torchvision, kept for the whole run

import lightning.pytorch as lightning
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

EPOCHS = 3
FOLDER = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return TensorDataset(
        torch.randn(3, 6, generator=generator)[labels] + torch.rand(60, 6, generator=generator), labels
    )


class Classifier(lightning.LightningModule):
    """Dropout and batch normalisation, and numbers for which processes wait for each other."""

    def __init__(self, case: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.case = case
        self.net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss = functional.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val/accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_train_end(self) -> None:
        end = [*self.state_dict().values(), torch.get_rng_state(), torch.tensor(self.trainer.global_step)]
        torch.save(end, FOLDER / f"{self.case}.rank{self.global_rank}")
        # Lightning keeps the group, whose threads abort a process that ends while they free a tensor.
        atexit.register(os._exit, 0)


def callbacks(case: str) -> list[Any]:
    """What watches each case."""
    options: dict[str, Any] = {"loader": DataLoader(samples(), 20), "quantities": "compression"}
    if case == "tracked":
        return [nc.callbacks.Lightning(path=FOLDER / "run.nc", log=True, **options)]
    alarm = nc.Alarm("compression@net.0 > 0", patience=2, action="stop")
    return [nc.callbacks.Lightning(every=1, alarms=[alarm], **options)] if case == "stopped" else []


def train(case: str) -> None:
    settings: dict[str, Any] = {
        "logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
        "accelerator": "cpu", "devices": 2, "strategy": "ddp_spawn", "max_epochs": EPOCHS,
    }  # fmt: skip
    lightning.seed_everything(1, verbose=False)
    trainer = lightning.Trainer(callbacks=callbacks(case), **settings)
    trainer.fit(Classifier(case), DataLoader(samples(), 10, shuffle=True), DataLoader(samples(), 30))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for name in ("bare", "tracked", "stopped"):
        train(name)
