"""Adapters on a vision transformer: what each method trains and merges, and claims that fail on planted datasets."""

import copy
import dataclasses
import sys
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import neurocollapse as nc
from neurocollapse.data import LabelledData
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.adapters import packages, vision, vision_methods
from neurocollapse.experiments.adapters.vision import EXPERIMENT
from neurocollapse.experiments.adapters.vision_claims import claims
from neurocollapse.experiments.adapters.vision_methods import adapted, num_steps
from neurocollapse.experiments.adapters.vision_settings import ADAPTERS, METHODS, AdaptersVision
from neurocollapse.experiments.transfer.sources import Halves
from neurocollapse.models import ModelError, SmallViT
from tests.experiments.judged import outcomes_of

QUIET = Workplace(progress=False)
TINY = AdaptersVision(
    width=8,
    depth=1,
    num_heads=2,
    hidden_width=8,
    rank=2,
    num_repeats=2,
    pretraining_epochs=1,
    epochs=1,
    samples_per_class=20,
)
WITHOUT_PEFT = tuple(method for method in METHODS if method != "AdaLoRA")
LAYERS = ("blocks.0.attention.qkv", "blocks.0.attention.output", "blocks.0.mlp.expand", "blocks.0.mlp.contract")
outcomes = partial(outcomes_of, claims)


def samples(count: int = 40) -> LabelledData:
    """Images of two classes, which differ in their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    inputs = torch.rand(count, 1, 8, 8, generator=generator) + labels[:, None, None, None]
    return LabelledData(inputs, labels, ("dark", "light"), "lights")


def model() -> SmallViT:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SmallViT(8, 2, patch_size=2, width=8, depth=1, num_heads=2, hidden=8)


def test_it_is_listed() -> None:
    assert EXPERIMENTS["adapters-vision"] is EXPERIMENT


def changed_weights(before: nn.Module, after: nn.Module) -> set[str]:
    """Names of the parameters that are others now."""
    then = dict(before.named_parameters())
    now = dict(after.named_parameters())
    assert then.keys() == now.keys()  # merged adapters leave no trace
    return {name for name, value in now.items() if not torch.equal(value, then[name])}


@pytest.mark.parametrize("method", METHODS)
def test_each_method_changes_what_it_trains_and_leaves_a_plain_model(method: str) -> None:
    if method == "AdaLoRA":
        pytest.importorskip("peft", reason="peft is an optional dependency")
    before = model()
    after, setting = copy.deepcopy(before), dataclasses.replace(TINY, epochs=10, batch_size=10, adapter_rate=0.05)
    state = torch.get_rng_state()
    found = adapted(after, setting, method, samples(), samples(10), seed=0)
    assert torch.equal(state, torch.get_rng_state())
    head = {"head.weight", "head.bias"}
    expected = {f"{layer}.weight" for layer in LAYERS} | head
    changed = changed_weights(before, after)
    if method == "full":
        assert changed > expected
    else:
        assert changed == (head if method == "probe" else expected)
    sizes = {"blocks.0.attention.qkv": 8 + 24}
    pairs = sum(sizes.get(layer, 16) for layer in LAYERS)  # inputs and outputs
    num_head, total = 8 * 2 + 2, sum(parameter.numel() for parameter in before.parameters())
    counts = {
        "full": total,
        "probe": num_head,
        "LoRA": num_head + 2 * pairs,
        "AdaLoRA": num_head + 3 * (pairs + 4),
        "Deep LoRA": num_head + 2 * pairs + 4 * 4,
        "compressed Deep LoRA": num_head + 2 * pairs + 4 * 3 * 4,
    }
    assert int(found["num_trained"]) == counts[method]
    assert int(found["num_parameters"]) == total
    if method == "AdaLoRA":
        assert num_head < int(found["num_kept"]) < counts[method]
    else:
        assert int(found["num_kept"]) == counts[method]
    assert found["layer"].values.tolist() == list(LAYERS)
    assert float(found["accuracy"]) == float(
        (after(samples(10).inputs).argmax(dim=1) == samples(10).labels).double().mean()
    )


def test_the_layers_are_measured_at_the_class_token_of_the_merged_model() -> None:
    tuned = model()
    found = adapted(tuned, TINY, "LoRA", samples(), samples(10), seed=0)
    with nc.capture(tuned, LAYERS[-1], pool="cls") as captured, torch.no_grad():
        tuned.eval()(samples().inputs)
        moments = nc.ClassMoments.from_features(captured[LAYERS[-1]], samples().labels)
    assert float(found["compression"][-1]) == pytest.approx(nc.metrics.compression(moments), rel=1e-4)  # of float32


def test_adalora_ends_with_the_budget_of_lora() -> None:
    peft = pytest.importorskip("peft", reason="peft is an optional dependency")
    assert packages.peft() is peft
    setting = dataclasses.replace(TINY, epochs=10, batch_size=10, adapter_rate=0.05)
    tuned, steps = model(), num_steps(setting, 40)
    assert steps == 40
    learner = vision_methods._learner(tuned, setting, "AdaLoRA", list(LAYERS), samples(), seed=0)
    vision_methods.train(
        tuned,
        learner.groups,
        samples(),
        vision_methods.Recipe((), 0, setting.epochs, setting.batch_size, setting.adapter_rate, 0.0),
        learner.loss,
        after_step=learner.after_step,
    )
    kept = [layer.lora_E["default"].count_nonzero() for layer in tuned.modules() if hasattr(layer, "lora_E")]
    assert len(kept) == len(LAYERS)
    assert 0 < sum(map(int, kept)) <= setting.rank * len(LAYERS) < 3 * len(LAYERS)
    outputs = tuned(samples().inputs)
    learner.finish()
    torch.testing.assert_close(tuned(samples().inputs), outputs, rtol=1e-4, atol=1e-5)  # merged in float32


def test_the_penalty_of_adalora_is_its_definition() -> None:
    pytest.importorskip("peft", reason="peft is an optional dependency")
    tuned = model()
    adapters = vision_methods.inject_adalora(tuned, LAYERS, rank=2, num_steps=10)
    total, count = 0.0, 0
    for layer in (layer for layer in tuned.modules() if hasattr(layer, "lora_E")):
        first, second = (side["default"].detach().double().numpy() for side in (layer.lora_A, layer.lora_B))
        for gram in (first @ first.T, second.T @ second):
            total += np.sqrt(((gram - np.eye(len(gram))) ** 2).sum())
            count += 1
    assert count == 2 * len(LAYERS)
    assert float(adapters.penalty().detach()) == pytest.approx(0.5 * total / count, rel=1e-6)


def test_without_peft_adalora_is_refused_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(vision, "_source", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ModelError, match="AdaLoRA needs peft, which is not installed; pip install"):
        EXPERIMENT(TINY, workplace=QUIET)


def test_it_runs_goes_on_and_draws_from_its_file(tmp_path: Path) -> None:
    setting = dataclasses.replace(TINY, methods=WITHOUT_PEFT)
    outcome = EXPERIMENT(setting, workplace=Workplace(folder=tmp_path / "parts", progress=False))
    assert outcome.dataset["nc1"].dims == ("repeat", "tuning", "layer")
    assert outcome.dataset["printed_accuracy"].sel(printed_data="cifar10").values[[0, 2]].tolist() == [0.9907, 0.9897]
    assert "not comparable" in outcome.dataset["printed_accuracy"].attrs["convention"]
    assert outcome.dataset["nc1"].isel(layer=0).isnull().all()  # the class token has not seen the image
    assert outcome.dataset["nc1"].isel(layer=slice(1, None)).notnull().all()
    (tmp_path / "parts" / "1-LoRA.nc").unlink()
    again = EXPERIMENT(setting, workplace=Workplace(folder=tmp_path / "parts", progress=False))
    xr.testing.assert_identical(outcome.dataset.drop_attrs(), again.dataset.drop_attrs())
    nc.save(outcome.dataset, tmp_path / "outcome.nc")
    restored = EXPERIMENT.restored(nc.open(tmp_path / "outcome.nc"))
    assert restored.verdicts == outcome.verdicts
    figure = restored.figure()
    assert [len(axes.lines) for axes in figure.axes] == [2 * len(WITHOUT_PEFT), *[len(WITHOUT_PEFT)] * 2]
    plt.close(figure)


def pretrained() -> nn.Module:
    """A user's own model, with a last layer of another name, for images of 16 × 16."""
    own = SmallViT(16, 7, patch_size=4, width=8, depth=1, num_heads=2, hidden=8)
    return nn.Sequential(own, nn.Linear(7, 3))


def test_a_users_own_checkpoint_is_adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(pretrained().state_dict(), tmp_path / "own.pt")
    monkeypatch.setitem(sys.modules, "own_models", sys.modules[__name__])
    setting = dataclasses.replace(
        TINY,
        model="own_models:pretrained",
        checkpoint=str(tmp_path / "own.pt"),
        image_size=16,
        head="1",
        layers=("0.blocks.**.attention.*",),
        methods=("full", "probe", "LoRA"),
        num_repeats=1,
        epochs=0,
    )
    dataset = EXPERIMENT.run(setting, QUIET)
    assert dataset["layer"].values.tolist() == ["0.blocks.0.attention.qkv", "0.blocks.0.attention.output"]
    with pytest.raises(ModelError, match="`head` must name a linear layer"):
        EXPERIMENT.run(dataclasses.replace(setting, head="0"), QUIET)
    with pytest.raises(ValueError, match="`checkpoint` needs a `model`"):
        dataclasses.replace(setting, model=None)


def test_few_samples_are_the_same_for_every_method() -> None:
    half = Halves.of("digits", QUIET).target["train"]
    few = vision._few(half, 3, seed=1)
    assert few.labels.bincount().tolist() == [3] * 5
    assert torch.equal(few.inputs, vision._few(half, 3, seed=1).inputs)
    assert vision._few(half, None, seed=1) is half


def planted(
    *, lost: float = 0.005, probe: float = 0.2, adalora: float = 0.0, nc1: float = 0.2, parameters: int = 30_000
) -> xr.Dataset:
    """Three repeats in which adapters lose so much accuracy, the head alone and AdaLoRA so much more."""
    accuracy = dict.fromkeys(METHODS, 0.95 - lost) | {"full": 0.95, "probe": 0.95 - probe}
    accuracy["AdaLoRA"] -= adalora
    scatter = np.array([-0.001, 0.0, 0.001])
    table = np.array([[accuracy[method] + one for method in METHODS] for one in scatter])
    spread = np.ones((3, len(METHODS), 2))
    spread[..., 1] = [nc1 if method in ADAPTERS else 1.0 for method in METHODS]
    trained = np.array([parameters, 100, *[200] * 4])
    return xr.Dataset(
        {
            "accuracy": (("repeat", "tuning"), table),
            "nc1": (("repeat", "tuning", "layer"), spread),
            "share": ("tuning", trained / parameters),
            "num_parameters": parameters,
        },
        {"tuning": list(METHODS), "layer": ["first", "last"]},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lost": 0.05}, "above full training's"),
        ({"adalora": 0.03}, "AdaLoRA: accuracy above LoRA's"),
        ({"adalora": -0.03}, "AdaLoRA: accuracy above LoRA's"),
        ({"nc1": 1.2}, "NC1 at the last"),
    ],
)
def test_each_claim_fails_on_another_outcome(change: dict[str, float], words: str) -> None:
    assert outcomes(planted(), words) == {"holds"}
    assert outcomes(planted(**change), words) == {"violated"}


def test_the_share_is_judged_of_large_models_only() -> None:
    assert not any("share of the parameters trained" in verdict.claim for verdict in claims(planted()))
    assert outcomes(planted(parameters=10**8), "share of the parameters trained") == {"holds"}
    large = planted(parameters=10**8)
    large["share"].values[2:] = 0.02
    assert outcomes(large, "share of the parameters trained") == {"violated"}
    assert outcomes(planted(), "0.7% of the parameters") == {"holds"}


def test_nothing_is_claimed_where_the_head_alone_does_or_is_missing() -> None:
    for dataset in (planted(probe=0.01), planted().sel(tuning=[m for m in METHODS if m != "probe"])):
        assert {verdict.outcome for verdict in claims(dataset)} == {"assumptions unmet"}


def test_settings_that_cannot_run_are_refused() -> None:
    with pytest.raises(ValueError, match="`methods` must be"):
        AdaptersVision(methods=("magic",))
    with pytest.raises(ValueError, match="`rank` must be even"):
        AdaptersVision(rank=3)


@pytest.mark.slow
def test_the_small_setting_comes_out_as_it_says() -> None:
    """New classes collapse under every adapter, less than in full training; compressed ones lose points of accuracy.

    Whether the others are within a point, and AdaLoRA as good as LoRA, depends on the seed.
    """
    pytest.importorskip("peft", reason="peft is an optional dependency")
    outcome = EXPERIMENT(workplace=QUIET)
    assert {verdict.outcome for verdict in outcome.verdicts if "NC1" in verdict.claim} == {"holds"}
    assert "assumptions unmet" not in {verdict.outcome for verdict in outcome.verdicts}
    last = np.log(outcome.dataset["nc1"].isel(layer=-1)).mean("repeat")
    assert all(float(last.sel(tuning=one)) > float(last.sel(tuning="full")) for one in ADAPTERS)
    assert outcomes(outcome.dataset, "compressed Deep LoRA (10.0% of the parameters)") == {"violated"}
