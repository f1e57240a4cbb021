"""Every number of an analysis equals two float64 passes over features saved by hand."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import neurocollapse as nc

NUMBERS = ("within_trace", "between_trace", "compression", "separation", "separation_etf", "discrimination")


class Perceptron(nn.Module):
    """Five layers of which the second activation is a float64 step away from collapse."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.wide, self.head = nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 160), nn.Linear(160, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.wide(self.act(self.first(x))))


class Twice(nn.Module):
    """Calls one activation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(6, 5), nn.Linear(5, 4), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.b(self.act(self.a(x))))


class TwoInputs(nn.Module):
    """Takes two tensors by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(6, 5), nn.Linear(2, 5), nn.Linear(5, 3)

    def forward(self, pixels: Tensor, extra: Tensor) -> Tensor:
        return self.head(torch.tanh(self.left(pixels) + self.right(extra)))


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


@pytest.fixture
def perceptron(hand: Any) -> nn.Module:
    return hand.seeded(Perceptron)


@pytest.fixture
def samples(hand: Any) -> tuple[Tensor, Tensor]:
    return hand.clustered(40, 6)


def joined(saved: dict[str, list[list[Any]]], name: str, call: int = 0) -> Tensor:
    return torch.cat([calls[call] for calls in saved[name]])


def as_calls(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    return [((inputs,), {}) for inputs, _ in batches]


@pytest.mark.parametrize("weighting", ["equal", "frequency"])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_all_numbers_of_a_perceptron_equal_two_passes(
    hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor], weighting: str, precision: str
) -> None:
    batches = hand.in_batches(*samples, 7)
    dataset = nc.analyze(perceptron, batches, weighting=weighting, precision=precision)
    saved = hand.saved(perceptron, as_calls(batches), dict(perceptron.named_children()))
    assert dataset["layer"].values.tolist() == ["first", "act", "wide", "head"]
    assert dataset["depth"].values.tolist() == [1, 2, 3, 4]
    assert dataset["feature_dimension"].values.tolist() == [8, 8, 160, 3]
    for name in saved:
        hand.assert_layer_equals(dataset, name, joined(saved, name), samples[1], weighting=weighting)


def test_decay_is_the_ratio_of_neighbours_and_its_fit_the_line_through_the_logarithms(
    hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    batches = hand.in_batches(*samples, 7)
    dataset = nc.analyze(perceptron, batches)
    saved = hand.saved(perceptron, as_calls(batches), dict(perceptron.named_children()))
    values = [hand.measured(joined(saved, name), samples[1]).compression for name in saved]
    np.testing.assert_allclose(dataset["decay_ratio"].values[1:], np.divide(values[1:], values[:-1]), rtol=2e-6)
    assert np.isnan(dataset["decay_ratio"].values[0])
    slope, intercept = np.polyfit(range(4), np.log(values), 1)
    np.testing.assert_allclose([dataset["decay_slope"], dataset["decay_intercept"]], [slope, intercept], rtol=1e-5)
    residual = np.log(values) - intercept - slope * np.arange(4)
    r_squared = 1 - residual @ residual / ((np.log(values) - np.mean(np.log(values))) ** 2).sum()
    np.testing.assert_allclose(dataset["decay_r_squared"], r_squared, rtol=1e-5)
    half = 4.302652729911275 * np.sqrt(residual @ residual / 2 / 5)  # Student's t, 97.5 %, 2 degrees of freedom
    np.testing.assert_allclose(dataset["decay_slope_upper_of_line"] - dataset["decay_slope"], half, rtol=1e-5)
    np.testing.assert_allclose(dataset["decay_slope"] - dataset["decay_slope_lower_of_line"], half, rtol=1e-5)


@pytest.mark.parametrize("pool", ["auto", "mean", "max", "flatten", "positions"])
def test_all_numbers_of_a_cnn_with_inplace_activations_equal_two_passes(hand: Any, pool: str) -> None:
    model = hand.seeded(small_cnn)
    inputs, labels = hand.clustered(20, 2, 6, 6)
    batches = hand.in_batches(inputs, labels, 8)
    dataset = nc.analyze(model, batches, pool=pool, layers=["0", "1", "4", "7"])
    saved = hand.saved(model, as_calls(batches), dict(model.named_children()))
    reduce = {
        "mean": lambda z: z.mean((2, 3)),
        "max": lambda z: z.amax((2, 3)),
        "flatten": lambda z: z.flatten(1),
        "positions": lambda z: z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]),
    }["mean" if pool == "auto" else pool]
    assert joined(saved, "1").min() < 0  # saved before the in-place ReLU
    for name in ("0", "1", "4"):
        features = reduce(joined(saved, name))
        repeated = labels.repeat_interleave(len(features) // len(labels))
        hand.assert_layer_equals(dataset, name, features, repeated)
        assert dataset.sel(layer=name)["positions"] == len(features) // len(labels)
    hand.assert_layer_equals(dataset, "7", joined(saved, "7"), labels)


def test_a_pooling_function_makes_the_features(hand: Any) -> None:
    def corner(activation: Tensor) -> Tensor:
        return activation[:, :, 0, 0]

    model = hand.seeded(small_cnn)
    inputs, labels = hand.clustered(20, 2, 6, 6)
    dataset = nc.analyze(model, [(inputs, labels)], layers=["1"], pool=corner)
    saved = hand.saved(model, [((inputs,), {})], {"1": model[1]})
    hand.assert_layer_equals(dataset, "1", joined(saved, "1")[:, :, 0, 0], labels)
    assert dataset["pooling"].item() == "corner"


@pytest.mark.parametrize(
    ("calls", "names"), [("all", {"act#0": 0, "act#1": 1}), ("first", {"act": 0}), ("last", {"act": 1})]
)
def test_a_module_called_twice_is_measured_at_the_calls_asked_for(
    hand: Any, samples: tuple[Tensor, Tensor], calls: str, names: dict[str, int]
) -> None:
    model = hand.seeded(Twice)
    batches = hand.in_batches(*samples, 9)
    dataset = nc.analyze(model, batches, calls=calls)
    saved = hand.saved(model, as_calls(batches), dict(model.named_children()))
    assert set(dataset["layer"].values) == {"a", "b", *names}
    for name, call in names.items():
        hand.assert_layer_equals(dataset, name, joined(saved, "act", call), samples[1])


def test_dict_batches_lose_the_columns_that_the_model_does_not_take(hand: Any, samples: tuple[Tensor, Tensor]) -> None:
    model, (inputs, labels), extra = hand.seeded(TwoInputs), samples, hand.randn(40, 2, seed=1)
    rows = [slice(start, start + 9) for start in range(0, 40, 9)]
    batches = [
        {"idx": torch.arange(40)[r], "extra": extra[r], "text": ["a"] * 9, "labels": labels[r], "pixels": inputs[r]}
        for r in rows
    ]
    dataset = nc.analyze(model, batches)
    saved = hand.saved(model, [((inputs[r], extra[r]), {}) for r in rows], dict(model.named_children()))
    for name in saved:
        hand.assert_layer_equals(dataset, name, joined(saved, name), labels)


def test_tuple_inputs_become_positional_arguments(hand: Any, samples: tuple[Tensor, Tensor]) -> None:
    model, (inputs, labels), extra = hand.seeded(TwoInputs), samples, hand.randn(40, 2, seed=1)
    saved = hand.saved(model, [((inputs, extra), {})], dict(model.named_children()))
    pairs = [((inputs[i], extra[i]), int(labels[i])) for i in range(40)]
    collated = DataLoader(pairs, batch_size=40)  # the default collation makes a list of the tuple
    for loader in ([((inputs, extra), labels)], [({"pixels": inputs, "extra": extra}, labels)], collated):
        dataset = nc.analyze(model, loader)
        for name in saved:
            hand.assert_layer_equals(dataset, name, joined(saved, name), labels)


def test_the_samples_need_not_be_in_the_first_of_several_inputs(hand: Any, samples: tuple[Tensor, Tensor]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(6, 3)

        def forward(self, scale: Tensor, pixels: Tensor) -> Tensor:
            return self.head(pixels * scale)

    model, (inputs, labels) = hand.seeded(Scaled), samples
    for scale in (torch.tensor(2.0), torch.full((6,), 2.0)):
        dataset = nc.analyze(model, [((scale, inputs), labels)])
        hand.assert_layer_equals(dataset, "head", model.head(2 * inputs).detach(), labels)


@pytest.mark.parametrize(
    "given",
    [
        lambda labels: labels.tolist(),
        lambda labels: labels.numpy(),
        lambda labels: labels.int(),
        lambda labels: labels.to(torch.uint8).numpy(),
        lambda labels: nn.functional.one_hot(labels, 3),
        lambda labels: nn.functional.one_hot(labels, 3).float().numpy(),
    ],
    ids=["list", "numpy", "int32", "numpy uint8", "one-hot", "numpy one-hot float"],
)
def test_labels_may_come_in_any_form(
    hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor], given: Any
) -> None:
    inputs, labels = samples
    expected = nc.analyze(perceptron, [(inputs, labels)])
    found = nc.analyze(perceptron, [(inputs, given(labels))])
    for name in (*NUMBERS, "class_count"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_label_fn_says_where_the_labels_are(hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    inputs, labels = samples
    expected = nc.analyze(perceptron, [(inputs, labels // 2)])
    coarse = nc.analyze(perceptron, [(inputs, labels)], label_fn=lambda batch: batch[1] // 2)
    nested = nc.analyze(perceptron, [(inputs, {"fine": labels})], label_fn=lambda batch: batch[1]["fine"] // 2)
    alone = nc.analyze(perceptron, [inputs], label_fn=lambda batch: labels // 2)
    for found in (coarse, nested, alone):
        np.testing.assert_array_equal(found["compression"], expected["compression"])
        assert found.sizes["class"] == 2


def test_the_networks_input_is_layer_zero(hand: Any) -> None:
    model = hand.seeded(small_cnn)
    inputs, labels = hand.clustered(20, 2, 6, 6)
    dataset = nc.analyze(model, hand.in_batches(inputs, labels, 6), layers=["0"], include_input=True)
    assert dataset["layer"].values.tolist() == ["input", "0"]
    assert dataset["depth"].values.tolist() == [0, 1]
    hand.assert_layer_equals(dataset, "input", inputs.flatten(1), labels)
    assert (dataset["pooling"].values[0], dataset["feature_dimension"].values[0]) == ("flatten", 72)


def test_covariances_equal_two_passes_and_their_traces_the_traces(
    hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor]
) -> None:
    batches, labels = hand.in_batches(*samples, 7), samples[1]
    moments = nc.collect(perceptron, batches, covariance=True)
    # the covariance is kept of all classes together, so that its trace has every sample count the same
    dataset, tree = nc.measure(moments, weighting="frequency"), nc.layer_tree(moments)
    saved = hand.saved(perceptron, as_calls(batches), dict(perceptron.named_children()))
    for name in saved:
        values = joined(saved, name).double().numpy()
        by_hand = hand.measured(values, labels)
        residual = values - by_hand.means[labels]
        centred = by_hand.means - by_hand.means.mean(axis=0)
        scale = by_hand.within_trace + by_hand.between_trace
        within, between = (tree[name][key].values for key in ("within_class_covariance", "between_class_covariance"))
        # float32 products of shifted samples: absolute error relative to the largest entries
        np.testing.assert_allclose(within, residual.T @ residual / 40, atol=1e-6 * scale)
        np.testing.assert_allclose(between, centred.T @ centred / 3, atol=1e-6 * scale)
        np.testing.assert_allclose(tree[name]["class_mean"].values, by_hand.means, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(np.trace(within), dataset["within_trace"].sel(layer=name), rtol=1e-6)


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 1e-7), ("double", 1e-12)])
def test_order_and_batch_size_change_nothing(
    hand: Any, samples: tuple[Tensor, Tensor], precision: str, tolerance: float
) -> None:
    class Parts(nn.Module):
        """Acts on each sample alone with the same floating-point operations, whatever the batch."""

        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Tanh(), nn.Hardtanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.wide(self.narrow(x).repeat(1, 50) * torch.linspace(0.1, 1, 300))

    inputs, labels = samples
    model = Parts()
    expected = nc.analyze(model, [(inputs, labels)], precision=precision, include_input=True)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    by_class = labels.argsort(stable=True)
    for chosen, size in ((order, 40), (order, 1), (order, 7), (by_class, 3)):
        batches = hand.in_batches(inputs[chosen], labels[chosen], size)
        found = nc.analyze(model, batches, precision=precision, include_input=True)
        for name in NUMBERS:
            np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, err_msg=f"{name} {size}")


def test_within_class_variation_of_1e_7_of_the_means_is_measured(hand: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = 100 * torch.randn(3, 200, generator=generator)
    features = centres[labels] * (1 + 1e-7 * torch.randn(60, 200, generator=generator))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", nc.PrecisionWarning)  # D is 1e-14: the point of this test
        dataset = nc.analyze(nn.Identity(), hand.in_batches(features, labels, 11))
    hand.assert_layer_equals(dataset, "(root)", features, labels)


def test_exactly_collapsed_features_give_zero(hand: Any) -> None:
    labels = torch.arange(30) % 3
    features = hand.randn(3, 150)[labels]
    dataset = nc.analyze(nn.Identity(), hand.in_batches(features, labels, 4))
    assert dataset["compression"].item() == 0
    assert dataset["class_scatter"].values.tolist() == [[0, 0, 0]]


def test_absent_classes_count_nothing_and_spread_undefined(hand: Any, samples: tuple[Tensor, Tensor]) -> None:
    inputs, labels = samples
    dataset = nc.analyze(nn.Identity(), [(inputs, 2 * labels)], num_classes=7)
    assert dataset["class_count"].values[0].tolist() == [c for k in range(3) for c in ((labels == k).sum(), 0)] + [0]
    assert np.isnan(dataset["class_scatter"].values[0]).tolist() == [False, True] * 3 + [True]
    np.testing.assert_allclose(dataset["compression"], hand.measured(inputs, labels).compression, rtol=1e-6)


def test_one_class_and_one_sample_have_no_compression(hand: Any) -> None:
    one_class = nc.analyze(nn.Identity(), [(hand.randn(5, 4), torch.zeros(5, dtype=torch.int64))])
    one_sample = nc.analyze(nn.Identity(), [(hand.randn(1, 4), torch.tensor([0]))])
    for dataset in (one_class, one_sample):
        assert dataset["between_trace"].item() == 0
        assert np.isnan([dataset["compression"].item(), dataset["separation"].item()]).all()


def test_empty_batches_hold_nothing_to_count(hand: Any, perceptron: nn.Module, samples: tuple[Tensor, Tensor]) -> None:
    inputs, labels = samples
    nothing = (inputs[:0], labels[:0])
    batches = [nothing, *hand.in_batches(inputs, labels, 20), nothing]
    expected = nc.analyze(perceptron, hand.in_batches(inputs, labels, 20))
    np.testing.assert_array_equal(nc.analyze(perceptron, batches)["compression"], expected["compression"])


def test_classes_of_the_loaders_dataset_become_names_and_their_number(hand: Any, perceptron: nn.Module) -> None:
    inputs, labels = hand.clustered(12, 6)
    data = TensorDataset(inputs, labels)
    data.classes = ["a", "b", "c", "absent"]
    dataset = nc.analyze(perceptron, DataLoader(data, batch_size=5))
    assert dataset["class_name"].values.tolist() == data.classes
    assert dataset.sizes["class"] == 4


def test_a_module_called_input_is_not_confused_with_the_networks_input(hand: Any) -> None:
    model = nn.Sequential()
    model.add_module("input", nn.Linear(6, 3))
    inputs, labels = hand.clustered(12, 6)
    with pytest.raises(ValueError, match="two layers named 'input'"):
        nc.analyze(model, [(inputs, labels)], include_input=True)
    renamed = nc.analyze(model, [(inputs, labels)], include_input=True, layers={"first": "input"})
    assert renamed["layer"].values.tolist() == ["input", "first"]
