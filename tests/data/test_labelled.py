"""Labelled data as a value: loaders, subsets and shards."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from neurocollapse import models
from neurocollapse.data import DataError, LabelledData, LabelledSamples, shard, synthetic


@pytest.fixture
def numbers() -> LabelledData:
    return LabelledData(torch.arange(11.0).reshape(11, 1), torch.arange(11) % 3, ("a", "b", "c"), "numbers")


def values(loader: DataLoader) -> list[float]:
    return [value for inputs, _ in loader for value in inputs.flatten().tolist()]


def test_samples_are_pairs_with_integer_labels(numbers: LabelledData) -> None:
    inputs, label = numbers[4]
    assert inputs.item() == 4
    assert label == 1
    assert isinstance(label, int)


def test_batches_equal_samples_taken_one_by_one(numbers: LabelledData) -> None:
    seen = [(inputs[i].item(), int(labels[i])) for inputs, labels in numbers.loader(4) for i in range(len(labels))]
    assert seen == [(inputs.item(), label) for inputs, label in numbers]


@pytest.mark.parametrize("batch_size", [1, 4, 11, 100])
def test_loader_gives_every_sample_once(numbers: LabelledData, batch_size: int) -> None:
    assert sorted(values(numbers.loader(batch_size, shuffle=True))) == list(range(11))


def test_shuffle_follows_from_the_seed_and_changes_between_passes(numbers: LabelledData) -> None:
    loader = numbers.loader(4, shuffle=True, seed=7)
    first, second = values(loader), values(loader)
    again = numbers.loader(4, shuffle=True, seed=7)
    assert [values(again), values(again)] == [first, second]
    assert first != second
    assert values(numbers.loader(4, shuffle=True, seed=8)) != first


@pytest.mark.parametrize("shuffle", [True, False])
def test_loader_leaves_the_global_random_state(numbers: LabelledData, shuffle: bool) -> None:
    before = torch.get_rng_state()
    values(numbers.loader(4, shuffle=shuffle))
    assert torch.equal(before, torch.get_rng_state())


def test_batch_size_must_be_positive(numbers: LabelledData) -> None:
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1, got 0"):
        numbers.loader(0)


@pytest.mark.parametrize("indices", [[3, 1], torch.tensor([3, 1]), (i for i in (3, 1))])
def test_subset_keeps_the_order_asked_for_and_all_classes(numbers: LabelledData, indices: object) -> None:
    subset = numbers.subset(indices)  # all of these are accepted
    assert subset.inputs.flatten().tolist() == [3, 1]
    assert subset.labels.tolist() == [0, 1]
    assert subset.num_classes == 3


def test_subset_takes_a_mask(numbers: LabelledData) -> None:
    assert numbers.subset(numbers.labels == 2).inputs.flatten().tolist() == [2, 5, 8]


@pytest.mark.parametrize("indices", [[11], [-12], torch.tensor([True, False])])
def test_subset_refuses_samples_that_are_not_there(numbers: LabelledData, indices: object) -> None:
    with pytest.raises(IndexError, match="`indices`"):
        numbers.subset(indices)  # all of these are accepted


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 11, 13])
def test_shards_hold_each_sample_once(numbers: LabelledData, world_size: int) -> None:
    shards = [shard(numbers, rank, world_size) for rank in range(world_size)]
    seen = sorted(value for part in shards for value in values(part.loader(3)))
    assert seen == list(range(11))
    sizes = [len(part) for part in shards]
    assert all(0 <= before - after <= 1 for before, after in pairwise(sizes))


def test_shards_of_a_plain_dataset_hold_each_sample_once() -> None:
    data = TensorDataset(torch.arange(7.0))
    assert sorted(x.item() for rank in range(3) for (x,) in shard(data, rank, 3)) == list(range(7))


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (-1, 2), (0, 0)])
def test_shard_refuses_a_rank_out_of_range(numbers: LabelledData, rank: int, world_size: int) -> None:
    with pytest.raises(ValueError, match="`rank` must lie in"):
        shard(numbers, rank, world_size)


def test_shard_refuses_a_loader_without_samples_by_index() -> None:
    with pytest.raises(TypeError, match="`data` must be a map-style dataset"):
        shard(iter([1, 2]), 0, 2)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (torch.zeros(3, 2), torch.tensor([0, 1]), "3 inputs and 2 labels"),
        (torch.zeros(2, 2), torch.tensor([0, 2]), r"integers in \[0, 2\), got 2 at position 1"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), r"integers in \[0, 2\), got -1 at position 0"),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), r"of integers, got a float32 tensor of shape \(2,\)"),
        (torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.int64), r"of integers, got a int64 tensor of shape \(2, 2\)"),
        (torch.zeros(2, 2), [0, 1], "of integers, got a list"),
        (torch.tensor(1.0), torch.tensor([0]), "`inputs` must be a tensor of shape"),
        ([1, 2], torch.tensor([0, 1]), "`inputs` must be a tensor of shape"),
    ],
)
def test_wrong_samples_get_one_clear_line(inputs: object, labels: object, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        LabelledData(inputs, labels, ("a", "b"))  # wrong on purpose
    assert "\n" not in str(caught.value)


def test_an_empty_subset_loads_nothing(numbers: LabelledData) -> None:
    assert list(numbers.subset([]).loader(4, shuffle=True)) == []


def test_wrapped_datasets_offer_the_same_surface() -> None:
    labels = torch.tensor([0, 1, 1])
    samples = LabelledSamples(TensorDataset(torch.arange(3.0), labels), labels, ("a", "b"), "wrapped")
    subset = samples.subset([2, 0])
    assert [(x.item(), int(y)) for x, y in subset] == [(2, 1), (0, 0)]
    assert subset.labels.tolist() == [1, 0]
    assert values(samples.loader(2)) == [0, 1, 2]
    assert repr(samples) == "LabelledSamples('wrapped', 3 samples, 2 classes)"


@pytest.mark.parametrize("values", [[0, 2], [0, -1], [0.0, 1.0], [[1, 0], [0, 1]]])
def test_wrapped_datasets_need_labels_that_have_a_class(values: list) -> None:
    labels = torch.tensor(values)
    with pytest.raises(DataError, match="`labels` must"):
        LabelledSamples(TensorDataset(torch.arange(2.0), labels), labels, ("a", "b"))


@pytest.mark.parametrize("batch_size", ["8", 2.5, None, -3])
def test_a_batch_size_that_is_no_number_is_named(numbers: LabelledData, batch_size: Any) -> None:
    expected = f"`batch_size` must be an integer of at least 1, got {batch_size!r}"
    with pytest.raises((TypeError, ValueError), match=expected):
        numbers.loader(batch_size)


def test_a_batch_may_be_larger_than_any_data(numbers: LabelledData) -> None:
    assert len(list(numbers.loader(10**30))) == 1


@pytest.mark.parametrize("seed", [-1, 2**63, 10**40, 1.5, "3", None, True])
@pytest.mark.parametrize(
    "draw",
    [
        lambda seed: LabelledData(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), ("a",)).loader(1, seed=seed),
        lambda seed: synthetic.near_orthonormal(2, 3, seed=seed),
        lambda seed: synthetic.noisy_orthonormal(2, 3, seed=seed),
        lambda seed: synthetic.low_rank_target(2, 3, 1, seed=seed),
        lambda seed: models.open("torch.nn:Identity", seed=seed),
        lambda seed: models.linear_weights([2, 2], seed=seed),
    ],
)
def test_a_seed_that_torch_would_not_take_is_named(draw: Callable[[Any], Any], seed: Any) -> None:
    with pytest.raises(ValueError, match=r"`seed` must be an integer from 0 to 2\*\*63 - 1, got ") as caught:
        draw(seed)
    assert len(str(caught.value)) < 120


class Broken(Dataset[Any]):
    """Fails when a sample is read."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __getitem__(self, index: int) -> Any:
        raise self.error


@pytest.mark.parametrize(
    "error", [RuntimeError("no\nsuch \x1b[2J"), KeyError("x"), IndexError("inside"), OSError(5, "disk")]
)
def test_a_sample_that_cannot_be_read_is_named(error: Exception) -> None:
    samples = LabelledSamples(Broken(error), torch.tensor([0, 1]), ("a", "b"), "own:data")
    with pytest.raises(DataError, match=rf"sample 1 of own:data cannot be read: {type(error).__name__}: ") as caught:
        samples[1]
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("values", [[torch.zeros(3), torch.zeros(4)], [torch.zeros(3), None], [{"a": 1}, {"b": 1}]])
def test_samples_that_differ_are_named(values: list[Any]) -> None:
    own = [(value, label) for label, value in enumerate(values)]
    samples = LabelledSamples(own, torch.tensor([0, 1]), ("a", "b"))
    with pytest.raises(DataError, match=r"the samples of a batch cannot be put together: .*; make all of one shape"):
        next(iter(samples.loader(2)))


@pytest.mark.parametrize("kind", [DataError, models.ModelError])
def test_an_error_is_one_short_line_whatever_it_names(kind: type[Exception]) -> None:
    message = str(kind("there is no " + "x" * 5000 + " in \x1b[31mred\n\u202e; look for another"))
    assert len(message) <= 300
    assert message.isprintable()
    assert message.startswith("there is no xxx")
    assert message.endswith(r" in \x1b[31mred\n\u202e; look for another")
