"""Passes whose forward passes end behind the last chosen layer: the same numbers from less work, or a refusal."""

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import neurocollapse as nc
from neurocollapse.hooks import CaptureError, CaptureWarning
from neurocollapse.metrics import QuantityError
from neurocollapse.passes import Sink, run_pass

LAYERS = ["0", "3", "3@in"]


class Counted(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def network(kind=nn.Sequential):
    torch.manual_seed(0)
    return kind(Counted(6, 5), nn.BatchNorm1d(5), nn.Dropout(), Counted(5, 5), nn.ReLU(), Counted(5, 4))


def batches(num=3, size=12):
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 6, generator=generator), torch.arange(size) % 4) for _ in range(num)]


def assert_same(found, expected):
    """Equal to the last bit, the time that it took aside."""
    drop = {"elapsed_seconds", "created"}
    assert {key: found.attrs[key] for key in found.attrs if key not in drop} == {
        key: expected.attrs[key] for key in expected.attrs if key not in drop
    }
    assert found.identical(expected.assign_attrs(found.attrs))


def surroundings(model):
    """What must be as before."""
    hooks = [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.modules()]
    modes = [module.training for module in model.modules()]
    buffers = [buffer.tolist() for buffer in model.buffers()]
    return hooks, modes, buffers, torch.get_rng_state().tolist(), "forward" in model.__dict__, torch.is_grad_enabled()


@pytest.mark.parametrize("mode", ["eval", "unchanged"])
def test_collect_gives_the_same_moments_from_less_work(mode):
    halted, whole = network().eval(), network().eval()
    before = surroundings(halted)
    found = nc.collect(halted, batches(), layers=LAYERS, mode=mode, progress=False, covariance=True, halt=True)
    expected = nc.collect(whole, batches(), layers=LAYERS, mode=mode, progress=False, covariance=True)
    assert list(found) == list(expected) == ["0", "3@in", "3"]
    for name in expected:
        for field in ("count", "reference", "offset_sum", "offset_square", "within_scatter"):
            assert torch.equal(getattr(found[name], field), getattr(expected[name], field)), (name, field)
    assert [halted[index].calls for index in (0, 3, 5)] == [3, 3, 1]
    assert [whole[index].calls for index in (0, 3, 5)] == [3, 3, 3]
    assert surroundings(halted) == before


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"quantities": ["nc1", "compression", "geometry"]},
        {"quantities": ["ncm_error"]},
        {"uncertainty": True},
        {"probes": True, "probe_samples": 30, "test_loader": batches(2)},
        {"include_input": True, "classes": [0, 2]},
        {"pairs": True, "calls": "first"},
    ],
    ids=lambda options: "+".join(options) or "default",
)
@pytest.mark.filterwarnings("ignore::neurocollapse.metrics.PrecisionWarning")
def test_analyze_gives_the_same_numbers_in_one_or_two_passes(options):
    halted = network()
    found = nc.analyze(halted, batches(), layers=LAYERS, progress=False, halt=True, **options)
    assert_same(found, nc.analyze(network(), batches(), layers=LAYERS, progress=False, **options))
    assert halted[0].calls >= halted[3].calls > halted[5].calls


def test_a_run_continues_with_or_without_it(tmp_path):
    expected = nc.collect(network(), batches(4), layers=LAYERS, progress=False)
    for first, second in ((True, True), (False, True), (True, False)):
        path = tmp_path / f"{first}{second}.st"
        nc.collect(network(), batches(2), layers=LAYERS, progress=False, resume=path, halt=first)
        model = network()
        found = nc.collect(model, batches(4), layers=LAYERS, progress=False, resume=path, halt=second)
        assert model[5].calls == (1 if second else 2)
        for name in expected:
            assert torch.equal(found[name].mean, expected[name].mean)
            assert torch.equal(found[name].offset_square, expected[name].offset_square)


@pytest.fixture
def one_process():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_ranks_and_samplers_work_also_under_ddp_in_training(one_process):
    samples = TensorDataset(torch.randn(30, 6, generator=torch.Generator().manual_seed(2)), torch.arange(30) % 4)
    loader = DataLoader(samples, batch_size=8, sampler=DistributedSampler(samples, shuffle=False))
    halted, whole = network(), network()
    parallel = nn.parallel.DistributedDataParallel(halted)
    options = {"layers": LAYERS, "progress": False, "distributed": True}
    found = nc.analyze(parallel, loader, halt=True, **options)
    assert_same(found, nc.analyze(whole, loader, **options))
    assert halted[5].calls == 1
    parallel(samples.tensors[0]).sum().backward()
    assert halted[5].weight.grad is not None


def test_track_records_the_same_and_does_not_disturb():
    halted, whole = network(), network()
    before = surroundings(halted)
    runs = []
    for model, halt in ((halted, True), (whole, False)):
        tracker = nc.track(model, batches(), layers=LAYERS, quantities="compression", halt=halt)
        for step in range(2):
            tracker.record(step)
        runs.append(tracker.to_dataset())
    assert runs[0]["compression"].values.tolist() == runs[1]["compression"].values.tolist()
    assert halted[5].calls == 2
    assert whole[5].calls == 6
    assert surroundings(halted)[:3] == before[:3]


class Logits(Sink):
    """Keeps what it is given as logits, and sums."""

    def __init__(self):
        self.logits, self.sums = [], {}

    def add(self, site, features, rows):
        self.sums[site] = self.sums.get(site, 0) + features.sum()

    def end(self, logits):
        self.logits.append(logits)

    def state(self):
        return self.sums

    def load_state(self, tensors):
        self.sums = dict(tensors)

    def result(self):
        return [float(total) for total in self.sums.values()], self.logits


def test_no_sink_is_given_logits_not_even_of_the_first_batch():
    found, logits = run_pass(network(), batches(), {"own": Logits()}, layers="0", progress=False, halt=True)["own"]
    expected, given = run_pass(network(), batches(), {"own": Logits()}, layers="0", progress=False)["own"]
    assert found == expected
    assert logits == [None] * 3
    assert [one.shape for one in given] == [(12, 4)] * 3


@pytest.mark.parametrize("quantities", ["nc4", ["compression", "margin"], "all"])
def test_quantities_of_logits_are_refused_before_the_run(quantities):
    model = network()
    with pytest.raises(QuantityError, match="needs the model's logits, which halt=True does not compute"):
        nc.analyze(model, batches(), quantities=quantities, layers="penultimate", progress=False, halt=True)
    assert model[0].calls == 0


def test_a_layer_that_no_longer_fits_is_left_out_and_the_rest_goes_on():
    class Short(nn.Sequential):
        def forward(self, x):
            for layer in self if len(x) == 12 else [self[0], self[1]]:
                x = layer(x)
            return x

    data = [*batches(1), *batches(1, size=8), *batches(1)]
    runs = []
    for halt in (True, False):
        model = network(Short)
        with pytest.warns(CaptureWarning, match="no longer fit"):
            runs.append(nc.collect(model, data, layers="leaves", progress=False, halt=halt))
        assert model[5].calls == (1 if halt else 2)
    assert list(runs[0]) == list(runs[1]) == ["0", "1"]
    assert all(torch.equal(runs[0][name].mean, runs[1][name].mean) for name in runs[0])


class Bypass(nn.Sequential):
    def __call__(self, x):
        return self.forward(x)


@pytest.mark.parametrize("run", [nc.collect, nc.analyze])
def test_what_cannot_be_ended_early_is_refused(run):
    with pytest.raises(CaptureError, match=r"Bypass.__call__ bypasses torch\.nn\.Module\.__call__; leave out `halt`"):
        run(network(Bypass), batches(), layers=LAYERS, progress=False, halt=True)
    with pytest.raises(CaptureError, match='calls="last" knows'):
        run(network(), batches(), layers=LAYERS, progress=False, halt=True, calls="last")
    with pytest.raises(TypeError, match="halt"):
        run(network(), batches(), layers=LAYERS, progress=False, halt="yes")
    with pytest.raises(ValueError, match="layers"):
        run(network(), batches(), layers=[], include_input=True, progress=False, halt=True)
