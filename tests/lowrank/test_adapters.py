"""Adapters change what they are put on and nothing else, start where the source says, and come off without a trace."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from neurocollapse.lowrank import (
    AdapterError,
    Adapters,
    CompressedDeepLoRA,
    DeepLoRA,
    LoRA,
    factorize,
    gradient_subspace,
    inject,
)
from neurocollapse.lowrank.adapters import Chain

KINDS = [LoRA(rank=4), LoRA(rank=4, alpha=8.0), DeepLoRA(rank=4), CompressedDeepLoRA(rank=4)]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


class Shared(nn.Module):
    """A decoder whose output layer is tied to its embedding, as in many language models."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.body = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(self.embed(tokens))))


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(7, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 5)).to(dtype)


def batch(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(12, 7, dtype=dtype, generator=torch.Generator().manual_seed(1))


def adapted(model: nn.Module, inputs: Tensor, kind: object, layers: str = "**") -> Adapters:
    loss = (lambda: model(inputs).square().sum()) if isinstance(kind, CompressedDeepLoRA) else None
    return inject(model, layers, kind=kind, loss=loss, seed=3)


def train(adapters: Adapters, model: nn.Module, inputs: Tensor, num_steps: int = 20) -> None:
    optimizer = torch.optim.AdamW(adapters.parameter_groups(0.05), eps=1e-6, weight_decay=0.0)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (model(inputs) - 1).square().sum().backward()
        optimizer.step()


@every_kind
def test_the_output_is_that_of_weights_plus_changes(kind: object) -> None:
    model, inputs = network(), batch()
    weights = {name: module.weight.clone() for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    adapters = adapted(model, inputs, kind)
    train(adapters, model, inputs)
    hidden = inputs
    for name, module in network().named_children():
        layer = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            factors = [factor.detach() for factor in adapters[name].factors]
            change = factors[0]
            for factor in factors[1:]:
                change = factor @ change
            weight = weights[name] + adapters[name].scale * change
            hidden = torch.stack([weight @ row for row in hidden]) + layer.bias
        else:
            hidden = module(hidden)
    assert float((model(inputs) - hidden).detach().abs().max()) < 1e-12


@every_kind
def test_a_new_adapter_changes_nothing_to_single_precision(kind: object) -> None:
    model, inputs = network(torch.float32), batch(torch.float32)
    before = model(inputs).detach()
    adapters = adapted(model, inputs, kind)
    assert (
        float((model(inputs) - before).detach().abs().max()) <= 1e-6
    )  # ε³ = 1e−9 of the inputs, beside float32's rounding
    train(adapters, model, inputs)
    assert float((model(inputs) - before).detach().abs().max()) > 1e-2


@every_kind
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_merging_leaves_the_output_to_rounding(kind: object, dtype: torch.dtype, rounding: float) -> None:
    model, inputs = network(dtype), batch(dtype)
    adapters = adapted(model, inputs, kind)
    train(adapters, model, inputs)
    trained = model(inputs)
    adapters.merge()
    merged = model(inputs)
    assert merged.dtype == dtype
    assert float((merged - trained).detach().abs().max()) < rounding * float(trained.detach().abs().max())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in network().named_parameters()]


@every_kind
def test_removing_restores_the_model_to_the_last_bit(kind: object) -> None:
    model, inputs = network(), batch()
    model[2].bias.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    state, output = copy.deepcopy(model.state_dict()), model(inputs)
    adapters = adapted(model, inputs, kind)
    names = {id(parameter) for chain in adapters.values() for parameter in chain.parameters()}
    assert {id(parameter) for parameter in model.parameters() if parameter.requires_grad} == names
    train(adapters, model, inputs)
    adapters.remove()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(inputs), output)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_lora_starts_at_unit_variance_and_zero() -> None:
    first, second = LoRA(rank=50).initial_factors(60, 400, torch.Generator().manual_seed(0))
    assert float(first.std()) == pytest.approx(1.0, abs=0.03)  # 20,000 draws: four standard errors are 0.02
    assert not second.any()
    assert LoRA(rank=8).scale == 1.0
    assert LoRA(rank=8, alpha=16.0).scale == 2.0


def test_deep_lora_starts_at_small_orthogonal_factors() -> None:
    for factor in DeepLoRA(rank=4).initial_factors(10, 7, torch.Generator().manual_seed(0)):
        values = torch.linalg.svdvals(factor)
        assert float((values / 1e-3 - 1).detach().abs().max()) < 1e-12


def test_compressed_factors_span_the_gradient_and_its_images() -> None:
    gradient = torch.randn(10, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    right, *cores, left = CompressedDeepLoRA(rank=4).factors_from_gradient(gradient, torch.Generator().manual_seed(3))
    wide = nn.init.orthogonal_(torch.empty(10, 7, dtype=torch.float64), generator=torch.Generator().manual_seed(3))
    expected = gradient_subspace(gradient, wide, 2)
    assert torch.equal(right, expected.right.T)
    assert torch.equal(left, expected.left)
    leading = torch.linalg.svd(gradient)[2][:2].T
    assert (
        float((right.T @ right @ leading - leading).detach().abs().max()) < 1e-12
    )  # contains the gradient's directions
    assert len(cores) == 3
    assert all(torch.equal(core, 1e-3 * torch.eye(4, dtype=torch.float64)) for core in cores)


def test_a_compressed_adapter_sees_the_first_gradient() -> None:
    model, inputs = network(), batch()
    loss = model(inputs).square().sum()
    gradient = torch.autograd.grad(loss, model[2].weight)[0]
    adapters = adapted(model, inputs, CompressedDeepLoRA(rank=4), "2")
    expected = CompressedDeepLoRA(rank=4).factors_from_gradient(gradient, torch.Generator().manual_seed(3))
    right = adapters["2"].factors[0]
    projections = [basis.T @ basis for basis in (right.detach(), expected[0])]
    assert float((projections[0] - projections[1]).detach().abs().max()) < 1e-9


def test_parameters_are_counted_and_the_outer_ones_train_slowly() -> None:
    model, inputs = network(), batch()
    adapters = adapted(model, inputs, CompressedDeepLoRA(rank=4))
    sides = [(7, 10), (10, 10), (10, 5)]
    assert adapters.num_parameters == sum(4 * (i + o) + 3 * 16 for i, o in sides)
    inner, outer = adapters.parameter_groups(1e-2, outer=0.01)
    assert outer["lr"] == pytest.approx(1e-4)
    assert {tuple(factor.shape) for factor in inner["params"]} == {(4, 4)}
    assert len(inner["params"]) + len(outer["params"]) == 5 * 3
    adapters.remove()
    deep = adapted(model, inputs, DeepLoRA(rank=4))
    assert deep.num_parameters == sum(4 * (i + o) + 16 for i, o in sides)
    assert len(deep.parameter_groups(1e-2)) == 1


def test_starts_depend_on_the_seed_alone() -> None:
    model = network()
    before = torch.get_rng_state()
    values = []
    for seed in (0, 0, 1):
        torch.rand(3)
        adapters = inject(model, "**", kind=DeepLoRA(rank=2), seed=seed)
        values.append(adapters["0"].weight_change())
        adapters.remove()
    torch.set_rng_state(before)
    assert torch.equal(values[0], values[1])
    assert not torch.equal(values[0], values[2])


def test_globs_choose_layers_and_stay_inside_a_part_of_a_name() -> None:
    model = nn.ModuleDict({"a": network(), "b": nn.ModuleDict({"c": network()})})
    chosen = []
    for layers in ("a.*", "**", "*.0", "**.0", ["b.c.4", "a.0"]):
        adapters = inject(model, layers, kind=LoRA(rank=1))
        chosen.append(list(adapters))
        adapters.remove()
    every = ["a.0", "a.2", "a.4", "b.c.0", "b.c.2", "b.c.4"]
    assert chosen == [every[:3], every, ["a.0"], ["a.0", "b.c.0"], ["a.0", "b.c.4"]]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("5", "names '5', which Sequential does not have"),
        ("1", "names '1', a Tanh and no linear layer; there are 0, 2, 4"),
        ("x.*", "matches no module"),
        ("[13]", "matches no linear layer, only Tanh; there are 0, 2, 4"),
        ([], "leaves no module"),
        (nn.Conv2d, "= Conv2d matches no module"),
        (7, "must hold names, globs"),
    ],
)
def test_layers_that_are_not_there_are_named(layers: object, message: str) -> None:
    with pytest.raises((AdapterError, TypeError), match=message):
        inject(network(), layers, kind=LoRA(rank=2))


def test_the_nearest_name_and_the_layers_inside_a_block_are_suggested() -> None:
    model = nn.ModuleDict({"query": nn.Linear(4, 4), "block": network()})
    with pytest.raises(AdapterError, match="did you mean 'query'"):
        inject(model, "querry", kind=LoRA(rank=2))
    with pytest.raises(AdapterError, match=r"inside are block\.0, block\.2, block\.4"):
        inject(model, "block", kind=LoRA(rank=2))
    with pytest.raises(AdapterError, match="matches no module of ReLU"):
        inject(nn.ReLU(), "**", kind=LoRA(rank=2))


def test_ranks_are_checked_before_anything_is_changed() -> None:
    model = network()
    with pytest.raises(AdapterError, match=r"at most 5 for '4' \(10 inputs, 5 outputs\), got 6"):
        inject(model, "**", kind=LoRA(rank=6))
    assert all(parameter.requires_grad for parameter in model.parameters())
    for wrong in (lambda: LoRA(rank=0), lambda: DeepLoRA(rank=2.5), lambda: CompressedDeepLoRA(rank=3)):
        with pytest.raises((TypeError, ValueError), match="`rank`"):
            wrong()
    for wrong in (lambda: LoRA(alpha=0.0), lambda: DeepLoRA(init_scale=float("nan"))):
        with pytest.raises(ValueError, match="must be a positive number"):
            wrong()


def test_adapters_are_injected_and_taken_off_once() -> None:
    model = network()
    adapters = inject(model, "0", kind=LoRA(rank=2))
    with pytest.raises(AdapterError, match="has adapters already, on 0; merge or remove them first"):
        inject(model, "2", kind=LoRA(rank=2))
    adapters.remove()
    for again in (adapters.remove, adapters.merge):
        with pytest.raises(AdapterError, match="already been merged or removed"):
            again()
    inject(model, "2", kind=LoRA(rank=2))


def test_the_loss_goes_with_compressed_adapters_only() -> None:
    model, inputs = network(), batch()
    with pytest.raises(ValueError, match="must be given for CompressedDeepLoRA"):
        inject(model, "0", kind=CompressedDeepLoRA(rank=2))
    with pytest.raises(ValueError, match="CompressedDeepLoRA only, not with DeepLoRA"):
        inject(model, "0", kind=DeepLoRA(rank=2), loss=lambda: model(inputs).sum())
    with pytest.raises(AdapterError, match="does not depend on 4"):
        inject(
            model,
            "4",
            kind=CompressedDeepLoRA(rank=2),
            loss=lambda: model[:3](inputs).sum() + 0 * model(inputs).sum().detach(),
        )
    assert not any(isinstance(module, Chain) for module in model.modules())
    with pytest.raises(TypeError, match="`kind` must be"):
        inject(model, "0", kind="lora")


def test_a_failing_loss_leaves_the_model_as_it_was() -> None:
    model = network()

    def failing() -> Tensor:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        inject(model, "0", kind=CompressedDeepLoRA(rank=2), loss=failing)
    assert not model[0]._forward_hooks
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (
            lambda output: output,
            AdapterError,
            r"`loss` must return one number, got shape \(12, 5\); take its mean or sum",
        ),
        (lambda output: output.sum().detach(), AdapterError, "`loss` returned a number without a gradient"),
        (lambda output: float(output.detach().sum()), TypeError, "`loss` must return a tensor, got a float"),
    ],
)
def test_what_no_gradient_can_be_taken_of_is_refused(
    returned: Callable[[Tensor], object], error: type[Exception], message: str
) -> None:
    model, inputs = network(), batch()
    with pytest.raises(error, match=message):
        inject(model, "**", kind=CompressedDeepLoRA(rank=2), loss=lambda: returned(model(inputs)))
    assert not any(isinstance(module, Chain) for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


class Taken(nn.Linear):
    """A dense layer that uses the adapter's name for something of its own."""

    def __init__(self, own: object) -> None:
        super().__init__(7, 7)
        self.adapter = own


@pytest.mark.parametrize("own", ["text", nn.Identity()], ids=["attribute", "module"])
def test_a_layer_with_an_adapter_of_its_own_is_refused(own: object) -> None:
    model = nn.Sequential(nn.Linear(7, 7), Taken(own))
    with pytest.raises(AdapterError, match="'1', a Taken, has an attribute 'adapter' of its own"):
        inject(model, "**", kind=LoRA(rank=2))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model[1].adapter is own
    assert not any(isinstance(module, Chain) for module in model.modules())
    inject(model, "0", kind=LoRA(rank=2)).remove()


def test_a_tied_weight_is_adapted_in_one_place_only() -> None:
    model, tokens = Shared(), torch.arange(9)
    adapters = inject(model, "head", kind=LoRA(rank=2))
    nn.init.ones_(adapters["head"].factors[1])
    trained, embedded = model(tokens).detach(), model.embed(tokens).detach()
    with pytest.raises(AdapterError, match="'head' shares its weight with 'embed'"):
        adapters.merge()
    assert torch.equal(model(tokens), trained)
    adapters.merge(untie=True)
    assert float((model(tokens) - trained).detach().abs().max()) < 1e-5
    assert torch.equal(model.embed(tokens), embedded)
    assert model.head.weight is not model.embed.weight
    assert model.head.weight.requires_grad
    assert model.embed.weight.requires_grad


def test_gradients_of_layers_with_one_weight_are_told_apart() -> None:
    model, inputs = network(), batch()
    model[2].weight = nn.Parameter(model[2].weight.detach().clone())
    double = nn.Sequential(model[0], model[2], nn.Linear(10, 10, dtype=torch.float64))
    double[2].weight = double[1].weight
    kind = CompressedDeepLoRA(rank=2)
    adapters = inject(double, ["1", "2"], kind=kind, loss=lambda: double(inputs).square().sum())
    assert not torch.allclose(adapters["1"].factors[0], adapters["2"].factors[0])


def test_a_change_that_is_not_finite_is_not_merged() -> None:
    model = network()
    adapters = inject(model, "0", kind=LoRA(rank=2))
    nn.init.constant_(adapters["0"].factors[1], float("nan"))
    before = model[0].weight.clone()
    with pytest.raises(AdapterError, match="holds NaN or infinite numbers"):
        adapters.merge()
    assert torch.equal(model[0].weight, before)


def test_a_layer_that_is_never_called_is_refused() -> None:
    attention = nn.MultiheadAttention(8, 2)
    with pytest.raises(AdapterError, match="'out_proj' is never called"):
        inject(attention, "out_proj", kind=LoRA(rank=2))


@pytest.mark.parametrize("training", [True, False])
def test_layers_of_a_transformer_block_take_part(training: bool) -> None:
    block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    inputs = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = block(inputs)
        adapters = inject(block, "linear1", kind=LoRA(rank=2))
        nn.init.ones_(adapters["linear1"].factors[1])
        assert float((block(inputs) - before).detach().abs().max()) > 1e-3


def test_a_copy_of_the_model_has_adapters_of_its_own() -> None:
    model, inputs = network(), batch()
    adapters = inject(model, "0", kind=LoRA(rank=2))
    twin = copy.deepcopy(model)
    nn.init.ones_(adapters["0"].factors[1])
    assert float((model(inputs) - twin(inputs)).detach().abs().max()) > 1e-3
    assert len([name for name in model.state_dict() if ".adapter." in name]) == 2


def test_hooks_that_were_there_before_see_the_adapted_output() -> None:
    model, inputs = network(), batch()
    seen: list[Tensor] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    adapters = inject(model, "0", kind=LoRA(rank=2))
    nn.init.ones_(adapters["0"].factors[1])
    model(inputs)
    expected = inputs @ (model[0].weight + adapters["0"].weight_change()).T + model[0].bias
    assert float((seen[0] - expected).detach().abs().max()) < 1e-12


def test_the_representation_says_how_large_they_are() -> None:
    adapters = inject(network(), "**", kind=DeepLoRA(rank=2))
    assert repr(adapters) == "Adapters(DeepLoRA(rank=2, init_scale=0.001), 3 layers, 116 parameters)"
    assert "10×2 · 2×2 · 2×7" in repr(adapters["0"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["low rank", "quantised", "parametrised"])
def test_any_linear_layer_can_be_adapted_and_only_plain_ones_merged(kind: str) -> None:
    model, inputs = network().float().eval(), batch().float()
    if kind == "low rank":
        model = factorize(model, "2", rank=4)
    elif kind == "quantised":
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    else:
        nn.utils.parametrizations.weight_norm(model[2])
    before = model(inputs)
    adapters = inject(model, "2", kind=LoRA(rank=2))
    assert torch.equal(model(inputs), before)
    nn.init.ones_(adapters["2"].factors[1])
    assert not torch.equal(model(inputs), before)
    with pytest.raises(AdapterError, match=r"'2', a .*, has no plain weight"):
        adapters.merge()
    adapters.remove()
    assert torch.equal(model(inputs), before)


def test_adapters_act_in_a_model_that_was_compiled_and_run_before() -> None:
    model, inputs = network(), batch()
    compiled = torch.compile(model, backend="eager")
    before = compiled(inputs)
    adapters = inject(compiled, "**.0", kind=LoRA(rank=2))
    assert list(adapters) == ["0"]
    nn.init.ones_(adapters["0"].factors[1])
    assert not torch.equal(compiled(inputs), before)
    assert torch.equal(compiled(inputs), model(inputs))
    adapters.remove()
    assert torch.equal(compiled(inputs), before)


def test_the_parts_of_a_linear_layer_get_no_adapters_of_their_own() -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(target_modules=["0"], r=2, init_lora_weights=False)
    theirs = peft.get_peft_model(network(), config).base_model.model
    for layers in ("**", "linear", nn.Module):
        adapters = inject(theirs, layers, kind=LoRA(rank=1))
        assert list(adapters) == ["0", "2", "4"]
        adapters.remove()
