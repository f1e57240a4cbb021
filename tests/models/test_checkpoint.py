"""Checkpoints: the files accepted, and that nothing in them runs."""

import json
import pickle
import warnings
from collections import OrderedDict
from contextlib import nullcontext
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


def saved(state: dict[str, Any], path: Path) -> Path:
    torch.save(state, path)
    return path


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


COUNT = {"n_averaged": torch.tensor(7)}
OTHERS = {"criterion.weight": torch.ones(2), "accuracy.total": torch.zeros(1)}
WRAPPED: dict[str, tuple[Any, str]] = {
    "averaged": (lambda s: COUNT | prefixed("module.", s), r"average \(n_averaged\)$"),
    "averaged, of torchvision": (lambda s: {"model_ema": COUNT | prefixed("module.", s)}, "average"),
    "averaged, compiled": (lambda s: COUNT | prefixed("module._orig_mod.", s), "average"),
    "averaged, of several processes": (lambda s: prefixed("module.", COUNT | prefixed("module.", s)), "average"),
    "Lightning": (lambda s: {"state_dict": prefixed("model.", s), "epoch": 3}, "removed the prefix 'model.'$"),
    "Lightning, with others": (
        lambda s: {"state_dict": prefixed("model.", s) | OTHERS},
        "'model.', and left out criterion.weight, accuracy.total$",
    ),
    "Lightning, compiled": (lambda s: prefixed("model._orig_mod.", s), "removed the prefix 'model.'"),
    "Lightning, compiled as a whole": (lambda s: prefixed("_orig_mod.model.", s), "removed the prefix 'model.'"),
    "Lightning, of several processes": (lambda s: prefixed("module.model.", s), "removed the prefix 'model.'"),
    "Lightning, averaged": (lambda s: prefixed("model.", COUNT | prefixed("module.", s)), "'model.'; .* average"),
    "Lightning, with averaged weights beside": (
        lambda s: prefixed("model.", s) | prefixed("ema_model.", s),
        r"left out ema_model.* and 4 more$",
    ),
    "averaged weights beside": (
        lambda s: {"state_dict": s, "state_dict_ema": {"a": torch.zeros(1)}},
        "read 'state_dict', not the averaged weights under 'state_dict_ema'$",
    ),
}
QUIETLY_WRAPPED = {
    "Fabric": lambda s: prefixed("_forward_module.", s),
    "sharded": lambda s: prefixed("_fsdp_wrapped_module.", s),
    "DeepSpeed": lambda s: {"module": s, "optimizer": None},
    "averaged weights alone": lambda s: {"state_dict_ema": s},
    "compiled parts": lambda s: {name.replace("body.", "body._orig_mod."): value for name, value in s.items()},
    "checkpointed, sharded parts": lambda s: {
        name.replace("body.", "body._fsdp_wrapped_module._checkpoint_wrapped_module."): value
        for name, value in s.items()
    },
}


@pytest.mark.parametrize(("change", "note"), WRAPPED.values(), ids=WRAPPED)
def test_what_training_adds_to_names_is_removed_and_named(
    tmp_path: Path, trained: nn.Module, change: Any, note: str
) -> None:
    path, model = saved(change(trained.state_dict()), tmp_path / "net.pt"), network(2)
    with pytest.warns(UserWarning, match=rf"net.pt: .*{note}"):
        load_weights(model, path)
    assert_same(model, trained)


@pytest.mark.parametrize("change", QUIETLY_WRAPPED.values(), ids=QUIETLY_WRAPPED)
def test_what_wrappers_add_to_names_is_removed(tmp_path: Path, trained: nn.Module, change: Any) -> None:
    path, model = saved(change(trained.state_dict()), tmp_path / "net.pt"), network(2)
    load_weights(model, path)
    assert_same(model, trained)


def test_real_wrappers_checkpoints_are_read(tmp_path: Path, trained: nn.Module) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(trained)
    for wrapped, noted in ((averaged, True), (nn.DataParallel(trained), False)):
        model = network(2)
        path = saved(wrapped.state_dict(), tmp_path / "net.pt")
        with pytest.warns(UserWarning, match="average") if noted else nullcontext():
            load_weights(model, path)
        assert_same(model, trained)


def test_a_model_that_counts_averages_itself_keeps_its_counter(tmp_path: Path) -> None:
    own, fresh = (torch.optim.swa_utils.AveragedModel(network(seed)) for seed in (1, 2))
    load_weights(fresh, saved(own.state_dict(), tmp_path / "net.pt"))
    assert_same(fresh, own)


def test_a_model_whose_child_is_called_model_reads_its_own_checkpoint(tmp_path: Path) -> None:
    own, fresh = (nn.ModuleDict({"model": network(seed), "head": nn.Linear(2, 2)}) for seed in (1, 2))
    load_weights(fresh, saved(own.state_dict(), tmp_path / "net.pt"))
    assert_same(fresh, own)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: prefixed("net.", s), r"and 3 more missing; .*; the weights are there under 'net.', so save that"),
        (lambda s: prefixed("student.", s) | prefixed("teacher.", s), "the weights are there under 'student.'"),
        (lambda s: prefixed("model.", changed(s, extra=torch.ones(1))), "model|extra unexpected"),
        (lambda s: COUNT, "does not fit"),
        (lambda s: {f"{'x' * 50}{i}": torch.zeros(1) for i in range(9999)}, "and 9996 more unexpected"),
    ],
)
def test_other_names_are_not_guessed(tmp_path: Path, trained: nn.Module, change: Any, message: str) -> None:
    model = network(2)
    with pytest.raises(ModelError, match=message):
        load_weights(model, saved(change(trained.state_dict()), tmp_path / "net.pt"))
    assert_same(model, network(2))


@pytest.fixture
def shards(tmp_path: Path, trained: nn.Module) -> Path:
    """The index of a checkpoint in two files."""
    state = trained.state_dict()
    names = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(state)}
    for file in set(names.values()):
        save_file({name: value for name, value in state.items() if names[name] == file}, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return index


def test_shards_are_read_through_their_index(shards: Path, trained: nn.Module) -> None:
    model = network(2)
    load_weights(model, shards)
    assert_same(model, trained)


def test_shards_of_torch_files_are_read_through_their_index(tmp_path: Path, trained: nn.Module) -> None:
    torch.save(trained.state_dict(), tmp_path / "pytorch_model-00001-of-00001.bin")
    names = dict.fromkeys(trained.state_dict(), "pytorch_model-00001-of-00001.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    model = network(2)
    load_weights(model, index)
    assert_same(model, trained)


def test_one_shard_names_the_index(shards: Path) -> None:
    with pytest.raises(ModelError, match=r"it is a part of several; give model.safetensors.index.json$"):
        load_weights(network(2), shards.with_name("model-00001-of-00002.safetensors"))


def test_a_missing_shard_is_named(shards: Path) -> None:
    shards.with_name("model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"names 'model-00002-of-00002.safetensors', which is not beside it"):
        load_weights(network(2), shards)


@pytest.mark.parametrize("file", ["../net.pt", "/etc/passwd", "a/b.safetensors", "..\\net.pt", "", ".", "..", 7, None,
                                  "model.safetensors.index.json"])  # fmt: skip
def test_an_index_leads_to_no_other_place(shards: Path, file: Any) -> None:
    shards.write_text(json.dumps({"weight_map": {"head.weight": file}}))
    with pytest.raises(ModelError, match=r"must name files beside it|not an index"):
        read_state(shards)


@pytest.mark.parametrize("contents", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 10**5])
def test_a_damaged_index_is_refused(shards: Path, contents: str) -> None:
    shards.write_text(contents)
    with pytest.raises(ModelError, match=r"index.json (is not an index|must name files)"):
        read_state(shards)


def test_an_index_that_lists_more_than_there_is_is_refused(shards: Path) -> None:
    index = json.loads(shards.read_text())
    index["weight_map"]["extra"] = "model-00001-of-00002.safetensors"
    shards.write_text(json.dumps(index))
    with pytest.raises(ModelError, match="lists weights that its files do not hold: extra"):
        read_state(shards)


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder; give one of its files"):
        read_state(tmp_path)
