"""Tracking disturbs no training on two ranks, compiled or in bfloat16, and measures what one process does."""

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

import neurocollapse as nc
from tests.ranks import run_ranks

DRIVER = Path(__file__).with_name("two_ranks.py")
driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
WORLD_SIZE = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks have written."""
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(DRIVER, WORLD_SIZE, folder)
    return folder


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Whether all tensors are the same to the last bit."""
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("case", driver.CASES)
@pytest.mark.parametrize("rank", range(WORLD_SIZE))
def test_training_on_two_ranks_is_the_same_to_the_last_bit(folder: Path, case: str, rank: int) -> None:
    ends = torch.load(folder / f"{case}.rank{rank}")
    assert same(ends["without"], ends["tracked"])


@pytest.mark.parametrize("case", ["single", "double"])
def test_two_ranks_record_the_numbers_of_one_process(folder: Path, case: str) -> None:
    run = nc.open(folder / f"{case}.nc")
    assert run["step"].values.tolist() == list(range(driver.EPOCHS))
    assert run.attrs["num_samples"] == driver.NUM_PROBES
    # The batches of the ranks, so that matrix products of the model do not differ
    rows = [range(rank, driver.NUM_PROBES, WORLD_SIZE) for rank in range(WORLD_SIZE)]
    size = driver.PROBES_IN_BATCH
    batches = [list(own[at : at + size]) for own in rows for at in range(0, len(own), size)]
    loader = DataLoader(driver.samples(case, driver.NUM_PROBES), batch_sampler=batches)
    tolerance = {"single": 1e-7, "double": 1e-12}[case]
    for epoch in range(driver.EPOCHS):
        model = driver.build(case)
        model.load_state_dict(torch.load(folder / f"{case}.weights.{epoch}"))
        expected = nc.analyze(model, loader, progress=False, **driver.CASES[case], **driver.OPTIONS)
        for name in expected.data_vars:
            found = run[name].isel(step=epoch).values
            np.testing.assert_allclose(found, expected[name].values, rtol=tolerance, atol=tolerance, err_msg=name)


eager_is_said = pytest.mark.filterwarnings("ignore:the model is set up for torch.compile; it runs eagerly")


def compiled(model: nn.Module) -> Any:
    """The model compiled without a C++ compiler: the graph is captured and differentiated ahead, then run as it is."""
    return torch.compile(model, backend="aot_eager")


def fitted(
    wrap: Any, *, tracked: bool, bfloat16: bool = False, epochs: int = 3
) -> tuple[list[Tensor], nc.FeatureTracker | None]:
    """Train a network with dropout and batch normalisation, with or without a tracker."""
    torch.manual_seed(3)
    model = wrap(driver.build("batch norm"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(driver.samples("single", 60), 20, shuffle=True)
    tracker = nc.track(model, loader, **driver.OPTIONS) if tracked else None
    for epoch in range(epochs):
        for number, (inputs, labels) in enumerate(loader):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                loss = functional.cross_entropy(model(inputs), labels)
                if tracker is not None and number == 1:
                    tracker.record(epoch + 0.5)  # inside autocast, before the backward pass
                    assert torch.is_autocast_enabled("cpu") == bfloat16
            loss.backward()
            optimizer.step()
        if tracker is not None:
            tracker.record(epoch + 1.0)
    return driver.everything(model, optimizer), tracker


@eager_is_said
@pytest.mark.parametrize("wrap", [lambda model: model, compiled], ids=["plain", "compiled"])
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_training_compiled_or_in_bfloat16_is_the_same_to_the_last_bit(wrap: Any, bfloat16: bool) -> None:
    torch.compiler.reset()
    expected, _ = fitted(wrap, tracked=False, bfloat16=bfloat16)
    torch.compiler.reset()
    found, tracker = fitted(wrap, tracked=True, bfloat16=bfloat16)
    assert same(expected, found)
    assert tracker.to_dataset().sizes["step"] == 6
    assert bool(np.isfinite(tracker.to_dataset()["compression"]).all())


@eager_is_said
def test_a_compiled_network_is_measured_like_the_bare_one() -> None:
    torch.compiler.reset()
    runs = [fitted(wrap, tracked=True)[1].to_dataset() for wrap in (lambda model: model, compiled)]
    assert runs[1]["layer"].values.tolist() == runs[0]["layer"].values.tolist()
    for name in ("compression", "nc1", "margin_best"):
        # The same operations in an order of their own: float32 weights differ by rounding
        np.testing.assert_allclose(runs[1][name], runs[0][name], rtol=1e-4, err_msg=name)


@eager_is_said
def test_tracking_compiles_nothing_again() -> None:
    torch.compiler.reset()
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    def wrap(model: nn.Module) -> Any:
        return torch.compile(model, backend=counted)

    fitted(wrap, tracked=False, epochs=2)
    alone = len(graphs)
    torch.compiler.reset()
    fitted(wrap, tracked=True, epochs=2)
    assert alone > 0
    assert len(graphs) == 2 * alone
