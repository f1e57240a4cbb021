"""Adapters come back from their file, and files of other things are refused in one line."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from neurocollapse.lowrank import (
    AdapterError,
    CompressedDeepLoRA,
    DeepLoRA,
    LoRA,
    inject,
    load_adapters,
    save_adapters,
)
from neurocollapse.support.state import read_state, write_state

INPUTS = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))


def network(width: int = 10) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, width), nn.Tanh(), nn.Linear(width, 5))


@pytest.mark.parametrize("kind", [LoRA(rank=4, alpha=3.0), DeepLoRA(rank=4), CompressedDeepLoRA(rank=4)], ids=str)
def test_adapters_come_back_to_the_last_bit(kind: object, tmp_path: Path) -> None:
    model = network()
    loss = (lambda: model(INPUTS).square().sum()) if isinstance(kind, CompressedDeepLoRA) else None
    adapters = inject(model, "**", kind=kind, loss=loss)
    for chain in adapters.values():
        for factor in chain.factors:
            nn.init.normal_(factor, generator=torch.Generator().manual_seed(2))
    path = save_adapters(adapters, tmp_path / "adapters.safetensors")
    again = network()
    loaded = load_adapters(again, path)
    assert loaded.kind == kind
    assert list(loaded) == list(adapters)
    assert torch.equal(again(INPUTS), model(INPUTS))
    assert not any(parameter.requires_grad for name, parameter in again.named_parameters() if ".adapter." not in name)
    assert sum(value.numel() for value in load_file(path).values()) == adapters.num_parameters  # nothing but adapters


def saved(folder: Path) -> Path:
    return save_adapters(inject(network(), "**", kind=LoRA(rank=4)), folder / "adapters.safetensors")


def test_a_file_that_does_not_fit_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = saved(tmp_path)
    wider = network(12)
    with pytest.raises(AdapterError, match=r"does not fit: factors of '0' have shapes \[\(4, 7\), \(10, 4\)\]"):
        load_adapters(wider, path)
    with pytest.raises(AdapterError, match="has no linear layer '0'"):
        load_adapters(nn.ModuleDict({"body": network()}), path)
    assert all(parameter.requires_grad for parameter in wider.parameters())
    twice = network()
    load_adapters(twice, path)
    with pytest.raises(AdapterError, match="has adapters already"):
        load_adapters(twice, path)


def test_files_of_other_things_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="does not exist or is not a file"):
        load_adapters(network(), tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(AdapterError, match="not a readable safetensors file"):
        load_adapters(network(), tmp_path / "text.safetensors")
    save_file({"0.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(AdapterError, match="but not one of neurocollapse's"):
        load_adapters(network(), tmp_path / "model.safetensors")
    header = {"adapter": {"kind": "LoRA", "rank": 4}}
    write_state(tmp_path / "odd.safetensors", "adapters", header, {"0.weight": torch.ones(2, 2)})
    with pytest.raises(AdapterError, match=r"holds '0\.weight', which is no factor"):
        load_adapters(network(), tmp_path / "odd.safetensors")
    factors = {"0.factors.0": torch.ones(4, 7)}
    for kind in ({"kind": "X"}, "LoRA", None, []):
        write_state(tmp_path / "kind.safetensors", "adapters", {"adapter": kind}, factors)
        with pytest.raises(AdapterError, match="names no kind of adapter"):
            load_adapters(network(), tmp_path / "kind.safetensors")
    write_state(tmp_path / "half.safetensors", "adapters", header, factors)
    with pytest.raises(AdapterError, match=r"have shapes \[\(4, 7\)\], expected \[\(4, 7\), \(10, 4\)\]"):
        load_adapters(network(), tmp_path / "half.safetensors")


@pytest.mark.parametrize("glob", ["*", "**"])
def test_the_name_of_a_layer_in_a_file_is_no_glob(glob: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    header, state = read_state(path, "adapters")
    renamed = {key.replace("0.factors", f"{glob}.factors"): value for key, value in state.items()}
    write_state(path, "adapters", header, renamed)
    with pytest.raises(AdapterError, match=r"does not fit: Sequential has no linear layer '\*"):
        load_adapters(network(), path)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_factors_that_are_not_finite_are_not_loaded(number: float, tmp_path: Path) -> None:
    adapters = inject(network(), "**", kind=LoRA(rank=4))
    with torch.no_grad():
        adapters["2"].factors[1][0, 0] = number
    model = network()
    with pytest.raises(AdapterError, match="factors of '2' hold NaN or infinite numbers"):
        load_adapters(model, save_adapters(adapters, tmp_path / "adapters.safetensors"))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_file_in_no_folder_is_not_written(tmp_path: Path) -> None:
    adapters = inject(network(), "**", kind=LoRA(rank=4))
    with pytest.raises(AdapterError, match="name a folder that exists"):
        save_adapters(adapters, tmp_path / "none" / "adapters.safetensors")
