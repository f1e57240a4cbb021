"""Wrong command lines of every kind: one line that says what to do, no traceback, and no other library's words."""

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from neurocollapse.cli import main

MODELS = """
import sys
import torch
from torch import nn

def network(num_classes=10): return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Linear(16, num_classes))
def broken(): raise RuntimeError("no such\\nluck \\x1b[31m")
def long(): raise ValueError("x" * 5000)
def leaves(): sys.exit(3)
def needs(width): return nn.Linear(width, 3)
class Fails(nn.Module):
    def forward(self, x): raise RuntimeError("line one\\nline two" + "y" * 1000)
class Nan(nn.Module):
    def __init__(self): super().__init__(); self.head = nn.Linear(64, 3)
    def forward(self, x): return self.head(x.flatten(1) * float("nan"))
"""
DATA = """
import torch
from torch.utils.data import Dataset

class Own(Dataset):
    targets = [0, 1]
    def __len__(self): return 2
    def __getitem__(self, index): return self.sample(index), index

class Uneven(Own):
    def sample(self, index): return torch.zeros(3 + index)
class Failing(Own):
    def sample(self, index): raise RuntimeError("cannot\\nread")
class Dicts(Own):
    def __getitem__(self, index): return {"image": torch.zeros(64), "label": index}

def empty(): return torch.zeros(0, 64), torch.zeros(0, dtype=torch.int64)
def floats(): return torch.zeros(8, 64), torch.rand(8)
def leaves(): raise SystemExit
"""
RED, LONG = "\x1b[31mred", "x" * 3000
FOREIGN = re.compile(
    r"Traceback|unpacking|islice|invalid literal|could not convert|\[Errno|Value error|object is not|not subscr"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, data and files that are wrong in many ways."""
    root = tmp_path_factory.mktemp("wrong")
    (root / "wrong_models.py").write_text(MODELS)
    (root / "wrong_data.py").write_text(DATA)
    pixels, labels = np.zeros((4, 64), np.float32), np.arange(4) % 2
    np.savez(root / "tokens.npz", x=np.arange(40).reshape(8, 5), y=np.arange(8) % 2)
    np.savez(root / "wide.npz", x=np.zeros((4, 65), np.float32), y=labels)
    np.savez(root / "far.npz", x=pixels, y=[0, 1, 0, 999_999])
    np.savez(root / "nan.npz", x=pixels * np.nan, y=labels)
    (root / f"{RED}.npz").write_text("x")
    for name, state in {"long": {LONG: torch.zeros(2)}, "escape": {f"{RED}\n": torch.zeros(2)}, "number": 1}.items():
        torch.save(state, root / f"{name}.pt")
    (root / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../x"}}))
    (root / "images/a").mkdir(parents=True)
    (root / "images/b").mkdir()
    Image.new("RGB", (4, 4)).save(root / "images/a/1.png")
    (root / "images/b/1.png").write_text("no image")
    (root / "idx").mkdir()
    (root / "idx/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\3" + struct.pack(">3I", 2**31, 2**31, 2**31))
    (root / "idx/train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\1" + struct.pack(">I", 5) + bytes(5))
    (root / "hf").mkdir()
    (root / "hf/config.json").write_text(json.dumps({"model_type": "bert", "architectures": [RED + LONG]}))
    return root


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def of(command: str) -> Callable[..., list[str]]:
    """Command lines with a good model and good data, and more."""
    good = {"--model": "wrong_models:network", "--data": "digits", "--limit": "30"}

    def line(*more: str, **changed: str) -> list[str]:
        options = good | {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
        return [command, *(part for option in options.items() for part in option), *more]

    return line


analyze, verify = of("analyze"), of("verify")
WRONG: list[list[str]] = [
    ["analyse"], ["--nope"], [""], ["analyze"], ["analyze", "x"], ["analyze", "--model"], ["analyze", "--modle", "x"],
    *(analyze(model=name) for name in (
        "", "x", ":", "a:", ":b", "a:b:c", "a b:c", LONG, f"{LONG}:y", RED, f"{RED}:x", "torchvision:",
        f"torchvision:{RED}", "timm:hf-hub:a/b", "hf:", "hf:nowhere", "hf:hf", f"hf:{RED}", f"hf:{LONG}",
        "torch.nn:Bilinear", "torch:nn", "sys:exit", "os:system", "wrong_models:broken", "wrong_models:long",
        "wrong_models:leaves", "wrong_models:needs", "wrong_models:Fails", "wrong_models:Nan", "wrong_models:netwrok",
        f"wrong_models:{LONG}", "wrong_model:network",
    )),
    *(analyze(data=name) for name in (
        "", "x", ":", "digits:x", "mnist", "mnist:", "mnist:nowhere", "mnist:idx", "cifar10:images", "folder:images",
        "folder:idx", "npz:", f"npz:{RED}.npz", f"npz:{LONG}", "npz:tokens.npz", "npz:wide.npz", "npz:far.npz",
        "npz:nan.npz", "wrong_data:Uneven", "wrong_data:Failing", "wrong_data:empty", "wrong_data:floats",
        "wrong_data:leaves", "wrong_data:nope", f"wrong_data:{LONG}", "wrong_dta:empty",
    )),
    analyze(data="folder:images", image_size="0"), analyze(data="folder:images", image_size="100000"),
    analyze(image_size="3"),
    *(analyze(checkpoint=name) for name in (
        "", "nowhere", "/", RED, LONG, "long.pt", "escape.pt", "number.pt", "model.safetensors.index.json",
        "wrong_data.py",
    )),
    *(analyze(option, value) for option, values in {
        "--seed": ("-1", "x", "1.5", "", "9223372036854775808", "9" * 30), "--batch-size": ("0", "x", "-1"),
        "--num-classes": ("0", "5", "x", "1000000", "99999999999"), "--model-classes": ("0", "x", "1000000000"),
        "--max-memory": ("0", "-1", "nan", "inf", "x", "1e-9"), "--pool": ("meen", "", LONG, RED),
        "--timeout": ("0", "x"),
        "--calls": ("none", LONG), "--mode": ("evil", RED), "--weighting": ("none",), "--precision": ("half",),
        "--non-finite": ("x",), "--probe": ("mse", "x"), "--split": ("val", ""),
        "--layers": ("11", "", LONG, RED, "[", "block", "@in", "!leaves", "0,1"),
        "--quantities": ("nc99", "", ",", "compression,compression", "compression,nope", LONG, RED, "nc1 nc4"),
        "--device": ("tpu9", "", "meta", RED, LONG), "--output": ("nowhere/a.nc", "/", LONG), "--report": ("images",),
        "--resume": ("wrong_data.py", "nowhere/x", "images"),
    }.items() for value in values),
    *(analyze(limit=limit) for limit in ("0", "-5", "x")),
    ["verify", "--data", "digits"], ["verify", "--checkpoint", "x"], verify("--tolerance", "-1"),
    verify("--json", "nowhere/x"), verify(data="wrong_data:empty"), verify(data="wrong_data:Dicts"),
    verify(model="wrong_models:Fails"), verify(data="npz:tokens.npz"),
    ["layers"], ["layers", "--model", "wrong_models:network", "--data", "npz:wide.npz"],
    ["layers", "--model", "wrong_models:network", "--data", "wrong_data:Dicts"],
    *(["experiment", *more] for more in (
        ["nope"], [LONG], [RED], ["decay", "extra"], ["decay", "--set", "x"], ["decay", "--set", "seed=x"],
        ["decay", "--set", f"seed={LONG}"], ["decay", "--set", f"{RED}=1"], ["decay", "--scale", "huge"],
        ["decay", "--figure", "x.foo"], ["decay", "--output", "nowhere/x"],
    )),
    *(["report", *more] for more in (
        ["none.nc"], ["images"], [RED], [LONG], ["wrong_data.py"], ["tokens.npz"], ["--output", "nowhere/x.html"],
        ["--seed", "-1"], ["--seed", "x"],
    )),
]  # fmt: skip
REPEATED = [
    analyze("--checkpoint", "a", "--checkpoint", "b"), analyze("--limit", "3"), analyze("--model", "x"),
    analyze("--model=x"), analyze("--seed", "1", "--seed", "1"), analyze("--progress", "--no-progress"),
    analyze("--probes", "--probes"), verify("--tolerance", "1", "--tolerance", "2"), verify("--data", "digits"),
    ["layers", "--model", "a:b", "--model", "c:d"], ["report", "--output", "a", "--output", "b"],
    ["experiment", "decay", "--scale", "small", "--scale", "paper"],
]  # fmt: skip


def shown(line: list[str]) -> str:
    return " ".join(part if len(part) < 40 else f"{part[:10]}..." for part in line)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", WRONG + REPEATED, ids=shown)
def test_a_wrong_command_line_gets_one_line_of_our_own(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(line)
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert printed.out == ""
    assert re.fullmatch(r"neurocollapse: .+\n", printed.err)
    assert len(printed.err.rstrip("\n")) <= 300
    assert printed.err.rstrip("\n").isprintable()
    assert not FOREIGN.search(printed.err)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("line", REPEATED, ids=shown)
def test_an_option_that_is_given_twice_is_named(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(line)
    assert re.search(r"--[a-z]+ is given 2 times; give it once", capsys.readouterr().err)


@pytest.mark.usefixtures("here")
def test_what_a_model_cannot_run_on_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    for line, message in {
        "wide.npz": r"wrong_models:network cannot run on wide.npz/train, of shape \(65,\): RuntimeError: .*multiplied",
        "tokens.npz": r"whole numbers up to 39 \(token ids\): .*; give a model that embeds that many tokens",
        "far.npz": r"`labels` reach 999999, but only 3 classes occur; .* GiB",
    }.items():
        with pytest.raises(SystemExit):
            main(analyze(data=f"npz:{line}"))
        assert re.search(message, capsys.readouterr().err)


@pytest.mark.usefixtures("here")
def test_a_programs_own_error_is_shown_in_full_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROCOLLAPSE_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cannot run on") as caught:
        main(analyze(model="wrong_models:Fails"))
    assert isinstance(caught.value.__cause__, RuntimeError)
