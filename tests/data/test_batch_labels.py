"""Which part of a batch holds the labels: known by name or position, or the batch is refused."""

import dataclasses
from collections import UserDict, namedtuple
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.data.batches import split_batch

N = 24
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % 4
INDEX = torch.arange(N)
META = torch.randn(N, 3, generator=torch.Generator().manual_seed(1))
ONE_HOT = nn.functional.one_hot(Y, 4)
SPATIAL, SEQUENCES = X.reshape(N, 1, 2, 3), X.reshape(N, 2, 3)
TOKENS, MASK = torch.arange(N * 5).reshape(N, 5), (torch.arange(N * 5) % 3 > 0).reshape(N, 5).long()
NAMES = ["cat", "dog", "eel", "fox"]

Fields = namedtuple("Fields", "image index target")
Backwards = namedtuple("Backwards", "label data")
Unnamed = namedtuple("Unnamed", "image meta klass")


@dataclasses.dataclass(frozen=True)
class Record:
    data: Tensor
    index: Tensor
    labels: Tensor


def found(batch: Any, **options: Any) -> list[int]:
    labels = split_batch(batch, nn.Linear(6, 5), **options).labels
    return [int(label) for label in labels]


KNOWN_BY_NAME = {
    "dict": {"input": X, "index": INDEX, "label": Y},
    "dict whose other names hold nothing": {"input": X, "labels": None, "target": Y},
    "dict with labels twice": {"input": X, "label": Y, "targets": Y.clone()},
    "dict with labels for every token": {"input": X, "labels": TOKENS, "label": Y},
    "user dict": UserDict({"input": X, "index": INDEX, "targets": Y}),
    "mapping that cannot be changed": MappingProxyType({"input": X, "y": Y}),
    "named tuple": Fields(X, INDEX, Y),
    "named tuple of two, labels first": Backwards(Y, X),
    "dataclass": Record(X, INDEX, Y),
    "object with attributes": SimpleNamespace(input=X, index=INDEX, y=Y),
    "pair with a dict of targets": (X, {"index": INDEX, "labels": Y}),
    "pair with a named tuple of targets": (X, Fields(META, INDEX, Y)),
    "pair of a dict with labels and names": ({"input": X, "label": Y}, NAMES * 6),
    "pair that holds the same labels twice": ({"input": X, "label": Y}, Y.clone()),
}

KNOWN_BY_POSITION = {
    "pair": (X, Y),
    "list of two": [X, Y],
    "pair of arrays": (X.numpy(), Y.numpy()),
    "pair whose labels count up": (X, INDEX),
    "features between": (X, META, Y),
    "weights between": (X, torch.rand(N), Y),
    "weights after": (X, Y, torch.rand(N)),
    "weights that are all one": (X, Y, torch.ones(N)),
    "a dict between": (X, {"index": INDEX}, Y),
    "paths between": (X, [f"{i}.png" for i in range(N)], Y),
    "paths after": [X, Y, tuple(f"{i}.png" for i in range(N))],
    "a list of labels": (X, META, Y.tolist()),
    "a list of single numbers": (X, META, list(Y)),
    "an array of labels": (X.numpy(), META.numpy(), Y.numpy().astype("uint8")),
    "one-hot labels": (X, META, ONE_HOT),
    "one-hot labels in floats": (X, ONE_HOT.float(), META),
    "a second view": (SPATIAL, SPATIAL + 1, Y),
    "whole numbers of another length": (X, torch.arange(5), Y),
    "a single number": (X, torch.tensor(3), Y),
    "nothing between": (X, None, Y),
    "a mask of tokens": (TOKENS, MASK, Y),
    "a mask of sequences": (SEQUENCES, torch.ones(N, 2, dtype=torch.bool), Y),
    "named tuple without names for labels": Unnamed(X, META, Y),
    "labels of a dict among three": ({"input": X}, META, Y),
}


@pytest.mark.parametrize("batch", KNOWN_BY_NAME.values(), ids=KNOWN_BY_NAME)
def test_names_decide(batch: Any) -> None:
    assert found(batch) == Y.tolist()


@pytest.mark.parametrize("name", KNOWN_BY_POSITION)
def test_the_only_part_that_can_be_labels_is_taken(name: str) -> None:
    labels = split_batch(KNOWN_BY_POSITION[name], nn.Linear(6, 5)).labels
    expected = INDEX if "count up" in name else ONE_HOT if "one-hot" in name else Y
    np.testing.assert_array_equal(np.asarray(labels, dtype=int), expected)


AMBIGUOUS = {
    "index before": ((X, INDEX, Y), r"batch\[1\] \(int64 \(24,\)\) or batch\[2\] \(int64 \(24,\)\).*label_fn"),
    "index after": ((X, Y, INDEX), r"batch\[1\] .* or batch\[2\]"),
    "lengths": ((X, INDEX + 1, Y), r"batch\[1\] .* or batch\[2\]"),
    "lengths as a list": ((X, INDEX.tolist(), Y), r"batch\[1\] \(list of 24\) or batch\[2\]"),
    "lengths as an array": ((X.numpy(), INDEX.numpy(), Y.numpy()), r"batch\[1\] .* or batch\[2\]"),
    "four elements": ((X, Y, META, INDEX), r"batch of 4 elements could be batch\[1\] .* or batch\[3\]"),
    "two labels for mixing": ((X, Y, Y.flip(0), 0.3), r"batch\[1\] .* or batch\[2\]"),
    "one-hot and integers": ((X, ONE_HOT, Y), r"batch\[1\] .* or batch\[2\]"),
    "a column of integers": ((X, Y[:, None], INDEX), r"batch\[1\] .* or batch\[2\]"),
    "truth values": ((X, Y > 1, INDEX), r"batch\[1\] \(bool"),
    "floats that are classes": ((X, Y.double(), INDEX), r"batch\[1\] .* or batch\[2\]|batch\[2\] .* or batch\[1\]"),
    "index, then floats that are classes": ((X, INDEX, Y.float()), r"could be"),
    "words that are classes": ((X, NAMES * 6, INDEX), r"could be"),
    "several classes a sample": ((X, INDEX, (META > 0).float()), r"could be"),
    "a class for each token": ((TOKENS, TOKENS % 4, INDEX), r"could be"),
    "a class for each pixel": ((SPATIAL, torch.arange(N * 6).reshape(N, 2, 3) % 4, INDEX), r"could be"),
    "named tuple without names for labels": (Unnamed(X, INDEX, Y), r"batch\[1\] .* or batch\[2\]"),
    "dict with two labels that differ": ({"input": X, "label": Y, "target": INDEX}, r"'label' or 'target', which dif"),
    "object with two labels that differ": (SimpleNamespace(input=X, y=Y, target=INDEX), r"'target' or 'y', which"),
    "pair of a dict with labels and an index": (({"input": X, "label": Y}, INDEX), r"batch\[0\]\['label'\] .* or"),
    "inputs of unknown length": ((SimpleNamespace(), torch.arange(3), torch.arange(2)), r"batch\[1\] .* or batch\[2\]"),
}


@pytest.mark.parametrize(("batch", "message"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_a_batch_in_which_several_parts_could_be_labels_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split_batch(batch, nn.Linear(6, 5))
    assert "label_fn" in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


WITHOUT_LABELS = {
    "inputs alone": (X, r"must be a pair \(inputs, labels\) or a dict, got a float32 \(24, 6\); pass label_fn"),
    "tuple of one": ((X,), "got a tuple of 1; pass label_fn"),
    "a text": ("mnist", "got a str; pass label_fn"),
    "dict": ({"input": X, "klass": Y}, "needs its labels under one of labels, .*; got the keys input, klass; pass"),
    "dict of many keys": ({f"key_{i}" * 30: X for i in range(900)}, "and 894 more"),
    "three without labels": ((X, META, torch.rand(N)), "no element of a batch of 3 can be labels.*pass label_fn"),
    "detection": (([SPATIAL[0]] * 2, [{"labels": Y[:2]}, {"labels": Y[:3]}]), "no element of a batch of 2"),
    "pair with a dict without labels": ((X, {"fine": Y}), "no element of a batch of 2 .* dict of fine"),
    "samples that nobody collated": ([(X[0], 1), (X[1], 0), (X[2], 2)], "no element of a batch of 3"),
    "object": (SimpleNamespace(x=X), "got a SimpleNamespace; pass label_fn"),
}


@pytest.mark.parametrize(("batch", "message"), WITHOUT_LABELS.values(), ids=WITHOUT_LABELS)
def test_a_batch_without_labels_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        split_batch(batch, nn.Linear(6, 5))
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(("batch", "_"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_label_fn_decides(batch: Any, _: str) -> None:
    assert split_batch(batch, nn.Identity(), label_fn=lambda given: Y if given is batch else None).labels is Y


def test_an_index_is_never_measured_as_the_label() -> None:
    torch.manual_seed(1)
    model = nn.Linear(6, 5)
    right = nc.analyze(model, [(X, Y)]).compression.item()
    assert right > 1
    assert nc.analyze(model, [(X, META, Y)]).compression.item() == right
    assert nc.analyze(model, [{"input": X, "index": INDEX, "y": Y}]).compression.item() == right
    assert nc.analyze(model, [(X, INDEX, Y)], label_fn=lambda batch: batch[2]).compression.item() == right
    with pytest.raises(DataError, match="label_fn=lambda batch"):
        nc.analyze(model, [(X, INDEX, Y)])


@pytest.mark.parametrize(
    "one", [torch.tensor(1), np.array(1), np.int64(1), 1, 1.0, True], ids=lambda one: type(one).__name__
)
@pytest.mark.parametrize(
    "inputs", [X[:1], X[0], X[:1].numpy(), {"input": X[:1]}], ids=["row", "sample", "array", "dict"]
)
def test_a_single_label_is_refused_with_the_way_out(inputs: Any, one: Any) -> None:
    message = r"labels of a batch are the single number .*(1|True).*, not one for each sample; .*DataLoader"
    for batch, options in (
        ((inputs, one), {}),
        ({"input": X[:1], "labels": one}, {}),
        (X[:1], {"label_fn": lambda batch: one}),
    ):
        with pytest.raises(DataError, match=message):
            nc.collect(nn.Linear(6, 5), [batch], **options)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_labels_are_refused_in_any_place(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.tensor([0, 1]), torch.tensor([1])], layout=layout)
    for batch in ((X[:2], nested), {"input": X[:2], "labels": nested}):
        with pytest.raises(DataError, match="the labels of a batch are a nested tensor"):
            nc.collect(nn.Linear(6, 5), [batch])
    with pytest.raises(DataError, match=r"no element of a batch of 3 can be labels, .* nested int64; pass label_fn"):
        nc.collect(nn.Linear(6, 5), [(X[:2], torch.rand(2, 3), nested)])


def test_a_dataset_read_sample_by_sample_is_refused() -> None:
    class Stream(torch.utils.data.IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(X, Y, strict=True))

    for loader in (Stream(), torch.utils.data.DataLoader(Stream(), batch_size=None)):
        with pytest.raises(DataError, match="single number"):
            nc.analyze(nn.Linear(6, 5), loader)
