"""Layers against layers: the alignment of all samples, its error, class means, two models, resuming."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics.alignment import aligned, centred_gram, cka, class_cka
from neurocollapse.statistics import ClassMoments


def build(seed: int = 0, width: int = 12) -> nn.Sequential:
    """A perceptron of three layers with weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 8), nn.Tanh(), nn.Linear(8, 3))


def samples(count: int = 60, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Normal classes about three centres."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return 2 * torch.randn(3, 6, generator=generator)[labels] + torch.randn(count, 6, generator=generator), labels


def batched(inputs: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """A loader."""
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def outputs(model: nn.Sequential, inputs: Tensor) -> list[np.ndarray]:
    """What every layer gives, float64."""
    found = []
    with torch.no_grad():
        for layer in model:
            inputs = layer(inputs)
            found.append(inputs.double().numpy())
    return found


def naive_hsic(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate as Song et al. print it, eq. (4)."""
    n = len(x)
    k, other = (one @ one.T * (1 - np.eye(n)) for one in (x, y))
    ones = np.ones(n)
    trace = np.trace(k @ other) + (ones @ k @ ones) * (ones @ other @ ones) / (n - 1) / (n - 2)
    return (trace - 2 / (n - 2) * (ones @ k @ other @ ones)) / n / (n - 3)


def naive_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Alignment of all samples."""
    return naive_hsic(x, y) / math.sqrt(naive_hsic(x, x) * naive_hsic(y, y))


def test_the_function_is_the_printed_formula() -> None:
    x, y = (np.random.default_rng(seed).normal(size=(9, 3 + seed)) for seed in (0, 1))
    y[:, 0] += x[:, 0]
    assert cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(naive_cka(x, y), rel=1e-10)
    assert float((centred_gram(torch.tensor(x)) * centred_gram(torch.tensor(y))).sum()) / 9 / 6 == pytest.approx(
        naive_hsic(x, y), rel=1e-10
    )


def test_one_batch_gives_the_alignment_of_all_samples() -> None:
    inputs, labels = samples()
    found = nc.similarity(build(), [(inputs, labels)])
    layers = outputs(build(), inputs)
    expected = [[naive_cka(one, two) for two in layers] for one in layers]
    assert found["cka"].dims == ("layer", "layer_")
    np.testing.assert_allclose(found["cka"], expected, atol=1e-6)
    assert found["cka_error"].isnull().all()  # one batch says nothing of its error


def test_many_batches_are_within_their_standard_error_of_all_samples() -> None:
    """40 batches of 25: the mean square of the deviations, in standard errors, is about one or less."""
    inputs, labels = samples(1000)
    found = nc.similarity(build(), batched(inputs, labels, 25), num_classes=3)
    layers = outputs(build(), inputs)
    expected = np.array([[naive_cka(one, two) for two in layers] for one in layers])
    off = ~np.eye(len(layers), dtype=bool)
    deviation = ((found["cka"] - expected) / found["cka_error"]).values[off]
    assert np.abs(deviation).max() < 3
    assert found["cka_error"].values[off].max() < 0.05
    assert np.abs(found["cka_error"].values[~off]).max() < 1e-6  # a layer is always like itself


def test_the_standard_error_is_that_of_repeated_draws() -> None:
    errors, values = [], []
    for seed in range(40):
        inputs, labels = samples(300, seed=1)
        order = torch.randperm(300, generator=torch.Generator().manual_seed(seed))
        inputs = inputs + 2 * torch.randn(300, 6, generator=torch.Generator().manual_seed(seed))
        found = nc.similarity(build(), batched(inputs[order], labels[order], 20), num_classes=3, layers=["0", "4"])
        values.append(found["cka"].values[0, 1])
        errors.append(found["cka_error"].values[0, 1])
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)  # a deviation of 40 draws is known to 11 %


def test_the_estimate_does_not_depend_on_the_batch_size_where_the_plain_one_does() -> None:
    """Independent features: the unbiased alignment is about zero, that of plain Gram matrices far above."""
    generator = np.random.default_rng(0)
    values, plain = [], []
    for _ in range(60):
        x, y = (torch.tensor(generator.normal(size=(12, 30))) for _ in range(2))
        values.append(cka(x, y))
        one, two = (z - z.mean(dim=0) for z in (x, y))
        plain.append(float((one.T @ two).norm() ** 2 / (one.T @ one).norm() / (two.T @ two).norm()))
    assert abs(np.mean(values)) < 4 * np.std(values) / math.sqrt(60)
    assert np.mean(plain) > 0.5


def test_turned_scaled_and_moved_features_are_the_same() -> None:
    x = torch.randn(20, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).Q
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1, rel=1e-12)
    assert math.isnan(cka(x, torch.ones_like(x)))
    assert math.isnan(cka(x[:3], x[:3]))
    with pytest.raises(ValueError, match="must hold the same samples, got 20 and 19"):
        cka(x, x[1:])


def test_class_means_are_compared_by_their_gram_matrices() -> None:
    inputs, labels = samples()
    found = nc.similarity(build(), batched(inputs, labels, 20))["class_cka"]
    means = [np.stack([one[labels == k].mean(axis=0) for k in range(3)]) for one in outputs(build(), inputs)]
    centred = [one - one.mean(axis=0) for one in means]
    expected = [
        [((x.T @ y) ** 2).sum() / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y) for y in centred] for x in centred
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    simplex, turned = (ClassMoments.from_features(one, [0, 1, 2]) for one in (torch.eye(3), 5 * torch.eye(3).flip(0)))
    assert class_cka([simplex, turned]) == pytest.approx(np.ones((2, 2)))
    with pytest.raises(ValueError, match="samples of the same classes"):
        class_cka([simplex, ClassMoments.from_features(torch.eye(2), [0, 1])])
    collapsed = ClassMoments.from_features(torch.ones(3, 2), [0, 1, 2])
    assert np.isnan(class_cka([collapsed, simplex])[0]).all()


def test_two_models_are_compared_on_the_same_batches() -> None:
    inputs, labels = samples()
    one, two = build(), build(seed=3, width=5)
    found = nc.similarity(one, [(inputs, labels)], other=two)
    assert found["layer"].values.tolist() == found["layer_"].values.tolist() == ["0", "1", "2", "3", "4"]
    expected = [[naive_cka(x, y) for y in outputs(two, inputs)] for x in outputs(one, inputs)]
    np.testing.assert_allclose(found["cka"], expected, atol=1e-6)
    chosen = nc.similarity(one, [(inputs, labels)], other=two, layers=["first.2", "second.*"])
    assert (chosen.sizes["layer"], chosen.sizes["layer_"]) == (1, 5)
    np.testing.assert_allclose(chosen["cka"].sel(layer="2"), found["cka"].sel(layer="2"), atol=1e-12)


def stopping(batches: list[Any], stop: int) -> Any:
    """A loader that fails after some batches."""
    yield from batches[:stop]
    raise KeyboardInterrupt("stop here")


def test_a_broken_comparison_continues_to_the_last_bit(tmp_path: Path) -> None:
    batches = batched(*samples(), 12)
    unbroken = nc.similarity(build(), batches, num_classes=3)
    with pytest.raises(KeyboardInterrupt):
        nc.similarity(build(), stopping(batches, 3), num_classes=3, resume=tmp_path / "state")
    again = nc.similarity(build(), batches, num_classes=3, resume=tmp_path / "state")
    for name in ("cka", "cka_error", "class_cka"):
        np.testing.assert_array_equal(again[name], unbroken[name])


def test_what_cannot_be_compared_is_refused_in_one_line() -> None:
    inputs, labels = samples(9)
    model = build()
    cases: list[tuple[dict[str, Any], Any, str]] = [
        ({"distributed": True}, [(inputs, labels)], "works in one process"),
        ({"other": model}, [(inputs, labels)], "`other` must be another model"),
        ({"other": build(), "layers": "first.*"}, [(inputs, labels)], "layers of both models"),
        ({}, batched(inputs, labels, 3), "no batch has 4 samples"),
    ]
    for options, loader, message in cases:
        with pytest.raises(ValueError, match=message):
            nc.similarity(model, loader, **options)
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (model, {"other": 3}, r"`other` must be a torch\.nn\.Module, got 3; leave it out"),
        (None, {}, r"`model` must be a torch\.nn\.Module, got None"),
        (model, {"layer": "0"}, "unexpected keyword argument 'layer'.*layers"),
    ]
    for one, options, message in wrong:
        with pytest.raises(TypeError, match=message):
            nc.similarity(one, [(inputs, labels)], **options)
    images = torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="compares samples, not positions"):
        nc.similarity(nn.Sequential(nn.Conv2d(2, 3, 3)), [(images, torch.arange(8) % 2)], pool="positions")


def test_alignment_of_layers_without_variation_is_undefined() -> None:
    assert np.isnan(aligned(np.array([[0.0, 0.0], [0.0, 2.0]]))).tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("size", [60, 20])
def test_samples_that_are_not_finite_are_left_out_at_all_layers(size: int) -> None:
    class Fails(nn.Module):
        """The second layer gives NaN for the samples that are marked."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            return self.head(self.second(hidden.where(x[:, :1] < 50, torch.nan)).nan_to_num())

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Fails()
    inputs, labels = samples()
    marked = torch.isin(torch.arange(60), torch.tensor([3, 7, 41]))
    spoilt = inputs.where(~marked.unsqueeze(1), 99.0)
    layers = ["first", "second"]
    found = nc.similarity(model, batched(spoilt, labels, size), layers=layers, non_finite="skip")
    parts = [part[~out] for part, out in zip(inputs.split(size), marked.split(size), strict=True)]
    whole = [(part, labels[~marked][: len(part)]) for part in parts]
    np.testing.assert_allclose(found["cka"], nc.similarity(model, whole, layers=layers)["cka"], atol=1e-6)


def test_penultimate_means_the_heads_of_both_models() -> None:
    inputs, labels = samples()
    one, two = build(), nn.Linear(6, 3)
    found = nc.similarity(one, [(inputs, labels)], other=two, layers="penultimate")
    assert (found["layer"].values.tolist(), found["layer_"].values.tolist()) == (["4@in"], ["(root)@in"])
    np.testing.assert_allclose(found["cka"], [[naive_cka(outputs(one, inputs)[3], inputs.double().numpy())]], atol=1e-6)
    chosen = nc.similarity(one, [(inputs, labels)], other=build(seed=3), layers=["penultimate", "first.0"])
    assert (chosen["layer"].values.tolist(), chosen["layer_"].values.tolist()) == (["0", "4@in"], ["4@in"])


def test_a_model_that_is_one_layer_is_compared_by_default() -> None:
    inputs, labels = samples()
    found = nc.similarity(nn.Linear(6, 3), [(inputs, labels)], other=build())
    assert (found["layer"].values.tolist(), found.sizes["layer_"]) == (["(root)"], 5)
