"""What a leaf is, and which layer is the penultimate one: told by what fires, not by how modules are nested."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import neurocollapse as nc
from neurocollapse.hooks import CaptureWarning, NeverFiredError, NoMatchError, Recorder, capture, select
from neurocollapse.lowrank import factorize

INPUTS = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))


def names(model: nn.Module, layers: object, inputs: Tensor = INPUTS) -> list[str]:
    with torch.no_grad(), capture(model.eval(), layers) as features:
        model(inputs)
        model(inputs)  # what the first pass has settled holds for the others
    return list(features)


class Part(nn.Module):
    """A layer whose parts are given, and used by a function without being called."""

    def __init__(self, function: Callable[["Part", Tensor], Tensor], **parts: nn.Module | Tensor | None) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.function(self, inputs)


def matrix() -> nn.Parameter:
    return nn.Parameter(torch.randn(6, 5))


class Namespace(nn.Module):
    """A module that is no more than a place for parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = matrix()


UNCALLED: dict[str, Callable[[], nn.Module]] = {
    "ParameterList": lambda: Part(lambda self, x: x @ self.w[0], w=nn.ParameterList([matrix()])),
    "ParameterDict": lambda: Part(lambda self, x: x @ self.w["a"], w=nn.ParameterDict({"a": matrix()})),
    "empty ModuleList": lambda: Part(lambda self, x: x @ self.w, w=matrix(), more=nn.ModuleList()),
    "loss": lambda: Part(lambda self, x: x @ self.w, w=matrix(), loss=nn.CrossEntropyLoss()),
    "loss beside a list": lambda: Part(
        lambda self, x: x @ self.w[0], w=nn.ParameterList([matrix()]), loss=nn.CrossEntropyLoss()
    ),
    "namespace": lambda: Part(lambda self, x: x @ self.names.w, names=Namespace()),
    "linear layer": lambda: Part(lambda self, x: functional.linear(x, self.lin.weight), lin=nn.Linear(6, 5)),
    "linear layer without its hooks": lambda: Part(lambda self, x: self.lin.forward(x), lin=nn.Linear(6, 5)),
    "holder in a dict": lambda: Part(lambda self, x: x @ self.more["a"].w, more=nn.ModuleDict({"a": Namespace()})),
    "embedding": lambda: Part(lambda self, x: x @ self.words.weight, words=nn.Embedding(6, 5)),
    "nested": lambda: Part(lambda self, x: x @ self.a[0].weight.T, a=nn.Sequential(nn.Linear(6, 5), nn.ReLU())),
}


@pytest.mark.parametrize("make", UNCALLED.values(), ids=UNCALLED)
@pytest.mark.filterwarnings("ignore:no features of .* never called:neurocollapse.hooks.CaptureWarning")
def test_a_module_that_calls_nothing_inside_is_a_leaf(make: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(make(), nn.ReLU(), nn.Linear(5, 4))
    assert names(model, "leaves") == ["0", "1", "2"]


def test_a_module_that_calls_only_what_learns_nothing_is_a_leaf_too() -> None:
    scaled = Part(lambda self, x: self.act(x @ self.w[0]), w=nn.ParameterList([matrix()]), act=nn.ReLU())
    assert names(nn.Sequential(scaled, nn.Linear(5, 4)), "leaves") == ["0.act", "0", "1"]


def test_a_graph_convolution_with_a_bias_is_a_leaf_beside_its_parts() -> None:
    convolution = Part(
        lambda self, x: self.aggregation(self.lin(x)) + self.bias,
        lin=nn.Linear(6, 5, bias=False),
        aggregation=nn.Identity(),
        bias=nn.Parameter(torch.ones(5)),
    )
    model = nn.Sequential(convolution, nn.ReLU())
    assert names(model, "leaves") == ["0.lin", "0.aggregation", "0", "1"]


def test_other_containers_are_no_leaves() -> None:
    block = Part(lambda self, x: self.gamma * self.lin(x), lin=nn.Linear(6, 6), gamma=nn.Parameter(torch.ones(6)))
    model = nn.Sequential(nn.Sequential(block, nn.ReLU()), nn.Linear(6, 4))
    assert names(model, "leaves") == ["0.0.lin", "0.1", "1"]
    assert names(model, ["leaves", "0.*"]) == ["0.0.lin", "0.0", "0.1", "1"]
    assert names(model, ["leaves", "!0.1"]) == ["0.0.lin", "1"]


def test_what_only_fires_in_one_call_of_a_container_is_inside_it() -> None:
    gate = Part(lambda self, x: self.lin(x) if x.sum() > 1e9 else x, lin=nn.Linear(6, 6), on=None)
    with pytest.warns(CaptureWarning, match=r"0\.lin: never called"):
        assert names(nn.Sequential(gate, nn.Linear(6, 4)), "leaves") == ["0", "1"]


def test_select_tells_what_definition_tells_and_proposes_the_rest() -> None:
    model = nn.Sequential(UNCALLED["loss"](), nn.Linear(5, 5), nn.Linear(5, 4))
    assert [tap.name for tap in select(model, "leaves")] == ["0.loss", "1", "2"]
    proposed = select(model, "leaves", proposals=True)
    assert [(tap.name, sorted(tap.when)) for tap in proposed[3:]] == [("(root)", ["leaf"]), ("0", ["leaf"])]
    assert [tap.name for tap in select(model, "penultimate")] == ["2@in"]
    assert [tap.name for tap in select(model, "penultimate", proposals=True)] == ["(root)", "1@in", "2@in"]


class Net(nn.Module):
    """Two linear layers, defined in any order, and what is done with the last one's output."""

    def __init__(self, order: tuple[str, ...] = ("body", "head"), form: Callable = lambda y, x: y) -> None:
        super().__init__()
        sizes = {"body": (6, 5), "head": (5, 4), "auxiliary": (5, 4)}
        for name in order:
            setattr(self, name, nn.Linear(*sizes[name]))
        self.form = form

    def forward(self, inputs: Tensor) -> object:
        hidden = self.body(inputs).relu()
        extra = self.auxiliary(hidden) if hasattr(self, "auxiliary") else None
        output = self.form(self.head(hidden), hidden)
        return output if extra is None else (output, extra)


@pytest.mark.parametrize(
    "order", [("head", "body"), ("body", "head"), ("body", "head", "auxiliary"), ("auxiliary", "head", "body")]
)
def test_the_last_linear_layer_to_fire_is_meant(order: tuple[str, ...]) -> None:
    assert names(Net(order), "penultimate") == ["head@in"]


@pytest.mark.parametrize(
    "form",
    [
        lambda y, x: y.log_softmax(1),
        lambda y, x: 30 * y.softmax(1) - 2,
        lambda y, x: y.double(),
        lambda y, x: {"logits": y, "hidden": x},
        lambda y, x: y.unsqueeze(1),
        lambda y, x: y[:, :1],
        lambda y, x: y + torch.arange(4),
        lambda y, x: y.clamp(min=-20).mul(0.5),
        lambda y, x: (torch.tensor(1.0), y),
        lambda y, x: y.argmax(1),
        lambda y, x: y.mean(0),
    ],
    ids=["softmax", "scale", "cast", "dict", "axis", "part", "offset", "clamp", "tuple", "prediction", "mean"],
)
def test_the_output_may_be_the_last_layers_in_any_form(form: Callable) -> None:
    assert names(Net(form=form), "penultimate") == ["head@in"]


def normalisation() -> nn.Module:
    """As after training: each feature has its own scale."""
    norm = nn.BatchNorm1d(6)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, -6.0]))
    return norm


class Encoder(nn.Module):
    """A residual block, with or without a normalisation behind it, and no head."""

    def __init__(self, *, norm: bool, linear: bool = True) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6) if linear else nn.Tanh()
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(6, 6)) if linear else nn.ReLU()
        self.norm = nn.LayerNorm(6) if norm else None

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs)
        hidden = hidden + self.mlp(hidden)
        return hidden if self.norm is None else self.norm(hidden)


class BareHead(nn.Module):
    """A classifier that is a weight without a layer: an embedding's, a parameter, or one in a list."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        weight = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
        self.kind, self.words = kind, nn.Embedding(4, 5)
        self.list, self.own = nn.ParameterList([weight.T.clone()]), nn.Parameter(weight.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        weights = {"tied": self.words.weight, "own": self.own, "list": self.list[0].T}
        return functional.linear(self.body(inputs), weights[self.kind])


@pytest.mark.parametrize("kind", ["tied", "own", "list"])
def test_a_head_that_is_no_layer_has_no_input_that_can_be_taken(kind: str) -> None:
    with pytest.warns(CaptureWarning, match="'body', gives is changed before it is the output"):
        assert names(BareHead(kind), "penultimate") == ["(root)"]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Encoder(norm=True), "the last linear layer is 'mlp.1', and 'norm' follows it"),
        (Encoder(norm=False), "what the last linear layer, 'mlp.1', gives is changed before it is the output"),
        (Encoder(norm=True, linear=False), "no linear layer was called"),
        (
            nn.Sequential(nn.Linear(6, 6), normalisation(), nn.ReLU()),
            "the last linear layer is '0', and '1' follows it",
        ),
    ],
    ids=["norm", "residual", "no linear layer", "projector"],
)
def test_an_encoder_without_a_head_gives_its_output_and_says_so(model: nn.Module, reason: str) -> None:
    with pytest.warns(CaptureWarning, match="'penultimate' is the model's output") as caught:
        found = names(model, "penultimate")
    assert found == ["(root)"]
    assert len(caught) == 1
    assert reason in str(caught[0].message)
    with torch.no_grad(), pytest.warns(CaptureWarning), capture(model, "penultimate") as features:
        output = model(INPUTS)
    assert torch.equal(features["(root)"], output)


def test_a_head_that_is_called_for_each_view_has_an_input_for_each() -> None:
    two = Part(
        lambda self, x: self.head(self.body(x)) + self.head(self.body(-x)), body=nn.Linear(6, 5), head=nn.Linear(5, 4)
    )
    model = Part(lambda self, x: (self.head(x), self.head(-x)), head=nn.Linear(6, 4))
    assert names(model, "penultimate") == ["head@in#0", "head@in#1"]
    assert names(two, "penultimate") == ["head@in#1"]  # what another layer has come before is forgotten


def test_parts_that_are_called_alone_have_a_penultimate_layer() -> None:
    model = Net(("head", "body", "auxiliary"))
    with torch.no_grad(), capture(model, "penultimate") as features:
        model.head(model.body(INPUTS))
    assert list(features) == ["head@in"]


def test_an_alias_names_whatever_is_meant() -> None:
    assert names(Net(), {"z": "penultimate"}) == ["z"]
    with pytest.warns(CaptureWarning, match="is the model's output"):
        assert names(Encoder(norm=True), {"z": "penultimate"}) == ["z"]


def test_a_layer_that_is_chosen_anyway_is_kept() -> None:
    assert names(Net(), ["body@in", "penultimate"]) == ["body@in", "head@in"]
    assert names(Net(), ["penultimate", "(root)"]) == ["head@in", "(root)"]


def test_adapted_and_low_rank_heads_are_heads() -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    config = peft.LoraConfig(target_modules=["head", "body"], r=2, init_lora_weights=False)
    theirs = peft.get_peft_model(Net(("head", "body")), config).base_model.model
    assert names(theirs, "penultimate") == ["head@in"]
    assert names(theirs, "leaves") == ["body", "head"]
    assert names(factorize(Net(("head", "body")), "head", rank=2), "penultimate") == ["head@in"]


def test_sequence_classifiers_and_encoders_of_transformers() -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an optional dependency")
    sizes = {"n_positions": 16, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "pad_token_id": 0}
    tokens = torch.randint(1, 30, (5, 8))
    classifier = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(num_labels=3, **sizes))
    assert names(classifier, "penultimate", tokens) == ["score@in"]
    with pytest.warns(CaptureWarning, match=r"'h\.0\.mlp\.c_proj', and 'ln_f' follows"):
        assert names(transformers.GPT2Model(transformers.GPT2Config(**sizes)), "penultimate", tokens) == ["(root)"]


def test_every_proposal_that_is_not_kept_leaves_no_trace() -> None:
    model, seen = Net(), []
    recorder = Recorder(model, "penultimate", sink=lambda key, features, positions: seen.append((key, len(features))))
    with torch.no_grad(), recorder:
        for _ in range(3):
            model(INPUTS)
    with torch.no_grad(), recorder:
        model(INPUTS[:7])
    assert [site.name for site in recorder.sites.values()] == ["head@in"]
    assert [count for _, count in seen] == [24, 24, 24, 7]
    assert recorder.skipped == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_model_of_which_nothing_fires_is_told_so() -> None:
    model = Part(lambda self, x: x, lin=nn.Linear(6, 6))
    with pytest.warns(CaptureWarning, match="no linear layer was called"):
        assert names(model, "penultimate") == ["(root)"]
    with pytest.raises(NoMatchError, match="matches no module of ReLU"):
        select(nn.ReLU(), "penultimate")
    with pytest.raises(NeverFiredError, match="never called"):
        names(model, "linear")


def test_a_whole_pass_measures_what_is_meant() -> None:
    batches = [(INPUTS[:12], torch.arange(12) % 3), (INPUTS[12:], torch.arange(12) % 3)]
    dataset = nc.analyze(Net(("head", "body")), batches, layers="penultimate", progress=False)
    assert dataset["layer"].values.tolist() == ["head@in"]
    with pytest.warns(CaptureWarning, match="is the model's output"):
        dataset = nc.analyze(Encoder(norm=True), batches, layers="penultimate", progress=False)
    assert dataset["layer"].values.tolist() == ["(root)"]
    assert dataset.sizes["layer"] == 1


def test_a_container_that_is_no_leaf_is_called_without_hooks_from_the_second_batch_on() -> None:
    model, seen = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), nn.Linear(6, 3)), []
    with torch.no_grad(), Recorder(model, "leaves", sink=lambda key, *_: seen.append(key)):
        assert model[0]._forward_hooks
        model(INPUTS)
        assert not model[0]._forward_hooks
        assert not model[0]._forward_pre_hooks
        assert all(module._forward_hooks for module in (model[0][0], model[0][1], model[1]))
        model(INPUTS)
    assert len(seen) == 6
    assert seen[:3] == seen[3:]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
