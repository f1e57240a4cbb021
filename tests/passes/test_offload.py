"""Weights that are kept elsewhere, graphs and models without numbers: run as they run, or refused in one line."""

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import NeverFiredError, capture, weight_and_bias
from neurocollapse.passes.digest import weight_digest

accelerate = pytest.importorskip("accelerate")


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4)).eval()


def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(12, 6, generator=generator), torch.arange(12) % 4) for _ in range(2)]


def to_cpu(model, folder):
    return accelerate.cpu_offload(model, execution_device=torch.device("cpu"))


def to_disk(model, folder):
    return accelerate.disk_offload(model, str(folder), execution_device=torch.device("cpu"))


def to_both(model, folder):
    places = {"0": "cpu", "1": "disk", "2": "cpu", "3": "disk"}
    return accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


@pytest.mark.parametrize("offload", [to_cpu, to_disk, to_both])
def test_offloaded_weights_give_what_the_model_gives(offload, tmp_path):
    options = {"layers": ["leaves", "penultimate"], "progress": False}
    expected = nc.analyze(build(), batches(), **options)
    model = offload(build(), tmp_path)
    found = nc.analyze(model, batches(), resume=tmp_path / "state", **options)
    assert list(found.layer.values) == list(expected.layer.values)
    assert found.compression.values.tolist() == expected.compression.values.tolist()
    assert any(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("offload", [to_cpu, to_disk, to_both])
def test_offloaded_weights_are_read_where_they_are(offload, tmp_path):
    expected, model = build(), offload(build(), tmp_path)
    assert weight_digest(model, "eval") == weight_digest(expected, "eval")
    for index in (0, 3):
        for found, wanted in zip(weight_and_bias(model[index]), weight_and_bias(expected[index]), strict=True):
            assert torch.equal(found, wanted)


def test_a_model_without_numbers_is_refused_in_one_line():
    model = build().to("meta")
    with pytest.raises(ValueError, match="Sequential is on the meta device") as caught:
        nc.analyze(model, batches(), progress=False)
    assert len(str(caught.value)) <= 300
    with pytest.raises(ValueError, match="'weight' of a Linear is on the meta device"):
        weight_and_bias(model[0])


def test_a_model_on_the_meta_device_runs_in_a_loop_of_ones_own():
    model = build().to("meta")
    with capture(model, "0") as features, torch.no_grad():
        model(torch.empty(3, 6, device="meta"))
    assert (features["0"].shape, features["0"].device.type) == ((3, 5), "meta")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_an_exported_graph_gives_its_output_and_says_why_it_gives_no_layer():
    example = (batches()[0][0],)
    graph = torch.export.export(build(), example).module()
    expected = nc.analyze(build(), batches(), layers="(root)", progress=False)
    found = nc.analyze(graph, batches(), layers="(root)", progress=False)
    assert found.compression.values == pytest.approx(expected.compression.values, rel=1e-6)  # another order of sums
    with pytest.raises(NeverFiredError, match=r"a graph that calls no such layer, .* torch.export.unflatten") as caught:
        nc.analyze(graph, batches(), layers=["0"], progress=False)
    assert len(str(caught.value)) <= 300
    layers = torch.export.unflatten(torch.export.export(build(), example))
    assert "0" in nc.analyze(layers, batches(), progress=False).layer.values
