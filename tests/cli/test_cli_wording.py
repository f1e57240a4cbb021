"""What the library says of its arguments, the command line says of its options."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from neurocollapse.cli import main
from neurocollapse.cli.program import app
from neurocollapse.cli.wording import OTHERS, options_of, spoken

MODELS = """
import torch
from torch import nn

def network(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))

class Nan(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)
    def forward(self, x): return self.head(x.flatten(1) * float("nan"))
"""
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = [(command, name) for command, found in COMMANDS.items() for name in options_of(found.params)]


@pytest.mark.parametrize(("command", "name"), OPTIONS, ids=lambda part: part)
def test_every_option_is_called_so_in_every_kind_of_message(command: str, name: str) -> None:
    options = options_of(COMMANDS[command].params)
    option, negative = options[name]
    for message, expected in {
        f"`{name}` must be larger": f"{option} must be larger",
        f"pass {name}=13; it": f"pass {option} 13; it",
        f"pass {name}=0.5, or more": f"pass {option} 0.5, or more",
        f'pass {name}="one"': f"pass {option} one",
        f"pass {name}='one', say": f"pass {option} one, say",
        f"with {name}=True it": f"with {option} it",
        f"with {name}=False it": f"with {negative or f'no {option}'} it",
        f"{name}=[1, 2] are": f"{option} 1,2 are",
    }.items():
        assert spoken(message, options) == expected
    alone = spoken(f"or raise {name}", options)
    assert alone == (f"or raise {option}" if "_" in name else f"or raise {name}")


def test_a_function_that_is_a_command_is_called_as_the_command() -> None:
    assert spoken("neurocollapse.layers(model) lists all names", {}) == "neurocollapse layers lists all names"


@pytest.mark.parametrize(
    "message",
    [
        "integers in [0, num_classes)",
        "layers={'alias': selector}",
        "halt=model.halted()",
        "the mode of all layers",
        "no file max_memory.npz in runs/max_memory/x",
        "`labels` reach 7",
        "has no argument 'num_classes'",
        "mask_fn=… or label_fn=nc.labels.next_token()",
    ],
)
def test_what_is_no_option_stays(message: str) -> None:
    assert spoken(message, options_of(COMMANDS["analyze"].params)) == message


def test_options_that_mean_something_else_are_left_out() -> None:
    assert not set(OTHERS) & options_of(COMMANDS["analyze"].params).keys()


@pytest.fixture
def said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says on standard error, in a folder with models and data."""
    (tmp_path / "spoken_models.py").write_text(MODELS)
    pixels = np.random.default_rng(0).normal(size=(12, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(12) % 3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call(*arguments: str, model: str = "network") -> str:
        given = ("--model", f"spoken_models:{model}", "--data", "npz:data.npz", "--no-progress")
        with pytest.raises(SystemExit):
            main([*arguments[:1], *given, *arguments[1:]])
        return capsys.readouterr().err

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-memory", "1e-7"), r"or raise --max-memory"),
        (("--max-memory", "-1"), r"--max-memory must"),
        (
            ("--state-bytes", "8", "--precision", "double"),
            r"--precision double takes 16 bytes; leave out --state-bytes",
        ),
        (("--classes", "1"), r"--classes must be"),
        (("--model-classes", "4"), r"has no argument 'num_classes'; add it, or leave out --model-classes 4"),
        (("--shard",), r"--shard divides the features among processes; start some with torchrun"),
        (("--classes", "2", "--num-classes", "3"), r"leave out --num-classes"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_a_refusal_names_the_option(arguments: tuple[str, ...], message: str, said: Callable[..., str]) -> None:
    assert re.search(message, said("analyze", *arguments))


def test_features_that_are_not_finite_are_answered_with_an_option(said: Callable[..., str]) -> None:
    assert "pass --non-finite skip to leave such samples out, or --precision double" in said("analyze", model="Nan")


@pytest.mark.parametrize("state_bytes", ["16", "12", "8"])
def test_state_goes_where_it_is_asked_to_and_takes_what_it_may(
    state_bytes: str, said: Callable[..., str], tmp_path: Path
) -> None:
    import neurocollapse as nc

    (tmp_path / "state").mkdir()
    assert said("analyze", "--state-bytes", state_bytes, "--state-dir", "state") == ""
    assert int(nc.open("analysis.nc").attrs["state_bytes"]) <= int(state_bytes)
    assert not list((tmp_path / "state").iterdir())
