"""Selection: every kind of selector picks what it says, and says what it could have meant."""

import re

import pytest
from torch import nn
from torch.nn.utils import parametrize

from neurocollapse.hooks import CaptureError, NoMatchError, select


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU()

    def forward(self, x):
        return x + self.act(self.fc(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.stage1 = nn.Sequential(Block(), Block())
        self.stage2 = nn.Sequential(nn.Sequential(Block(), Block()), nn.Sequential(Block()))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.stage2(self.stage1(self.stem(x))))


def names(layers, model=None):
    return [tap.name for tap in select(model or Net(), layers)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("stem", ["stem"]),
        ("stage1.0.fc", ["stage1.0.fc"]),
        (["head", "stem"], ["stem", "head"]),
        ("stage1.*", ["stage1.0", "stage1.1"]),
        ("stage?", ["stage1", "stage2"]),
        ("stage[!2]", ["stage1"]),
        ("stage2.**.fc", ["stage2.0.0.fc", "stage2.0.1.fc", "stage2.1.0.fc"]),
        ("**stem", ["stem"]),
        ("**.stem", ["stem"]),
        (re.compile(r"stage1\.\d\.act"), ["stage1.0.act", "stage1.1.act"]),
        ("blocks", ["stage1.0", "stage1.1", "stage2.0.0", "stage2.0.1", "stage2.1.0"]),
        ("penultimate", ["head@in"]),
        ("head@in", ["head@in"]),
        ("stage1.*@in", ["stage1.0@in", "stage1.1@in"]),
        (["stage1.*", "!stage1.0"], ["stage1.1"]),
        (["!**.act", "!stage2.**"], ["stem", "stage1.0.fc", "stage1.1.fc", "head"]),
        ({"early": "stem", "features": "head@in"}, ["early", "features"]),
        ({"block": "stage1.*"}, ["block:stage1.0", "block:stage1.1"]),
        (["blocks", {"first": "stage1.0"}, "!stage2.**"], ["first", "stage1.1"]),
        ("(root)", ["(root)"]),
        ("(root)@in", ["(root)@in"]),
        (nn.ReLU, [f"stage{path}.act" for path in ("1.0", "1.1", "2.0.0", "2.0.1", "2.1.0")]),
        (lambda name, module: name.endswith("fc") and name.startswith("stage1"), ["stage1.0.fc", "stage1.1.fc"]),
    ],
)
def test_a_selector_picks_the_modules_it_describes_in_definition_order(layers, expected):
    assert names(layers) == expected


def test_presets_of_leaves_and_linear_layers_list_every_one():
    net = Net()
    leaves = [name for name, module in net.named_modules() if not list(module.children())]
    assert names("leaves", net) == leaves
    assert names("linear", net) == [name for name in leaves if not name.endswith("act")]


def test_a_module_is_selected_as_an_object():
    net = Net()
    (tap,) = select(net, net.stage1[1])
    assert (tap.name, tap.module, tap.explicit) == ("stage1.1", net.stage1[1], True)


def test_only_exact_choices_are_explicit():
    net = Net()
    layers = ["stem", "stage1.*", nn.ReLU, {"top": net.head}]
    explicit = {tap.name: tap.explicit for tap in select(net, layers)}
    assert [name for name, is_explicit in explicit.items() if is_explicit] == ["stem", "top"]


@pytest.mark.parametrize("layers", [["linear", "stem"], ["stem", "linear"]])
def test_a_place_chosen_twice_is_one_tap_and_explicit_if_either_choice_is(layers):
    taps = select(Net(), layers)
    assert [tap.explicit for tap in taps if tap.name == "stem"] == [True]
    assert len({tap.name for tap in taps}) == len(taps)


def test_a_shared_module_is_found_under_both_names():
    net = Net()
    net.tied = net.head
    assert select(net, "tied")[0].module is net.head
    assert names("linear", net).count("head") == 1
    assert names(["linear", "tied"], net).count("tied") == 1
    assert names(["head", {"alias": "tied"}], net) == ["alias"]
    for layers in (["head", "tied"], ["tied@in", "head@in"], ["tied", "linear", "head"]):
        with pytest.raises(CaptureError, match=r"'head(@in)?' both '(head|tied)(@in)?' and .*; keep one name"):
            select(net, layers)


class Tied(nn.Module):
    """A decoder that has the encoder's embedding, and a block of the encoder's as its own."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Module(), nn.Module()
        self.encoder.embed, self.encoder.block = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.decoder.embed, self.decoder.block = self.encoder.embed, self.encoder.block
        self.decoder.norm = nn.LayerNorm(4)
        self.decoder.above = self  # a cycle ends


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("decoder.embed", ["decoder.embed"]),
        ("decoder.*", ["encoder.embed", "encoder.block", "decoder.norm"]),
        ("decoder.**.0", ["encoder.block.0"]),
        (["decoder.*@in", "!encoder.block@in"], ["encoder.embed@in", "decoder.norm@in"]),
        (re.compile(r"decoder\.block\.\d"), ["encoder.block.0", "encoder.block.1"]),
        (lambda name, module: name.startswith("decoder.e"), ["encoder.embed"]),
        (["leaves", "!decoder.block.*"], ["encoder.embed", "decoder.norm"]),
        ({"shared": "decoder.embed*"}, ["shared"]),
        ("**.embed", ["encoder.embed"]),
    ],
)
def test_patterns_find_a_shared_module_under_each_of_its_names(layers, found):
    assert names(layers, Tied()) == found


def test_a_parametrized_layer_stays_one_leaf():
    class Symmetric(nn.Module):
        def forward(self, weight):
            return weight.triu() + weight.triu(1).T

    net = Net()
    parametrize.register_parametrization(net.stem, "weight", Symmetric())
    assert "stem" in names("leaves", net)
    assert not [name for name in names("leaves", net) if "parametrizations" in name]


def test_a_model_that_is_one_layer_has_itself_as_leaf():
    assert names("leaves", nn.Linear(3, 2)) == ["(root)"]


def test_a_module_list_of_lists_is_looked_through_for_blocks():
    model = nn.Module()
    model.stages = nn.ModuleList([nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([Block()])])
    assert names("blocks", model) == ["stages.1.0"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("stage1.0.fcc", "stage1.0.fc"),
        ("haed", "head"),
        ("head@im", "head"),
        (["stem", "!haed"], "head"),
        ("stage9.*", "stage"),
        ("stage[3-1]", "`layers` = 'stage[3-1]' has brackets that list no characters; write them like [0-3]"),
        ("!stage[!]@in", "`layers` = 'stage[!]' has brackets"),
        (re.compile("layer"), "matches no module"),
        (nn.Conv2d, "Conv2d matches no module"),
        (nn.Linear(2, 2), "no part of Net"),
        (lambda name, module: False, "matches no module"),
        ([], "leaves no module"),
        (["stem", "!stem"], "leaves no module"),
    ],
)
def test_a_selector_that_matches_nothing_names_what_is_near(layers, message):
    with pytest.raises(NoMatchError, match=re.escape(message)):
        select(Net(), layers)


def test_blocks_of_a_model_without_blocks_suggest_other_presets():
    with pytest.raises(NoMatchError, match="'leaves' or 'linear'"):
        select(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "blocks")


@pytest.mark.parametrize("layers", [3, None, int, [3.5], {"": "stem"}, {1: "stem"}])
def test_what_is_no_selector_is_a_type_error(layers):
    with pytest.raises(TypeError, match="layers"):
        select(Net(), layers)


def test_two_names_for_one_place_and_one_name_for_two_places_are_refused():
    with pytest.raises(CaptureError, match="keep one name"):
        select(Net(), {"a": "stem", "b": "stem"})
    with pytest.raises(CaptureError, match="two layers"):
        select(Net(), ["head", {"head": "stem"}])
