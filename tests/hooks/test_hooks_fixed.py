"""What is made of parameters and positions counts no samples, even where its axis is as long as the batch."""

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import CaptureWarning, Recorder, capture

NUM = 8
"""Samples of a batch, and positions of a sample."""


class WithTable(nn.Module):
    """Tokens, and something at every position that is added to them."""

    def __init__(self, part, add):
        super().__init__()
        self.words, self.part, self.head = nn.Embedding(50, 6), part, nn.Linear(6, 4)
        self.add = add

    def forward(self, ids):
        return self.head((self.words(ids) + self.add(self.part, ids)).mean(1))


class Waves(nn.Module):
    """Sines of positions, for a number of them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rates", torch.linspace(0.1, 1, 6))

    def forward(self, length):
        return torch.sin(torch.outer(torch.arange(length), self.rates))


class Rotary(nn.Module):
    """Cosines and sines, for the shape and device of an input."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rates", torch.linspace(0.1, 1, 6))

    def forward(self, x):
        angles = torch.einsum("i,j->ij", torch.arange(x.shape[1], device=x.device), self.rates)
        return angles.cos(), angles.sin()


class Filled(nn.Module):
    """A table that is filled in place, in a layer of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)

    def forward(self, length):
        table = torch.arange(6.0).repeat(length, 1)
        table[:, 0::2] = torch.sin(torch.arange(length)).unsqueeze(1)
        return self.norm(table)


class Latents(nn.Module):
    """Learned queries, normalised."""

    def __init__(self):
        super().__init__()
        self.queries, self.norm = nn.Parameter(torch.randn(NUM, 6)), nn.LayerNorm(6)

    def forward(self):
        return self.norm(self.queries)


FIXED = {
    "a table": (lambda: nn.Embedding(NUM, 6), lambda part, ids: part(torch.arange(ids.shape[1]))),
    "a table of the device": (
        lambda: nn.Embedding(NUM, 6),
        lambda part, ids: part(torch.arange(0, ids.size(1), dtype=torch.long, device=ids.device)),
    ),
    "a perceptron on a table": (
        lambda: nn.Sequential(nn.Embedding(NUM, 6), nn.Linear(6, 6), nn.GELU()),
        lambda part, ids: part(torch.arange(ids.shape[1])),
    ),
    "sines": (Waves, lambda part, ids: part(ids.shape[1])),
    "a rotation": (Rotary, lambda part, ids: part(ids)[0]),
    "filled in place": (Filled, lambda part, ids: part(ids.shape[1])),
    "queries": (Latents, lambda part, ids: part()),
}
SAMPLES = {
    "a table that is repeated for every sample": (
        lambda: nn.Embedding(NUM, 6),
        lambda part, ids: part(torch.arange(ids.shape[1]).expand(len(ids), -1)),
    ),
    "an embedding of it": (lambda: nn.Embedding(50, 6), lambda part, ids: part(ids)),
    "positions of what is no padding": (
        lambda: nn.Embedding(NUM + 1, 6),
        lambda part, ids: part((ids > 2).long().cumsum(1)),
    ),
    "written into a table": (
        lambda: nn.Linear(6, 6),
        lambda part, ids: part(torch.arange(6.0).repeat(len(ids), 1).index_put_((ids[:, 0] % NUM,), ids[:, :6] * 1.0)),
    ),
    "written into a view of a table": (lambda: nn.Linear(6, 6), lambda part, ids: part(written(ids))),
    "by way of numpy": (
        lambda: nn.Linear(6, 6),
        lambda part, ids: part(torch.from_numpy(ids[:, :6].numpy().astype("float32"))),
    ),
    "by way of a list": (
        lambda: nn.Linear(6, 6),
        lambda part, ids: part(torch.tensor(ids[:, :6].tolist(), dtype=torch.float32)),
    ),
}


def written(ids):
    table = torch.arange(6.0).repeat(len(ids), 1)
    table[:, :3].copy_(ids[:, :3])
    return table


def tokens(num=NUM, seed=0):
    return torch.randint(0, 50, (num, NUM), generator=torch.Generator().manual_seed(seed))


def model_of(name, members):
    torch.manual_seed(0)
    build, add = members[name]
    return WithTable(build(), add).eval()


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("sizes", [(NUM,), (NUM, NUM), (10, 10)])
def test_what_is_fixed_is_left_out_whatever_the_batch_size(name, sizes):
    batches = [(tokens(size, seed), torch.arange(size) % 4) for seed, size in enumerate(sizes)]
    with pytest.warns(CaptureWarning, match="no features of"):
        found = nc.collect(model_of(name, FIXED), batches, progress=False)
    assert list(found) == ["words", "head"]


@pytest.mark.parametrize("name", SAMPLES)
def test_what_counts_samples_stays(name):
    model = model_of(name, SAMPLES)
    with capture(model, "leaves") as features, torch.no_grad():
        model(tokens())
    assert set(features) == {"words", "part", "head"}


def test_the_reason_is_told():
    model = model_of("a table", FIXED)
    with pytest.warns(CaptureWarning, match="part: its first axis counts no samples"):  # noqa: SIM117
        with capture(model, "leaves") as features:
            model(tokens())
    assert features.skipped["part"].startswith("its first axis counts no samples")


def test_a_table_that_is_named_is_given():
    model = model_of("a table", FIXED)
    with capture(model, "part") as features, torch.no_grad():
        model(tokens())
    assert torch.equal(features["part"], model.part.weight)


def test_a_condition_beside_the_input_is_no_position():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.classes, self.head = nn.Embedding(NUM, 6), nn.Linear(6, 4)

        def forward(self, x, condition):
            return self.head(x + self.classes(condition))

    with capture(Conditional(), "leaves") as features:
        features._recorder.model(torch.randn(NUM, 6), torch.arange(NUM))
    assert list(features) == ["classes", "head"]


def depth():
    """How many function modes are on."""
    return torch._C._len_torch_function_stack()


class Fails(nn.Module):
    """Raises in its forward pass."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_following_stops_however_the_first_forward_pass_ends(error):
    model = nn.Sequential(nn.Linear(6, 5), Fails(error))
    with pytest.raises(error), capture(model, "leaves"):
        model(torch.randn(3, 6))
    assert depth() == 0


def test_following_stops_with_the_first_forward_pass_for_several_captures_and_beside_other_modes():
    model, depths = nn.Sequential(nn.Linear(6, 5), nn.ReLU()), []
    model[1].register_forward_hook(lambda *args: depths.append(depth()))
    with torch.device("cpu"):
        before = depth()
        with capture(model, "leaves") as outer, capture(model, "**") as inner, capture(model, "0"):
            for _ in range(2):
                model(torch.randn(3, 6))
                assert depth() == before
        assert torch.equal(outer["1"], inner["1"])
    assert depths == [before + 3, before]


def test_what_is_computed_of_features_is_not_followed():
    known = []

    def sink(key, features, positions):
        table = torch.arange(NUM) + 1
        known.append(recorder._layers.fixed._is_known(table))

    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with Recorder(model, "leaves", sink=sink) as recorder:
        model(torch.randn(NUM, 4))
    assert known == [False, False]
