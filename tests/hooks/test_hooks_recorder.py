"""The engine's own promises: keys, sites, batch sizes, and models of which only parts are called."""

import pytest
import torch
from torch import nn

from neurocollapse.hooks import (
    CallCountError,
    CaptureError,
    CaptureWarning,
    NeverFiredError,
    Recorder,
    SiteKey,
    capture,
    inspect_layers,
    sites,
)
from neurocollapse.hooks.masks import Positions
from neurocollapse.hooks.plan import make_plan


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 9, 4))


def ignore(key, features, positions):
    """A sink that drops everything."""


def test_sites_describe_every_layer_in_order_of_firing():
    model = net().eval()
    with Recorder(model, ["leaves", "4@in"], sink=ignore) as recorder, torch.no_grad():
        model(randn(5, 3, 5, 5))
    sites = list(recorder.sites.values())
    assert [site.name for site in sites] == ["0", "1", "2", "3", "4@in", "4"]
    assert [site.depth for site in sites] == list(range(6))
    assert [site.num_features for site in sites] == [6, 6, 6, 54, 54, 4]
    assert [site.shape for site in sites] == [(6, 3, 3)] * 3 + [(54,), (54,), (4,)]
    assert [site.module_type for site in sites] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear", "Linear"]
    assert [site.pooling for site in sites] == ["mean"] * 3 + ["none"] * 3
    assert next(iter(recorder.sites)) == SiteKey(0, 0)


def test_keys_are_the_same_in_every_batch_and_rows_match_the_samples():
    model, seen = net().eval(), []

    def sink(key, features, positions):
        seen.append((key, features.shape, positions))

    with Recorder(model, "leaves", pool={"0": "positions"}, sink=sink) as recorder, torch.no_grad():
        for num_samples in (5, 2, 1):
            seen.clear()
            model(randn(num_samples, 3, 5, 5))
            assert [key for key, _, _ in seen] == list(recorder.sites)
            assert seen[0][1:] == ((9 * num_samples, 6), Positions((3, 3)))
            assert all(shape[0] == num_samples and positions == Positions() for _, shape, positions in seen[1:])


def test_depth_follows_execution_not_definition():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second, self.first = nn.Linear(4, 2), nn.Linear(3, 4)

        def forward(self, x):
            return self.second(self.first(x))

    with Recorder(model := Backwards(), "leaves", sink=ignore) as recorder:
        model(randn(5, 3))
    assert [site.name for site in recorder.sites.values()] == ["first", "second"]


def test_one_recorder_serves_several_blocks():
    model = net().eval()
    recorder = Recorder(model, "leaves", sink=ignore)
    for _ in range(2):
        with recorder, torch.no_grad():
            model(randn(5, 3, 5, 5))
    with recorder, pytest.raises(CaptureError, match="already recording"):
        recorder.__enter__()
    assert not any(module._forward_hooks for module in model.modules())


def test_the_whole_model_is_a_layer_too():
    model, x = net().eval(), randn(5, 3, 5, 5)
    with capture(model, ["(root)", "(root)@in"], pool={"(root)@in": "flatten"}) as features, torch.no_grad():
        scores = model(x)
    assert list(features) == ["(root)@in", "(root)"]
    assert torch.equal(features["(root)@in"], x.flatten(1))
    assert torch.equal(features["(root)"], scores)


def test_the_last_call_is_left_out_if_it_alone_cannot_be_read():
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(3, 4), nn.ReLU()

        def forward(self, x):
            z = self.act(self.fc(x))
            return self.act(z[:1])

    model, keys = Half(), []
    with pytest.warns(CaptureWarning, match="act: no axis"):
        record_last(model, keys)
    assert keys == [SiteKey(0, 0)] * 2


def record_last(model, keys):
    def sink(key, features, positions):
        keys.append(key)

    with Recorder(model, "leaves", calls="last", sink=sink) as recorder:
        for _ in range(2):
            model(randn(5, 3))
    assert [site.name for site in recorder.sites.values()] == ["fc"]


def test_two_captures_at_once_do_not_meet():
    model, x = net().eval(), randn(5, 3, 5, 5)
    with capture(model, "leaves") as outer, torch.no_grad():
        with capture(model, "2") as inner:
            model(x)
        model(x)
    assert torch.equal(outer["2"], inner["2"])


def test_a_block_without_a_forward_pass_has_nothing_and_says_so():
    with capture(net(), "0") as features:
        pass
    assert len(features) == 0
    with pytest.raises(KeyError, match="call the model inside"):
        features["0"]


def test_the_announced_batch_size_holds_for_one_forward_pass():
    model = nn.Sequential(nn.Linear(3, 4))
    with capture(model, "0") as features:
        features.expect(6)
        with pytest.raises(CaptureError, match="no axis of"):
            model(randn(5, 3))
        model(randn(5, 3))
    assert features["0"].shape == (5, 4)


@pytest.mark.parametrize("num_samples", [0, -1, 2.0, True, None])
def test_a_batch_size_is_a_positive_integer(num_samples):
    with capture(net(), "0") as features, pytest.raises(ValueError, match="num_samples"):
        features.expect(num_samples)


class Encoder(nn.Module):
    """Called through a method only, as many contrastive models are."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU())
        self.head = nn.Linear(6, 2)

    def encode(self, x):
        return self.body(x).mean((2, 3))

    def forward(self, x):
        return self.head(self.encode(x))


def test_a_model_that_is_used_through_a_method_is_captured():
    model, x = Encoder(), randn(5, 3, 4, 4)
    with capture(model, ["body", "body.*"]) as features:
        for seed in range(3):
            features.clear()
            encoded = model.encode(randn(5, 3, 4, 4, seed=seed))
            assert list(features) == ["body.0", "body.1", "body"]
            torch.testing.assert_close(features["body"], encoded.detach())
    with capture(model, "body") as features:
        first, second = model.encode(x), model.encode(x + 1)
    assert list(features) == ["body#0", "body#1"]
    torch.testing.assert_close(features["body#1"], second.detach())
    torch.testing.assert_close(features["body#0"], first.detach())


def test_a_layer_that_a_method_does_not_call_is_reported_when_the_block_ends():
    model = Encoder()
    with pytest.raises(NeverFiredError, match="'head'"):  # noqa: SIM117 - raised by leaving the inner block
        with capture(model, ["body", "head"]):
            model.encode(randn(5, 3, 4, 4))


def test_calls_outside_the_models_forward_are_ignored_once_it_was_called():
    model, x = Encoder(), randn(5, 3, 4, 4)
    with capture(model, "body.0") as features:
        model(x)
        expected = features["body.0"].clone()
        model.encode(x + 1)
    assert torch.equal(features["body.0"], expected)


class Drop(nn.Module):
    """Runs its layer only if told so, as stochastic depth does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.keep = nn.Linear(3, 3), True

    def forward(self, x):
        return self.layer(x) if self.keep else x


def test_a_stochastic_depth_that_skips_a_named_layer_is_a_changed_call_count():
    model = nn.Sequential(Drop(), nn.ReLU())
    with capture(model, "0.layer"):
        model(randn(5, 3))
        model[0].keep = False
        with pytest.raises(CallCountError, match=r"'0\.layer': called once .* now 0 times"):
            model(randn(5, 3))


def test_how_a_site_is_read_is_settled_once_whatever_the_number_of_batches(monkeypatch):
    settled = []

    def counted(module, *args, **kwargs):
        settled.append(module)
        return make_plan(module, *args, **kwargs)

    monkeypatch.setattr(sites, "make_plan", counted)
    model = nn.Sequential(*[nn.Identity() for _ in range(20)])
    with torch.no_grad(), Recorder(model, "leaves", sink=ignore):
        for seed in range(5):
            model(randn(8, 16, seed=seed))
    assert settled.count(model) <= 1  # what is not tapped is looked at in the first forward pass only
    assert [module for module in settled if module is not model] == list(model)


def test_the_table_of_layers_tells_shapes_calls_and_why_not():
    model = net()
    model.append(nn.ModuleList([nn.Linear(2, 2)]))
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    rows = {info.name: info for info in inspect_layers(model, randn(5, 3, 5, 5))}
    assert list(rows) == ["0", "1", "2", "3", "4", "5.0"]
    assert (rows["0"].shape, rows["0"].num_features, rows["0"].num_calls) == ((6, 3, 3), 6, 1)
    assert rows["0"].num_parameters == 6 * 3 * 9 + 6
    assert (rows["5.0"].shape, rows["5.0"].num_calls, rows["5.0"].note) == (None, 0, "never called")
    bare = inspect_layers(model)
    assert [info.name for info in bare] == list(rows)
    assert {info.shape for info in bare} == {None}


def test_inspecting_leaves_statistics_mode_and_hooks_alone():
    model = net().train()
    model.append(AlwaysDrops())
    model[2].eval()
    random_state = torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    inspect_layers(model, (randn(5, 3, 5, 5),))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random_state)


class AlwaysDrops(nn.Module):
    """Draws random numbers in evaluation mode, too."""

    def forward(self, x):
        return nn.functional.dropout(x)


def test_inspecting_takes_positional_and_keyword_examples():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x, y):
            return self.fc(x + y)

    x = randn(5, 3)
    for example in ((x, x), {"x": x, "y": x}):
        assert inspect_layers(Two(), example)[0].num_features == 2
    assert [info.name for info in inspect_layers(nn.Linear(3, 2), x)] == ["(root)"]


def test_a_sweep_warns_after_the_first_forward_pass_only():
    model = net().eval()
    model.unused = nn.Linear(2, 2)
    model.forward = lambda x: model[0](x)
    with pytest.warns(CaptureWarning, match="of 5 of the layers: 1, 2, 3 and 2 more: never called") as caught:
        recorder = run_twice(model)
    assert len(caught) == 1
    assert recorder.skipped["unused"].startswith("never called")


def run_twice(model):
    with Recorder(model, "leaves", sink=ignore) as recorder, torch.no_grad():
        for _ in range(2):
            model(randn(5, 3, 5, 5))
    return recorder
