"""One definition of a linear layer: what is one, and that its weight and bias are those that it computes with."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

from neurocollapse.hooks import is_linear, select, weight_and_bias
from neurocollapse.lowrank import DeepLoRA, LoRA, LowRankLinear, inject

ROUNDING = 1e-5
"""Of outputs of order one in float32, after some tens of additions each."""
QUANTISED = 0.05
"""Of outputs of order one whose input is rounded to 8 bits."""


def computes(module: nn.Module, tolerance: float = ROUNDING, size: int = 6) -> bool:
    """Whether weight and bias give the outputs of the module, on several axes too."""
    found = weight_and_bias(module)
    assert found is not None
    weight, bias = found
    inputs = torch.randn(3, 4, size)
    with torch.no_grad():
        expected = module.eval()(inputs)
    outputs = inputs @ weight.to(inputs.dtype).T + (0.0 if bias is None else bias)
    return bool((outputs - expected).abs().max() < tolerance) and not weight.requires_grad


def conv1d() -> nn.Module:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is an optional dependency")
    layer = pytorch_utils.Conv1D(5, 6)
    nn.init.normal_(layer.bias)
    return layer


def pruned() -> nn.Module:
    layer = nn.Linear(6, 5)
    prune.random_unstructured(layer, "weight", amount=0.5)
    with torch.no_grad():
        layer.weight_orig.mul_(2)  # the attribute `weight` lags behind until the next forward pass
    return layer


def adapted(kind: Any) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5))
    for factor in inject(model, "0", kind=kind)["0"].factors:
        nn.init.normal_(factor)
    return model[0]


class Weight(Tensor):
    """A weight that shows its values only when it is dequantised, as those of torchao do."""

    def dequantize(self) -> Tensor:
        return 2 * self.as_subclass(Tensor)


class Packed(nn.Linear):
    """Keeps its weight in a form that only its forward reads, as 4-bit layers do."""

    def __init__(self) -> None:
        super().__init__(6, 5)
        self.kept = self.weight.detach().clone()
        self.weight = nn.Parameter(torch.zeros(15, 1, dtype=torch.uint8), requires_grad=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.kept.T + self.bias


class Ours(nn.Module):
    """A layer of a user's own that says what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Linear(6, 5, bias=False), nn.Linear(6, 5)])

    def forward(self, inputs: Tensor) -> Tensor:
        return sum(part(inputs) for part in self.parts)

    def effective_weight(self) -> tuple[Tensor, Tensor | None]:
        return self.parts[0].weight + self.parts[1].weight, self.parts[1].bias


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Linear": lambda: nn.Linear(6, 5),
    "without bias": lambda: nn.Linear(6, 5, bias=False),
    "attention's projection": lambda: nn.MultiheadAttention(6, 2).out_proj,
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 5)),
    "weight norm": lambda: weight_norm(nn.Linear(6, 5)),
    "pruned": pruned,
    "Conv1D": conv1d,
    "low rank": lambda: LowRankLinear(6, 5, rank=2),
    "LoRA": lambda: adapted(LoRA(rank=2, alpha=1.0)),
    "deep LoRA": lambda: adapted(DeepLoRA(rank=2)),
    "4 bits": Packed,
    "own": Ours,
}
former = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


@former
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_weight_and_bias_are_those_that_the_layer_computes_with(make: Callable[[], nn.Module]) -> None:
    layer = make()
    assert is_linear(layer)
    assert computes(layer)


@former
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_a_linear_layer_is_one_layer_of_a_model(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(make(), nn.ReLU(), nn.Linear(5, 4))
    assert [tap.name for tap in select(model, "leaves")] == ["0", "1", "2"]
    assert [tap.name for tap in select(model, "linear")] == ["0", "2"]


@pytest.mark.parametrize("training", [False, True])
def test_reading_a_weight_changes_nothing(training: bool) -> None:
    layer = parametrizations.spectral_norm(nn.Linear(6, 5)).train(training)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    weight_and_bias(layer)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert all(module.training is training for module in layer.modules())


def test_a_weight_that_can_be_dequantised_is() -> None:
    layer = nn.Linear(6, 5)
    values = layer.weight.detach().clone()
    layer.weight = nn.Parameter(values.as_subclass(Weight), requires_grad=False)
    weight, bias = weight_and_bias(layer)  # type: ignore[misc]
    assert torch.equal(weight.as_subclass(Tensor), 2 * values)
    assert torch.equal(bias, layer.bias)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
def test_dynamically_quantised_layers_are_linear() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert [tap.name for tap in select(quantised, "leaves")] == ["0", "1", "2"]
    assert [tap.name for tap in select(quantised, "linear")] == ["0", "2"]
    assert computes(quantised[0], QUANTISED)


PEFT_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("LoraConfig", {"r": 2, "init_lora_weights": False}),
    "DoRA": ("LoraConfig", {"r": 2, "init_lora_weights": False, "use_dora": True}),
    "bias": ("LoraConfig", {"r": 2, "init_lora_weights": False, "lora_bias": True}),
    "IA3": ("IA3Config", {"feedforward_modules": [], "init_ia3_weights": False}),
    "LoHa": ("LoHaConfig", {"r": 2, "init_weights": False}),
}


@pytest.mark.parametrize("merged", [False, True], ids=["beside", "merged"])
@pytest.mark.parametrize("base", [lambda: nn.Linear(6, 5), conv1d], ids=["Linear", "Conv1D"])
@pytest.mark.parametrize("kind", PEFT_KINDS)
def test_layers_with_adapters_of_peft_are_linear(kind: str, base: Callable[[], nn.Module], merged: bool) -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    if kind == "LoHa" and base is conv1d:
        pytest.skip("PEFT puts no LoHa on a Conv1D")
    name, options = PEFT_KINDS[kind]
    options = options | ({"fan_in_fan_out": True} if base is conv1d else {})
    model = nn.Sequential(base(), nn.ReLU(), nn.Linear(5, 4))
    theirs = peft.get_peft_model(model, getattr(peft, name)(target_modules=["0"], **options)).base_model.model
    if merged:
        theirs[0].merge()
    assert [tap.name for tap in select(theirs, "leaves")] == ["0", "1", "2"]
    assert [tap.name for tap in select(theirs, "linear")] == ["0", "2"]
    assert computes(theirs[0])


def test_several_adapters_of_peft_and_none() -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(target_modules=["0"], r=2, init_lora_weights=False)
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(6, 5)), config)
    theirs.add_adapter("second", config)
    layer = theirs.base_model.model[0]
    layer.set_adapter(["default", "second"])
    assert computes(layer)
    layer.merge()
    assert computes(layer)
    base = weight_and_bias(layer)[0]  # type: ignore[index]
    layer.enable_adapters(False)
    weight = weight_and_bias(layer)[0]  # type: ignore[index]
    assert (weight - base).abs().max() > 0.1
    assert computes(layer)  # which takes them out of the base again
    assert computes(layer)


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Conv2d(3, 4, 1), nn.Bilinear(2, 3, 4), nn.Embedding(4, 3)])
def test_other_modules_are_not_linear(module: nn.Module) -> None:
    assert not is_linear(module)
    assert weight_and_bias(module) is None


def test_a_layer_without_a_weight_yet_has_none() -> None:
    layer = nn.LazyLinear(4)
    assert is_linear(layer)
    assert weight_and_bias(layer) is None
