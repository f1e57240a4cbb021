"""Modules: the trailing run of linear layers is found by what the network computes, not by what it looks like."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from neurocollapse.data.synthetic import balanced_labels, one_hot
from neurocollapse.hooks import CaptureWarning
from neurocollapse.lowrank import LoRA, LowRankLinear, inject
from neurocollapse.models.initialise import init_weights
from neurocollapse.models.linear import DeepLinear
from neurocollapse.models.mlp import HybridMLP
from neurocollapse.theory import verify
from neurocollapse.theory.tail import linear_tail
from neurocollapse.train.descent import descend


def linear(fan_in: int, fan_out: int, bias: bool = False) -> nn.Linear:
    """A linear layer with a seeded weight."""
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out, bias=bias)
    generator = torch.Generator().manual_seed(fan_in + 7 * fan_out)
    with torch.no_grad():
        layer.weight.normal_(generator=generator).div_(fan_in**0.5)
        if bias:
            layer.bias.normal_(generator=generator)
    return layer


INPUTS = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(12) % 3


class Residual(nn.Module):
    """x + Wx, then a linear readout."""

    def __init__(self) -> None:
        super().__init__()
        self.branch, self.middle, self.readout = linear(8, 8), linear(8, 8), linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.readout(self.middle(inputs + self.branch(inputs)))


class Reversed(nn.Module):
    """Registers its layers in another order than it runs them, and one it never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.unused, self.first = linear(6, 3), linear(4, 4), linear(8, 6)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.first(inputs))


class Cosine(nn.Linear):
    """A linear layer by its type and its weight, but not by what it computes."""

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(nn.functional.normalize(inputs), self.weight)


class ByHand(nn.Linear):
    """Wx as a sum of two halves: another order of summation than PyTorch's."""

    def forward(self, inputs: Tensor) -> Tensor:
        half = self.in_features // 2
        return inputs[:, half:] @ self.weight.T[half:] + inputs[:, :half] @ self.weight.T[:half]


def bent(kind: str) -> nn.Sequential:
    """Three linear layers, the second of which does something else, or the same in its own way."""
    network = nn.Sequential(linear(8, 7), linear(7, 6), linear(6, 3))
    if kind == "hook":
        network[1].register_forward_hook(lambda module, args, output: output.relu())
    elif kind == "subclass":
        network[1].__class__ = Cosine
    else:
        network[1].__class__ = ByHand
    return network


@pytest.mark.parametrize("kind", ["hook", "subclass"])
def test_a_layer_that_does_not_multiply_by_its_weight_ends_the_run(kind: str) -> None:
    tail = linear_tail(bent(kind), INPUTS, LABELS)
    assert tail.names == ("2",)
    assert "layer '1' does not compute Wx" in tail.obstacle
    verification = verify(bent(kind), INPUTS, LABELS)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions["linear_tail"].met


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_another_order_of_summation_is_still_linear(dtype: torch.dtype) -> None:
    tail = linear_tail(bent("by hand").to(dtype), INPUTS, LABELS)
    assert tail.names == ("0", "1", "2")
    assert tail.is_whole


def conv1d() -> nn.Module:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is an optional dependency")
    layer = pytorch_utils.Conv1D(6, 7)
    with torch.no_grad():
        layer.weight.normal_()
    return layer


def adapted() -> nn.Module:
    model = nn.Sequential(linear(7, 6))
    nn.init.normal_(inject(model, "0", kind=LoRA(rank=2))["0"].factors[1])
    return model[0]


def adapted_by_peft() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(target_modules=["0"], r=2, init_lora_weights=False)
    return peft.get_peft_model(nn.Sequential(linear(7, 6)), config).base_model.model[0]


@pytest.mark.parametrize(
    "make",
    [
        conv1d,
        adapted,
        adapted_by_peft,
        lambda: LowRankLinear(7, 6, rank=3, bias=False),
        lambda: orthogonal(linear(7, 6)),
    ],
    ids=["Conv1D", "adapter", "PEFT", "low rank", "parametrised"],
)
def test_every_kind_of_linear_layer_belongs_to_the_run(make: Callable[[], nn.Module]) -> None:
    layer = make()
    for network in (
        nn.Sequential(linear(8, 7), layer, linear(6, 3)),
        nn.Sequential(linear(8, 7), nn.ReLU(), layer, linear(6, 3)),
    ):
        tail = linear_tail(network, INPUTS, LABELS)
        outputs = tail.features
        for weight in tail.weights:
            outputs = outputs @ weight.T
        torch.testing.assert_close(outputs, network(INPUTS).detach())
        assert len(tail.names) == len(tail.weights) == (3 if tail.is_whole else 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_a_layer_that_rounds_its_input_does_not_compute_its_weight_times_that() -> None:
    network = nn.Sequential(linear(8, 7), linear(7, 6), linear(6, 3)).eval()
    quantised = torch.ao.quantization.quantize_dynamic(network, {"1"}, dtype=torch.qint8)
    assert "layer '1' does not compute Wx" in linear_tail(quantised, INPUTS, LABELS).obstacle


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.optim.swa_utils.AveragedModel], ids=["parallel", "averaged"])
def test_a_wrapped_network_is_the_network(wrap: Callable[[nn.Module], nn.Module]) -> None:
    network = nn.Sequential(linear(8, 7), nn.ReLU(), linear(7, 6), linear(6, 3))
    tail = linear_tail(wrap(network), INPUTS, LABELS)
    assert tail.names == ("2", "3")
    assert list(tail.moments) == ["0", "2", "3"]


def test_a_compiled_network_runs_eagerly_and_says_so() -> None:
    compiled = torch.compile(nn.Sequential(linear(8, 7), nn.ReLU(), linear(7, 6), linear(6, 3)), backend="eager")
    compiled(INPUTS)
    with pytest.warns(CaptureWarning, match="runs eagerly"):
        assert linear_tail(compiled, INPUTS, LABELS).names == ("2", "3")


def test_a_layer_that_runs_twice_is_there_twice_and_a_network_of_one_layer_is_the_root() -> None:
    same = linear(8, 8)
    tail = linear_tail(nn.Sequential(same, same, linear(8, 3)), INPUTS, LABELS)
    assert tail.names == ("0#0", "0#1", "2")
    assert linear_tail(linear(8, 3), INPUTS, LABELS).names == ("(root)",)


def test_a_hook_on_the_last_layer_leaves_no_run(trained_case) -> None:
    network = DeepLinear.from_weights(trained_case.weights)
    assert verify(network, trained_case.inputs, trained_case.labels).status == "holds"
    network.layers[-1].register_forward_hook(lambda module, args, output: 2 * output)
    verification = verify(network, trained_case.inputs, trained_case.labels)
    assert verification.status == "assumptions unmet"
    assert "does not compute Wx" in verification.assumptions["linear_tail"].meaning


@pytest.mark.parametrize(
    ("network", "names", "whole", "obstacle"),
    [
        (nn.Sequential(linear(8, 7), linear(7, 6), linear(6, 3)), ("0", "1", "2"), True, ""),
        (nn.Sequential(linear(8, 7), nn.ReLU(), linear(7, 6), linear(6, 3)), ("2", "3"), False, "layer '0'"),
        (
            nn.Sequential(linear(8, 7), nn.ReLU(inplace=True), linear(7, 6), linear(6, 3)),
            ("2", "3"),
            False,
            "layer '0'",
        ),
        (nn.Sequential(linear(8, 7), nn.Dropout(0.5), linear(7, 3)), ("0", "2"), True, ""),
        (
            nn.Sequential(linear(8, 7), linear(7, 6, bias=True), linear(6, 5), linear(5, 3)),
            ("0", "1", "2", "3"),
            True,
            "",
        ),
        (nn.Sequential(linear(8, 7), linear(7, 3, bias=True)), ("0", "1"), True, ""),
        (nn.Sequential(linear(8, 7), linear(7, 3), nn.Softmax(1)), (), False, "between layer '1' and the output"),
        (Residual(), ("branch", "middle", "readout"), True, ""),
        (Reversed(), ("first", "last"), True, ""),
    ],
    ids=["linear", "relu", "relu-inplace", "dropout", "bias-inside", "bias-last", "softmax", "residual", "reversed"],
)
def test_the_run_that_ends_the_network_is_found(network, names: tuple, whole: bool, obstacle: str) -> None:
    tail = linear_tail(network, INPUTS, LABELS)
    assert tail.names == names
    assert tail.is_whole == whole
    assert obstacle in tail.obstacle
    if names:
        outputs = tail.features
        for weight, bias in zip(tail.weights, tail.biases, strict=True):
            outputs = outputs @ weight.T + bias
        torch.testing.assert_close(outputs, network.eval()(INPUTS))


def test_the_network_is_left_as_it_was() -> None:
    network = nn.Sequential(linear(8, 7), nn.Dropout(0.5), nn.BatchNorm1d(7), linear(7, 3))
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    linear_tail(network, INPUTS, LABELS)
    assert [module.training for module in network.modules()] == [True, True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_a_linear_network_gives_the_same_as_its_weights(trained_case) -> None:
    network = DeepLinear.from_weights(trained_case.weights)
    ours = verify(network, trained_case.inputs, trained_case.labels)
    plain = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    assert ours.status == plain.status == "holds"
    assert "linear_tail" not in ours.assumptions
    for name in plain.to_dataset().data_vars:
        np.testing.assert_array_equal(ours.to_dataset()[name], plain.to_dataset()[name])
    assert ours.to_dataset()["layer_name"].values.tolist() == ["input", *[f"layers.{i}" for i in range(4)]]


def test_a_single_precision_network_is_verified_in_double(trained_case) -> None:
    network = DeepLinear.from_weights(trained_case.weights).float()
    verification = verify(network, trained_case.inputs, trained_case.labels)
    assert verification.status == "holds"
    assert verification.to_dataset().attrs["weights_dtype"] == "float32"


def test_the_tail_of_a_hybrid_network_is_verified_on_the_features_that_enter_it() -> None:
    digits, numbers = load_digits(return_X_y=True)
    inputs = torch.cat([torch.tensor(digits[numbers == k][:12] / 16) for k in range(3)]).double()
    labels = balanced_labels(3, 12)
    network = HybridMLP(64, 48, 3, num_nonlinear=1, num_linear=3, batch_norm=False).double()
    init_weights(network, "orth", 0.5, seed=0)
    descend(network, inputs, one_hot(labels), learning_rate=0.02, num_steps=1500, tolerance=1e-6)
    verification = verify(network, inputs, labels)
    table = verification.to_dataset()
    assert verification.assumptions["linear_tail"].met
    assert verification.assumptions["linear_tail"].value == 4
    assert verification.status == "holds"  # by the split certificate alone:
    assert verification.decided_by == ("split",) * 3
    for name in ("prior", "robust"):  # features after a ReLU are far from orthonormal
        assert verification.theorems[name].status == "assumptions unmet"
    assert verification.theorems["split"].status == "holds"
    assert table.sizes["layer"] == 4
    assert table.sizes["site"] == 5
    features = torch.relu(inputs @ network.layers[0][0].weight.T)
    same = verify([network.layers[i].weight for i in (1, 2, 3)] + [network.head.weight], features, labels)
    np.testing.assert_allclose(table["decay_ratio"], same.to_dataset()["decay_ratio"], rtol=1e-9)
    assert any("No theorem covers the nonlinear layers" in note for note in verification.notes)


def test_a_convolutional_network_gets_numbers_and_no_verdict() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), linear(4 * 36, 3, bias=True))
    images = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    verification = verify(network, images, LABELS)
    assert verification.status == "assumptions unmet"
    assert verification.claims == ()
    assert verification.assumptions["linear_tail"].value == 1
    assert "layer '0' is a Conv2d" in verification.assumptions["linear_tail"].meaning
    assert verification.to_dataset()["site"].values.tolist() == ["0", "3"]
    assert np.isfinite(verification.to_dataset()["site_compression"]).all()


def test_the_data_may_come_in_more_than_one_chunk(monkeypatch) -> None:
    network = nn.Sequential(linear(8, 7), nn.ReLU(), linear(7, 6), linear(6, 3))
    whole = verify(network, INPUTS, LABELS).to_dataset()
    monkeypatch.setattr("neurocollapse.theory.tail.CHUNK", 5)
    split = verify(network, INPUTS, LABELS).to_dataset()
    np.testing.assert_allclose(
        split["compression"], whole["compression"], rtol=1e-6
    )  # float32 products of other shapes
    np.testing.assert_allclose(split["site_compression"], whole["site_compression"], rtol=1e-6)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (INPUTS.index_fill(0, torch.tensor(3), float("nan")), LABELS, "`inputs` must be finite.*sample 3"),
        (INPUTS[:0], LABELS[:0], r"`inputs` must have shape \(samples, features\)"),
        (INPUTS, LABELS - 1, "`labels` must hold integers ≥ 0, got -1 at position 0"),
        (INPUTS, LABELS + 1, r"`labels` must hold integers in \[0, 3\), one per output of the network, got 3"),
        (INPUTS, LABELS[:5], r"`labels` must hold one integer per sample \(12\)"),
        (INPUTS, 0 * LABELS, "at least two classes, got one"),
    ],
    ids=["nan", "empty", "negative", "too-large", "too-few", "one-class"],
)
def test_samples_are_checked_before_the_network_is_blamed(inputs: Tensor, labels: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        verify(bent("by hand"), inputs, labels)
    assert "\n" not in str(error.value)


def test_a_network_that_did_not_converge_is_one_clear_line() -> None:
    network = nn.Sequential(linear(8, 7), linear(7, 3))
    with torch.no_grad():
        network[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the network's output holds NaN or infinite values"):
        verify(network, INPUTS, LABELS)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.ReLU(), "ReLU has none"),
        (nn.Sequential(nn.Unflatten(1, (2, 4)), linear(4, 3)), "a matrix with one row per sample"),
    ],
)
def test_networks_without_layers_or_outputs_are_refused(network, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify(network, INPUTS, LABELS)
