"""A forward pass that ends behind the last tap: what ran, what is left behind, and where it is refused."""

import copy
import gc
import pickle
import warnings
import weakref

import pytest
import torch
import torch._dynamo
from torch import distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

import neurocollapse as nc
from neurocollapse.hooks import CallCountError, CaptureError, CaptureWarning
from neurocollapse.hooks.halt import HaltingForward


class Counted(nn.Linear):
    """Counts its calls."""

    def __init__(self, width=5):
        super().__init__(width, width)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Wrapped(nn.Module):
    """Runs its layers in the way that a function says."""

    def __init__(self, how, layers=4):
        super().__init__()
        self.how, self.layers = how, nn.ModuleList(Counted() for _ in range(layers))

    def forward(self, x):
        return self.how(self, x)


def straight(self, x):
    for layer in self.layers:
        x = layer(x)
    return x


def network(how=straight):
    torch.manual_seed(0)
    return Wrapped(how)


def inputs(rows=6):
    return torch.randn(rows, 5, generator=torch.Generator().manual_seed(1))


def calls(model):
    return [layer.calls for layer in model.layers]


def twice(model, layers="layers.1", **options):
    """The features and the output of the second call, the first that may end early."""
    with nc.capture(model, layers, stop=True, **options) as features:
        first = model(inputs())
        assert first.shape == (6, 5)
        output = model(inputs(7))
        return dict(features), output


def under_contexts(self, x):
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad(), torch.random.fork_rng():
        return straight(self, x)


def catching_exceptions(self, x):
    try:
        return straight(self, x)
    except Exception:
        return x


def through_a_generator(self, x):
    def steps(x):
        for layer in self.layers:
            x = layer(x)
            yield x

    *_, last = steps(x)
    return last


@pytest.mark.parametrize("how", [straight, under_contexts, catching_exceptions, through_a_generator])
def test_what_comes_behind_the_last_tap_does_not_run(how):
    model = network(how)
    features, output = twice(model)
    assert output is None
    assert calls(model) == [2, 2, 1, 1]
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")
    other = network(how)
    with nc.capture(other, "layers.1") as whole:
        other(inputs(7))
    assert calls(other) == [1, 1, 1, 1]
    assert torch.equal(features["layers.1"], whole["layers.1"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["layers.0", "layers.2"], [2, 2, 2, 1]),
        (["layers.2", "layers.0"], [2, 2, 2, 1]),
        ("layers.1@in", [2, 1, 1, 1]),
        ("layers.*", [2, 2, 2, 2]),
        ("penultimate", [2, 2, 2, 1]),
    ],
)
def test_the_last_tap_in_order_of_execution_decides(layers, expected):
    model = network()
    twice(model, layers)
    assert calls(model) == expected


def test_a_tap_on_the_model_itself_runs_it_whole():
    model = nn.Sequential(Counted(), Counted())
    with nc.capture(model, [model, "0"], stop=True) as features:
        model(inputs())
        assert model(inputs()).shape == (6, 5)
        assert len(features) == 2


def repeated(self, x):
    for layer in (self.layers[0], self.layers[1], self.layers[0], self.layers[2]):
        x = layer(x)
    return x


@pytest.mark.parametrize(("which", "expected"), [("all", [4, 2, 1]), ("first", [3, 1, 1])])
def test_calls_of_one_module_are_awaited_as_far_as_they_are_kept(which, expected):
    model = network(repeated)
    twice(model, "layers.0", calls=which)
    assert calls(model)[:3] == expected


def test_the_last_call_is_known_too_late():
    with pytest.raises(CaptureError, match='calls="last" knows the last call only after the forward pass'):
        twice(network(), calls="last")


def fewer_for_small_batches(self, x):
    for layer in self.layers[: 4 if len(x) == 6 else 1]:
        x = layer(x)
    return x


def test_a_layer_that_stays_away_is_reported_as_without_stop():
    model = network(fewer_for_small_batches)
    with nc.capture(model, "layers.2", stop=True):
        model(inputs())
        with pytest.raises(CallCountError, match=r"layers\.2"):
            model(inputs(7))
    with nc.capture(model, "leaves", stop=True) as features:
        model(inputs())
        with pytest.warns(CaptureWarning, match="3 of the layers no longer fit"):
            assert model(inputs(7)).shape == (7, 5)
        assert model(inputs()) is None  # the first layer alone is left
        assert list(features) == ["layers.0"]


def test_hooks_and_forward_are_as_before_also_after_an_error():
    model = network()
    model.forward = own = model.forward
    before = set(model.__dict__)
    twice(model)
    with nc.capture(model, "layers.1", stop=True):
        model(inputs())
        with pytest.raises(RuntimeError, match="shapes"):
            model(torch.zeros(2, 3))
        assert model(inputs()) is None
    assert model.__dict__["forward"] is own
    assert set(model.__dict__) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    del model.forward
    twice(model)
    assert "forward" not in model.__dict__


def test_hooks_of_the_model_itself_still_run():
    model, seen = network(), []
    model.register_forward_hook(lambda module, args, output: seen.append(output))
    twice(model)
    assert seen[0].shape == (6, 5)
    assert seen[1] is None


def test_a_copy_or_pickle_made_inside_runs_whole():
    model = network()
    with nc.capture(model, "layers.1", stop=True):
        model(inputs())
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for one in copies:
        assert not isinstance(one.forward, HaltingForward)
        with torch.no_grad():
            assert one(inputs()).shape == (6, 5)
        assert [layer.calls for layer in one.layers] == [2, 2, 2, 2]
    assert calls(model) == [1, 1, 1, 1]


def test_a_compiled_model_ends_early_and_compiles_again_behind_the_block():
    torch._dynamo.reset()
    model = nn.Sequential(Counted(), nn.ReLU(), Counted())
    compiled = torch.compile(model, backend="eager")
    whole = compiled(inputs())
    before = model[2].calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CaptureWarning)  # that a compiled model runs eagerly
        twice(compiled, "1")
    assert model[2].calls == before + 1
    assert torch.equal(compiled(inputs()), whole)


def test_memory_of_the_abandoned_pass_is_free_at_once():
    kept = []

    def watching(self, x):
        x = self.layers[0](x)
        kept.append(weakref.ref(x))
        return straight(self, x)

    model = network(watching)
    gc.disable()
    try:
        with torch.no_grad():
            twice(model)
        assert [one() for one in kept] == [None, None]
    finally:
        gc.enable()


def catching_all(self, x):
    try:
        return straight(self, x)
    except BaseException:
        return x


def going_on(self, x):
    for layer in self.layers:
        try:
            x = layer(x)
        except BaseException:
            continue
    return x


def returning_from_finally(self, x):
    result = x
    try:
        result = straight(self, x)
    finally:
        return result  # noqa: B012 - what must be caught


def translating(self, x):
    try:
        return straight(self, x)
    except BaseException as error:
        raise RuntimeError("failed") from error


@pytest.mark.parametrize("how", [catching_all, going_on, translating, returning_from_finally])
@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_a_model_that_catches_everything_is_refused(how):
    model = network(how)
    layers = ["layers.0", "layers.1"] if how is not going_on else ["layers.1", "layers.1@in"]
    with pytest.raises(CaptureError, match="catches BaseException in its forward pass"):
        twice(model, layers)
    assert "forward" not in model.__dict__


def checkpointed(reentrant):
    def how(self, x):
        return checkpoint(straight, self, x.requires_grad_(), use_reentrant=reentrant)

    return how


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_around_the_last_tap_is_refused(reentrant):
    with pytest.raises(CaptureError, match=r"runs inside torch\.utils\.checkpoint; leave out `halt` \(`stop`"):
        twice(network(checkpointed(reentrant)))


def test_activation_checkpointing_behind_the_last_tap_does_no_harm():
    def how(self, x):
        x = self.layers[0](x)
        return checkpoint(lambda x: self.layers[1](x), x, use_reentrant=False)

    model = network(how)
    twice(model, "layers.0")
    assert calls(model)[:2] == [2, 1]


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ddp_is_refused_in_training_and_works_in_evaluation(one_process):
    model = network()
    parallel = nn.parallel.DistributedDataParallel(model)
    with pytest.raises(CaptureError, match="DistributedDataParallel in training mode"):
        twice(parallel)
    parallel(inputs()).sum().backward()  # still trains
    assert model.layers[0].weight.grad is not None
    parallel.eval()
    _, output = twice(parallel)
    assert output is None


def test_always_called_hooks_are_refused():
    model = network()
    with (
        nc.capture(model.layers[2], "(root)"),
        pytest.raises(CaptureError, match="skip an always_call hook on Counted"),
    ):
        twice(model)
    assert calls(model) == [0, 0, 0, 0]
    twice(model)


def test_a_second_capture_inside_is_refused():
    model = network()
    with nc.capture(model, "layers.1", stop=True), pytest.raises(CaptureError, match=r"leave its block first"):
        nc.collect(model, [(inputs(), torch.arange(6) % 2)], progress=False)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Counted()

    def forward(self, x):
        yield self.layer(x)


class Offload:
    offload = True


def test_generators_and_offloaded_weights_are_refused():
    with pytest.raises(CaptureError, match="is a generator or coroutine"):
        twice(Generator(), "layer")
    model = network()
    model.layers[3]._hf_hook = Offload()
    with pytest.raises(CaptureError, match="accelerate has to put offloaded weights away"):
        twice(model)


def test_stop_must_be_true_or_false():
    with pytest.raises(TypeError, match="stop"), nc.capture(network(), "layers.1", stop="yes"):
        pass
