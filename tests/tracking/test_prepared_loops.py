"""Loops of one's own under Accelerate and Fabric: the same training to the last bit, and the numbers of analyze."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

pytestmark = pytest.mark.filterwarnings("ignore")  # both libraries warn of their own future
OPTIONS: dict[str, Any] = {"layers": ["leaves", "penultimate"], "quantities": "compression"}


def samples() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    return TensorDataset(
        torch.randn(3, 6, generator=generator)[labels] + torch.rand(60, 6, generator=generator), labels
    )


PROBE = DataLoader(samples(), 20)


def accelerate(precision: str, *parts: Any) -> tuple[Any, ...]:
    """Parts prepared, and the backward pass."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # one precision a process
    accelerator = Accelerator(cpu=True, mixed_precision={"32": "no", "bf16-mixed": "bf16"}[precision])
    return (*accelerator.prepare(*parts), accelerator.backward)


def fabric(precision: str, model: Any, optimizer: Any, loader: Any) -> tuple[Any, ...]:
    """The same of Lightning."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", precision=precision)
    return (*fabric.setup(model, optimizer), fabric.setup_dataloaders(loader), fabric.backward)


def trained(prepare: Any, precision: str, *, tracked: bool) -> tuple[list[torch.Tensor], nn.Module, Any]:
    torch.manual_seed(0)
    bare = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 3))
    loader = DataLoader(samples(), 20, shuffle=True)
    model, optimizer, loader, backward = prepare(precision, bare, torch.optim.Adam(bare.parameters()), loader)
    tracker = nc.track(model, PROBE, **OPTIONS) if tracked else None
    for epoch in range(2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), labels)
            backward(loss)
            optimizer.step()
        if tracker is not None:
            tracker.record(epoch, loss=loss.item())
    moments = [part for state in optimizer.state.values() for part in state.values() if torch.is_tensor(part)]
    return [*bare.state_dict().values(), *moments, torch.get_rng_state()], bare, tracker


@pytest.mark.parametrize("library", ["accelerate", "lightning.fabric"])
@pytest.mark.parametrize("precision", ["32", "bf16-mixed"])
def test_training_is_the_same_and_numbers_are_those_of_analyze(library: str, precision: str) -> None:
    pytest.importorskip(library)
    prepare = accelerate if library == "accelerate" else fabric
    expected, *_ = trained(prepare, precision, tracked=False)
    found, model, tracker = trained(prepare, precision, tracked=True)
    assert len(found) > 12
    assert all(map(torch.equal, expected, found))
    run = tracker.to_dataset()
    assert run["layer"].values.tolist() == ["0", "1", "2", "3", "4@in", "4"]
    last = nc.analyze(model, PROBE, progress=False, **OPTIONS)
    np.testing.assert_array_equal(run["compression"][-1], last["compression"])
