"""A layer that nobody named never ends a run: once it no longer fits, it is left out, with all that came before."""

import json

import pytest
import torch
from torch import nn

import neurocollapse as nc
from neurocollapse.hooks import CallCountError, CaptureError, CaptureWarning, capture
from neurocollapse.passes import FeatureSink, run_pass
from neurocollapse.support.state import read_state


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Experts(nn.Module):
    """Each sample goes through one expert only."""

    def __init__(self, route):
        super().__init__()
        self.gate, self.head = nn.Linear(6, 3), nn.Linear(5, 4)
        self.experts = nn.ModuleList(nn.Linear(6, 5) for _ in range(3))
        self.route = route
        self.double()

    def forward(self, x):
        route = self.route(x, self.gate(x))
        out = x.new_zeros(len(x), 5)
        for index, expert in enumerate(self.experts):
            if (route == index).any():
                out[route == index] = expert(x[route == index])
        return self.head(out)


class Table(nn.Module):
    """A table of positions, whose axis of positions may be as long as a batch."""

    def __init__(self):
        super().__init__()
        self.words, self.positions, self.head = nn.Embedding(50, 16), nn.Embedding(8, 16), nn.Linear(16, 4)
        self.double()

    def forward(self, ids):
        return self.head((self.words(ids) + self.positions(torch.arange(ids.shape[1]))).mean(1))


class Depth(nn.Module):
    """Skips a layer where the batch says so, and calls another twice where it says that."""

    def __init__(self):
        super().__init__()
        self.first, self.maybe, self.twice, self.head = (nn.Linear(6, 6) for _ in range(4))
        self.double()

    def forward(self, x):
        x = self.first(x)
        x = self.maybe(x) if len(x) % 2 == 0 else x
        x = self.twice(x)
        return self.head(self.twice(x) if len(x) % 2 else x)


class Widths(nn.Module):
    """Maps of one size, then of another."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(2, 3, 1), nn.Linear(3, 4)
        self.double()

    def forward(self, x):
        return self.head(self.conv(x[..., : len(x)]).mean(2))


def one_expert_first(x, scores):
    """All through the first expert in a batch that is marked, else as the gate says."""
    return torch.zeros(len(x), dtype=torch.int64) if x[0, 0] > 5 else scores.argmax(1)


def marked(x):
    x = x.clone()
    x[0, 0] = 9
    return x


def labelled(*inputs):
    return [(x, torch.arange(len(x)) % 4) for x in inputs]


torch.manual_seed(0)
MEMBERS = {
    "experts": (
        Experts(lambda x, scores: scores.argmax(1)),
        labelled(randn(8, 6), randn(8, 6, seed=1) + 1, randn(8, 6, seed=2) - 1),
        ["gate", "head"],
    ),
    "an expert that fits at first": (
        Experts(one_expert_first),
        labelled(marked(randn(8, 6)), randn(8, 6, seed=1), randn(8, 6, seed=2)),
        ["gate", "head"],
    ),
    "a table": (
        Table(),
        labelled(
            *(torch.randint(0, 50, (size, 8), generator=torch.Generator().manual_seed(size)) for size in (8, 7, 8))
        ),
        ["words", "head"],
    ),
    "counts": (Depth(), labelled(randn(8, 6), randn(8, 6, seed=1), randn(7, 6, seed=2)), ["first", "head"]),
    "widths": (Widths(), labelled(randn(8, 2, 9), randn(7, 2, 9, seed=1)), ["head"]),
}


@pytest.fixture(params=list(MEMBERS))
def member(request):
    model, batches, kept = MEMBERS[request.param]
    return model, batches, kept, {"layers": ["leaves", "head"], "pool": "flatten"} if kept == ["head"] else {}


@pytest.mark.filterwarnings("ignore::neurocollapse.hooks.CaptureWarning")
def test_what_stays_is_what_a_run_of_these_layers_alone_gives(member):
    model, batches, kept, options = member
    quantities = ["nc1", "compression"]
    found = nc.analyze(model, batches, quantities=quantities, progress=False, **options)
    expected = nc.analyze(
        model, batches, quantities=quantities, progress=False, **options | {"layers": kept}, num_classes=4
    )
    assert list(found.layer.values) == kept
    for name in ("compression", "nc1"):
        assert torch.equal(torch.tensor(found[name].values), torch.tensor(expected[name].values))
    assert found.depth.values.tolist() == list(range(1, len(kept) + 1))
    assert set(json.loads(found.attrs["skipped_layers"])).isdisjoint(kept)
    assert json.loads(found.attrs["skipped_layers"])


def test_each_layer_is_warned_of_once(member):
    model, batches, _, options = member
    with pytest.warns(CaptureWarning) as caught:
        nc.collect(model, batches, progress=False, **options)
    said = [str(one.message) for one in caught]
    assert all(one.startswith("no features of") or "no longer fit and are left out" in one for one in said)
    assert len(said) <= 2


@pytest.mark.parametrize(
    ("name", "layer", "error", "match"),
    [
        ("experts", "experts.1", CaptureError, r"no axis of"),
        ("an expert that fits at first", "experts.0", CallCountError, "called once .* now 0 times"),
        ("a table", "positions", CaptureError, r"expected \(7, 16\)"),
        ("counts", "maybe", CallCountError, "called once .* now 0 times"),
        ("counts", "twice", CallCountError, "called once .* now 2 times"),
    ],
)
def test_a_named_layer_still_ends_the_run(name, layer, error, match):
    model, batches, _ = MEMBERS[name]
    with pytest.raises(error, match=f"'{layer}': .*{match}"):
        nc.collect(model, batches, layers=["head", layer], progress=False)


def test_a_selector_of_which_nothing_is_left_ends_the_run():
    model, batches, _ = MEMBERS["counts"]
    with pytest.raises(CallCountError, match="every match of 'm\\*' is left out, such as 'maybe'"):
        nc.collect(model, batches, layers=["head", "m*"], progress=False)


@pytest.mark.filterwarnings("ignore::neurocollapse.hooks.CaptureWarning")
def test_a_resumed_run_does_not_bring_a_layer_back(tmp_path):
    model, batches, kept = MEMBERS["counts"]
    batches = [batches[0], batches[2], *batches[:2], *batches[:2]]

    def stopping():
        yield from batches[:3]  # what is left would fit
        raise KeyboardInterrupt

    whole = nc.collect(model, batches, progress=False)
    with pytest.raises(KeyboardInterrupt):
        nc.collect(model, stopping(), progress=False, resume=tmp_path / "state")
    resumed = nc.collect(model, batches, progress=False, resume=tmp_path / "state")
    assert list(resumed) == list(whole) == kept
    for name in kept:
        assert torch.equal(resumed[name].mean, whole[name].mean)
    assert set(json.loads(resumed.attributes["skipped_layers"])) == {"maybe", "twice"}
    _, tensors = read_state(tmp_path / "state", "pass")
    assert len({name.split("/")[1] for name in tensors if name.startswith("moments/")}) == len(kept)


class Tires(Depth):
    """Skips a layer from its sixth batch on."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        x = self.first(x)
        return self.head(self.maybe(x) if self.calls < 6 else x)


def test_a_layer_that_fits_in_the_first_pass_only_has_no_sums_of_a_part():
    model, batches = Tires(), labelled(*(randn(8, 6, seed=seed) for seed in range(4)))
    dataset = nc.analyze(
        model, batches, layers=["leaves", "!head", "!twice"], quantities=["nc1", "compression"], progress=False
    )
    assert dataset.nc1.isnull().values.tolist() == [False, True]
    assert dataset.compression.notnull().all()
    assert "no features of maybe in the second pass" in dataset.attrs["warnings"]


@pytest.mark.filterwarnings("ignore::neurocollapse.hooks.CaptureWarning")
def test_kept_features_hold_no_part_of_a_layer():
    model, batches, kept = MEMBERS["counts"]
    features = run_pass(model, batches, {"features": FeatureSink(23)}, progress=False)["features"].features
    assert {name: len(rows) for name, rows in features.items()} == dict.fromkeys(kept, 23)


def test_a_capture_tells_why_a_layer_has_gone():
    model, batches, kept = MEMBERS["counts"]
    with capture(model, "leaves") as features:
        model(batches[0][0])
        assert list(features) == ["first", "maybe", "twice", "head"]
        with pytest.warns(CaptureWarning, match="2 of the layers no longer fit"):
            model(batches[2][0])
        assert list(features) == kept
        with pytest.raises(KeyError, match="'maybe' is left out: called once"):
            features["maybe"]
        model(batches[1][0])
        assert list(features) == kept
