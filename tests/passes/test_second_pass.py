"""What quantities add up in a second pass: the right sums, in as few passes as possible, refused where it cannot be."""

import json
import math
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.special import stdtrit
from torch import Tensor, nn

import neurocollapse as nc
from neurocollapse.metrics import Layer, Quantity, QuantityError, Rows, Weighting, catalogue
from neurocollapse.metrics.influence import influences
from neurocollapse.passes import checkpoint as saving
from neurocollapse.passes.totals import shared_bytes
from neurocollapse.statistics.nearest import NearestMean
from neurocollapse.support.state import read_state

DRIVER = Path(__file__).with_name("slow_analysis.py")


def squared_distances(layer: Layer, rows: Rows) -> Tensor:
    """Σ‖z − μ_k‖² of each class, from differences to the means of the whole first pass."""
    distances = (rows.features - layer.moments.mean[rows.labels]).square().sum(dim=1)
    return torch.zeros(layer.moments.num_classes, dtype=torch.float64).index_add_(0, rows.labels, distances)


def hits(layer: Layer, rows: Rows) -> Callable[[Tensor], Tensor]:
    """How often the logits are right, and the sum of the features where they are."""
    features, labels = rows.features, rows.labels
    return lambda logits: torch.stack([(right := logits.argmax(1) == labels).sum(), features[right].sum()])


SPREAD = Quantity(name="spread", of=lambda layer: layer.total(squared_distances).sum(), gather=squared_distances)
LARGEST = Quantity(name="largest", of=lambda layer: layer.total(squared_distances).max(), gather=squared_distances)
HITS = Quantity(name="hits", of=lambda layer: layer.total(hits)[0], gather=hits, needs=("logits",))
HIT_SUM = Quantity(name="hit_sum", of=lambda layer: layer.total(hits)[1], gather=hits, needs=("logits",))


def build() -> nn.Module:
    """A map, a module that is called twice, dropout, and logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        act = nn.ReLU()
        layers = nn.Conv2d(1, 4, 3), act, nn.Flatten(), nn.Linear(64, 16), act, nn.Dropout(), nn.Linear(16, 3)
        return nn.Sequential(*layers)


def batches(num_samples: int = 60, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Images around one centre a class."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(3, (num_samples,), generator=generator)
    inputs = torch.randn(3, 1, 6, 6, generator=generator)[labels] + torch.randn(
        num_samples, 1, 6, 6, generator=generator
    )
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def watched(model: nn.Module) -> list[int]:
    """A list that gets longer with every forward pass."""
    calls: list[int] = []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    return calls


def notes_of(dataset: xr.Dataset) -> list[str]:
    found: list[str] = json.loads(dataset.attrs["warnings"])
    return [
        note for note in found if not note.startswith(("few samples", "with two classes"))
    ]  # as they are, on purpose


def test_sums_are_those_of_a_naive_loop_about_the_means_of_the_whole_pass() -> None:
    model = build().eval()
    dataset = nc.analyze(
        model, batches(), layers=["0", "3"], pool={"0": "positions"}, quantities=[SPREAD, HITS, HIT_SUM]
    )
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with torch.no_grad():
        conv, logits = model[0](inputs), model(inputs)
        fc = model[:4](inputs)
    right = logits.argmax(1) == labels
    for name, features in {"0": conv.flatten(2).movedim(1, 2).double(), "3": fc.unsqueeze(1).double()}.items():
        means = torch.stack([features[labels == k].flatten(0, 1).mean(0) for k in range(3)])
        spread = sum((z - means[y]).square().sum() for z, y in zip(features, labels, strict=True))
        layer = dataset.sel(layer=name)
        assert layer["spread"].item() == pytest.approx(
            float(spread), rel=1e-6
        )  # float32 products, batches of 16 and 60
        assert layer["hits"].item() == int(right.sum()) * features.shape[1]
        assert layer["hit_sum"].item() == pytest.approx(float(features[right].sum()), rel=1e-5)
    assert not notes_of(dataset)


def test_one_second_pass_serves_probes_and_sums_and_shared_functions_are_called_once() -> None:
    counted: list[int] = []

    def gather(layer: Layer, rows: Rows) -> Tensor:
        counted.append(len(rows.labels))
        return rows.features.sum()

    pair = [Quantity(name=name, of=lambda layer: layer.total(gather), gather=gather) for name in ("a", "b")]
    model = build()
    calls = watched(model)
    dataset = nc.analyze(model, batches(), layers=["0", "3"], quantities=pair, probes=True, probe_samples=20)
    assert len(calls) == 2 * len(batches())
    assert len(counted) == 2 * len(batches())
    assert dataset["a"].equals(dataset["b"])
    alone = nc.analyze(model, batches(), layers=["0", "3"], probes=True, probe_samples=20)
    assert dataset["probe_accuracy_test"].equals(alone["probe_accuracy_test"])
    assert dataset["a"].equals(nc.analyze(model, batches(), layers=["0", "3"], quantities=pair)["a"])


def test_features_that_a_quantity_needs_are_kept_without_asking_for_probes() -> None:
    dataset = nc.analyze(build(), batches(), layers="3", quantities="effective_rank")
    alone = nc.analyze(build(), batches(), layers="3", probes=True)
    assert list(dataset) == ["effective_rank"]
    assert dataset["effective_rank"].equals(alone["effective_rank"])


def test_layers_that_lack_a_reader_are_passed_over_and_have_no_value() -> None:
    def outputs(layer: Layer, rows: Rows) -> Tensor:
        return (rows.features @ layer.reader.weight.to(rows.features.dtype).T).sum()

    quantity = Quantity(name="own", of=lambda layer: layer.total(outputs), gather=outputs, needs="reader")
    model = build().eval()
    dataset = nc.analyze(model, batches(), layers=["0", "6@in"], quantities=quantity)
    with torch.no_grad():
        expected = sum((model(inputs) - model[6].bias).double().sum() for inputs, _ in batches())
    assert dataset["own"].sel(layer="6@in").item() == pytest.approx(float(expected), rel=1e-5)
    assert dataset["own"].isnull().values.tolist() == [True, False]
    assert not notes_of(dataset)


def test_without_need_there_is_one_pass() -> None:
    model = build()
    calls = watched(model)
    nc.analyze(model, batches(), quantities="compression, geometry", covariance=True)
    assert len(calls) == len(batches())


def test_all_layers_and_calls_have_sums_and_the_dataset_says_what_they_are(tmp_path: Path) -> None:
    quantity = Quantity(
        name="spread",
        of=lambda layer: layer.total(squared_distances),
        gather=squared_distances,
        dims=("layer", "class"),
        symbol="s",
        heading="spread",
        convention="Σ over samples",
        at_collapse=0.0,
    )
    dataset = nc.analyze(build(), batches(), quantities=[quantity, "class_scatter", "class_count"])
    assert dataset["layer"].values.tolist() == ["0", "1#0", "2", "3", "1#1", "5", "6"]
    expected = dataset["class_scatter"] * dataset["class_count"]
    np.testing.assert_allclose(dataset["spread"], expected, rtol=1e-6)
    assert dataset["spread"].attrs["heading"] == "spread"
    assert nc.open(nc.save(dataset, tmp_path / "a.nc")).identical(dataset)


def test_rows_that_are_not_finite_are_left_out() -> None:
    loader = batches()
    clean = [(inputs.clone(), labels) for inputs, labels in loader]
    clean[1] = (loader[1][0][2:], loader[1][1][2:])
    loader[1][0][:2] = torch.nan
    for quantities in ([SPREAD], [HITS, HIT_SUM]):
        spoilt = nc.analyze(nn.Flatten(), loader, quantities=quantities, non_finite="skip")
        good = nc.analyze(nn.Flatten(), clean, quantities=quantities)
        np.testing.assert_allclose([spoilt[q.name] for q in quantities], [good[q.name] for q in quantities], rtol=1e-6)


class WithoutLogits(nn.Module):
    """Returns nothing that could be logits."""

    def __init__(self) -> None:
        super().__init__()
        self.model = build()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.model(inputs).sum()


def test_without_logits_a_named_quantity_is_an_error_and_one_of_a_family_is_nan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(QuantityError, match=r"quantity 'hits' needs the model's logits.*has none") as caught:
        nc.analyze(WithoutLogits(), batches(), quantities=[SPREAD, HITS])
    assert "\n" not in str(caught.value)
    family = [Quantity(**{**vars(q), "family": "trial"}) for q in (HITS, SPREAD)]
    monkeypatch.setattr(catalogue, "QUANTITIES", (*catalogue.QUANTITIES, *family))
    dataset = nc.analyze(WithoutLogits(), batches(), quantities="trial")
    assert dataset["hits"].isnull().all()
    assert dataset["spread"].notnull().all()
    assert notes_of(dataset) == ["hits: undefined, as the model returns no logits, a matrix (samples, outputs)"]


def test_a_second_pass_that_the_covariance_makes_needless_is_not_made() -> None:
    quantity = Quantity(
        name="trace",
        of=lambda layer: layer.moments.num_samples if layer.moments.within_scatter is None else 0.0,
        gather=squared_distances,
        instead="covariance",
    )
    model = build()
    calls = watched(model)
    loader, _ = untouched(batches())
    assert not nc.analyze(model, loader, quantities=quantity, covariance=True)["trace"].any()
    assert len(calls) == len(batches())
    assert nc.analyze(model, batches(), quantities=quantity)["trace"].all()
    assert len(calls) == 3 * len(batches())


def test_matrices_over_pairs_of_classes_are_added_where_asked_for() -> None:
    added = set(nc.analyze(build(), batches(), pairs=True)) - set(nc.analyze(build(), batches()))
    assert added == {"class_cosine", "class_cosine_unbiased", "class_distance", "class_cdnv"}


def untouched(loader: Any) -> tuple[Iterator[Any], Callable[[], bool]]:
    """A loader that can be read once, and whether it has been left alone."""
    once = iter(loader)
    return once, lambda: len(list(once)) == len(loader)


COVARIANCE = Quantity(name="trace", of=lambda layer: layer.moments.within_scatter.trace(), needs=("covariance",))
READER = Quantity(name="weight", of=lambda layer: layer.reader.weight.norm(), needs=("reader",))
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a loader that is read once": (
        {"quantities": SPREAD},
        TypeError,
        "quantity 'spread' goes through `loader` a second",
    ),
    "no covariance": ({"quantities": COVARIANCE}, QuantityError, "'trace' needs the within-class .*covariance=True"),
    "no reader": (
        {"quantities": READER, "layers": ["3"]},
        QuantityError,
        "'weight' needs the linear layer .*'penultimate'",
    ),
    "no reader at other inputs": (
        {"quantities": READER, "layers": ["1@in"]},
        QuantityError,
        "'weight' needs the linear",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_refused_before_the_loader_is_read(case: str) -> None:
    options, error, message = REFUSED[case]
    loader, is_untouched = untouched(batches())
    with pytest.raises(error, match=message) as caught:
        nc.analyze(build(), loader, **options)
    assert "\n" not in str(caught.value)
    assert is_untouched()


class Changing:
    """A loader that gives something else the second time."""

    def __init__(self, *loaders: list[tuple[Tensor, Tensor]]) -> None:
        self.loaders = iter(loaders)

    def __iter__(self) -> Iterator[Any]:
        return iter(next(self.loaders))


def test_a_second_pass_with_other_samples_is_an_error_and_with_another_order_a_note() -> None:
    with pytest.raises(ValueError, match="`loader` gave 60 samples in the first pass and 48 in the second"):
        nc.analyze(build(), Changing(batches(), batches()[:-1]), quantities=SPREAD)
    dataset = nc.analyze(build(), Changing(batches(), batches()[::-1]), quantities=SPREAD)
    assert notes_of(dataset) == [
        "the loader gave other samples, changed ones or another order in the second pass than in the first"
    ]
    np.testing.assert_allclose(
        dataset["spread"], nc.analyze(build(), batches(), quantities=SPREAD)["spread"], rtol=1e-9
    )


@pytest.mark.parametrize(
    ("gather", "message"),
    [
        (lambda layer, rows: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda layer, rows: 3.0, r"must return a Tensor, or a function of the logits where.*; got float"),
        (lambda layer, rows: lambda logits: logits, r"where it says needs=\('logits',\); got function"),
        (lambda layer, rows: rows.features, r"must return one shape, got \(12, 4\) after \(16, 4\)"),
    ],
)
def test_a_function_that_fails_is_an_error_with_its_quantity_and_layer(gather: Any, message: str) -> None:
    quantity = Quantity(name="own", of=lambda layer: 0.0, gather=gather)
    model = build()
    with pytest.raises(QuantityError, match=rf"^quantity 'own' at layer '0': .*{message}") as caught:
        nc.analyze(model, batches(), layers="0", quantities=quantity)
    assert "\n" not in str(caught.value)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_features_that_wait_for_the_logits_are_safe_from_the_models_next_operation() -> None:
    in_place = nn.Sequential(nn.Flatten(), nn.Identity(), nn.ReLU(inplace=True))
    dataset = nc.analyze(in_place, batches(), layers="1", quantities=HIT_SUM)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    right = inputs.flatten(1).relu().argmax(1) == labels
    assert dataset["hit_sum"].item() == pytest.approx(float(inputs[right].double().sum()), rel=1e-5)


def test_sums_that_do_not_fit_in_memory_are_refused() -> None:
    quantity = Quantity(name="own", of=lambda layer: 0.0, gather=lambda layer, rows: torch.zeros(10**7))
    with pytest.raises(nc.MemoryPlanError, match=r"the statistics of 1 layers .*0\.07 GiB"):
        nc.analyze(build(), batches(), layers="0", quantities=quantity, max_memory=10**6)


def test_what_gathers_share_of_a_layer_is_planned_before_the_second_pass() -> None:
    model, seen = build(), 0

    def count(layer: Any, rows: Any) -> Tensor:
        nonlocal seen
        seen += 1
        return torch.zeros(1)

    quantity = Quantity(name="own", of=lambda layer: 0.0, gather=count)
    options = {"layers": "2", "precision": "double", "quantities": quantity}
    # 3 classes of 64 features: 16 bytes each and 40 a class in the first pass, 24 bytes each in the second
    with pytest.raises(nc.MemoryPlanError):
        nc.analyze(model, batches(), **options, max_memory=3 * 64 * 24 - 1)
    assert seen == 0
    nc.analyze(model, batches(), **options, max_memory=3 * 64 * 24 + 8)
    assert seen > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_plan_covers_what_gathers_really_share(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(2)
    features, labels = torch.randn(40, 200, generator=generator, dtype=dtype), torch.arange(40) % 4
    layer = Layer(nc.ClassMoments.from_features(features, labels))
    rows = Rows(features, labels)
    rows.centred(layer), rows.nearest(layer)
    held = {}
    for made in layer._placed.values():
        for value in made:
            tensors = vars(value).values() if isinstance(value, NearestMean) else [value]
            held |= {one.data_ptr(): one.nbytes for one in tensors if isinstance(one, Tensor) and one.ndim == 2}
    own = layer.moments.reference.nbytes if layer.moments.reference.data_ptr() in held else 0
    assert shared_bytes(layer.moments) / 2 < sum(held.values()) - own <= shared_bytes(layer.moments)


def test_sums_of_float32_batches_are_kept_in_float64() -> None:
    loader = [(torch.full((1, 1), 2.0**24), torch.tensor([0]))] + [(torch.ones(1, 1), torch.tensor([1]))] * 9
    quantity = Quantity(
        name="own", of=lambda layer: layer.total(total), gather=(total := lambda layer, rows: rows.features.sum())
    )
    assert nc.analyze(nn.Identity(), loader, quantities=quantity)["own"].item() == 2**24 + 9


def test_sums_made_in_inference_mode_are_right() -> None:
    expected = nc.analyze(build(), batches(), quantities=[SPREAD, HITS])
    with torch.inference_mode():
        found = nc.analyze(build(), batches(), quantities=[SPREAD, HITS])
    assert found.drop_attrs().equals(expected.drop_attrs())


# Influences of samples on all layers together -----------------------------------------------------------------------


def test_the_pass_adds_up_the_products_of_every_samples_influences() -> None:
    model = build().eval()
    dataset = nc.analyze(model, batches(), layers=["1", "3"], uncertainty=True)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    with nc.capture(model, ["1", "3"]) as features:
        model(inputs)
    rows = []
    for name in ("1#0", "3"):
        layer = Layer(nc.ClassMoments.from_features(features[name].double(), labels))
        rows.append(influences(layer, Rows(features[name].double(), labels)))
    table = torch.stack([one.compression for one in rows]).numpy()
    variance = (table**2).sum(axis=1)
    quantile = stdtrit(variance**2 / (table**4).sum(axis=1), 0.975)
    found = dataset.sel(layer=["1#0", "3"])
    low, high = np.log(found["compression_interval"].values).T
    np.testing.assert_allclose((high - low) / 2, quantile * np.sqrt(variance), rtol=1e-5)  # float32 features
    _, together, between = torch.stack([one.sums() for one in rows]).T.numpy()
    expected = found["compression_unbiased"] * (1 + together) / (1 + between)
    np.testing.assert_allclose(found["compression_corrected"], expected, rtol=1e-5)
    step = np.linalg.norm(table[1] - table[0])
    low, high = np.log(dataset["decay_ratio_interval"].sel(layer="3").values)
    assert (high - low) / 2 == pytest.approx(1.959964 * step, rel=1e-5)
    assert dataset["bound"].values.tolist() == ["lower", "upper"]


def test_naming_an_interval_runs_the_second_pass_and_nothing_more() -> None:
    model = build()
    calls = watched(model)
    dataset = nc.analyze(model, batches(), quantities="compression_interval")
    assert len(calls) == 2 * len(batches())
    assert list(dataset.data_vars) == ["compression_interval"]
    with pytest.raises(TypeError, match=r"quantity 'compression_interval' goes through `loader` a second time"):
        nc.analyze(model, iter(batches()), quantities="compression_interval")


def test_layers_that_missed_samples_have_no_interval() -> None:
    class Moody(nn.Module):
        """Its last layer stays away from the second pass."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.rounds = nn.Linear(36, 8), nn.Linear(8, 3), 0

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x.flatten(1))
            self.rounds += 1
            return self.second(hidden) if self.rounds <= len(batches()) else hidden[:, :3]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Moody()
    dataset = nc.analyze(model, batches(), uncertainty=True)
    assert np.isfinite(dataset["compression_interval"].sel(layer="first")).all()
    assert dataset["compression_interval"].sel(layer="second").isnull().all()
    assert dataset["decay_ratio_interval"].isnull().all()


def test_rows_that_were_skipped_have_no_influence() -> None:
    loader = batches()
    loader[1][0][3] = torch.nan
    kept = [
        (torch.cat([x[:3], x[4:]]), torch.cat([y[:3], y[4:]])) if i == 1 else (x, y)
        for i, (x, y) in enumerate(batches())
    ]
    found = nc.analyze(build(), loader, uncertainty=True, non_finite="skip", num_classes=3)
    expected = nc.analyze(build(), kept, uncertainty=True)
    for name in ("compression_corrected", "compression_interval"):
        assert np.isfinite(expected[name]).all()
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)  # other chunks of float32


def test_positions_have_no_interval() -> None:
    dataset = nc.analyze(build(), batches(), uncertainty=True, layers="0", pool="positions")
    assert dataset["compression_interval"].isnull().all()
    assert dataset["compression_corrected"].isnull().all()


@pytest.mark.parametrize("weighting", ["equal", "frequency", "papers"])
def test_the_corrected_number_is_that_of_one_batch(weighting: Weighting) -> None:
    """Classes of different size in batches of any size, in double precision."""
    parts = [(inputs.double(), labels) for inputs, labels in batches(size=7)]
    whole = [tuple(torch.cat(part) for part in zip(*parts, strict=True))]
    model = build().double().eval()
    options: dict[str, Any] = {"uncertainty": True, "weighting": weighting, "precision": "double"}
    expected, found = (nc.analyze(model, loader, **options) for loader in (whole, parts))
    for name in ("compression_corrected", "compression_interval", "decay_ratio_interval", "decay_slope_interval"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-10)  # sums in another order
    assert (expected["compression_corrected"] < expected["compression_unbiased"]).all()


def test_masked_positions_and_left_out_classes_have_no_influence() -> None:
    """Means over the real positions, of three of four classes: as if there were nothing else."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(40) % 4
    tokens = torch.randn(40, 5, 6, generator=generator) + 2 * torch.eye(4, 6)[labels].unsqueeze(1)
    mask = torch.ones(40, 5, dtype=torch.bool)
    mask[:, 3:] = False
    spoilt = torch.where(mask.unsqueeze(2), tokens, 1e3)
    model, options = nn.Linear(6, 6), {"uncertainty": True, "pool": "mean"}
    found = nc.analyze(model, [(spoilt, labels)], mask_fn=lambda batch: mask, classes=[0, 1, 2], **options)
    kept = labels != 3
    expected = nc.analyze(model, [(tokens[kept][:, :3], labels[kept])], **options)
    for name in ("compression_corrected", "compression_interval"):
        assert np.isfinite(expected[name]).all()
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4)  # float32 features


# Resuming -----------------------------------------------------------------------------------------------------------


class Stopping:
    """A loader that fails in one of its rounds."""

    def __init__(self, error: type[BaseException], when: int, stop: int) -> None:
        self.error, self.when, self.stop = error, when, stop

    def __iter__(self) -> Iterator[Any]:
        self.when -= 1
        yield from batches()[: self.stop if self.when == 0 else None]
        if self.when == 0:
            raise self.error("stop here")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_second_pass_continues_to_the_last_bit(tmp_path: Path, error: type[BaseException]) -> None:
    options: dict[str, Any] = {
        "quantities": [SPREAD, HIT_SUM],
        "uncertainty": True,
        "probes": True,
        "mode": "train",
        "weighting": "frequency",
    }
    torch.manual_seed(3)
    model = build()
    unbroken = nc.analyze(model, batches(), test_loader=batches(30), **options)
    calls = watched(model)
    for when, stop, passed in ((1, 2, 2), (2, 1, 2 + 1), (2, 3, 2)):
        calls.clear()
        torch.manual_seed(3)
        with pytest.raises(error, match="stop here"):
            nc.analyze(
                model, Stopping(error, when, stop), test_loader=batches(30), resume=tmp_path / "state", **options
            )
        assert len(calls) == passed  # what was finished is passed over
    calls.clear()
    torch.manual_seed(3)
    found = nc.analyze(model, batches(), test_loader=batches(30), resume=tmp_path / "state", **options)
    assert len(calls) == 1 + 2
    assert found.drop_attrs().equals(unbroken.drop_attrs())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "state.second", "state.test_loader"]
    calls.clear()
    torch.manual_seed(3)
    again = nc.analyze(model, batches(), test_loader=batches(30), resume=tmp_path / "state", **options)
    assert not calls
    assert again.drop_attrs().equals(unbroken.drop_attrs())


def test_a_failing_forward_in_the_second_pass_leaves_no_half_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL", 0.0)
    monkeypatch.setattr(saving, "SAVE_SHARE", math.inf)
    calls: list[int] = []

    def fail(module: nn.Module, args: Any) -> None:
        calls.append(1)
        if len(calls) == len(batches()) + 3:
            raise RuntimeError("stop here")

    model = build()
    model[3].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="stop here"):
        nc.analyze(model, batches(), quantities=SPREAD, resume=tmp_path / "state")
    found = nc.analyze(model, batches(), quantities=SPREAD, resume=tmp_path / "state")
    assert len(calls) == len(batches()) + 3 + 2
    assert found.drop_attrs().equals(nc.analyze(build(), batches(), quantities=SPREAD).drop_attrs())


def test_other_quantities_weights_or_another_first_pass_are_refused_and_the_first_pass_kept(tmp_path: Path) -> None:
    nc.analyze(build(), batches(), quantities=SPREAD, resume=tmp_path / "state")
    with pytest.raises(nc.StateFileError, match=r"state\.second was written .*other settings \(quantities of totals"):
        nc.analyze(build(), batches(), quantities=[SPREAD, HITS], resume=tmp_path / "state")
    with pytest.raises(nc.StateFileError, match=r"state\.second was written .*other settings \(weighting"):
        nc.analyze(build(), batches(), quantities=SPREAD, weighting="frequency", resume=tmp_path / "state")
    with pytest.raises(nc.StateFileError, match=r"state\.second was written .*other settings \(first pass"):
        nc.analyze(build(), [*batches(), *batches()], quantities=SPREAD, resume=tmp_path / "state")
    (tmp_path / "state.second").unlink()
    model = build()
    calls = watched(model)
    nc.analyze(model, [*batches(), *batches()], quantities=[SPREAD, HITS], resume=tmp_path / "state")
    assert len(calls) == 2 * len(batches())  # the first pass has them all already


def test_an_analysis_killed_in_its_second_pass_continues_there_in_a_new_process(tmp_path: Path) -> None:
    driver = SimpleNamespace(**runpy.run_path(str(DRIVER)))
    state, result = tmp_path / "state", tmp_path / "result.nc"
    command = [sys.executable, str(DRIVER), str(state), str(result)]
    with subprocess.Popen([*command, "0.03"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(driver.NUM_BATCHES + 6):
            assert process.stdout.readline() == "batch\n"
        process.send_signal(signal.SIGKILL)
    header, tensors = read_state(tmp_path / "state.second", "pass")
    assert header["settings"]["pass"] == "second"
    assert {name.partition("/")[0] for name in tensors} == {"features", "influence", "totals", "random state"}
    again = subprocess.run([*command, "0"], capture_output=True, text=True, check=True).stdout
    assert again.count("batch\n") == driver.NUM_BATCHES - header["num_batches"]
    unbroken = nc.analyze(driver.build(), driver.batches(), **driver.OPTIONS)
    assert nc.open(result).drop_attrs().equals(unbroken.drop_attrs())
