"""What is refused while hooking a model is refused in one printable line of bounded length."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import xarray as xr
from torch import nn

from neurocollapse.hooks import CaptureError, capture, inspect_layers
from neurocollapse.hooks.recorder import Recorder

MOST = 300
LONG = "x" * 10_000
INPUTS = torch.zeros(4, 3)


class Tree(nn.Module):
    """Returns a container of many entries with long names."""

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {f"{LONG}{index}": {LONG: x[0]} for index in range(9)}


def network(name: str = "fc") -> nn.Module:
    model = nn.Sequential()
    model.add_module(name, nn.Linear(3, 2))
    return model


def captured(model: nn.Module, layers: Any = "**", **options: Any) -> None:
    with capture(model, layers, **options) as features:
        model(INPUTS)
    features["no such layer"]


CALLS: dict[str, Callable[[], Any]] = {
    "a long name": lambda: captured(network(), LONG),
    "a long glob": lambda: captured(network(), LONG + "*"),
    "a long glob without characters in brackets": lambda: captured(network(), LONG + "[z-a]"),
    "a long exclusion": lambda: captured(network(), "!" + LONG),
    "nothing left of many names": lambda: captured(network(), ["fc", *["!fc"] * 3000]),
    "a tensor as layers": lambda: captured(network(), torch.ones(5, 5)),
    "a dataset as layers": lambda: captured(network(), xr.Dataset()),
    "a text with a line break": lambda: captured(network(), "fc\n\x1b[31m"),
    "an alias of many lines": lambda: captured(network(), {(1, "\n" * 500): "fc"}),
    "two long aliases for one layer": lambda: captured(network(), [{LONG: "fc"}, {LONG + "y": "fc"}]),
    "one long alias for two layers": lambda: captured(
        nn.Sequential(nn.ReLU(), nn.ReLU()), [{LONG: "0"}, {LONG: nn.ReLU}, {LONG: "1"}]
    ),
    "a model whose names are long": lambda: captured(network(LONG), LONG[:-1]),
    "a pooling of many lines": lambda: captured(network(), pool=torch.ones(5, 5)),
    "a long pooling": lambda: captured(network(), pool=LONG),
    "a pooling of an unknown layer": lambda: captured(network(), pool={LONG: "mean"}),
    "an output that leads to no tensor": lambda: captured(network(), ["fc"], output=nn.LSTM(2, 3)),
    "an output that leads to many things": lambda: captured(network(), ["fc"], output=lambda out: [LONG, out] * 500),
    "a long path to the output": lambda: captured(Tree(), "(root)", output=LONG),
    "an output with long names": lambda: captured(Tree(), "(root)"),
    "a long name of a mask": lambda: captured(network(), mask=LONG),
    "a number of samples of many lines": lambda: Recorder(network(), "fc", sink=print).expect(torch.ones(5, 5)),
    "features of a layer that is none": lambda: captured(nn.Sequential(*[nn.ReLU() for _ in range(200)])),
    "an example that is a text": lambda: inspect_layers(nn.Conv2d(3, 4, 3), "x"),
    "an example of unnamed arguments": lambda: inspect_layers(network(), {1: 2}),
}


@pytest.mark.filterwarnings("ignore::neurocollapse.CaptureWarning")
@pytest.mark.parametrize("call", list(CALLS))
def test_a_mistake_is_refused_in_one_line(call: str) -> None:
    with pytest.raises((CaptureError, TypeError, ValueError, KeyError)) as refusal:
        CALLS[call]()
    said = str(refusal.value)
    assert len(said) <= MOST, len(said)
    assert said.isprintable(), said


def test_a_failing_layer_is_passed_on_from_an_example_of_tensors() -> None:
    """What is wrong with its numbers, the model says best."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        inspect_layers(network(), torch.zeros(4, 7))


def test_a_shortened_error_keeps_its_beginning_and_its_way_out() -> None:
    error = CaptureError("`layers` names " + LONG + "; pass another")
    assert str(error).startswith("`layers` names xxx")
    assert str(error).endswith("; pass another")


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_an_error_can_be_copied_and_sent_to_other_processes(copied: Callable[[Any], Any]) -> None:
    assert str(copied(CaptureError("one line"))) == "one line"
