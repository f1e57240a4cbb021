"""A layer and the head are trained, everything else is frozen and stays as it was."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import neurocollapse as nc
from neurocollapse.transfer import TransferError, layer_finetune, load_tuned, skip_finetune


def network():
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


def train(model, tuned, steps=3):
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(tuned.parameters(), lr=0.1)
    for _ in range(steps):
        tuned.train()
        optimizer.zero_grad()
        model(torch.randn(6, 4, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("layer", "trained"),
    [("3", {"3", "6"}), (["3", "4"], {"3", "4", "6"}), ("linear", {"0", "3", "6"}), (nn.BatchNorm1d, {"1", "4", "6"})],
)
def test_what_is_named_learns_and_nothing_else(layer, trained):
    model = network()
    before = copy.deepcopy(model.state_dict())
    tuned = layer_finetune(model, layer)
    assert set(tuned) == trained
    train(model, tuned)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == trained


def test_thawed_as_it_was():
    model = network()
    model[0].requires_grad_(False)
    model[6].bias.requires_grad_(False)
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    tuned = layer_finetune(model, "0")
    assert all(parameter.requires_grad for parameter in model[0].parameters())
    assert tuned.merge() is model
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before


def test_share_counts_each_parameter_once():
    model = nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False), nn.Linear(5, 2, bias=False))
    model[1].weight = model[0].weight
    tuned = layer_finetune(model, ["0", "1"])
    assert tuned.num_parameters == 35
    assert tuned.share == 1.0


def test_a_file_goes_back_on_the_model_it_came_from(tmp_path):
    torch.manual_seed(1)
    original = network()
    model = copy.deepcopy(original)
    tuned = layer_finetune(model, ["3", "4"])
    train(model, tuned)
    load_tuned(original, tuned.save(tmp_path / "tuned.safetensors"))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    assert torch.equal(original.eval()(inputs), model.eval()(inputs))


def wider(path):
    return nn.Sequential(nn.Linear(4, 9), *network()[1:]), path


def without_layer(path):
    return nn.Sequential(*network()[:3]), path


def foreign(path):
    save_file({"weight": torch.zeros(2)}, path)
    return network(), path


def flipped(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return network(), path


def missing(path):
    return network(), path.with_name("nothing.safetensors")


def of_moments(path):
    nc.collect(network(), [(torch.randn(6, 4), torch.arange(6) % 3)], layers="0", progress=False).save(path)
    return network(), path


@pytest.mark.parametrize("spoil", [wider, without_layer, foreign, flipped, missing, of_moments])
def test_files_that_do_not_fit_are_refused_and_leave_the_model(tmp_path, spoil):
    tuned = layer_finetune(network(), "0")
    model, path = spoil(tuned.save(tmp_path / "tuned.safetensors"))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(TransferError) as caught:
        load_tuned(model, path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_that_are_no_numbers_are_not_saved(tmp_path):
    model = network()
    tuned = layer_finetune(model, "3")
    with torch.no_grad():
        model[3].weight[0, 0] = torch.nan
    with pytest.raises(TransferError, match=r"3\.weight hold NaN"):
        tuned.save(tmp_path / "tuned.safetensors")
    assert not list(tmp_path.iterdir())


def test_layers_of_the_model_can_be_measured_while_it_is_tuned():
    model = network().double()
    skip_finetune(model, "3", torch.zeros(2, 4).double())
    batch = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12) % 3
    read = nc.collect(model, [batch], layers="penultimate", progress=False)["6@in"].mean
    model.eval()
    hidden = model[:6](batch[0]) + model[:4](batch[0])
    expected = torch.stack([hidden[batch[1] == label].mean(0) for label in range(3)])
    torch.testing.assert_close(read, expected, rtol=1e-9, atol=1e-12)


def test_a_file_is_plain_safetensors(tmp_path):
    tuned = layer_finetune(network(), "3")
    assert set(load_file(tuned.save(tmp_path / "t.safetensors"))) == {"3.weight", "3.bias", "6.weight", "6.bias"}


def test_the_whole_model_is_called_root():
    with pytest.raises(TransferError, match=r"\(root\) holds the head '2'"):
        layer_finetune(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), "")


def test_errors_name_the_argument_and_refuse_what_is_no_model(tmp_path):
    with pytest.raises(TransferError, match="`layer` names '7'"):
        layer_finetune(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), "7")
    with pytest.raises(TypeError, match=r"`model` must be a torch\.nn\.Module, got 'resnet18'"):
        load_tuned("resnet18", tmp_path / "tuned.safetensors")
