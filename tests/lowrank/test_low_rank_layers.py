"""Layers BA: their start, their place in any model, multiplying them out, and what they cost."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from neurocollapse.lowrank import LowRankLinear, cost, factorize, gradient_subspace, merge_factors

ROUNDING = 1e-5
"""Relative, of sums of up to 200 products in single precision."""


def perceptron(*, bias: bool = True) -> nn.Sequential:
    """Three layers with random weights of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(12, 20, bias), nn.ReLU(), nn.Linear(20, 16, bias), nn.ReLU(), nn.Linear(16, 3, bias)
        )


def samples(count: int = 6, features: int = 12) -> Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(1))


def close(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=ROUNDING, atol=ROUNDING)


def test_the_layer_computes_b_a_x() -> None:
    layer = LowRankLinear(5, 4, rank=2, seed=3)
    nn.init.normal_(layer.bias)
    inputs = samples(7, 5)
    naive = torch.zeros(7, 4)
    for i in range(7):
        for row in range(4):
            naive[i, row] = layer.bias[row] + sum(
                layer.left[row, k] * layer.right[column, k] * inputs[i, column] for k in range(2) for column in range(5)
            )
    assert close(layer(inputs), naive)
    assert close(layer(inputs.reshape(7, 1, 5)), naive.reshape(7, 1, 4))


def test_a_random_start_has_the_variance_of_a_fresh_linear_layer() -> None:
    before = torch.get_rng_state()
    weight = LowRankLinear(300, 400, rank=40, seed=0).weight
    assert torch.equal(torch.get_rng_state(), before)
    # 40·(300 + 400) independent numbers, products of two normals: the variance is known to a few per cent
    assert weight.var().item() == pytest.approx(1 / (3 * 300), rel=0.1)
    assert not torch.equal(weight, LowRankLinear(300, 400, rank=40, seed=1).weight)


def test_random_starts_differ_from_layer_to_layer() -> None:
    model = factorize(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), "*", 2, start="random", seed=4)
    assert not torch.equal(model[0].left, model[1].left)
    again = factorize(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), "*", 2, start="random", seed=4)
    assert torch.equal(model[1].left, again[1].left)


@pytest.mark.parametrize("rank", [1, 3, 12])
def test_the_svd_start_is_the_best_approximation(rank: int) -> None:
    linear = perceptron()[0]
    layer = LowRankLinear.from_linear(linear, rank)
    values = torch.linalg.svdvals(linear.weight)
    error = torch.linalg.matrix_norm(layer.weight - linear.weight)
    assert error.item() == pytest.approx(values[rank:].square().sum().sqrt().item(), abs=ROUNDING)  # Eckart and Young
    assert close(layer.left.T @ layer.left, layer.right.T @ layer.right)  # balanced


def test_the_gradient_start_keeps_what_training_moves() -> None:
    model, inputs = perceptron(), samples(40)
    nn.functional.cross_entropy(model(inputs), torch.arange(40) % 3).backward()
    weight, gradient = model[0].weight.detach(), model[0].weight.grad
    basis = gradient_subspace(gradient, weight, 2).right
    layer = factorize(model, "0", 4, start="gradient")[0]
    assert close(layer.weight @ basis, weight @ basis)
    assert torch.linalg.matrix_rank(layer.weight) == 4


def test_at_full_rank_nothing_changes() -> None:
    model = perceptron().eval()
    assert close(factorize(model, "2", 16)(samples()), model(samples()))


def test_the_model_itself_is_left_alone() -> None:
    model = perceptron()
    before = copy.deepcopy(model.state_dict())
    small = factorize(model, ["0", "2"], 3)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [type(module) for module in model] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("start", ["svd", "random"])
@pytest.mark.parametrize("bias", [True, False])
def test_multiplied_out_outputs_are_equal_up_to_rounding(start: str, bias: bool) -> None:
    small = factorize(perceptron(bias=bias), "**", 2, start=start)
    dense = merge_factors(small)
    assert [type(module) for module in dense] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    assert close(dense(samples()), small(samples()))
    assert all(torch.linalg.matrix_rank(module.weight) == 2 for module in dense if isinstance(module, nn.Linear))


def test_in_double_precision_merging_is_exact_to_its_rounding() -> None:
    small = factorize(perceptron().double(), "2", 5)
    inputs = samples().double()
    assert torch.allclose(merge_factors(small)(inputs), small(inputs), rtol=1e-13, atol=1e-14)


def test_dtype_mode_and_what_is_frozen_are_kept() -> None:
    model = perceptron().to(torch.bfloat16).eval()
    model[0].weight.requires_grad_(False)
    layer = factorize(model, "0", 2)[0]
    assert layer.left.dtype == layer.bias.dtype == torch.bfloat16
    assert not layer.training
    assert [parameter.requires_grad for parameter in (layer.left, layer.right, layer.bias)] == [False, False, True]
    dense = merge_factors(nn.Sequential(layer))[0]
    assert (dense.weight.dtype, dense.weight.requires_grad, dense.bias.requires_grad) == (torch.bfloat16, False, True)


def test_a_layer_used_twice_stays_one_layer() -> None:
    shared = nn.Linear(8, 8)
    model = nn.ModuleDict({"first": shared, "again": nn.Sequential(shared), "head": nn.Linear(8, 2)})
    small = factorize(model, "again.0", 2)
    assert small["first"] is small["again"][0]
    assert isinstance(small["first"], LowRankLinear)
    dense = merge_factors(small)
    assert dense["first"] is dense["again"][0]


def test_layers_that_share_a_weight_share_its_factors() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    small = factorize(model, "*", 2)
    assert small[0].left is small[1].left
    assert small[0].bias is not small[1].bias
    assert sum(parameter.numel() for parameter in small.parameters()) == 2 * 8 * 2 + 2 * 8
    dense = merge_factors(small)
    assert dense[0].weight is dense[1].weight


def test_layers_that_share_a_bias_share_it_afterwards() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].bias = model[0].bias
    small = factorize(model, "*", 2)
    dense = merge_factors(small)
    for found in (small, dense):
        assert found[0].bias is found[1].bias
        assert found[2].bias is found[3].bias is None
        assert found[0].bias is not model[0].bias
    assert dense[0].weight is not dense[1].weight


def test_a_weight_with_another_owner_is_not_torn_off() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(9, 6), "head": nn.Linear(6, 9, bias=False)})
    model["head"].weight = model["words"].weight
    with pytest.raises(ValueError, match=r"'head', whose weight is also 'words.weight'; leave it out"):
        factorize(model, "head", 2)


def test_other_ties_survive() -> None:
    model = nn.ModuleDict({"words": nn.Embedding(9, 6), "body": nn.Linear(6, 6), "head": nn.Linear(6, 9, bias=False)})
    model["head"].weight = model["words"].weight
    small = factorize(model, "body", 2)
    assert small["head"].weight is small["words"].weight
    assert small["head"].weight is not model["words"].weight


def test_a_transposed_layer_is_factorised_as_its_dense_double() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is an optional dependency")
    conv, inputs = pytorch_utils.Conv1D(5, 8), samples(20, 8)
    nn.init.normal_(conv.bias)
    dense = nn.Linear(8, 5)
    with torch.no_grad():
        dense.weight.copy_(conv.weight.T)
        dense.bias.copy_(conv.bias)
    for layer in (conv, dense):
        layer(inputs).square().sum().backward()
    for start in ("svd", "gradient"):
        low, double = (LowRankLinear.from_linear(layer, 2, start=start) for layer in (conv, dense))
        assert close(low(inputs), double(inputs))
    model = factorize(nn.Sequential(conv, nn.ReLU()), "linear", 5)
    assert isinstance(model[0], LowRankLinear)
    assert close(model(inputs), conv(inputs).relu())


def test_a_wrapped_model_is_factorised_under_its_own_names() -> None:
    model = perceptron()
    for wrapped in (
        torch.compile(model, backend="eager"),
        nn.DataParallel(model),
        torch.optim.swa_utils.AveragedModel(model),
    ):
        small = factorize(wrapped, "2", 2)
        assert type(small) is nn.Sequential
        assert isinstance(small[2], LowRankLinear)


def test_a_single_layer_is_a_model_too() -> None:
    linear = perceptron()[0]
    small = factorize(linear, "(root)", 12)
    assert isinstance(small, LowRankLinear)
    assert close(merge_factors(small)(samples()), linear(samples()))


def test_a_transformer_gives_the_same_in_train_and_in_its_fast_path() -> None:
    encoder = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True)
    small, inputs = factorize(encoder, "linear?", 16), samples(10, 16).reshape(2, 5, 16)
    assert close(small(inputs), encoder(inputs))
    with torch.no_grad():
        assert close(small.eval()(inputs), encoder.eval()(inputs))


def test_the_factors_are_trained() -> None:
    model = factorize(perceptron(), "2", 2, start="random")
    nn.functional.cross_entropy(model(samples()), torch.arange(6) % 3).backward()
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in model[2].parameters())


@pytest.mark.parametrize(
    ("layers", "rank", "message"),
    [
        ("body", 2, r"names 'body', which Sequential does not have"),
        ("22", 2, r"names '22', which Sequential does not have; did you mean '2'"),
        ("1", 2, r"names '1', a ReLU and no plain linear layer .*; there are 0, 2, 4"),
        ("", 2, r"names '\(root\)', a Sequential and no plain linear layer .*; inside are 0, 2, 4"),
        ("[13]", 2, r"'\[13\]' matches no plain linear layer .*, only ReLU; there are 0, 2, 4"),
        ("*.x", 2, r"'\*\.x' matches no module of Sequential"),
        ([], 2, r"leaves no module of Sequential"),
        ("2", 0, r"`rank` must be an integer from 1 to 16 for '2' of 20 inputs and 16 outputs, got 0"),
        ("2", 17, r"from 1 to 16 for '2' of 20 inputs and 16 outputs, got 17"),
        ("*", 4, r"from 1 to 3 for '4'"),
        ("2", 2.0, r"`rank` must be an integer"),
        ("2", True, r"`rank` must be an integer"),
    ],
)
def test_a_wrong_target_or_rank_is_one_clear_line(layers: str | list[str], rank: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        factorize(perceptron(), layers, rank)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda: weight_norm(nn.Linear(4, 4)), "a ParametrizedLinear and no plain linear layer"),
        (lambda: nn.LazyLinear(4), "a LazyLinear and no plain linear layer"),
        (lambda: nn.MultiheadAttention(4, 2).out_proj, "NonDynamicallyQuantizableLinear"),
    ],
)
def test_linear_layers_that_cannot_be_replaced_are_refused(spoil: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factorize(nn.ModuleDict({"it": spoil()}), "it", 2)


def test_a_wrong_start_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="layer '0': `start` must be one of 'svd', 'gradient', 'random', got 'qr'"):
        factorize(perceptron(), "0", 2, start="qr")
    with pytest.raises(ValueError, match=r"layer '0': .*run one backward pass"):
        factorize(perceptron(), "0", 2, start="gradient")
    model = perceptron()
    model(samples()).sum().backward()
    with pytest.raises(ValueError, match="`rank` must be even with start='gradient'"):
        factorize(model, "0", 3, start="gradient")
    with pytest.raises(ValueError, match="Sequential has none"):
        merge_factors(perceptron())
    with pytest.raises(TypeError, match=r"must hold names, globs, .*, got 0 of type int"):
        factorize(perceptron(), [0], 2)


def test_globs_stop_at_dots_and_take_each_layer_once() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "b": nn.Linear(4, 4)})
    lows = {
        glob: [name for name, module in factorize(model, glob, 1).named_modules() if isinstance(module, LowRankLinear)]
        for glob in ("*", "*.*", "**", "a.[0-1]", "[!a]")
    }
    assert lows == {"*": ["b"], "*.*": ["a.0"], "**": ["a.0", "b"], "a.[0-1]": ["a.0"], "[!a]": ["b"]}


def test_cost_counts_what_the_formula_says() -> None:
    model, inputs = perceptron(), samples(1)
    small = factorize(model, "2", 3)
    dense, thin = cost(model, inputs), cost(small, inputs)
    assert dense.parameters == 12 * 20 + 20 + 20 * 16 + 16 + 16 * 3 + 3
    assert dense.flops == 2 * (12 * 20 + 20 * 16 + 16 * 3)
    assert thin.parameters == dense.parameters - 20 * 16 + 3 * (20 + 16)
    assert thin.flops == dense.flops - 2 * (20 * 16 - 3 * (20 + 16))
    assert thin.bytes == 4 * thin.parameters
    assert cost(model, samples(5)).flops == 5 * dense.flops
    assert cost(merge_factors(small), inputs) == dense


def test_cost_takes_arguments_and_leaves_the_model_alone() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    model[0].weight.requires_grad_(False)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = cost(model, (torch.ones(1, 1, 5, 5),))
    assert found.flops == 2 * (3 * 3) * (3 * 3) * 2  # positions × kernel × filters, twice
    assert (found.parameters, found.trainable) == (18 + 2 + 4, 2 + 4)
    assert found.bytes == 4 * (18 + 2 + 4) + 4 * 4 + 8  # running mean and variance, and an int64 count
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in model)
    assert cost(nn.Linear(3, 2), {"input": torch.ones(1, 3)}).flops == 12


class SelfAttention(nn.Module):
    """Attention of a sequence to itself, by PyTorch's own module or by the function alone."""

    def __init__(self, *, module: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True) if module else None

    def forward(self, inputs: Tensor) -> Tensor:
        if self.attention is not None:
            return self.attention(inputs, inputs, inputs)[0]
        heads = inputs.unflatten(-1, (2, 8)).transpose(1, 2)
        return nn.functional.scaled_dot_product_attention(heads, heads, heads)


def test_cost_counts_attention_in_every_form() -> None:
    inputs, fused = torch.ones(3, 5, 16), torch.backends.mha.get_fastpath_enabled()
    # Each of 3 sequences, 2 heads, 5 queries and 5 keys: a product of 8 numbers, and as many to weigh the values.
    weighing = sum(2 * 8 + 2 * 8 for _ in range(3) for _ in range(2) for _ in range(5) for _ in range(5))
    projections = 3 * 5 * 2 * (16 * 48 + 16 * 16)
    assert cost(SelfAttention(module=False), inputs).flops == weighing
    assert cost(SelfAttention(module=True), inputs).flops == weighing + projections
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    assert cost(layer, inputs).flops == weighing + projections + 3 * 5 * 2 * (16 * 32 + 32 * 16)
    assert torch.backends.mha.get_fastpath_enabled() == fused
