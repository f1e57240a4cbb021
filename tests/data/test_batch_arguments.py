"""How the inputs of a batch reach the model, and that they are moved as what they are."""

import copy
import dataclasses
from collections import UserDict, namedtuple
from collections.abc import Callable
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import neurocollapse as nc
from neurocollapse.data import DataError
from neurocollapse.data.batches import moved, split_batch
from neurocollapse.statistics import LabelError

N = 4
X, Y = torch.randn(N, 6, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 0, 1])
MASK = torch.ones(N, 6, dtype=torch.int64)
TOKENS = torch.arange(N * 6).reshape(N, 6)
IMAGES = [torch.rand(3, size, 8) for size in (5, 6, 7, 8)]
PACKED = pack_sequence([torch.randn(length, 6) for length in (5, 4, 3, 2)])
NODES, EDGES, GRAPH = torch.randn(9, 6), torch.tensor([[0, 1, 4], [1, 2, 5]]), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])

Pair = namedtuple("Pair", "left right")
Named = namedtuple("Named", "x mask y")


@dataclasses.dataclass(frozen=True)
class Record:
    x: Any
    labels: Any


class Data(SimpleNamespace):
    """A batch of graphs, which moves itself in place as those of PyTorch Geometric do."""

    def to(self, device: Any) -> "Data":
        self.device = torch.device(device)
        return self


class Tokens(UserDict):  # type: ignore[type-arg]
    """What a tokenizer returns: a mapping that moves itself in place, with attributes."""

    def to(self, device: Any) -> "Tokens":
        self.data = {name: part.to(device) for name, part in self.data.items()}
        return self

    def __getattr__(self, name: str) -> Any:
        return self.data[name]


def model(forward: Callable[..., Any]) -> nn.Module:
    """A model with the given forward pass."""
    made = type("Given", (nn.Module,), {"forward": forward})()
    made.weight = nn.Parameter(torch.zeros(1))
    return made  # type: ignore[no-any-return]


def one(self, x): ...  # type: ignore[no-untyped-def]
def tensor(self, pixels: Tensor) -> Any: ...
def two(self, x, lengths): ...  # type: ignore[no-untyped-def]
def flag(self, x, features=False): ...  # type: ignore[no-untyped-def]
def detector(self, images, targets=None): ...  # type: ignore[no-untyped-def]
def anything(self, *args, **kwargs): ...  # type: ignore[no-untyped-def]
def masked(self, x, mask=None): ...  # type: ignore[no-untyped-def]
def bert(self, input_ids=None, attention_mask=None, token_type_ids=None): ...  # type: ignore[no-untyped-def]
def gpt(self, input_ids=None, past=None, attention_mask=None): ...  # type: ignore[no-untyped-def]
def graphs(self, x, edges, graph): ...  # type: ignore[no-untyped-def]
def whole(self, batch): ...  # type: ignore[no-untyped-def]
def whole_with_more(self, batch, mask=None): ...  # type: ignore[no-untyped-def]
def annotated(self, x: dict[str, Tensor]) -> Any: ...
def as_text(self, x: "Record") -> Any: ...
def as_pair(self, x: tuple[Tensor, Tensor], flag: bool = False) -> Any: ...


DICT = {"x": X, "lengths": Y, "labels": Y}
CASES: dict[str, tuple[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]]] = {
    # tuples and lists
    "a tensor": (one, (X, Y), (X,), {}),
    "a tuple of one": (one, ((X,), Y), (X,), {}),
    "a pair of arguments": (two, ((X, Y), Y), (X, Y), {}),
    "a list of arguments, as collated": (two, [[X, Y], Y], (X, Y), {}),
    "arguments of sequences first": (two, ((X.expand(2, N, 6), X.expand(2, N, 6)), Y), (X.expand(2, N, 6),) * 2, {}),
    "a pair for one argument": (one, ((X, Y), Y), ((X, Y),), {}),
    "an optional second argument": (masked, ((X, MASK), Y), (X, MASK), {}),
    "a pair for an annotated argument": (as_pair, ((X, MASK), Y), ((X, MASK),), {}),
    "any number of arguments": (anything, ((X, MASK), Y), (X, MASK), {}),
    # packed sequences
    "packed": (one, (PACKED, Y), (PACKED,), {}),
    "packed in a tuple": (one, ((PACKED,), Y), (PACKED,), {}),
    "packed with more": (two, ((PACKED, Y), Y), (PACKED, Y), {}),
    "packed for any number of arguments": (anything, (PACKED, Y), (PACKED,), {}),
    "packed in a dict": (one, {"x": PACKED, "y": Y}, (), {"x": PACKED}),
    # graphs
    "graph over arguments": (graphs, ((NODES, EDGES, GRAPH), Y), (NODES, EDGES, GRAPH), {}),
    "graph as one argument": (one, ((NODES, EDGES, GRAPH), Y), ((NODES, EDGES, GRAPH),), {}),
    "graph in a dict": (graphs, {"x": NODES, "edges": EDGES, "graph": GRAPH, "y": Y}, (),
                        {"x": NODES, "edges": EDGES, "graph": GRAPH}),
    # lists of samples
    "images of many sizes": (one, (IMAGES, Y), (IMAGES,), {}),
    "images for a detector": (detector, (IMAGES[:2], Y[:2]), (IMAGES[:2],), {}),
    "one image": (one, (IMAGES[:1], Y[:1]), (IMAGES[:1],), {}),
    "images for any number of arguments": (anything, (IMAGES, Y), (IMAGES,), {}),
    "texts": (one, (["a", "b", "c", "d"], Y), (["a", "b", "c", "d"],), {}),
    "dicts of samples": (detector, ([{"a": 1}, {"a": 2}], Y[:2]), ([{"a": 1}, {"a": 2}],), {}),
    # mappings
    "dict by name": (one, DICT, (), {"x": X}),
    "dict by names": (two, DICT, (), {"x": X, "lengths": Y}),
    "dict in a pair": (two, ({"x": X, "lengths": Y}, Y), (), {"x": X, "lengths": Y}),
    "dict as one argument": (whole, DICT, (DICT,), {}),
    "dict as one argument, one name fits": (whole_with_more, DICT | {"mask": MASK}, (DICT | {"mask": MASK},), {}),
    "dict as an annotated argument": (annotated, ({"input": X}, Y), ({"input": X},), {}),
    "dict whose key is the name of an annotated argument": (annotated, {"x": X, "y": Y}, ({"x": X, "y": Y},), {}),
    "tokens by name": (bert, Tokens(input_ids=TOKENS, labels=Y), (), {"input_ids": TOKENS}),
    # named tuples and dataclasses
    "named tuple by name": (masked, Named(X, MASK, Y), (), {"x": X, "mask": MASK}),
    "named tuple, the first part": (tensor, Named(X, MASK, Y), (X,), {}),
    "named tuple, as many parts as needed": (
        lambda self, a, b: None, Named(X, MASK, Y), (X, MASK), {}),
    "named tuple of inputs": (one, (Pair(X, MASK), Y), (Pair(X, MASK),), {}),
    "named tuple of inputs over arguments": (two, (Pair(X, Y), Y), (X, Y), {}),
    "named tuple as one batch": (whole, Named(X, MASK, Y), (Named(X, MASK, Y),), {}),
    "dataclass by name": (one, Record(X, Y), (), {"x": X}),
    "dataclass, the only part": (tensor, Record(X, Y), (X,), {}),
    "dataclass as one argument": (whole, Record(X, Y), (Record(X, Y),), {}),
    "dataclass of inputs": (as_text, (Record(X, None), Y), (Record(X, None),), {}),
    # objects
    "object by name": (graphs, Data(x=NODES, edges=EDGES, graph=GRAPH, y=Y), (),
                       {"x": NODES, "edges": EDGES, "graph": GRAPH}),
    "object as one argument": (whole, Data(x=NODES, y=Y), (Data(x=NODES, y=Y),), {}),
    "object with a part called batch": (whole, Data(x=NODES, batch=GRAPH, y=Y), (Data(x=NODES, batch=GRAPH, y=Y),), {}),
    "object for an argument of another name": (lambda self, g: None, Data(x=NODES, y=Y), (Data(x=NODES, y=Y),), {}),
    "object in a pair": (whole, (Data(x=NODES), Y), (Data(x=NODES),), {}),
    "object in a tuple": (one, ((Data(x=NODES),), Y[:1]), (Data(x=NODES),), {}),
    # more than inputs and labels
    "a part the model has no room for": (one, (X, torch.rand(N, 3), Y), (X,), {}),
    "a part beside a flag": (flag, (X, torch.rand(N, 3), Y), (X,), {}),
    "a part the model needs": (two, (X, MASK * 0.5, Y), (X, MASK * 0.5), {}),
    "a mask of tokens": (bert, (TOKENS, MASK, Y), (TOKENS,), {"attention_mask": MASK}),
    "a mask that comes third": (gpt, (TOKENS, MASK, Y), (TOKENS,), {"attention_mask": MASK}),
    "a mask and token types": (bert, (TOKENS, MASK, MASK * 0, Y), (TOKENS,),
                               {"attention_mask": MASK, "token_type_ids": MASK * 0}),
    "a mask of sequences": (masked, (X[:, :, None], MASK > 0, Y), (X[:, :, None],), {"mask": MASK > 0}),
    "a mask that the model does not take": (one, (TOKENS, MASK, Y), (TOKENS,), {}),
    "a mask behind the labels": (bert, (TOKENS, Y, MASK), (TOKENS,), {"attention_mask": MASK}),
    # arrays
    "arrays": (one, (X.numpy(), Y.numpy()), (X,), {}),
    "arrays in a dict": (two, {"x": X.numpy(), "lengths": Y.numpy(), "y": Y.numpy()}, (), {"x": X, "lengths": Y}),
    "arrays in a tuple": (two, ((X.numpy(), Y.numpy()), Y), (X, Y), {}),
    "arrays of double precision": (one, (X.numpy().astype(">f8"), Y), (X,), {}),
    "arrays that are views": (one, (X.numpy()[::-1], Y), (X.flip(0),), {}),
    "arrays in an object": (one, SimpleNamespace(x=X.numpy(), y=Y), (), {"x": X}),
    "arrays in a mapping that cannot be changed": (one, MappingProxyType({"x": X.numpy(), "y": Y}), (), {"x": X}),
}  # fmt: skip


def assert_same(given: Any, expected: Any) -> None:
    """Equal values in containers of the same types."""
    if isinstance(expected, Tensor):
        assert torch.equal(given, expected)
        assert given.dtype == expected.dtype
        return
    assert type(given) is type(expected)
    if isinstance(expected, PackedSequence | str | int | None.__class__):
        assert given is expected
    elif isinstance(expected, dict | UserDict):
        assert given.keys() == expected.keys()
        for name in expected:
            assert_same(given[name], expected[name])
    elif isinstance(expected, tuple | list):
        assert len(given) == len(expected)
        for one_given, one_expected in zip(given, expected, strict=True):
            assert_same(one_given, one_expected)
    else:
        assert_same(vars(given), vars(expected))


@pytest.mark.parametrize(("forward", "batch", "args", "kwargs"), CASES.values(), ids=CASES)
def test_inputs_reach_the_model_as_it_takes_them(
    forward: Callable[..., Any], batch: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    parts = split_batch(batch, model(forward))
    assert_same(parts.args, args)
    assert_same(parts.kwargs, kwargs)


@pytest.mark.parametrize("forward", [tensor, one, bert, two])
def test_a_dict_without_what_the_model_takes_is_refused(forward: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"needs keys that Given.forward takes .*; got the keys image, box beside"):
        split_batch({"image": X, "box": X, "label": Y}, model(forward))


@pytest.mark.parametrize(
    "inputs",
    [X[:3], PACKED, (X[:3], MASK[:3]), {"x": X[:3]}, IMAGES[:3], torch.zeros(5, 3, 6)],
    ids=["tensor", "packed", "tuple", "dict", "images", "sequences first"],
)
def test_labels_of_another_number_are_refused(inputs: Any) -> None:
    labels = torch.arange(7) % 2
    with pytest.raises(LabelError, match=r"got 7 labels for \d samples"):
        nc.analyze(model(masked), [(inputs, labels)])


class Shape(nn.Module):
    """Gives every kind of input a row for each sample, before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, batch: Any) -> Tensor:
        return self.head(self.rows(batch))

    def rows(self, batch: Any) -> Tensor:
        if isinstance(batch, PackedSequence):
            padded, sizes = nn.utils.rnn.pad_packed_sequence(batch, batch_first=True)
            return padded.sum(1) / sizes[:, None]
        if isinstance(batch, list):
            return torch.stack([image.mean((1, 2)).repeat(2) for image in batch])
        if isinstance(batch, Data):
            return torch.stack([batch.x[batch.batch == graph].sum(0) for graph in range(N)])
        if isinstance(batch, tuple):
            return torch.stack([batch[0][batch[2] == graph].sum(0) for graph in range(N)])
        return batch["image"] + batch.image if isinstance(batch, Tokens) else batch["image"]


WITHOUT_BATCH_AXIS = {
    "packed": (PACKED, Y),
    "packed in a tuple": ((PACKED,), Y),
    "images": (IMAGES, Y),
    "graph": ((NODES, EDGES, GRAPH), Y),
    "graph as an object": Data(x=NODES, edges=EDGES, batch=GRAPH, y=Y),
    "graph as an object in a pair": (Data(x=NODES, batch=GRAPH), Y),
    "dict": {"image": X, "index": torch.arange(N), "label": Y},
    "dict in a pair": ({"image": X}, Y),
    "tokens": Tokens(image=X, label=Y),
    "arrays": {"image": X.numpy().astype("f8"), "label": Y.numpy()},
}


@pytest.mark.parametrize("batch", WITHOUT_BATCH_AXIS.values(), ids=WITHOUT_BATCH_AXIS)
def test_inputs_of_every_kind_are_measured(batch: Any) -> None:
    network = Shape()
    dataset = nc.analyze(network, [batch, copy.copy(batch)], layers=["head"])
    inputs = split_batch(batch, network).args[0]
    rows = network(inputs).detach()
    expected = nc.measure({"head": nc.ClassMoments.from_features(rows.repeat(2, 1), Y.repeat(2))})
    assert dataset.attrs["num_samples"] == 2 * N
    np.testing.assert_allclose(dataset["compression"], expected["compression"], rtol=1e-5)  # features in float32


def on_meta(value: Any) -> Any:
    return moved(value, torch.device("meta"))


def test_every_tensor_is_moved_and_containers_keep_their_type() -> None:
    given = Pair([X, {"a": (Y, "text", None)}], Record(X, MappingProxyType({"b": X})))
    result = on_meta(given)
    assert type(result) is Pair
    assert type(result.right) is Record
    assert result.left[1]["a"][1:] == ("text", None)
    for tensor_ in (result.left[0], result.left[1]["a"][0], result.right.x, result.right.labels["b"]):
        assert tensor_.is_meta
    assert not X.is_meta
    assert given.right.x is X


def test_what_moves_itself_is_moved_as_a_copy() -> None:
    data, tokens = Data(x=X), Tokens(x=X)
    result, moved_tokens = on_meta((data, tokens))
    assert (type(result), result.device.type) == (Data, "meta")
    assert not hasattr(data, "device")
    assert moved_tokens.x.is_meta
    assert tokens.x is X
    assert on_meta(PACKED).data.is_meta


def test_an_object_without_a_method_to_move_itself_is_moved_by_its_attributes() -> None:
    given = SimpleNamespace(x=X, name="graph")
    result = on_meta(given)
    assert result.x.is_meta
    assert result.name == "graph"
    assert given.x is X


def test_what_holds_no_tensor_stays_the_same_object() -> None:
    for value in ([1, "a"], {"a": 1}, Pair(1, 2), torch.Size([1, 2]), Record(1, 2), 3, None, len, nn.Linear):
        assert on_meta(value) is value


def test_torch_geometric_like_data_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="got a Data; pass label_fn"):
        split_batch(Data(x=NODES, y=None), model(whole))


def test_what_a_tokenizer_returns_is_taken_as_a_mapping() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
    batch = transformers.BatchEncoding({"input_ids": TOKENS.numpy(), "labels": Y.numpy()})
    by_name, as_one = (split_batch(batch, model(forward)) for forward in (bert, whole))
    assert_same(by_name.kwargs, {"input_ids": TOKENS})
    assert torch.equal(as_one.args[0].input_ids, TOKENS)
    assert on_meta(as_one.args[0])["input_ids"].is_meta
    assert isinstance(batch["input_ids"], np.ndarray)


def test_what_accelerate_moves_is_not_mutated() -> None:
    pytest.importorskip("transformers", reason="transformers is an optional dependency")
    from transformers.modeling_outputs import BaseModelOutput

    given = BaseModelOutput(last_hidden_state=X)
    result = on_meta(given)
    assert type(result) is BaseModelOutput
    assert result.last_hidden_state.is_meta
    assert given.last_hidden_state is X
