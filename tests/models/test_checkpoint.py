"""Checkpoints: the files accepted, and that nothing in them runs."""

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from neurocollapse.models import ModelError, load_weights, mlp, read_state


def network(seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return mlp(4, 3, 2, depth=1)


def assert_same(a: nn.Module, b: nn.Module) -> None:
    for (name, left), right in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


@pytest.fixture
def trained() -> nn.Module:
    return network(1)


@pytest.mark.parametrize("layout", ["plain", "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_torch_files_are_read_in_every_usual_layout(
    tmp_path: Path, trained: nn.Module, layout: str, prefix: str
) -> None:
    state = {prefix + name: value for name, value in trained.state_dict().items()}
    torch.save(state if layout == "plain" else {layout: state, "epoch": 3}, tmp_path / "net.pt")
    model = network(2)
    load_weights(model, tmp_path / "net.pt")
    assert_same(model, trained)


def test_safetensors_files_are_read(tmp_path: Path, trained: nn.Module) -> None:
    save_file(trained.state_dict(), tmp_path / "net.safetensors")
    model = network(2)
    load_weights(model, tmp_path / "net.safetensors")
    assert_same(model, trained)


def test_old_style_torch_files_are_read(tmp_path: Path, trained: nn.Module) -> None:
    torch.save(trained.state_dict(), tmp_path / "net.pth", _use_new_zipfile_serialization=False)
    model = network(2)
    load_weights(model, tmp_path / "net.pth")
    assert_same(model, trained)


def test_a_prefix_that_not_every_name_has_is_kept(tmp_path: Path) -> None:
    torch.save({"module.weight": torch.zeros(1), "bias": torch.zeros(1)}, tmp_path / "net.pt")
    assert set(read_state(tmp_path / "net.pt")) == {"module.weight", "bias"}


@pytest.mark.parametrize("child", ["module", "_orig_mod"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_model_whose_only_child_is_called_like_a_wrapper_reads_its_own_checkpoint(
    tmp_path: Path, trained: nn.Module, child: str, prefix: str
) -> None:
    own, fresh = (nn.Sequential(OrderedDict({child: network})) for network in (trained, network(2)))
    torch.save({prefix + name: value for name, value in own.state_dict().items()}, tmp_path / "net.pt")
    load_weights(fresh, tmp_path / "net.pt")
    assert_same(fresh, own)


def test_tied_weights_may_be_stored_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 3, bias=False)
            self.second = nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight

    save_file({"first.weight": torch.eye(3)}, tmp_path / "net.safetensors")
    model = Tied()
    load_weights(model, tmp_path / "net.safetensors")
    assert torch.equal(model.second.weight, torch.eye(3))


def changed(state: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**state, **changes}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "head.weight"}, "does not fit HybridMLP: head.weight missing"),
        (lambda s: changed(s, extra=torch.zeros(1)), "extra unexpected; give the checkpoint's own model"),
        (lambda s: {f"net.{k}": v for k, v in s.items()}, r"missing; net\..* and 4 more unexpected"),
        (lambda s: changed(s, **{"head.weight": torch.zeros(7, 3)}), r"head.weight has shape \(7, 3\) in the file and"),
        (lambda s: {}, "holds no tensors"),
        (lambda s: changed(s, note="hello"), "got a str under 'note'; save model.state_dict"),
        (lambda s: [1, 2], r"must hold a state dict \(name → tensor\), got a list"),
        (lambda s: torch.zeros(3), r"must hold a state dict \(name → tensor\), got a Tensor"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, trained: nn.Module, change: Any, message: str) -> None:
    torch.save(change(trained.state_dict()), tmp_path / "net.pt")
    model = network(2)
    with pytest.raises(ModelError, match=message) as caught:
        load_weights(model, tmp_path / "net.pt")
    assert "\n" not in str(caught.value)
    assert_same(model, network(2))


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
@pytest.mark.parametrize("contents", [b"", b"not weights", b"PK\x03\x04" + bytes(50), bytes(200), b"\x80\x02}q\x00."])
def test_corrupt_files_get_one_clear_line(tmp_path: Path, name: str, contents: bytes) -> None:
    (tmp_path / name).write_bytes(contents)
    with pytest.raises(ModelError, match=name) as caught:
        read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors"])
def test_truncated_files_are_refused(tmp_path: Path, trained: nn.Module, name: str) -> None:
    save = torch.save if name.endswith("pt") else save_file
    save(trained.state_dict(), tmp_path / name)  # two functions of one shape
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
    with pytest.raises(ModelError, match=name):
        read_state(tmp_path / name)


class Marker:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("as_zip", [True, False, None])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, as_zip: bool | None) -> None:
    evil = {"weight": torch.zeros(1), "extra": Marker(tmp_path / "ran")}
    if as_zip is None:
        (tmp_path / "net.pt").write_bytes(pickle.dumps({"extra": evil["extra"]}))
    else:
        torch.save(evil, tmp_path / "net.pt", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(ModelError, match="files that hold code are refused"):
        read_state(tmp_path / "net.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path, trained: nn.Module) -> None:
    torch.save(trained, tmp_path / "net.pt")
    with pytest.raises(ModelError, match=r"save model.state_dict\(\)"):
        read_state(tmp_path / "net.pt")


def test_a_scripted_model_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated; its files are still around
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "net.pt")
    with pytest.raises(ModelError, match="cannot be read as plain weights"):
        read_state(tmp_path / "net.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no checkpoint .*net.pt"):
        read_state(tmp_path / "net.pt")
