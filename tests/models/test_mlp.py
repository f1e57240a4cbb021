"""The hybrid perceptron: its layers, and the sizes it refuses."""

import pytest
import torch
from torch import nn

from neurocollapse.models import HybridMLP, mlp


def test_output_is_that_of_the_layers_written_out() -> None:
    model = HybridMLP(6, 5, 3, num_nonlinear=2, num_linear=2).eval().double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = x.reshape(4, 6)
    for block in model.layers[:2]:
        norm = block.norm
        z = (block.linear.weight @ z.T).T
        z = (z - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        z = z.clamp(min=0)
    for layer in model.layers[2:]:
        z = z @ layer.weight.T
    assert torch.allclose(model(x), z @ model.head.weight.T, rtol=1e-12, atol=0)  # a dozen float64 roundings


@pytest.mark.parametrize(("num_nonlinear", "num_linear"), [(7, 0), (3, 4), (0, 1), (1, 0)])
def test_layers_hold_exactly_the_hidden_layers(num_nonlinear: int, num_linear: int) -> None:
    model = HybridMLP(8, 6, 3, num_nonlinear=num_nonlinear, num_linear=num_linear)
    assert len(model.layers) == num_nonlinear + num_linear
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [nn.Sequential] * num_nonlinear + [nn.Linear] * num_linear


def test_the_linear_part_is_linear() -> None:
    model = HybridMLP(8, 6, 3, num_nonlinear=1, num_linear=3)
    z = torch.randn(6, generator=torch.Generator().manual_seed(0))
    part = nn.Sequential(*model.layers[1:], model.head)
    assert torch.allclose(part(2 * z), 2 * part(z))
    assert torch.equal(part(0 * z), torch.zeros(3))


@pytest.mark.parametrize("bias", [True, False])
def test_bias_is_given_to_every_linear_layer_or_none(bias: bool) -> None:
    model = HybridMLP(8, 6, 3, num_nonlinear=2, num_linear=1, bias=bias)
    assert {module.bias is not None for module in model.modules() if isinstance(module, nn.Linear)} == {bias}


def test_batch_norm_can_be_left_out() -> None:
    model = mlp(8, 6, 3, depth=2, batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm1d) for module in model.modules())


@pytest.mark.parametrize(
    ("sizes", "layers", "message"),
    [
        ((0, 5, 3), (1, 1), "`in_features` must be an integer of at least 1, got 0"),
        ((4, -5, 3), (1, 1), "`width` must be an integer of at least 1, got -5"),
        ((4, 5, 2.0), (1, 1), "`num_classes` must be an integer of at least 1, got 2.0"),
        ((4, 5, True), (1, 1), "`num_classes` must be an integer of at least 1, got True"),
        ((4, "5", 3), (1, 1), "`width` must be an integer of at least 1, got '5'"),
        ((4, 5, 3), (-1, 3), "`num_nonlinear` must be an integer of at least 0, got -1"),
        ((4, 5, 3), (1, None), "`num_linear` must be an integer of at least 0, got None"),
        ((4, 5, 3), (0, 0), "ask for one hidden layer or more"),
    ],
)
def test_wrong_sizes_get_one_clear_line(sizes: tuple, layers: tuple, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        HybridMLP(*sizes, num_nonlinear=layers[0], num_linear=layers[1])


@pytest.mark.parametrize("depth", [0, -1, 1.5])
def test_a_depth_that_is_none_is_named(depth: int) -> None:
    with pytest.raises((TypeError, ValueError), match=f"`depth` must be an integer of at least 1, got {depth}"):
        mlp(4, 5, 3, depth=depth)


def test_inputs_of_another_size_say_how_to_build_the_model() -> None:
    with pytest.raises(ValueError, match=r"64 values per sample, got shape \(2, 1, 5, 5\) with 25; .*in_features=25"):
        mlp(64, 6, 3, depth=1)(torch.zeros(2, 1, 5, 5))


@pytest.mark.parametrize("depth", [100_001, 10**12, 10**30])
def test_more_layers_than_memory_holds_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="must be an integer from 0 to 100000, got 10"):
        mlp(8, 8, 3, depth=depth)
