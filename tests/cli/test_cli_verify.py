"""verify on the command line: verdicts become exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import neurocollapse as nc
from neurocollapse.cli import main
from neurocollapse.experiments import ProgressiveTheorem, train_linear_network

MODULE = """
from torch import nn

def linear():
    return nn.Sequential(*(nn.Linear(30, 30 if layer < 3 else 3, bias=False) for layer in range(4)))

def biased():
    return nn.Linear(30, 3)
"""


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["verify", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a trained deep linear network, its data, and a module that builds it."""
    setting = ProgressiveTheorem(width=30, depth=4, noise=0.05, output_scale=1.0, tolerance=1e-13, num_steps=6000)
    weights, inputs, labels = train_linear_network(setting, seed=0)
    save_file({f"{layer}.weight": weight.float() for layer, weight in enumerate(weights)}, tmp_path / "w.safetensors")
    np.savez(tmp_path / "data.npz", inputs=inputs.numpy().astype(np.float32), labels=labels.numpy())
    np.savez(tmp_path / "nan.npz", inputs=np.full((6, 30), np.nan, dtype=np.float32), labels=np.arange(6) % 3)
    (tmp_path / "verify_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_network_that_meets_the_theorem_exits_with_0(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "verify_models:linear", "--checkpoint", "w.safetensors", "--data", "npz:data.npz"]
    assert run([*given, "--json", "v.json", "--output", "v.nc", "--report", "v.html"]) == 0
    assert "holds" in capsys.readouterr().out
    assert json.loads((trained / "v.json").read_text())["status"] == "holds"
    assert nc.open(trained / "v.nc").attrs["status"] == "holds"
    assert "holds" in (trained / "v.html").read_text()


def test_a_tail_that_no_bound_decides_exits_with_3(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--model", "verify_models:biased", "--data", "npz:data.npz"]) == 3
    assert "NOT MET" in capsys.readouterr().out


def test_layers_that_spread_the_classes_exit_with_1(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--model", "verify_models:linear", "--data", "npz:data.npz"]) == 1
    assert "provably spreads the classes" in capsys.readouterr().out


def test_a_violated_verdict_exits_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from neurocollapse import experiments
    from neurocollapse.theory import verify

    def against_the_centred_separation(seed: int) -> nc.Verification:
        eye, labels = torch.eye(6).double(), torch.tensor([0, 0, 0, 1, 1, 1])
        same = torch.block_diag(torch.ones(3, 3), torch.ones(3, 3)).double() / 3
        weights = [0.3 * (eye - same) + 3**0.25 * same, 3**0.75 * same[::3]]
        return verify(weights, eye, labels, separation_means="centred")

    monkeypatch.setattr(experiments, "progressive_theorem", against_the_centred_separation)
    assert run([]) == 1
    assert "violated" in capsys.readouterr().out


def test_without_arguments_the_source_network_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    # The printed setting leaves the minimum-norm residual at 14 %, above the 10 % that Theorem 1 is granted: it says
    # nothing, and yet every layer provably compresses.
    assert run([]) == 0
    printed = capsys.readouterr().out
    assert "unmet: minimum_norm" in printed
    assert printed.count("provably compresses") == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "verify_models:linear"], "--data"),
        (["--model", "verify_models:linear", "--data", "digits"], "cannot be multiplied"),
        (["--model", "verify_models:linear", "--data", "npz:nan.npz"], "`inputs` must be finite"),
        (["--data", "digits"], "--model"),
        (["--tolerance", "-1"], "tolerance"),
        (["--json", "nowhere/v.json"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line(
    trained: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1
