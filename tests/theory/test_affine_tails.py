"""Biases, BatchNorm, Dropout and skip connections fold into the tail; a loader gives what tensors give."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from neurocollapse.lowrank import LowRankLinear
from neurocollapse.theory import verify
from neurocollapse.theory.folding import Affine, fits
from neurocollapse.theory.tail import linear_tail

INPUTS = torch.randn(36, 8, generator=torch.Generator().manual_seed(1)).double()
LABELS = torch.arange(36) % 3


def seeded(network: nn.Module) -> nn.Module:
    """The same network with parameters and statistics drawn from a seed, in double precision."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(generator=generator).div_(value.shape[-1] ** 0.5)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network.double()


class Skip(nn.Module):
    """ReLU features, a skip connection around one layer, one with a linear map around two, a scale, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.one, self.two, self.three = (nn.Linear(8, 8) for _ in range(4))
        self.around, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        features = torch.relu(self.first(inputs))
        features = features + self.one(features)
        features = self.around(features) - 0.5 * self.three(self.two(features))
        return self.head(3 * features)


class Late(nn.Module):
    """Adds what was computed before the layer, which is no function of the layer's input alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        early = torch.tanh(inputs)
        return self.head(self.second(torch.relu(self.first(inputs))) + early)


def normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 10),
        nn.ReLU(),
        nn.Linear(10, 9),
        nn.BatchNorm1d(9),
        nn.Dropout(0.5),
        nn.Linear(9, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("build", "names"),
    [
        (normalised, ("2", "5", "7")),
        (Skip, ("one", "around", "head")),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Identity(), nn.Linear(8, 6), nn.Linear(6, 3)), ("0", "2", "3")),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)), ("2",)),
        (Late, ("head",)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)), ("2",)),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Softmax(1)), ()),
    ],
    ids=["batch-norm", "skip", "identity", "relu", "late", "layer-norm", "softmax"],
)
def test_the_affine_maps_that_end_a_network_are_found_and_compute_it(build, names: tuple, dtype: torch.dtype) -> None:
    network, inputs = seeded(build()).to(dtype), INPUTS.to(dtype)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tail = linear_tail(network, inputs, LABELS)
    assert tail.names == names
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())
    if names:
        outputs = tail.features.double()
        for weight, bias in zip(tail.weights, tail.biases, strict=True):
            outputs = outputs @ weight.double().T + bias.double()
        room = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(outputs, network.eval()(inputs).detach().double(), rtol=room, atol=room)


def test_the_ratios_of_a_network_with_batch_norm_are_those_of_the_folded_chain() -> None:
    network = seeded(normalised())
    table = verify(network, INPUTS, LABELS).to_dataset()
    with torch.no_grad():
        features = [network.eval()[:2](INPUTS), network[:4](INPUTS), network[:7](INPUTS)]
    for layer, values in enumerate(features):
        means = torch.stack([values[k == LABELS].mean(0) for k in range(3)])
        within = float((values - means[LABELS]).square().sum()) / len(values)
        between = float((means - means.mean(0)).square().sum()) / 3
        assert float(table["compression"][layer]) == pytest.approx(within / between, rel=1e-12)
        unit = means / means.norm(dim=1, keepdim=True)
        largest = float((unit @ unit.T).abs().fill_diagonal_(0).max())
        assert float(table["separation_uncentred"][layer]) == pytest.approx(1 - largest, abs=1e-12)


@pytest.mark.parametrize("build", [normalised, Skip], ids=["batch-norm", "skip"])
def test_a_measurement_lies_in_every_bracket_of_a_folded_tail(build) -> None:
    verification = verify(seeded(build()), INPUTS, LABELS)
    assert verification.theorems["split"].status == "holds"
    assert verification.theorems["balance"].status == "holds"
    assert verification.assumptions["linear_tail"].met


def twice() -> nn.Sequential:
    same = nn.Linear(8, 8)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), same, same, nn.Linear(8, 3))


@pytest.mark.parametrize(
    "build",
    [
        normalised,
        Skip,
        twice,
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3)),
        lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), LowRankLinear(8, 7, rank=5), nn.Linear(7, 3)),
        lambda: nn.DataParallel(normalised()),
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 4, 3), nn.Flatten(), nn.Linear(24, 7), nn.Linear(7, 3)
        ),
    ],
    ids=["batch-norm", "skip", "twice", "linear", "low-rank", "parallel", "convolution"],
)
def test_a_loader_gives_what_tensors_give(build) -> None:
    network = seeded(build())
    given = verify(network, INPUTS, LABELS)
    streamed = verify(network, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=7))
    assert streamed.status == given.status
    assert streamed.decided_by == given.decided_by
    expected, found = given.to_dataset(), streamed.to_dataset()
    for name in found.data_vars:
        if found[name].dims == ("layer",) and name != "separation_printed_lower":  # which needs θ of the samples
            # The root of a covariance is accurate to 1e-8 where the spread itself is to 1e-16.
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-7, atol=1e-12, err_msg=name)
    for name, assumption in streamed.assumptions.items():
        if name not in ("near_orthonormal_data", "resolution"):
            assert assumption.residual == pytest.approx(
                given.assumptions[name].residual, rel=1e-6, abs=1e-9, nan_ok=True
            )


def test_a_loader_gives_the_numbers_of_the_layers_without_a_theorem() -> None:
    """Classes may turn up late, and the first batch is no more than the others."""
    order = LABELS.argsort()
    for network in (seeded(normalised()), seeded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Softmax(1)))):
        expected = verify(network, INPUTS, LABELS)
        found = verify(network, DataLoader(TensorDataset(INPUTS[order], LABELS[order]), batch_size=5))
        assert found.status == expected.status
        one, two = found.to_dataset(), expected.to_dataset()
        for name in ("site_compression", "decay_slope", "decay_r_squared"):
            np.testing.assert_allclose(one[name], two[name], rtol=1e-12)
        assert one["site"].values.tolist() == two["site"].values.tolist()


class Forked(nn.Module):
    """Linear, but for samples whose first feature is large."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.first, self.second, self.third, self.head = (nn.Linear(8, size) for size in (8, 8, 8, 3))

    def forward(self, inputs: Tensor) -> Tensor:
        special = self.kind if bool(inputs[0, 0] > 5) else ""
        features = self.first(inputs)
        if special == "relu":
            features = torch.relu(features)
        if special == "other":
            return self.head(self.third(features))
        if special != "left out":
            features = self.second(features)
        if special == "twice":
            features = self.second(features)
        if special == "inserted":
            features = self.third(features)
        return self.head(2 * features if special == "doubled" else features)


FORKS = {
    "relu": ("first", ("second", "head"), "something else happens between layer 'first'"),
    "doubled": ("second", ("head",), "something else happens between layer 'second'"),
    "inserted": ("second", ("head",), "something else happens between layer 'second'"),
    "left out": ("second", ("head",), "layer 'second' does not run for every sample"),
    "twice": ("second", ("head",), "layer 'second' does not run for every sample"),
    "other": ("second", ("head",), "layer 'second' does not run for every sample"),
}


@pytest.mark.parametrize("kind", FORKS)
def test_a_batch_on_another_path_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tensors the tail is what all samples pass; a loader whose first batch passes more is refused."""
    layer, names, obstacle = FORKS[kind]
    network, inputs = seeded(Forked(kind)), INPUTS.clone()
    inputs[18, 0] = 9.0
    monkeypatch.setattr("neurocollapse.theory.tail.CHUNK", 18)
    tail = linear_tail(network, inputs, LABELS)
    assert tail.names == names
    assert tail.obstacle.startswith(obstacle)
    network.train()
    with pytest.raises(ValueError, match=f"batch 1 does not pass layer '{layer}'") as error:
        verify(network, DataLoader(TensorDataset(inputs, LABELS), batch_size=18))
    assert "\n" not in str(error.value)
    assert network.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in network.modules())
    assert verify(network, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=18)).theorems["split"].status == "holds"


class Halved(nn.Module):
    """The same network in bfloat16 arithmetic, by autocast inside its forward pass."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.network(inputs).float()


def test_a_loader_for_a_network_under_autocast_is_read_as_tensors_are() -> None:
    network = Halved(seeded(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 7), nn.Linear(7, 3))).float())
    given = linear_tail(network, INPUTS, LABELS)
    found = verify(network, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=7))
    assert given.names == ("network.0", "network.1", "network.2")
    assert found.to_dataset()["layer_name"].values.tolist() == ["input", *given.names[:-1]]


def test_a_loader_in_other_batches_gives_the_same() -> None:
    network = seeded(normalised())
    tables = [
        verify(network, DataLoader(TensorDataset(INPUTS, LABELS), batch_size=size)).to_dataset() for size in (5, 36)
    ]
    for name in ("split_upper", "certified_lower", "separation_split_lower"):
        np.testing.assert_allclose(tables[0][name], tables[1][name], rtol=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((iter([(INPUTS, LABELS)]),), "can be read only once"),
        (([],), "at least one batch, got none"),
        ((INPUTS,), "`labels` may be left out only for a module and a loader"),
        (([{"inputs": INPUTS, "labels": LABELS}],), "a dict batch needs keys that Sequential.forward takes"),
        (([(INPUTS, LABELS), (INPUTS, LABELS + 1)],), r"integers in \[0, 3\), one per output of the network, got 3"),
        (([(INPUTS, LABELS), (INPUTS, LABELS - 1)],), "`labels` must hold integers ≥ 0, got -1 at position 0"),
        (([(INPUTS, LABELS), (INPUTS[:5], LABELS)],), r"`labels` must hold one integer per sample \(5\)"),
        (([(INPUTS, LABELS), (INPUTS / 0, LABELS)],), "`inputs` must be finite"),
        (([(INPUTS, 0 * LABELS)],), "at least two classes, got one"),
        (([(INPUTS, LABELS), {"inputs": INPUTS, "labels": LABELS}],), "a dict batch needs keys"),
    ],
)
def test_wrong_loaders_are_one_clear_line(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        verify(seeded(normalised()), *arguments)
    assert "\n" not in str(error.value)


def test_what_is_no_loader_is_refused() -> None:
    with pytest.raises(TypeError, match="or a loader of pairs"):
        verify(seeded(normalised()), 5)


def test_weights_with_a_loader_are_refused() -> None:
    with pytest.raises(ValueError, match="only for a module and a loader"):
        verify([torch.eye(8), torch.eye(8)[:3]], DataLoader(TensorDataset(INPUTS, LABELS)))


def test_an_affine_map_fits_its_own_images_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    affine = Affine(torch.randn(4, 5, generator=generator).double(), torch.randn(4, generator=generator).double())
    features = torch.randn(9, 5, generator=generator).double()
    images = features @ affine.weight.T + affine.bias
    assert fits(affine, features, images, 1e-15)
    images[3, 2] += 1e-9
    assert not fits(affine, features, images, 1e-15)
    assert fits(affine, features, images, 1e-9)
    assert not fits(affine, features[:, :4], images, 1.0)
