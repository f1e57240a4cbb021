"""The training loop: its updates, its events, and what it leaves as it was."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from neurocollapse.train import History, Progress, TrainingError, evaluate, fit
from neurocollapse.train.settings import Settings, loss_of

NUM_CLASSES = 3


def dataset(num_samples: int = 20, seed: int = 0) -> TensorDataset:
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_samples) % NUM_CLASSES
    return TensorDataset(2 * functional.one_hot(labels) + torch.randn(num_samples, 3, generator=source), labels)


def network(*, dropout: float = 0.0, norm: bool = True, seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(8, NUM_CLASSES))


def run(model: nn.Module, data: Any = None, **options: Any) -> History:
    defaults = {"epochs": 3, "batch_size": 6, "learning_rate": 0.05, "seed": 1, "progress": False}
    return fit(model, dataset() if data is None else data, **{**defaults, **options})


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_full_batch_sgd_equals_gradient_descent_written_out(loss: str) -> None:
    model = network(norm=False).double()
    twin = copy.deepcopy(model)
    inputs, labels = dataset().tensors
    data = TensorDataset(inputs.double(), labels)
    history = run(model, data, optimizer="sgd", loss=loss, batch_size=20, weight_decay=0.1, learning_rate=0.02)
    losses = []
    for _ in range(3):
        outputs = twin(inputs.double())
        if loss == "mse":
            value = sum(((outputs[i] - torch.eye(3)[labels[i]]) ** 2).sum() for i in range(20)) / 20
        else:
            value = -sum(outputs[i].log_softmax(0)[labels[i]] for i in range(20)) / 20
        losses.append(value.item())
        for parameter, gradient in zip(
            twin.parameters(), torch.autograd.grad(value, list(twin.parameters())), strict=True
        ):
            parameter.data -= 0.02 * (gradient + 0.1 * parameter.data)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-10)  # sums over 20 samples in another order, in float64
    assert history.loss == pytest.approx(losses, rel=1e-10)


def test_mse_is_the_squared_distance_per_sample() -> None:
    outputs = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    assert loss_of(outputs, torch.tensor([0, 1]), "mse").item() == (0 + 4 + 0 + 0) / 2


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_optimizer_learns_and_follows_from_its_seed(optimizer: str, schedule: str) -> None:
    options = {"optimizer": optimizer, "schedule": schedule, "epochs": 20, "learning_rate": 0.02}
    model, again, other = network(dropout=0.2), network(dropout=0.2), network(dropout=0.2)
    history = run(model, **options)
    assert history.loss[-1] < history.loss[0]
    with torch.random.fork_rng(devices=[]):
        torch.rand(7)  # where the global random state stands must not matter
        assert history == run(again, **options)
    assert_same(weights(model), weights(again))
    assert history != run(other, **options | {"seed": 2})


def test_momentum_means_ninety_percent_unless_given() -> None:
    assert run(network(), optimizer="momentum") == run(network(), optimizer="sgd", momentum=0.9)
    assert run(network(), optimizer="momentum", momentum=0.5) == run(network(), optimizer="sgd", momentum=0.5)
    assert run(network(), optimizer="momentum", momentum=0.0) == run(network(), optimizer="sgd")


def test_numbers_of_numpy_are_taken_for_what_they_are(tmp_path: Path) -> None:
    plain = {"epochs": 2, "batch_size": 6, "seed": 3, "learning_rate": 0.125, "weight_decay": 0.5, "momentum": 0.75}
    integers = {name: np.int64(plain[name]) for name in ("epochs", "batch_size", "seed")}
    rest = {name: np.float32(plain[name]) for name in ("learning_rate", "weight_decay", "momentum")}
    found = run(network(), optimizer="sgd", resume=tmp_path / "run", **integers, **rest)
    assert found == run(network(), optimizer="sgd", **plain)


def test_cosine_falls_to_a_hundredth() -> None:
    settings = Settings(1, 1, "sgd", 0.5, 0.0, 0.0, "cosine", "mse", 0)
    rates = [settings.learning_rate_at(step, 10) for step in range(11)]
    assert rates[0] == 0.5
    assert rates[5] == pytest.approx(0.5 * (1 + 0.01) / 2)
    assert rates[10] == pytest.approx(0.005)
    assert rates[2] - rates[3] > 2 * (rates[0] - rates[1])  # flat at the ends, unlike a straight line
    assert sorted(rates, reverse=True) == rates


@pytest.mark.parametrize("num_samples", [1, 2, 6, 7, 12, 13])
def test_every_sample_is_seen_once_an_epoch(num_samples: int) -> None:
    seen: list[int] = []
    model = network(norm=False)
    model.register_forward_pre_hook(lambda _, args: seen.extend(args[0][:, 0].int().tolist()))
    data = TensorDataset(
        torch.arange(num_samples).float().reshape(-1, 1).expand(-1, 3), torch.zeros(num_samples).long()
    )
    run(model, data, epochs=2, learning_rate=1e-6)
    first, second = seen[:num_samples], seen[num_samples:]
    assert sorted(first) == sorted(second) == list(range(num_samples))
    assert num_samples < 6 or first != second


def test_a_single_left_over_sample_joins_the_batch_before() -> None:
    sizes: list[int] = []
    model = network()
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    run(model, dataset(13), epochs=1)
    assert sizes == [6, 7]


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_random_state_are_left_as_found(training: bool) -> None:
    model = network(dropout=0.5).train(training)
    model[1].train(not training)
    before = torch.get_rng_state()
    run(model)
    assert torch.equal(before, torch.get_rng_state())
    assert [module.training for module in model.modules()] == [training, training, not training] + [training] * 3
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("event", ["on_start", "before_epoch", "after_batch", "after_epoch", "on_end"])
def test_an_interrupted_run_leaves_modes_and_random_state(error: type[BaseException], event: str) -> None:
    def interrupt(_: Progress) -> None:
        raise error

    model = network(dropout=0.5).eval()
    before = torch.get_rng_state()
    with pytest.raises(error):
        run(model, events={event: interrupt})
    assert torch.equal(before, torch.get_rng_state())
    assert not any(module.training for module in model.modules())


def test_events_come_in_order_with_what_they_promise() -> None:
    calls: list[tuple[str, Progress]] = []
    names = ("on_start", "before_epoch", "after_batch", "after_epoch", "on_end")
    model = network()
    history = run(model, epochs=2, events={name: lambda p, name=name: calls.append((name, p)) for name in names})
    epoch = ["before_epoch"] + ["after_batch"] * 4 + ["after_epoch"]
    assert [name for name, _ in calls] == ["on_start", *epoch, *epoch, "on_end"]
    assert [p.epoch for name, p in calls if name == "before_epoch"] == [0, 1]
    assert [p.epoch for name, p in calls if name == "after_epoch"] == [1, 2]
    assert [p.step for name, p in calls if name == "after_batch"] == list(range(1, 9))
    assert tuple(p.loss for name, p in calls if name == "after_epoch") == history.loss
    assert tuple(p.accuracy for name, p in calls if name == "after_epoch") == history.accuracy
    assert math.isnan(calls[0][1].loss)
    assert calls[-1][1].loss == history.loss[-1]
    assert all(p.model is model for _, p in calls)


def test_an_epochs_loss_is_the_mean_over_samples_not_batches() -> None:
    batches: list[Progress] = []
    history = run(network(), dataset(8), epochs=1, events={"after_batch": batches.append})
    assert history.loss[0] == pytest.approx((6 * batches[0].loss + 2 * batches[1].loss) / 8)


def test_looking_does_not_change_training() -> None:
    def look(progress: Progress) -> None:
        evaluate(progress.model, dataset())
        progress.model.eval()
        torch.rand(5)

    watched, alone = network(dropout=0.5), network(dropout=0.5)
    names = ("on_start", "before_epoch", "after_batch", "after_epoch", "on_end")
    assert run(watched, events=dict.fromkeys(names, look)) == run(alone)
    assert_same(weights(watched), weights(alone))


def test_training_works_inside_no_grad() -> None:
    with torch.no_grad():
        inside = run(network())
    assert inside == run(network())


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_may_be_integers_of_any_width(dtype: torch.dtype, loss: str) -> None:
    inputs, labels = dataset().tensors
    narrow = TensorDataset(inputs, labels.to(dtype))
    assert run(network(), narrow, loss=loss) == run(network(), loss=loss)
    assert evaluate(network(), narrow, loss=loss) == evaluate(network(), dataset(), loss=loss)


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    run(model)
    assert torch.equal(before, model[0].weight)


def test_no_epochs_change_nothing() -> None:
    model = network()
    before = weights(model)
    assert len(run(model, epochs=0)) == 0
    assert_same(before, weights(model))


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_run_with_advice(epochs: int) -> None:
    model = network(norm=False).eval()
    inputs, labels = dataset().tensors
    with pytest.raises(
        TrainingError, match=r"the loss became (nan|inf) in epoch \d+, step \d+ .* smaller learning rate"
    ):
        run(model, TensorDataset(inputs * 1e20, labels), loss="mse", optimizer="sgd", learning_rate=1e10)
    assert not any(module.training for module in model.modules())


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"epochs": -1}, ValueError, "`epochs` must be an integer of at least 0, got -1"),
        ({"epochs": 1.5}, TypeError, "`epochs` must be an integer of at least 0, got 1.5"),
        ({"seed": 1.5}, TypeError, "`seed` must be an integer, got 1.5"),
        ({"seed": "a"}, TypeError, "`seed` must be an integer, got 'a'"),
        ({"learning_rate": "0.1"}, TypeError, "`learning_rate` must be a number, got '0.1'"),
        ({"momentum": "x", "optimizer": "sgd"}, TypeError, "`momentum` must be a number, got 'x'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1, got 0"),
        ({"optimizer": "adm"}, ValueError, "`optimizer` must be one of .*, got 'adm'; did you mean 'adam'?"),
        ({"schedule": "cosin"}, ValueError, "`schedule` must be one of .*; did you mean 'cosine'?"),
        ({"loss": "hinge"}, ValueError, "`loss` must be one of 'cross_entropy', 'mse', got 'hinge'"),
        ({"learning_rate": 0.0}, ValueError, "`learning_rate` must be a positive number, got 0.0"),
        ({"learning_rate": math.nan}, ValueError, "`learning_rate` must be a positive number, got nan"),
        ({"weight_decay": -1.0}, ValueError, "`weight_decay` must be a number of at least 0"),
        ({"momentum": 1.0, "optimizer": "sgd"}, ValueError, r"`momentum` must lie in \[0, 1\)"),
        ({"momentum": 0.5, "optimizer": "adam"}, ValueError, "`momentum` belongs to 'sgd' and 'momentum'"),
        ({"events": {"after_epok": print}}, ValueError, "`events` must be one of .*; did you mean 'after_epoch'?"),
        ({"events": torch.ones(2)}, TypeError, r"`events` must map names to functions, got tensor\(\[1., 1.\]\)"),
        ({"events": []}, TypeError, r"`events` must map names to functions, got \[\]"),
        ({"events": {"on_end": 3}}, TypeError, r"`events\['on_end'\]` must be callable, got a int"),
        ({"data": DataLoader(dataset())}, TypeError, "got a DataLoader; pass loader.dataset"),
        ({"data": Stream()}, TypeError, "`data` must be a map-style dataset"),
        ({"data": {0: (torch.zeros(3), 1)}}, TypeError, "must be a map-style dataset .*, got a dict"),
        ({"data": [({"x": torch.zeros(3)}, 1)]}, TypeError, r"inputs that are tensors, arrays or numbers, got {'x'"),
        ({"data": [("text", 1)]}, TypeError, "inputs that are tensors, arrays or numbers, got 'text'"),
        ({"data": [(object(), 1)]}, TypeError, "samples of `data` cannot make up a batch: default_collate"),
        (
            {"data": [(torch.zeros(3), 0), (torch.zeros(4), 1)]},
            TypeError,
            "samples of `data` cannot make up a batch: stack expects each tensor to be equal size",
        ),
        ({"data": []}, ValueError, "`data` must hold at least one sample"),
        ({"data": TensorDataset(torch.zeros(2, 3), torch.tensor([0, 3]))}, TrainingError, "scores for 3 classes, but"),
        ({"data": TensorDataset(torch.zeros(2, 3), torch.tensor([0, -1]))}, TrainingError, "run from -1"),
        (
            {"data": TensorDataset(torch.zeros(6, 3), torch.eye(3).repeat(2, 1)), "batch_size": 3},
            TrainingError,
            r"one integer label per sample, got a batch of float32 of shape \(3, 3\); turn one-hot labels into",
        ),
        ({"data": TensorDataset(torch.zeros(2, 3), torch.ones(2))}, TrainingError, r"batch of float32 of shape \(2,\)"),
        ({"data": [(torch.zeros(3), "cat"), (torch.zeros(3), "dog")]}, TrainingError, "got a tuple in a batch"),
        ({"model": nn.Identity()}, TrainingError, "must have parameters that require gradients, Identity has none"),
        (
            {"model": nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (2, 2)))},
            TrainingError,
            r"scores of shape \(6, classes",
        ),
        ({"model": nn.LSTM(3, 3)}, TrainingError, "got a tuple"),
    ],
)
def test_wrong_arguments_get_one_clear_line_and_change_nothing(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = options.pop("model", None) or network()
    before, random_state = weights(model), torch.get_rng_state()
    with pytest.raises(error, match=message) as caught:
        run(model, **options)
    assert "\n" not in str(caught.value)
    assert_same(before, weights(model))
    assert torch.equal(random_state, torch.get_rng_state())


def test_a_batch_size_beyond_all_samples_takes_them_all() -> None:
    one, other = network(), network()
    run(one, batch_size=10**30)
    run(other, batch_size=20)
    assert_same(weights(one), weights(other))


def test_no_bar_is_drawn_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    run(network(), progress=True)
    assert capsys.readouterr() == ("", "")
