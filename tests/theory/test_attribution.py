"""What maps and activations do to the classes: four factors a layer, and a claim that is proved or can fail."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from neurocollapse.passes.loop import Pass
from neurocollapse.passes.options import PassOptions
from neurocollapse.support.transfer import Readback
from neurocollapse.theory import attribution, links, verify
from neurocollapse.theory.attribution import _LIPSCHITZ
from neurocollapse.theory.links import FUNCTIONS, LinkSink
from tests.readbacks import Patient, asked_patiently, numbered

Batches = list[tuple[Tensor, Tensor]]


def batches(width: int = 6, classes: int = 3, *, scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Batches:
    """Normal classes, in batches of unequal size."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (50,), generator=generator)
    centres = torch.randn(classes, width, generator=generator, dtype=dtype)
    inputs = scale * (centres[labels] + 0.7 * torch.randn(50, width, generator=generator, dtype=dtype))
    return list(zip(inputs.split(16), labels.split(16), strict=True))


def traces(features: Tensor, labels: Tensor) -> tuple[float, float]:
    """tr Σ_W with 1/N and tr Σ_B with 1/K, by their definitions."""
    rows, own = features.detach().flatten(1).numpy(), labels.numpy()
    means = np.stack([rows[own == k].mean(axis=0) for k in np.unique(own)])
    within = sum(((rows[own == k] - mean) ** 2).sum() for k, mean in zip(np.unique(own), means, strict=True))
    return within / len(rows), ((means - means.mean(axis=0)) ** 2).sum() / len(means)


def factors(before: Tensor, after: Tensor, labels: Tensor) -> list[float]:
    return [new / old for new, old in zip(traces(after, labels), traces(before, labels), strict=True)]


def attributed(model: nn.Module, loader: Batches, **options: Any) -> Any:
    return attribution(model.to(loader[0][0].dtype), loader, progress=False, **options)


def mlp(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 12), activation, nn.Linear(12, 8), activation, nn.Linear(8, 3))


def test_the_factors_are_those_of_their_definitions() -> None:
    model = nn.Sequential(
        nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)
    ).double()
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    loader = batches()
    inputs, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    found = attributed(model, loader).dataset
    model.eval()
    places = [inputs]
    places += [model[: end + 1](inputs) for end in range(7)]
    expected = {"0": (0, 2, 3), "4": (3, 5, 6), "6": (6, 7, 7)}  # where map and activation of a layer end
    for name, (start, middle, end) in expected.items():
        within, between = factors(places[start], places[middle], labels)
        row = found.sel(layer=name)
        assert row["within_map"].item() == pytest.approx(within, rel=1e-12)
        assert row["between_map"].item() == pytest.approx(between, rel=1e-12)
        within, between = factors(places[middle], places[end], labels)
        assert row["within_activation"].item() == pytest.approx(within, rel=1e-12)
        assert row["between_activation"].item() == pytest.approx(between, rel=1e-12)
        spread, distance = traces(places[end], labels)
        assert row["compression"].item() == pytest.approx(spread / distance, rel=1e-12)
    assert found["activation"].values.tolist() == ["ReLU", "Tanh", ""]
    assert found["within_activation"].values[2] == 1.0


def test_the_four_factors_make_up_the_decay_ratio() -> None:
    found = attributed(mlp(nn.ReLU()), batches()).dataset
    product = found["within_map"] * found["within_activation"] / found["between_map"] / found["between_activation"]
    np.testing.assert_allclose(found["decay_ratio"], product, rtol=1e-12)
    ratios = found["compression"].values[1:] / found["compression"].values[:-1]
    np.testing.assert_allclose(found["decay_ratio"].values[1:], ratios, rtol=1e-12)


def test_turned_and_scaled_inputs_and_more_copies_change_no_activation() -> None:
    loader, model = batches(), mlp(nn.ReLU()).double()
    expected = attributed(model, loader).dataset
    turn = torch.linalg.qr(torch.randn(6, 6).double())[0]
    first = nn.Linear(6, 12).double()
    with torch.no_grad():
        first.weight.copy_(model[0].weight @ turn.T / 4)
        first.bias.copy_(model[0].bias)
    turned = [(4 * inputs @ turn.T, labels) for inputs, labels in loader]
    other = attributed(nn.Sequential(first, *model[1:]), [*turned, *turned]).dataset
    for name in ("within_activation", "between_activation", "compression"):
        np.testing.assert_allclose(other[name], expected[name], rtol=1e-10)


class Functional(nn.Module):
    """The same network as `mlp`, its activations called as functions."""

    def __init__(self, model: nn.Sequential, function: Any) -> None:
        super().__init__()
        self.first, self.second, self.third = model[0], model[2], model[4]
        self.function = function

    def forward(self, inputs: Tensor) -> Tensor:
        return self.third(self.function(self.second(self.function(self.first(inputs)))))


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_functions_are_recognised_by_what_they_compute(name: str, dtype: torch.dtype) -> None:
    modules = {"relu": nn.ReLU(), "tanh": nn.Tanh(), "gelu": nn.GELU(), "silu": nn.SiLU()}
    model, loader = mlp(modules[name]), batches(dtype=dtype)
    expected, found = attributed(model, loader), attributed(Functional(model, FUNCTIONS[name][0]), loader)
    assert found.dataset["activation"].values.tolist() == [name, name, ""]
    for factor in ("within_map", "within_activation", "between_activation", "decay_ratio"):
        np.testing.assert_array_equal(found.dataset[factor], expected.dataset[factor])
    outcomes = [[verdict.outcome for verdict in one.verdicts] for one in (expected, found)]
    assert outcomes[0] == outcomes[1]


class Fitting(Patient):
    """Says that all functions fit."""

    def numbers(self) -> Tensor:
        return super().numbers() + 1


def test_what_leads_to_what_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_patiently(monkeypatch)
    monkeypatch.setattr(links, "Readback", Fitting)
    monkeypatch.setattr(PassOptions, "device_of", lambda options, model: torch.device("meta"))
    model, loader = mlp(nn.ReLU()).to("meta"), batches(dtype=torch.float32)  # a number of this device cannot be read
    options = PassOptions(layers="leaves", pool="flatten", num_classes=3, progress=False)
    found = Pass(model, numbered(loader), {"links": LinkSink()}, options, name="links").run()["links"]
    assert [len(names) for names in found.values()] == [11, 0, 11, 0]  # layers of unequal width are led nowhere
    assert Fitting.looked_at == [(0, 1)] * 2 + [(1, 2)] * 2 + [(2, 3)] * 2 + [(3, 3)] * 2


def test_late_answers_rule_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Functional(mlp(nn.Tanh()), torch.tanh)
    expected = attributed(model, batches()).dataset
    assert expected["activation"].values.tolist() == ["tanh", "tanh", ""]
    monkeypatch.setattr(Readback, "is_there", False)
    xr.testing.assert_equal(attributed(model, batches()).dataset, expected)


def test_an_activation_in_place_is_no_identity() -> None:
    model = mlp(nn.ReLU())
    expected, found = attributed(model, batches()), attributed(Functional(model, torch.relu_), batches())
    assert found.dataset["activation"].values.tolist() == ["relu", "relu", ""]
    np.testing.assert_array_equal(found.dataset["within_activation"], expected.dataset["within_activation"])


def module(kind: type[nn.Module]) -> nn.Module:
    options = {nn.LeakyReLU: {"negative_slope": -1.5}, nn.ELU: {"alpha": 2.0}, nn.CELU: {"alpha": 0.3}}
    return kind(**options.get(kind, {}))


ELEMENTWISE = [kind for kind in _LIPSCHITZ if "Pool" not in kind.__name__]


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
def test_slopes_are_the_largest_ones(kind: type[nn.Module]) -> None:
    one, claimed = module(kind).double(), _LIPSCHITZ[kind](module(kind))
    points = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    with torch.no_grad():
        slope = float(one(points).diff().abs().max() / points.diff().mean())
    assert slope <= claimed * (1 + 1e-9)
    assert slope >= claimed - 1e-3


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_of_functions_are_the_largest_ones(name: str) -> None:
    function, claimed = FUNCTIONS[name]
    points = torch.linspace(-12, 12, 2_000_001, dtype=torch.float64)
    slope = float(function(points).diff().abs().max() / points.diff().mean())
    assert claimed - 1e-3 <= slope <= claimed * (1 + 1e-9)


@pytest.mark.parametrize("kind", ELEMENTWISE, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_what_is_proved_holds_for_every_activation(kind: type[nn.Module], scale: float) -> None:
    found = attributed(mlp(module(kind)), batches(scale=scale, dtype=torch.float32))
    proved = [verdict for verdict in found.verdicts if not verdict.reference.startswith("Steeper")]
    assert len(proved) == 2
    known = [verdict for verdict in proved if not math.isnan(verdict.measured)]
    assert {verdict.outcome for verdict in known} == {"holds"}
    assert len(known) == 2 or kind is nn.Softshrink  # which makes small numbers zero


def at_the_steepest_point(
    activation: nn.Module, point: float, dtype: torch.dtype = torch.float64, spread: float = 0.01
) -> Any:
    """Features close to one point, through a map that leaves them as they are."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    inputs = (point + spread * torch.randn(40, 5, generator=generator, dtype=torch.float64)).to(dtype)
    first, last = nn.Linear(5, 5, bias=False), nn.Linear(5, 4)
    with torch.no_grad():
        first.weight.copy_(torch.eye(5))
    return attributed(nn.Sequential(first, activation, last), [(inputs, labels)])


@pytest.mark.parametrize(
    ("activation", "point"), [(nn.GELU(), 1.4142), (nn.SiLU(), 2.4), (nn.Mish(), 1.49), (nn.SELU(), -0.05)]
)
def test_steeper_activations_can_spread_the_classes_and_then_the_claim_is_violated(
    activation: nn.Module, point: float
) -> None:
    found = at_the_steepest_point(activation, point)
    assert found.status == "violated"
    observed, proved = found.verdicts
    assert observed.outcome == "violated"
    assert observed.measured > 1.1
    assert proved.outcome == "holds"
    assert proved.measured > 0.9 * proved.upper  # the constant is sharp
    assert [one.layer for one in found.verdicts] == [0, 0]


@pytest.mark.parametrize("activation", [nn.GELU(), nn.SiLU()])
def test_elsewhere_steeper_activations_compress_and_the_claim_holds(activation: nn.Module) -> None:
    assert at_the_steepest_point(activation, 0.0).status == "holds"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_where_an_activation_changes_nothing_is_no_violation(dtype: torch.dtype) -> None:
    spread = 100 * torch.finfo(dtype).eps
    found = at_the_steepest_point(nn.Tanhshrink(), 30.0, dtype, spread)  # x − 1 within rounding, far from the origin
    assert found.status == "holds"
    assert found.verdicts[0].measured == pytest.approx(1, rel=0.1)


def test_rounding_that_spreads_the_features_is_no_violation() -> None:
    # Softplus takes 3.99 over the 4 from where on float32 is half as fine.
    found = at_the_steepest_point(nn.Softplus(), 3.99, torch.float32, 3e-7)
    assert found.verdicts[0].measured > 1.1
    assert found.status == "holds"


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        return self.head(hidden + functional.relu(self.second(hidden)))


@pytest.mark.parametrize("model", [Branches(), mlp(nn.Softmax(dim=1))])
def test_what_is_not_known_is_no_pass_and_no_failure(model: nn.Module) -> None:
    found = attributed(model, batches())
    assert found.status == "assumptions unmet"
    assert all("is not a known activation" in verdict.reason for verdict in found.verdicts)


def test_an_activation_that_is_used_twice_stands_in_both_layers() -> None:
    found = attributed(mlp(nn.ReLU()), batches())
    assert found.dataset["layer"].values.tolist() == ["0", "2", "4"]
    assert [verdict.layer for verdict in found.verdicts] == [0, 1]
    assert found.verdicts[0].measured != found.verdicts[1].measured


def test_maps_of_a_convolution_are_flattened_because_means_over_positions_could_rise() -> None:
    labels = torch.arange(40) % 4
    inputs = torch.randn(40, 1, 5, 5, dtype=torch.float64) * 3
    inputs = inputs - inputs.mean(dim=(2, 3), keepdim=True)  # no spread of the means before the activation
    conv = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(conv.weight)
    model = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4, 4)).double()
    found = attributed(model, [(inputs, labels)])
    after = model[:2](inputs)
    assert found.verdicts[0].measured == pytest.approx(factors(inputs, after, labels)[0], rel=1e-12)
    assert factors(inputs.mean((2, 3)), after.mean((2, 3)), labels)[0] > 1e6
    assert found.status == "holds"  # windows of the pooling do not overlap


@pytest.mark.parametrize(("kernel", "stride", "overlap"), [(2, 2, 1), (3, 2, 4), ((3, 1), (1, 1), 3), (2, 3, 1)])
def test_pooling_counts_in_how_many_windows_a_number_lies(kernel: Any, stride: Any, overlap: int) -> None:
    pool = nn.MaxPool2d(kernel, stride)
    assert _LIPSCHITZ[nn.MaxPool2d](pool) == pytest.approx(math.sqrt(overlap))
    single = torch.zeros(1, 1, 9, 9)
    counts = []
    for place in np.ndindex(9, 9):
        single.zero_()[0, 0][place] = 1.0
        counts.append(int(pool(single).sum()))
    assert max(counts) == overlap


def test_collapsed_classes_leave_nothing_to_compare() -> None:
    labels = torch.arange(12) % 3
    found = attributed(mlp(nn.ReLU()), [(torch.eye(3, 6).double()[labels], labels)])
    assert found.dataset["within_map"].isnull().all()
    assert found.status == "assumptions unmet"


def test_without_a_layer_there_is_nothing_to_attribute() -> None:
    with pytest.raises(ValueError, match="must have a linear or convolutional layer, ReLU has none"):
        attribution(nn.ReLU(), batches())


def test_labels_and_classes_are_those_of_every_pass() -> None:
    loader = [{"x": inputs, "y": labels} for inputs, labels in batches()]
    model = mlp(nn.ReLU()).double()
    model.forward = lambda x, **_: nn.Sequential.forward(model, x)
    named = attribution(model, loader, label_fn=lambda batch: batch["y"], num_classes=5, progress=False)
    np.testing.assert_array_equal(
        named.dataset["decay_ratio"], attributed(mlp_like(model), batches()).dataset["decay_ratio"]
    )


def mlp_like(model: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*model)


def test_it_is_told_like_every_verification() -> None:
    found = at_the_steepest_point(nn.GELU(), 1.4142)
    assert "tr Σ_W does not rise at GELU, 1" in repr(found)
    assert "violated" in found._repr_html_()
    assert '"status": "violated"' in found.to_json(indent=1)
    assert found.to_dataset().attrs["status"] == "violated"
    assert type(found) is type(verify([torch.eye(3), torch.eye(3)], torch.eye(3), torch.arange(3)))
