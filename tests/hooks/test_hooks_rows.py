"""What capturing must survive: one test, or a few, for each thing that goes wrong with naive hooks."""

import contextlib
import copy
import io
import pickle
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from neurocollapse.hooks import (
    AmbiguousOutputError,
    CallCountError,
    CaptureError,
    CaptureWarning,
    LayoutError,
    NeverFiredError,
    NoMatchError,
    Recorder,
    capture,
    select,
)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def num_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def run_captured(model, layers, inputs):
    """The mapping after a forward pass of every input within one block, and what it held after each."""
    activations = []
    with capture(model, layers) as features:
        for x in inputs:
            model(x)
            activations.append(dict(features))
    return features, activations


class Twice(nn.Module):
    """Calls one activation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.act = nn.Linear(4, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x, *, again=True):
        hidden = self.act(self.a(x))
        return self.act(self.b(hidden)) if again else self.b(hidden)


def test_inplace_next_op_does_not_overwrite_the_capture():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    x = randn(5, 4)
    with capture(model, "leaves") as features, torch.no_grad():
        model(x)
    torch.testing.assert_close(features["0"], model[0](x).detach(), rtol=0, atol=0)
    assert (features["0"] < 0).any()
    assert (features["1"] >= 0).all()


@pytest.mark.parametrize("pool", ["flatten", "positions", "mean", lambda maps: maps[:, :, 0, 0]])
def test_captured_features_are_never_views_of_the_models_memory(pool):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU(inplace=True))
    seen = []
    with capture(model, "0", pool=pool) as features, torch.no_grad():
        model[0].register_forward_hook(lambda module, args, output: seen.append(output))
        model(randn(4, 2, 3, 3))
    before = features["0"].clone()
    seen[0].fill_(7.0)
    assert torch.equal(features["0"], before)


def test_the_sink_runs_before_the_next_operation():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
    smallest = []
    with Recorder(model, "0", sink=lambda key, features, positions: smallest.append(features.min())), torch.no_grad():
        model(randn(5, 4))
    assert smallest[0] < 0


def test_every_call_of_a_module_is_a_site():
    model, x = Twice(), randn(6, 4)
    hidden = model.a(x).relu()
    with capture(model, "leaves") as features:
        model(x)
    assert list(features) == ["a", "act#0", "b", "act#1"]
    assert torch.equal(features["act#0"], hidden)
    assert torch.equal(features["act#1"], model.b(hidden).relu())
    assert [(site.call, site.num_calls) for site in features.sites.values()] == [(0, 1), (0, 2), (0, 1), (1, 2)]


@pytest.mark.parametrize(("calls", "width", "depth"), [("first", 5, 1), ("last", 3, 2)])
def test_the_first_or_last_call_can_be_kept_alone(calls, width, depth):
    model = Twice()
    with capture(model, "leaves", calls=calls) as features:
        for seed in (0, 1, 2):
            x = randn(6, 4, seed=seed)
            model(x)
            expected = model.a(x).relu() if calls == "first" else model.b(model.a(x).relu()).relu()
            assert torch.equal(features["act"], expected)
    assert features["act"].shape == (6, width)
    assert features.sites["act"].depth == depth


@pytest.mark.parametrize("calls", ["all", "first", "last"])
@pytest.mark.parametrize("first", [True, False])
def test_a_call_count_that_changes_between_batches_is_an_error(calls, first):
    model, times = Twice(), {1: "once", 2: "2 times"}
    with capture(model, "act", calls=calls):
        model(randn(6, 4), again=first)
        with pytest.raises(CallCountError, match=rf"'act': called {times[1 + first]} .* now {times[2 - first]};"):
            model(randn(6, 4), again=not first)


@pytest.fixture
def compiled():
    """A model that torch.compile has really compiled, and a counter of its compilations."""
    torch.compiler.reset()
    counts = []

    def backend(graph, inputs):
        counts.append(1)
        return graph.forward

    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    runner = torch.compile(model, backend=backend)
    runner(randn(5, 4))
    assert counts == [1]
    yield model, runner, counts
    torch.compiler.reset()


def test_a_compiled_model_runs_eagerly_and_says_so_once(compiled):
    model, runner, counts = compiled
    inputs = [randn(5, 4, seed=seed) for seed in range(3)]
    with pytest.warns(CaptureWarning, match="runs eagerly") as caught:
        _, activations = run_captured(runner, "leaves", inputs)
    assert len(caught) == 1
    for x, features in zip(inputs, activations, strict=True):
        assert list(features) == ["0", "1", "2"]
        assert torch.equal(features["1"], model[:2](x))
    assert counts == [1]


def test_the_compiler_is_back_after_the_block(compiled):
    _, runner, counts = compiled
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)
        with pytest.raises(KeyboardInterrupt), capture(runner, "leaves"):
            raise KeyboardInterrupt
    torch.compiler.reset()
    runner(randn(5, 4))
    assert counts == [1, 1]


def test_a_compiled_part_and_an_inplace_compiled_model_fire_too(compiled):
    part = torch.compile(nn.Linear(4, 4), backend="eager")
    model = nn.Sequential(part, nn.ReLU())
    whole = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    whole.compile(backend="eager")
    for compiled_model in (model, whole):
        compiled_model(randn(5, 4))
        with pytest.warns(CaptureWarning, match="eagerly"), capture(compiled_model, "leaves") as features:
            compiled_model(randn(5, 4))
        assert list(features) == ["0", "1"]


class Checkpointed(nn.Module):
    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        self.head = nn.Linear(4, 2)
        self.reentrant = reentrant

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=self.reentrant))


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_of_checkpointed_layers_counts_once(reentrant):
    model = Checkpointed(reentrant=reentrant)
    fired = []
    with Recorder(model, "leaves", sink=lambda key, features, positions: fired.append(key.tap)) as recorder:
        for seed in range(2):
            model(randn(5, 4, seed=seed).requires_grad_()).sum().backward()
    assert fired == [0, 1, 2, 0, 1, 2]
    assert [site.num_calls for site in recorder.sites.values()] == [1, 1, 1]


def test_recomputation_counts_once_also_where_only_a_part_is_called():
    model = Checkpointed(reentrant=False)
    with capture(model, "body.*") as features:
        checkpoint(model.body, randn(5, 4).requires_grad_(), use_reentrant=False).sum().backward()
    assert list(features) == ["body.0", "body.1"]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.attention(x, x, x)[0].mean(1))


def test_a_functionally_used_projection_is_named_with_its_cause():
    model = Attention()
    with (
        capture(model, "attention.out_proj"),
        pytest.raises(NeverFiredError, match=r"'attention.out_proj'.*select the attention module"),
    ):
        model(randn(4, 5, 8))


def test_attention_counts_as_one_leaf():
    model = Attention().eval()
    x = randn(4, 5, 8)
    with capture(model, "leaves") as features, torch.no_grad():
        model(x)
        expected = model.attention(x, x, x)[0].mean(1)
    assert list(features) == ["attention", "head"]
    assert torch.equal(features["attention"], expected)


def test_parts_of_a_fused_encoder_layer_fire_in_every_batch():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).eval()
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False] * 5, [False] * 5])
    with capture(model, ["layers.*", "**.linear1"]) as features, torch.no_grad():
        for seed in range(3):
            model(randn(4, 5, 8, seed=seed), src_key_padding_mask=mask)
            assert list(features) == ["layers.0.linear1", "layers.0", "layers.1.linear1", "layers.1"]
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_layer_that_the_forward_pass_leaves_out_is_never_fired():
    model = Twice()
    model.unused = nn.Linear(2, 2)
    with capture(model, ["act", "unused"]), pytest.raises(NeverFiredError, match="Twice does not call it"):
        model(randn(3, 4))
    with pytest.warns(CaptureWarning, match="no features of 1 of the layers: unused: never called") as caught:
        features, _ = run_captured(model, "leaves", [randn(3, 4), randn(3, 4)])
    assert len(caught) == 1
    assert list(features.skipped) == ["unused"]
    with pytest.raises(KeyError, match="left out: never called"):
        features["unused"]


class RowByRow(nn.Module):
    """Calls a layer once for every sample, and another that repeats its samples; some layers never."""

    def __init__(self, num_unused=0):
        super().__init__()
        self.inner, self.twice, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.unused = nn.ModuleList(nn.Linear(2, 2) for _ in range(num_unused))

    def forward(self, x):
        rows = torch.stack([self.inner(row) for row in x])
        return self.head(self.twice(torch.cat([rows, rows]))[: len(x)])


@pytest.mark.parametrize("num_unused", [0, 1, 40])
def test_a_warning_of_many_layers_is_one_short_line_with_each_reason_once(num_unused):
    with pytest.warns(CaptureWarning, match=rf"no features of {17 + num_unused} of the layers: ") as caught:
        run_captured(RowByRow(num_unused), "leaves", [randn(16, 4)])
    (message,) = [str(one.message) for one in caught]
    assert len(message) <= 300
    assert "inner#0, inner#1, inner#2 and 13 more: no axis of (5,)" in message
    assert message.count("no axis of (5,)") == 1
    assert message.endswith(f"; and {1 + num_unused} more")


def test_a_selector_of_which_nothing_fires_is_an_error():
    model = Twice()
    model.unused = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with capture(model, ["act", "unused.*"]), pytest.raises(NeverFiredError, match=r"every match of 'unused\.\*'"):
        model(randn(3, 4))


def test_a_container_that_is_never_called_says_to_select_its_items():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].parts = nn.ModuleList([nn.Linear(4, 4)])
    with capture(model, "0.parts"), pytest.raises(NeverFiredError, match=r"items with '0\.parts\.\*'"):
        model(randn(3, 4))


class Returns(nn.Module):
    """Wraps its input into a structure, and takes it out again."""

    def __init__(self, wrap) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


@pytest.mark.parametrize(
    "wrap",
    [lambda z: (z, None), lambda z: {"last_hidden_state": z, "other": z + 1}, lambda z: (None, z), lambda z: [z]],
    ids=["tuple", "model output", "none first", "list"],
)
def test_structured_outputs_give_their_features(wrap):
    model, x = nn.Sequential(Returns(wrap)), randn(5, 4)
    with capture(model, "0") as features:
        model(x)
    assert torch.equal(features["0"], model[0].inner(x))


def test_an_ambiguous_output_prints_its_tree_and_a_path_mends_it():
    model, x = nn.Sequential(Returns(lambda z: {"a": z, "b": z + 1})), randn(5, 4)
    with capture(model, "0"), pytest.raises(AmbiguousOutputError, match=r"layer '0': 2 tensors .* dict\(a: Tensor"):
        model(x)
    for output in ("b", {"0": "b"}, lambda out: out["b"]):
        with capture(model, "0", output=output) as features:
            model(x)
        assert torch.equal(features["0"], model[0].inner(x) + 1)


def test_a_common_path_leaves_bare_tensors_and_inputs_alone():
    model, x = nn.Sequential(nn.Linear(4, 4), Returns(lambda z: (z, z + 1))), randn(5, 4)
    with capture(model, ["0", "1", "0@in"], output="1") as features:
        model(x)
    assert torch.equal(features["0@in"], x)
    assert torch.equal(features["0"], model[0](x))
    assert torch.equal(features["1"], model[1].inner(model[0](x)) + 1)


def test_sweeping_selectors_leave_out_what_is_ambiguous():
    model = nn.Sequential(nn.Linear(4, 4), Returns(lambda z: {"a": z, "b": z}))
    with pytest.warns(CaptureWarning, match="1: 2 tensors could be meant"), capture(model, "**") as features:
        model(randn(5, 4))
    assert list(features) == ["0", "1.inner"]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Twice()

    def forward(self, *, x, flag=True):
        return self.inner(x=x, again=flag)


def test_modules_called_with_keywords_only_show_their_input():
    model, x = Keywords(), randn(5, 4)
    with capture(model, ["inner@in", "inner.b@in"]) as features:
        model(x=x, flag=True)
    assert torch.equal(features["inner@in"], x)
    assert torch.equal(features["inner.b@in"], model.inner.a(x).relu())


def test_an_input_is_named_by_position_or_keyword():
    class Two(nn.Module):
        def forward(self, x, *, y):
            return x + y

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x):
            return self.two(x, y=2 * x)

    model, x = Outer(), randn(5, 4)
    for path, expected in ((None, x), ("0", x), ("y", 2 * x)):
        with capture(model, "two@in", output=None if path is None else {"two@in": path}) as features:
            model(x)
        assert torch.equal(features["two@in"], expected)


def test_the_recorder_keeps_no_features():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    given, alive = [], []
    with Recorder(model, "leaves", sink=lambda key, features, positions: given.append(weakref.ref(features))):
        for _ in range(3):
            with torch.no_grad():
                model(randn(5, 4))
            alive.append(sum(reference() is not None for reference in given))
    assert (len(given), alive) == (6, [0, 0, 0])


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_hooks_go_after_any_error_and_only_ours(error):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    calls = []
    model[0].register_forward_hook(lambda *args: calls.append(1))
    with contextlib.suppress(error), capture(model, "**"):
        assert num_hooks(model) > 1
        raise error
    assert num_hooks(model) == 1
    model(randn(2, 4))
    assert calls == [1]


def test_an_error_inside_the_model_leaves_the_next_forward_intact():
    class Fails(nn.Module):
        def forward(self, x):
            if x.isnan().any():
                raise KeyboardInterrupt
            if x.isinf().any():
                raise RuntimeError("inside")
            return x

    model = nn.Sequential(nn.Identity(), Fails(), nn.ReLU())
    x = randn(3, 4)
    for value, error in ((torch.inf, RuntimeError), (torch.nan, KeyboardInterrupt)):
        with capture(model, "leaves") as features:
            for _ in range(2):
                with pytest.raises(error):
                    model(torch.full((3, 4), value))
                model(x)
                assert torch.equal(features["2"], model(x).relu())
                assert len(features) == 3


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("good", [0, 1], ids=["at once", "later"])
def test_a_failed_forward_shows_no_features(error, good):
    class Fails(nn.Module):
        def forward(self, x):
            if x.isnan().any():
                raise error
            return x

    model = nn.Sequential(nn.Linear(4, 4), Fails())
    with capture(model, "0") as features:
        for _ in range(good):
            model(randn(3, 4))
        assert len(features) == good
        with pytest.raises(error):
            model(randn(3, 4) * torch.nan)
        assert len(features) == 0
    assert len(features) == 0


def test_copies_and_saved_models_carry_no_live_hooks():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    file = io.BytesIO()
    with capture(model, "leaves") as features:
        model(randn(3, 4))
        before = features["1"].clone()
        copied = copy.deepcopy(model)
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        pickled = pickle.loads(pickle.dumps(model))
        for other in (copied, loaded, pickled):
            torch.testing.assert_close(other(randn(3, 4, seed=1)), nn.Sequential(*model)(randn(3, 4, seed=1)))
        model(randn(3, 4))
        assert torch.equal(features["1"], before)
    assert num_hooks(model) == 0


def test_mode_device_parameters_and_random_state_stay_as_they_were():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    random_state = torch.get_rng_state()
    with capture(model, "leaves"):
        assert [module.training for module in model.modules()] == modes
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_outputs_and_gradients_are_those_of_the_bare_model():
    model, x = Twice(), randn(6, 4)
    bare = model(x).sum()
    bare.backward()
    gradient = model.a.weight.grad.clone()
    model.zero_grad()
    with capture(model, "**") as features:
        hooked = model(x).sum()
        hooked.backward()
    assert torch.equal(bare, hooked)
    assert torch.equal(gradient, model.a.weight.grad)
    assert not any(value.requires_grad for value in features.values())


def test_the_sink_runs_outside_autocast_and_gets_wide_features():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(), nn.Linear(8 * 4, 4))
    products = {}

    def sink(key, features, positions):
        products[key.tap] = (features.dtype, (features.T @ features).dtype, torch.is_autocast_enabled("cpu"))

    with Recorder(model, "leaves", sink=sink) as recorder, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(randn(5, 3, 2, 2))
        assert torch.is_autocast_enabled("cpu")
    assert set(products.values()) == {(torch.float32, torch.float32, False)}
    assert {site.dtype for site in recorder.sites.values()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_feature_dtype_is_recorded(dtype):
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.ReLU()).to(dtype)
    x = randn(4, 2, 8, 8).to(dtype)
    with capture(model, "leaves") as features, torch.no_grad():
        output = model(x)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert {site.dtype for site in features.sites.values()} == {dtype}
    torch.testing.assert_close(features["1"], output.to(wide).mean((2, 3)))


def test_features_taken_in_inference_mode_can_be_used_outside():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    with capture(model, "1") as features, torch.inference_mode():
        model(randn(3, 4))
    probe = nn.Linear(4, 2)
    probe(features["1"]).sum().backward()
    features["1"].add_(1.0)
    assert probe.weight.grad is not None


def test_non_finite_values_reach_the_sink_unchanged():
    model = nn.Sequential(nn.Identity())
    x = randn(3, 4)
    x[1, 2], x[2, 0] = torch.nan, -torch.inf
    with capture(model, "0") as features:
        model(x)
    assert torch.equal(features["0"].nan_to_num(9.0), x.nan_to_num(9.0))


# Bad calls -----------------------------------------------------------------------------------------------


def test_options_for_layers_that_are_not_captured_name_the_nearest():
    model = Twice()
    for option in ("pool", "output"):
        with (
            pytest.raises(NoMatchError, match=f"`{option}` names 'actt'.*'act'"),
            capture(model, "act", **{option: {"actt": "mean"}}),
        ):
            pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pool": "average"}, ValueError),
        ({"pool": 3}, ValueError),
        ({"calls": "some"}, ValueError),
        ({"output": 0.5}, TypeError),
        ({"pool": {"act": "median"}}, ValueError),
    ],
)
def test_bad_options_are_refused_before_any_hook_is_placed(options, error):
    model = Twice()
    with pytest.raises(error, match=next(iter(options))), capture(model, "act", **options):
        pass
    assert num_hooks(model) == 0


def test_what_is_no_model_is_a_type_error():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module, got function"), capture(lambda x: x, "leaves"):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_models_are_refused_before_any_hook_is_placed():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    for model, layers in ((scripted, "leaves"), (nn.Sequential(nn.ReLU(), scripted), "leaves")):
        with pytest.raises(CaptureError, match="TorchScript"), capture(model, layers):
            pass
    mixed = nn.Sequential(nn.ReLU(), scripted)
    assert [tap.name for tap in select(mixed, "leaves")] == ["0", "1"]
    with capture(mixed, "0") as features:
        mixed(randn(3, 2))
    assert list(features) == ["0"]


def test_a_model_that_calls_itself_is_refused():
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x, depth=1):
            x = self.fc(x)
            return self(x, depth - 1) if depth else x

    model = Recursive()
    with capture(model, "fc"), pytest.raises(CaptureError, match="calls itself"):
        model(randn(3, 4))


def test_an_unknown_layout_is_an_error_for_a_named_layer_and_left_out_of_a_sweep():
    class Heads(nn.Module):
        def forward(self, x):
            return x.reshape(len(x), 5, 2, 4).transpose(1, 2)

    model = nn.Sequential(nn.Linear(8, 8), Heads(), nn.Flatten())
    x = randn(3, 5, 8)
    with capture(model, "1"), pytest.raises(LayoutError, match=r"layer '1'.*\(3, 2, 5, 4\).*pool='flatten'"):
        model(x)
    with pytest.warns(CaptureWarning, match="1: the channel axis"), capture(model, "leaves") as features:
        model(x)
    assert list(features) == ["0", "2"]
    for pool in ("flatten", lambda z: z.mean((1, 2))):
        with capture(model, "1", pool=pool) as features:
            model(x)
        assert features.sites["1"].layout == "unknown"
