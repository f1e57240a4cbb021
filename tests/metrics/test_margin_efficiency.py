"""The margin of a linear head splits into four factors, each at most one and each one property of neural collapse."""

import math
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

import neurocollapse as nc
from neurocollapse.data.digits import read_digits
from neurocollapse.metrics import MarginEfficiency, margin_efficiency
from neurocollapse.statistics import ClassMoments, Reader

FACTORS = ("spread", "duality", "samples", "classes")
CHAIN = ("margin_of_loss", "margin_of_samples", "margin_mean", "margin_best")
ROUNDING = 1e-12
"""Relative, in float64: sums of some hundred terms."""


def naive(features: np.ndarray, labels: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> dict[str, float]:
    """Every number as its definition says, sample by sample."""
    classes = len(weight)

    def f(t: float) -> float:
        return math.log1p((classes - 1) * math.exp(-t))

    def inverse(c: float) -> float:
        return math.log(classes - 1) - math.log(math.expm1(c))

    def balanced(values: list[float]) -> float:
        return float(np.mean([np.mean([v for v, y in zip(values, labels, strict=True) if y == k]) for k in seen]))

    seen = range(classes)
    logits = [weight @ h + bias for h in features]
    margins = [z[y] - np.delete(z, y).mean() for z, y in zip(logits, labels, strict=True)]
    losses = [math.log1p(sum(math.exp(v - z[y]) for v in np.delete(z, y))) for z, y in zip(logits, labels, strict=True)]
    means = [features[labels == k].mean(axis=0) for k in seen]
    centre = np.mean(means, axis=0)
    within = np.mean([np.mean([(h - means[k]) @ (h - means[k]) for h in features[labels == k]]) for k in seen])
    between = np.mean([(m - centre) @ (m - centre) for m in means])
    rows = weight - weight.mean(axis=0)
    norm = math.sqrt(sum(w @ w for w in rows))
    return {
        "of_loss": inverse(balanced(losses)),
        "of_samples": inverse(balanced([f(m) for m in margins])),
        "mean": balanced(margins),
        "best": norm * math.sqrt(classes * (within + between)) / (classes - 1),
        "spread": (1 + within / between) ** -0.5,
        "duality": sum(w @ (m - centre) for w, m in zip(rows, means, strict=True))
        / norm
        / math.sqrt(classes * between),
    }


def measured(
    features: Any, labels: Any, weight: Any, bias: Any = None, logits: Tensor | None = None
) -> MarginEfficiency:
    features, labels = torch.as_tensor(features), torch.as_tensor(labels)
    head = Reader(torch.as_tensor(weight), None if bias is None else torch.as_tensor(bias))
    return margin_efficiency(ClassMoments.from_features(features, labels, len(weight)), head, features, labels, logits)


def random_head(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features of unbalanced classes, and a head that leans towards their means by chance."""
    generator = np.random.default_rng(seed)
    classes, width = int(generator.integers(2, 6)), int(generator.integers(1, 7))
    labels = np.repeat(np.arange(classes), generator.integers(1, 9, size=classes))
    means = generator.normal(size=(classes, width))
    features = means[labels] + generator.choice([0.1, 1.0]) * generator.normal(size=(len(labels), width))
    weight = generator.choice([0.0, 1.0, 5.0]) * means + generator.normal(size=(classes, width))
    return features, labels, weight, generator.normal(size=classes)


def check_chain(found: MarginEfficiency) -> None:
    assert found.mean == pytest.approx(found.best * found.spread * found.duality, rel=ROUNDING, abs=ROUNDING)
    assert max(found.spread, found.duality) <= 1 + ROUNDING
    ordered = (found.of_loss, found.of_samples, found.mean, found.best)
    for low, high in pairwise(ordered):
        assert low <= high + ROUNDING * (1 + abs(high))
    product = math.prod(getattr(found, factor) for factor in FACTORS)
    assert found.efficiency == pytest.approx(product, rel=ROUNDING, nan_ok=True)


def check_heads(seeds: range) -> None:
    num_defined = 0
    for seed in seeds:
        head = random_head(seed)
        found = measured(*head)
        check_chain(found)
        for name, expected in naive(*head).items():
            assert getattr(found, name) == pytest.approx(expected, rel=1e-9, abs=1e-9), (seed, name)
        num_defined += not math.isnan(found.efficiency)
    assert 0.4 < num_defined / len(seeds) < 1  # of both kinds, or the product was hardly looked at


def test_numbers_identity_and_chain_on_random_heads() -> None:
    check_heads(range(150))


@pytest.mark.slow
def test_numbers_identity_and_chain_on_many_random_heads() -> None:
    check_heads(range(4_000))


def simplex(classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64) - 1 / classes


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_all_factors_are_one_on_a_simplex(classes: int, scale: float) -> None:
    labels = torch.arange(classes).repeat(3)
    vertices = simplex(classes)
    found = measured(scale * vertices[labels], labels, vertices.numpy())
    # f(t) keeps t to about 1e-16 (1 + 1/t) only.
    expected = pytest.approx(1.0, abs=1e-14 * (1 + classes / scale))
    for name in (*FACTORS, "efficiency"):
        assert getattr(found, name) == expected, name
    assert found.best == pytest.approx(scale, rel=ROUNDING)


@pytest.mark.parametrize("loss", [1e-300, 1e-100, 1e-12, 1e-6, 1e-3, 0.1, 1.0, 21.0, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("classes", [2, 10])
def test_no_digits_are_lost_from_tiny_to_huge_cross_entropy(loss: float, classes: int) -> None:
    with localcontext() as context:
        context.prec = 400
        exact = Decimal(classes - 1).ln() - (Decimal(loss).exp() - 1).ln()
    margin, labels, vertices = float(exact), torch.arange(classes), simplex(classes)
    found = measured(margin * vertices, labels, vertices.numpy())  # a negative margin: the classes swap sides
    assert found.mean == pytest.approx(margin, rel=ROUNDING)
    assert found.of_samples == pytest.approx(margin, rel=ROUNDING)
    assert found.of_loss == pytest.approx(margin, rel=ROUNDING)


def test_a_loss_that_underflows_is_undefined_and_never_infinite() -> None:
    vertices = simplex(4)
    found = measured(1e4 * vertices, torch.arange(4), vertices.numpy())
    assert found.mean == pytest.approx(1e4)
    assert math.isnan(found.of_loss)
    assert math.isnan(found.of_samples)
    assert math.isnan(found.efficiency)


def test_factors_are_undefined_where_the_mean_margin_is_not_positive() -> None:
    found = measured(*random_head(1))
    assert found.mean < 0
    assert all(map(math.isnan, (found.samples, found.classes, found.efficiency)))
    check_chain(found)  # the differences stay defined


def test_turning_scaling_shifting_and_renaming_change_nothing() -> None:
    features, labels, weight, bias = random_head(3)
    classes, width = weight.shape
    generator = np.random.default_rng(0)
    turn = np.linalg.qr(generator.normal(size=(width, width)))[0]
    order = generator.permutation(classes)
    expected = measured(features, labels, weight, bias)
    others = {
        "turned": (features @ turn, labels, weight @ turn, bias),
        "scaled": (8 * features, labels, weight / 8, bias),
        "shifted features": (features + 2.0, labels, weight, bias - 2.0 * weight.sum(axis=1)),
        "shifted logits": (features, labels, weight + generator.normal(size=width), bias + 3.0),
        "repeated": (np.tile(features, (2, 1)), np.tile(labels, 2), weight, bias),
        "renamed": (features, np.argsort(order)[labels], weight[order], bias[order]),
    }
    for name, arguments in others.items():
        assert measured(*arguments) == pytest.approx(expected, rel=1e-9), name


def test_each_factor_answers_to_its_own_cause() -> None:
    """From collapse: spread around the means, a turned weight, samples of unequal length, one confused pair."""
    classes, vertices = 5, simplex(5)
    labels = torch.arange(classes).repeat(4)
    generator = torch.Generator().manual_seed(0)
    wide = torch.cat([4 * vertices, torch.zeros(classes, 6, dtype=torch.float64)], dim=1)
    noise = torch.zeros(20, 11, dtype=torch.float64)
    noise[:, 5:] = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    seen_by_none = measured(wide[labels] + noise, labels, wide.numpy())
    assert seen_by_none.spread < 0.9
    assert seen_by_none.duality > 0.9
    assert seen_by_none.samples == pytest.approx(1) == pytest.approx(seen_by_none.classes)
    shorter = torch.tensor([0.2, 1.0, 1.0, 1.8]).repeat_interleave(classes).unsqueeze(1)
    assert measured(4 * shorter * vertices[labels], labels, vertices.numpy()).samples < 0.9
    confused = vertices.clone()
    confused[0], confused[1] = vertices[0] + 0.6 * vertices[1], vertices[1] + 0.6 * vertices[0]
    both = measured(8 * confused[labels], labels, confused.numpy())
    assert both.classes < 0.9
    assert both.spread == pytest.approx(1)
    twisted = torch.cat([vertices, vertices.roll(1, dims=0)], dim=1)
    found = measured(torch.cat([4 * vertices, 0 * vertices], dim=1)[labels], labels, twisted.numpy())
    assert found.duality == pytest.approx(math.sqrt(0.5))
    assert found.samples == pytest.approx(1)


@pytest.mark.parametrize(
    "transform", [lambda z: z, lambda z: z.log_softmax(dim=1), lambda z: z.bfloat16(), lambda z: z.float()]
)
def test_logits_of_the_head_are_recognised(transform: Any) -> None:
    features, labels, weight, bias = random_head(3)
    logits = transform(torch.as_tensor(features @ weight.T + bias))
    assert measured(features, labels, weight, bias, logits) == measured(features, labels, weight, bias)


@pytest.mark.parametrize(
    "transform", [lambda z: 1.1 * z, lambda z: z.softmax(dim=1), lambda z: z.relu(), lambda z: z[:, :1]]
)
def test_another_output_than_that_of_the_head_is_undefined(transform: Any) -> None:
    features, labels, weight, bias = random_head(3)
    found = measured(features, labels, weight, bias, transform(torch.as_tensor(features @ weight.T + bias)))
    assert all(map(math.isnan, found))


@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 0]])
def test_an_absent_class_leaves_no_margin_to_average(labels: list[int]) -> None:
    assert all(map(math.isnan, measured(torch.randn(4, 3).double(), labels, np.eye(3))))


def test_other_numbers_of_outputs_or_classes_are_undefined() -> None:
    features = torch.randn(4, 3).double()
    labels = torch.tensor([0, 1, 0, 1])
    moments = ClassMoments.from_features(features, labels)
    assert all(map(math.isnan, margin_efficiency(moments, Reader(torch.eye(3).double()), features, labels)))
    assert all(map(math.isnan, measured(features, torch.zeros(4, dtype=torch.int64), np.ones((1, 3)))))


# Trained classifiers, epoch by epoch.


def cnn() -> nn.Module:
    body = nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def trained(build: Any, *, unbalanced: bool, dtype: torch.dtype, epochs: int) -> xr.Dataset:
    """Measured before training and after every epoch."""
    torch.manual_seed(0)
    data = read_digits("train")
    inputs, labels = data.inputs.reshape(len(data.labels), -1).to(dtype), data.labels
    inputs, labels = (
        part[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))[:800]] for part in (inputs, labels)
    )
    if unbalanced:
        keep = (torch.rand(800) < 1 / (1 + labels)) | (torch.arange(800) < 60)
        inputs, labels = inputs[keep], labels[keep]
    model = build().to(dtype)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batches = list(zip(inputs.split(64), labels.split(64), strict=True))
    found = []
    for epoch in range(epochs + 1):
        for part, target in batches if epoch else []:
            optimizer.zero_grad()
            functional.cross_entropy(model(part), target).backward()
            optimizer.step()
        chosen = {"layers": ["linear", "penultimate"], "quantities": "margin", "num_classes": 10}
        found.append(nc.analyze(model, batches, **chosen, precision="double", progress=False))
        with torch.no_grad():
            losses = functional.cross_entropy(model(inputs).double(), labels, reduction="none")
        mean = torch.stack([losses[labels == k].mean() for k in range(10)]).mean()
        found[-1]["true_margin_of_loss"] = math.log(9) - torch.expm1(mean).log().item()
    return xr.concat(found, "epoch", data_vars="all").isel(layer=-2)


CLASSIFIERS = {
    "mlp": (mlp, False, torch.float64),
    "unbalanced": (mlp, True, torch.float32),
    "cnn": (cnn, False, torch.float32),
}


def check_training(name: str, epochs: int) -> None:
    build, unbalanced, dtype = CLASSIFIERS[name]
    run = trained(build, unbalanced=unbalanced, dtype=dtype, epochs=epochs)
    assert str(run["layer"].values).endswith("@in")
    links = np.stack([run[link].values for link in CHAIN])
    assert (links[:-1] <= links[1:] + ROUNDING * np.abs(links[1:])).all()
    identity = run["margin_best"] * run["margin_spread"] * run["margin_duality"]
    np.testing.assert_allclose(run["margin_mean"], identity, rtol=ROUNDING, atol=ROUNDING)
    after = run.isel(epoch=slice(1, None))
    product = math.prod(after[f"margin_{factor}"].values for factor in FACTORS)
    np.testing.assert_allclose(after["margin_efficiency"], product, rtol=ROUNDING)
    # The network's own loss, in its own precision.
    np.testing.assert_allclose(run["margin_of_loss"], run["true_margin_of_loss"], rtol=1e-5, atol=1e-5)
    assert 0.1 < after["margin_efficiency"][-1] < 1


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_identity_and_chain_hold_while_a_classifier_trains(name: str) -> None:
    check_training(name, epochs=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_identity_and_chain_hold_at_every_epoch_past_zero_error(name: str) -> None:
    check_training(name, epochs=60)


def test_a_hidden_layer_with_one_output_a_class_has_no_margins() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    batches = [(torch.randn(30, 6).double(), torch.arange(30) % 3)]
    found = nc.analyze(model, batches, layers=["0@in", "2@in"], quantities=["margin", "nc3"], progress=False)
    assert found["margin_best"].isnull().values.tolist() == [True, False]
    assert not found["nc3"].isnull().any()


def test_what_was_named_needs_a_classifier() -> None:
    batches = [(torch.randn(30, 6), torch.arange(30) % 3)]
    with pytest.raises(nc.QuantityError, match=r"'margin_efficiency' needs .*penultimate"):
        nc.analyze(nn.Linear(6, 3), batches, layers="leaves", quantities="margin_efficiency", progress=False)
