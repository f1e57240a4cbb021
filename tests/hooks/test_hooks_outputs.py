"""Which tensor is taken from a structured output, and what is refused."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from neurocollapse.hooks import AmbiguousOutputError, capture
from neurocollapse.hooks.outputs import describe, first_tensor, pick_tensor

N = 4
Z = torch.arange(8.0).reshape(N, 2)
OTHER = torch.ones(N, 3)
Pair = namedtuple("Pair", "state weights")


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


@pytest.mark.parametrize(
    "output",
    [
        Z,
        (Z,),
        (Z, OTHER),
        (None, Z),
        (torch.zeros(()), Z),
        (torch.zeros(N, dtype=torch.long), Z),
        (torch.zeros(N + 1, 2), Z),
        [Z],
        [None, Z],
        {"x": Z},
        {"x": Z, "ids": torch.zeros(N, dtype=torch.long)},
        OrderedDict(last_hidden_state=Z, pooler_output=OTHER),
        {"last_hidden_state": Z, "hidden_states": (OTHER, OTHER)},
        {"logits": Z, "hidden_states": (OTHER, OTHER)},
        {"out": {"deep": Z}},
        Pair(Z, OTHER),
        Output(Z),
        ((Z, OTHER), None),
    ],
    ids=repr,
)
def test_the_one_tensor_with_a_row_a_sample_is_taken(output):
    assert pick_tensor(output, num_samples=N) is Z


@pytest.mark.parametrize(
    ("output", "path"),
    [
        ((OTHER, Z), "1"),
        ({"a": OTHER, "b": Z}, "b"),
        ({"hidden_states": (OTHER, OTHER, Z)}, "hidden_states.2"),
        ((Pair(OTHER, Z),), "0.weights"),
        ([OTHER, Z], lambda output: output[-1]),
    ],
)
def test_a_path_or_function_overrides_the_choice(output, path):
    assert pick_tensor(output, num_samples=N, path=path) is Z


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"a": Z, "b": OTHER}, r"2 tensors could be meant in dict\(a: Tensor\(\(4, 2\), float32\)"),
        ([Z, OTHER], "2 tensors"),
        (None, "no floating-point tensor .* NoneType"),
        ((), "no floating-point tensor"),
        ("text", "str"),
        (torch.zeros(N, dtype=torch.long), "no floating-point tensor"),
        (torch.zeros(N, 2, dtype=torch.complex64), "no floating-point tensor"),
        ((torch.zeros(N + 1, 2),), "4 entries"),
        (Z.to_sparse(), "to_dense"),
    ],
)
def test_what_cannot_be_told_is_refused_with_its_tree(output, message):
    with pytest.raises(AmbiguousOutputError, match=message):
        pick_tensor(output, num_samples=N)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
def test_a_nested_tensor_is_refused_with_the_way_out():
    nested = torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)])
    for output in (nested, (nested,)):
        with pytest.raises(AmbiguousOutputError, match="enable_nested_tensor=False"):
            pick_tensor(output, num_samples=2)


@pytest.mark.parametrize(
    ("path", "message"),
    [("c", "fails at 'c'"), ("a.0", "fails at '0'"), (lambda output: 3, "lead to a tensor, got int")],
)
def test_a_path_that_leads_nowhere_shows_the_output(path, message):
    with pytest.raises(AmbiguousOutputError, match=message):
        pick_tensor({"a": Z}, num_samples=N, path=path)


def test_samples_in_axis_1_are_found_where_the_module_counts_them_there():
    sequence = torch.zeros(7, N, 2)
    assert pick_tensor((torch.zeros(N, 1), sequence), num_samples=N, batch_axis=1) is sequence


def test_the_tree_of_a_long_output_is_cut():
    assert "… 12 more" in describe([Z] * 20)
    assert describe({"a": [{"b": {"c": Z}}]}) == "dict(a: list(0: dict(b: dict)))"


def test_the_first_tensor_of_nested_arguments_is_found():
    assert first_tensor(((torch.tensor(3),), {"x": {"y": [Z]}})) is Z
    assert first_tensor(("text", 3)) is None


class States(nn.Module):
    """Recurrent layers and attention, whose outputs hold more than what they declare the axes of."""

    def __init__(self, batch_first):
        super().__init__()
        self.rnn = nn.LSTM(6, 5, num_layers=2, batch_first=batch_first)
        self.gru = nn.GRU(5, 4, batch_first=batch_first)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first)

    def forward(self, x):
        hidden = self.gru(self.rnn(x)[0])[0]
        return self.attention(hidden, hidden, hidden)[0]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize(
    ("layer", "output", "shape"),
    [
        ("rnn", lambda out: out[1][0][-1], (8, 5)),
        ("rnn", lambda out: out[1][1].sum(0), (8, 5)),
        ("rnn", "1.0", (8, 10)),
        ("gru", lambda out: out[1][0], (8, 4)),
        ("gru", "1", (8, 4)),
        ("gru", 1, (8, 4)),
        ("attention", lambda out: out[0].sum(out[0].shape.index(7)), (8, 4)),
        ("attention", "1", (8, 49)),
    ],
)
def test_what_output_returns_is_judged_by_its_own_shape(batch_first, layer, output, shape):
    torch.manual_seed(0)
    model, x = States(batch_first).eval(), torch.randn(8, 7, 6) if batch_first else torch.randn(7, 8, 6)
    with capture(model, layer, output={layer: output}, pool="flatten") as features, torch.no_grad():
        for _ in range(2):
            features.expect(8)
            model(x)
    assert features[layer].shape == shape


@pytest.mark.parametrize("output", [1, "1", lambda out: out[1]], ids=["int", "path", "function"])
def test_an_index_means_what_its_path_does(output):
    class Two(nn.Linear):
        def forward(self, x):
            return [super().forward(x), x]

    model, x = nn.Sequential(Two(3, 5)), torch.arange(12.0).reshape(4, 3)
    for options in (output, {"0": output}):
        with capture(model, "0", output=options) as features:
            features.expect(4)
            model(x)
        assert torch.equal(features["0"], x)


def test_the_state_that_output_returns_is_the_state():
    torch.manual_seed(0)
    model, x = States(True).eval(), torch.randn(8, 7, 6)
    options = {"rnn": lambda out: out[1][0][-1], "gru": "1"}
    with capture(model, ["rnn", "gru"], output=options, pool={"gru": "flatten"}) as features, torch.no_grad():
        model(x)
        sequence, (hidden, _) = model.rnn(x)
        assert torch.equal(features["rnn"], hidden[-1])
        assert torch.equal(features["gru"], model.gru(sequence)[1].transpose(0, 1).flatten(1))


def test_the_main_output_keeps_the_axes_that_its_layer_declares():
    model, x = States(False).eval(), torch.randn(7, 8, 6)
    for output in ("0", lambda out: out[0]):
        with capture(model, "rnn", output={"rnn": output}) as features, torch.no_grad():
            features.expect(8)
            model(x)
        torch.testing.assert_close(features["rnn"], model.rnn(x)[0].mean(0).detach())
