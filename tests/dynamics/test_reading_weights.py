"""Which matrices of a model are found, and that reading them gives today's values and changes nothing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from neurocollapse.dynamics import TrackerError, WeightTracker, named_matrices
from neurocollapse.hooks import NoMatchError


class TiedLanguageModel(nn.Module):
    """Its head shares the weight of its embedding, which comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.body = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.words.weight


@pytest.mark.parametrize("computed", [parametrizations.weight_norm, parametrizations.orthogonal])
def test_every_parametrised_layer_is_found(computed: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(*[computed(nn.Linear(4, 4)) for _ in range(7)])
    found = named_matrices(model)
    assert list(found) == [str(index) for index in range(7)]
    for read, layer in zip(found.values(), model, strict=True):
        assert torch.equal(read(), layer.weight)
    tracker = WeightTracker(model)
    tracker.record(0, model)
    assert tracker.to_dataset().sizes["layer"] == 7


def test_tracking_does_not_change_training_under_spectral_norm() -> None:
    finals = []
    for tracks in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 6)), nn.ReLU(), nn.Linear(6, 2))
        tracker = WeightTracker(model) if tracks else None
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        inputs = torch.randn(8, 6)
        for step in range(4):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
            if tracker is not None:
                tracker.record(step, model)
        assert all(module.training for module in model.modules())
        finals.append(model.state_dict())
    for name, value in finals[0].items():
        assert torch.equal(finals[1][name], value), name


@pytest.mark.parametrize("kind", ["prune", "weight_norm", "spectral_norm"])
def test_weights_that_a_forward_hook_sets_are_read_as_they_are_now(kind: str) -> None:
    layer = nn.Linear(5, 4, bias=False)
    if kind == "prune":
        prune.random_unstructured(layer, "weight", 0.3)
    elif kind == "weight_norm":
        with pytest.warns(FutureWarning, match="deprecated"):
            nn.utils.weight_norm(layer)
    else:
        nn.utils.spectral_norm(layer)
    tracker = WeightTracker(layer, reference=None)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    layer(torch.ones(1, 5)).square().sum().backward()
    optimizer.step()
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    tracker.record(1, layer)
    assert all(torch.equal(value, state[name]) for name, value in layer.state_dict().items())
    layer.eval()(torch.ones(1, 5))  # sets the weight anew, without a power iteration
    expected = torch.linalg.svdvals(layer.weight.detach().double())
    np.testing.assert_allclose(tracker.to_dataset()["singular_values"][0, 0], expected, rtol=1e-6)


def test_a_layer_that_is_pruned_while_it_is_tracked_is_followed() -> None:
    layer = nn.Linear(3, 3, bias=False)
    tracker = WeightTracker(layer, reference=None)
    tracker.record(0, layer)
    prune.custom_from_mask(layer, "weight", torch.zeros(3, 3))
    tracker.record(1, layer)
    assert float(tracker.to_dataset()["singular_values"].sel(step=1).max()) == 0


def test_a_layer_that_is_swapped_is_followed_by_its_name() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3, bias=False)), nn.Linear(3, 3))
    tracker = WeightTracker(model, reference=None)
    tracker.record(0, model)
    model[0] = nn.Sequential(nn.Linear(3, 3, bias=False))
    model[0][0].weight.data.fill_(0)
    tracker.record(1, model)
    assert float(tracker.to_dataset()["singular_values"].sel(step=1, layer="0.0").max()) == 0
    model[0] = nn.Identity()
    with pytest.raises(TrackerError, match=r"has no 0\.0\.weight any more; use a new tracker"):
        tracker.record(2, model)


def conv1d() -> nn.Module:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils", reason="transformers is an optional dependency")
    return pytorch_utils.Conv1D(5, 6)


def adapted() -> nn.Module:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(target_modules=["0"], r=2, init_lora_weights=False)
    return peft.get_peft_model(nn.Sequential(nn.Linear(6, 5)), config).base_model.model[0]


class LowRank(nn.Module):
    """A product of two factors, which says what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(2, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.right.T @ self.left.T

    def effective_weight(self) -> tuple[Tensor, None]:
        return self.left @ self.right, None


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("kind", ["Conv1D", "LoRA", "low rank", "quantised"])
def test_a_linear_layer_is_tracked_as_what_it_computes(kind: str) -> None:
    layer = {"Conv1D": conv1d, "LoRA": adapted, "low rank": LowRank, "quantised": lambda: nn.Linear(6, 5)}[kind]()
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(5, 4)).eval()
    if kind == "quantised":
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    found = named_matrices(model)
    assert list(found) == ["0", "2"]
    with torch.no_grad():
        computed = (model[0](torch.eye(6)) - model[0](torch.zeros(1, 6))).T
    torch.testing.assert_close(found["0"]().detach(), computed, atol=5e-3 if kind == "quantised" else 1e-5, rtol=0)
    tracker = WeightTracker(model)
    tracker.record(0, model)
    assert tracker.to_dataset()["layer"].values.tolist() == ["0", "2"]


def test_names_are_those_of_the_model_without_its_wrappers() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 5)), nn.Linear(5, 4))
    for wrapped in (torch.compile(model, backend="eager"), nn.DataParallel(model)):
        tracker = WeightTracker(wrapped, layers="0.*")
        tracker.record(0, wrapped)
        tracker.record(1, model)  # a run may be compiled, or unwrapped, on the way
        assert tracker.to_dataset()["layer"].values.tolist() == ["0.0"]
        assert list(named_matrices(wrapped)) == ["0.0", "1"]
    model[0] = torch.compile(model[0], backend="eager")
    assert list(named_matrices(model)) == ["0.0", "1"]
    assert torch.equal(named_matrices(model)["0.0"](), next(model[0].parameters()))


def test_parameters_are_chosen_by_name_beside_modules() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "head": nn.Linear(4, 2)})
    assert list(named_matrices(model)) == ["attention.out_proj", "head"]
    assert set(named_matrices(model, ["**.in_proj_weight", "head"])) == {"attention.in_proj_weight", "head"}
    assert set(named_matrices(model, ["**", "!**.in_proj_weight"])) == {"attention.out_proj", "head"}
    assert set(named_matrices(model, ["**.in_proj_weight", {"scores": "head"}])) == {
        "attention.in_proj_weight",
        "scores",
    }
    with pytest.raises(NoMatchError, match="leaves no weight matrix"):
        named_matrices(model, ["head", "!head"])


def test_matrices_of_a_list_are_chosen_and_taken_away_by_name() -> None:
    weights = [torch.eye(2), torch.zeros(2), torch.eye(2), torch.eye(2)]
    assert list(named_matrices(weights, ["W_*", "!W_2"])) == ["W_1", "W_3"]
    assert list(named_matrices(weights, "!W_1")) == ["W_2", "W_3"]
    with pytest.raises(ValueError, match="'W_4', which matches no weight matrix of the list; did you mean"):
        named_matrices(weights, "W_4")
    with pytest.raises(TypeError, match="must hold names or globs"):
        named_matrices(weights, nn.Linear)


def test_a_tied_layer_is_tracked_once_and_under_its_own_name() -> None:
    model = TiedLanguageModel()
    assert list(named_matrices(model)) == ["body", "head"]
    assert list(named_matrices(model, "head")) == ["head"]
    assert list(named_matrices(model, "words")) == ["words"]
    assert list(named_matrices(model, "**")) == ["words", "body"]


def test_a_lazy_layer_is_refused_until_it_has_a_weight() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"^0 has no weight yet; run one batch through the model first$"):
        WeightTracker(model)
    assert list(named_matrices(model, "2")) == ["2"]
    model(torch.ones(3, 5))
    assert list(named_matrices(model)) == ["0", "2"]


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_out_by_everything_else(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    matrix = named_matrices(layer)["(root)"]()
    assert matrix.shape == (6, 4 // groups * 9)
    pixel = torch.randn(1, 4, 1, 1)  # of one pixel, the kernel paints a patch a pair of channels
    patch = layer(pixel)[0].reshape(6, 9)
    inputs = pixel.reshape(groups, 4 // groups).repeat_interleave(6 // groups, dim=0)
    by_hand = torch.einsum("oi,oip->op", inputs, matrix.reshape(6, 4 // groups, 9))
    torch.testing.assert_close(by_hand, patch)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool])
def test_only_real_floating_point_weights_are_tracked(dtype: torch.dtype) -> None:
    with pytest.raises(TrackerError, match=r"^W_1 holds \w+, not real floating-point numbers; choose"):
        WeightTracker([torch.ones(2, 2, dtype=dtype)])


@pytest.mark.parametrize(
    ("weights", "kind"),
    [
        (nn.Linear(2, 2).parameters(), "generator"),
        (nn.Linear(2, 2).state_dict(), "OrderedDict"),
        (torch.eye(2), "Tensor"),
    ],
)
def test_what_is_no_module_and_no_list_is_refused_in_one_line(weights: Tensor, kind: str) -> None:
    with pytest.raises(TypeError, match=f"must be a module or a list of tensors, got {kind}; hand over the module"):
        WeightTracker().record(0, weights)
    with pytest.raises(TypeError, match=f"got {kind}"):
        WeightTracker(weights)
