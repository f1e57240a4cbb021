"""Transfer to the other half of the classes: what sources are, and claims that fail on planted datasets."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr

import neurocollapse as nc
from neurocollapse.data import LabelledData
from neurocollapse.experiments import EXPERIMENTS, Workplace
from neurocollapse.experiments.transfer import class_means, collapse, fewshot, layerwise
from neurocollapse.experiments.transfer.sources import TEMPERATURE, Halves, Recipe, contrastive_loss, train_source

QUIET = Workplace(progress=False)
TINY = {"channels": (4, 8), "width": 8, "batch_size": 128}
OUTCOMES = {"holds", "violated", "assumptions unmet"}


def becomes(claims, dataset, words):
    """What becomes of the one claim that has these words."""
    (found,) = (verdict.outcome for verdict in claims(dataset) if words in verdict.claim)
    return found


def test_halves_share_no_class_and_lose_no_sample():
    halves = Halves.of("digits", QUIET)
    whole = QUIET.samples("digits", split="train")
    source, target = halves.source["train"], halves.target["train"]
    assert (source.num_classes, target.num_classes) == (5, 5)
    assert source.classes + target.classes == whole.classes
    assert len(source) + len(target) == len(whole)
    assert torch.equal(target.labels + 5, whole.labels[whole.labels >= 5])
    torch.testing.assert_close(target.inputs, whole.inputs[whole.labels >= 5])


def test_too_few_classes_are_refused(tmp_path):
    images, labels = np.zeros((6, 1, 4, 4), np.float32), np.arange(6) % 3
    np.savez(tmp_path / "two.npz", inputs=images, labels=labels, test_inputs=images, test_labels=labels)
    with pytest.raises(ValueError, match="at least 4 classes"):
        Halves.of(f"npz:{tmp_path / 'two.npz'}", QUIET)


def test_the_contrastive_loss_is_its_definition():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 2, 0, 1])  # 2 stands alone
    unit = features / features.norm(dim=1, keepdim=True)
    total, anchors = 0.0, 0
    for i in range(7):
        alike = [j for j in range(7) if j != i and labels[j] == labels[i]]
        if not alike:
            continue
        below = sum(math.exp(float(unit[i] @ unit[a]) / TEMPERATURE) for a in range(7) if a != i)
        total -= sum(float(unit[i] @ unit[p]) / TEMPERATURE - math.log(below) for p in alike) / len(alike)
        anchors += 1
    assert float(contrastive_loss(features, labels)) == pytest.approx(total / anchors, rel=1e-12)
    torch.testing.assert_close(contrastive_loss(3 * features, labels), contrastive_loss(features, labels))


def test_the_contrastive_loss_of_strangers_is_zero_with_a_gradient():
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = contrastive_loss(features, torch.arange(3))
    loss.backward()
    assert loss.item() == 0.0
    assert features.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "contrastive"])
@pytest.mark.parametrize("projections", [0, 2])
def test_a_source_gives_features_and_leaves_the_random_state(loss, projections):
    samples = Halves.of("digits", QUIET).source["train"].subset(range(60))
    recipe = Recipe((4,), 8, 1, 30, 1e-3)
    before = torch.get_rng_state()
    first = train_source(samples, recipe, loss=loss, num_projections=projections, seed=3)
    second = train_source(samples, recipe, loss=loss, num_projections=projections, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    outputs = first.eval()(samples.inputs)
    assert outputs.shape == (60, 8)
    assert torch.equal(outputs, second.eval()(samples.inputs))


def test_they_are_listed():
    assert [EXPERIMENTS[f"transfer-{name}"] for name in ("collapse", "layerwise", "fewshot")] == [
        collapse.EXPERIMENT,
        layerwise.EXPERIMENT,
        fewshot.EXPERIMENT,
    ]


def sources(correlation, *, spread=0.2):
    """Twenty-seven sources whose accuracy falls, or rises, with NC1, with a little noise."""
    rng = np.random.default_rng(0)
    nc1 = rng.permutation(np.linspace(1, 9, 27)).reshape(3, 3, 3, 1)
    accuracy = 0.8 + correlation * spread * (nc1 - 5) / 8 + 0.01 * spread * rng.normal(size=nc1.shape)
    axes = ("loss", "projections", "epochs", "repeat")
    return xr.Dataset({"nc1_target": (axes, nc1), "nc1_source": (axes, nc1), "accuracy": (axes, accuracy)})


def test_more_collapse_with_worse_probes_violates_the_claim():
    words = "rank correlation"
    assert becomes(collapse.claims, sources(-1), words) == "holds"
    assert becomes(collapse.claims, sources(1), words) == "violated"
    assert becomes(collapse.claims, sources(0), words) == "assumptions unmet"
    assert becomes(collapse.claims, sources(0, spread=20), words) == "violated"


def test_too_few_networks_are_noticed():
    few = sources(-1).isel(loss=[0], projections=[0, 1], epochs=[0, 2])
    few["accuracy"].values[...] = np.array([0.9, 0.6, 0.7, 0.8]).reshape(few["accuracy"].shape)
    few["nc1_target"].values[...] = np.array([1.0, 2.0, 3.0, 4.0]).reshape(few["accuracy"].shape)
    assert becomes(collapse.claims, few, "narrower") == "violated"
    assert becomes(collapse.claims, sources(-1), "narrower") == "holds"


def test_rank_correlation_is_spearmans():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    first, second = rng.normal(size=20), rng.integers(4, size=20)
    assert collapse.rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic, rel=1e-12)
    assert math.isnan(collapse.rank_correlation(first, np.ones(20)))
    low, high = collapse.rank_correlation_interval(first, first)
    assert (low, high) == pytest.approx((1.0, 1.0), rel=1e-12)


def layers(accuracy, nc1):
    return xr.Dataset({"accuracy": (("repeat", "layer"), accuracy), "nc1": (("repeat", "layer"), nc1)})


@pytest.mark.parametrize(
    ("nc1", "outcome"), [([3.0, 1.0, 2.0], "holds"), ([1.0, 3.0, 2.0], "violated"), ([3.0, 2.0, 1.0], "violated")]
)
def test_the_choice_of_layer_fails_where_nc1_points_elsewhere(nc1, outcome):
    dataset = layers([[0.5, 0.9, 0.8]] * 2, [nc1] * 2)
    assert becomes(layerwise.claims, dataset, "lost by choosing") == outcome


def test_no_choice_is_claimed_where_layers_are_alike():
    dataset = layers([[0.9, 0.905, 0.9]] * 2, [[3.0, 1.0, 2.0]] * 2)
    assert becomes(layerwise.claims, dataset, "lost by choosing") == "assumptions unmet"
    assert becomes(layerwise.claims, dataset, "at random") == "assumptions unmet"


def test_a_choice_no_better_than_chance_violates_the_claim():
    dataset = layers([[0.5, 0.9, 0.7]] * 2, [[3.0, 2.0, 1.0]] * 2)
    assert becomes(layerwise.claims, dataset, "at random") == "violated"


def tuned(*, accuracy=0.02, nc1=0.8, share=0.07):
    """Two ways of tuning, of which the skip is so much better."""
    axes = ("tuning", "shots", "repeat")
    return xr.Dataset(
        {
            "accuracy": (axes, np.stack([np.full((3, 2), 0.7), np.full((3, 2), 0.7 + accuracy)])),
            "nc1": (axes, np.stack([np.full((3, 2), 2.0), np.full((3, 2), 2.0 * nc1)])),
            "share": ("tuning", [0.07, share]),
        },
        {"tuning": ["layer", "layer + skip"], "shots": [1, 10, 50]},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [({"accuracy": -0.02}, "accuracy gained"), ({"nc1": 1.2}, "NC1 with the skip"), ({"share": 0.2}, "share")],
)
def test_each_claim_of_the_skip_fails_on_another_outcome(change, words):
    assert becomes(fewshot.claims, tuned(), words) == "holds"
    assert becomes(fewshot.claims, tuned(**change), words) == "violated"


def test_nothing_is_claimed_without_both_ways_or_few_samples():
    alone = tuned().isel(tuning=[0])
    many = tuned().sel(shots=[50])
    for dataset in (alone, many):
        assert {verdict.outcome for verdict in fewshot.claims(dataset)} == {"assumptions unmet"}


def errors(error, bound, standard=0.001):
    """One number of shots on both halves."""
    names = {"error": error, "error_standard": [standard] * 2, "error_bound": bound}
    return xr.Dataset({name: (("half", "shots"), np.transpose([values])) for name, values in names.items()})


@pytest.mark.parametrize(
    ("error", "bound", "expected"),
    [
        ([0.3, 0.02], [1.0, 0.4], "holds"),
        ([0.3, 0.41], [1.0, 0.4], "violated"),
        ([0.3, 0.402], [1.0, 0.4], "holds"),  # chance
        ([0.3, 0.02], [1.0, 1.0], "assumptions unmet"),  # says nothing
    ],
)
def test_an_error_above_its_bound_violates_the_claim(error, bound, expected):
    assert class_means.bound_claim(errors(error, bound)).outcome == expected


def test_an_older_outcome_claims_nothing_of_class_means():
    assert becomes(fewshot.claims, tuned(), "error of nearest class means") == "assumptions unmet"


def test_class_means_of_few_samples_err_as_often_as_by_hand_and_less_than_their_bound():
    halves = Halves.of("digits", QUIET)
    plain = torch.nn.Flatten()
    found = class_means.class_mean_errors(plain, halves, (1, 20), draws=12, seed=3)
    samples = halves.target["train"]
    features, labels = samples.inputs.flatten(1).double().numpy(), samples.labels.numpy()
    random, wrong = torch.Generator().manual_seed(3), []
    for _ in range(12):
        own = [np.flatnonzero(labels == label) for label in range(5)]
        means = [features[rows[torch.randint(len(rows), (20,), generator=random)]].mean(0) for rows in own]
        told = np.array([np.argmin([((one - mean) ** 2).sum() for mean in means]) for one in features])
        wrong.append(np.mean([(told[rows] != label).mean() for label, rows in enumerate(own)]))
    few, many = found["error"].sel(half=class_means.NEW).values
    assert many == pytest.approx(np.mean(wrong), abs=1e-12)
    assert many < few
    assert float(found["error_standard"][0, 1]) == pytest.approx(np.std(wrong, ddof=1) / 12**0.5)
    assert bool((found["error"] <= found["error_bound"]).all())


SMALLEST = {
    "collapse": (
        collapse.EXPERIMENT,
        {"losses": ("mse", "contrastive"), "projections": (0, 1), "epochs": (1,), **TINY},
    ),
    "layerwise": (layerwise.EXPERIMENT, {"num_repeats": 2, "epochs": 1, **TINY}),
    "fewshot": (
        fewshot.EXPERIMENT,
        {"shots": (1, 3), "num_repeats": 2, "epochs": 1, "steps": 2, "rank": 2, "draws": 3, **TINY},
    ),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_runs_goes_on_and_draws_from_its_file(name, tmp_path):
    experiment, changes = SMALLEST[name]
    setting = dataclasses.replace(experiment.small, **changes)
    outcome = experiment(setting, workplace=Workplace(folder=tmp_path / "parts", progress=False))
    assert outcome.status in OUTCOMES
    assert all(np.isfinite(variable).all() for variable in outcome.dataset.data_vars.values())
    again = experiment(setting, workplace=Workplace(folder=tmp_path / "parts", progress=False))
    xr.testing.assert_identical(outcome.dataset.drop_attrs(), again.dataset.drop_attrs())
    nc.save(outcome.dataset, tmp_path / "outcome.nc")
    restored = experiment.restored(nc.open(tmp_path / "outcome.nc"))
    assert restored.verdicts == outcome.verdicts
    figure = restored.figure()
    assert all(axes.lines for axes in figure.axes)
    plt.close(figure)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_claims_hold_in_the_small_setting(name):
    outcome = SMALLEST[name][0](workplace=QUIET)
    assert outcome.status == "holds", outcome


def test_every_way_of_tuning_trains_what_it_says():
    samples = LabelledData(torch.randn(6, 1, 8, 8), torch.arange(6) % 2, ("a", "b"), "few")
    setting = dataclasses.replace(fewshot.EXPERIMENT.small, channels=(4, 8), width=8, rank=2)
    shares = {}
    for way in fewshot.METHODS:
        model = train_source(samples, Recipe((4, 8), 8, 0, 3, 1e-3), loss="mse", num_projections=0, seed=0)
        model.head = torch.nn.Linear(8, 2)
        total = sum(parameter.numel() for parameter in model.parameters())
        learner = fewshot._learner(way, model, setting, samples)
        shares[way] = sum(parameter.numel() for parameter in learner.parameters) / total
        assert all(parameter.requires_grad for parameter in learner.parameters)
    assert shares["full"] == 1.0
    assert shares["probe"] < shares["LoRA"] < shares["layer"] == shares["layer + skip"] < 1.0


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        (collapse.TransferCollapse, {"losses": ("hinge",)}, "`losses` must be"),
        (collapse.TransferCollapse, {"projections": (-1,)}, "`projections` must be at least 0"),
        (fewshot.TransferFewshot, {"methods": ("magic",)}, "`methods` must be"),
        (fewshot.TransferFewshot, {"shots": (0,)}, "`shots` must be at least 1"),
    ],
)
def test_settings_that_cannot_run_are_refused(kind, changes, words):
    with pytest.raises(ValueError, match=words):
        kind(**changes)


def test_more_shots_than_samples_are_refused():
    samples = LabelledData(torch.zeros(4, 1, 4, 4), torch.tensor([0, 0, 0, 1]), ("a", "b"), "few")
    with pytest.raises(ValueError, match="`shots` must not exceed"):
        fewshot._few(samples, 2, seed=0)
