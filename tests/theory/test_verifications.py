"""Verdicts and verifications as values: outcomes, status, text, HTML, JSON, dataset; inputs they refuse."""

import json
import math
import re

import numpy as np
import pytest
import torch

from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import Assumption, LinearProblem, Verdict, Verification, verify
from neurocollapse.theory.assumptions import balance, data_gram, spectrum_split, whitened

LAYER_VARIABLES = (
    "compression",
    "decay_ratio",
    "prior_lower",
    "prior_upper",
    "posterior_lower",
    "posterior_upper",
    "printed_lower",
    "printed_upper",
    "rate",
    "separation_uncentred",
    "separation_prior_lower",
    "separation_printed_lower",
)


@pytest.mark.parametrize(
    ("measured", "lower", "upper", "unmet", "outcome"),
    [
        (1.0, 0.5, 2.0, [], "holds"),
        (0.4, 0.5, 2.0, [], "violated"),
        (2.1, 0.5, 2.0, [], "violated"),
        (2.0 + 1e-7, 0.5, 2.0, [], "holds"),
        (2.0 + 1e-5, 0.5, 2.0, [], "violated"),
        (2.1, 0.5, 2.0, ["x"], "assumptions unmet"),
        (1.0, 0.5, 2.0, ["x"], "assumptions unmet"),
        (math.nan, 0.5, 2.0, [], "assumptions unmet"),
        (1.0, math.nan, 2.0, [], "assumptions unmet"),
        (0.0, -math.inf, 1.0, [], "holds"),
        (5.0, 1.0, math.inf, [], "holds"),
    ],
)
def test_outcomes(measured: float, lower: float, upper: float, unmet: list[str], outcome: str) -> None:
    assert Verdict.judge("claim", "source", measured, lower, upper, tolerance=1e-6, unmet=unmet).outcome == outcome


def test_slack_is_the_room_to_the_nearer_side() -> None:
    verdict = Verdict.judge("claim", "source", 2.0, 1.5, 4.0, tolerance=0.0)
    assert verdict.slack == pytest.approx(0.25)
    assert verdict.tightness == (pytest.approx(2 / 1.5), pytest.approx(2.0))
    assert Verdict.judge("claim", "source", 5.0, 1.5, 4.0, tolerance=0.0).slack == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("outcomes", "status"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "assumptions unmet"], "assumptions unmet"),
        (["assumptions unmet", "violated", "holds"], "violated"),
        ([], "assumptions unmet"),
    ],
)
def test_nothing_unmet_or_violated_is_ever_passed(outcomes: list[str], status: str) -> None:
    verdicts = tuple(Verdict("c", "r", 1.0, 0.0, 2.0, 0.5, 0.0, outcome) for outcome in outcomes)
    assert Verification("title", {}, verdicts).status == status


def test_a_verification_is_read_only(trained_case) -> None:
    verification = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    with pytest.raises(AttributeError):
        verification.title = "other"
    with pytest.raises(TypeError):
        verification.assumptions["x"] = None
    verification.to_dataset()["rate"][:] = 0
    assert float(verification.to_dataset()["rate"][1]) > 0


def test_the_dataset_has_every_variable_along_layer(trained_case, tmp_path) -> None:
    table = verify(trained_case.weights, trained_case.inputs, trained_case.labels).to_dataset()
    for name in LAYER_VARIABLES:
        assert table[name].dims == ("layer",)
        assert {"long_name", "units", "symbol", "convention", "reference", "role"} <= set(table[name].attrs)
    assert table["layer"].values.tolist() == [0, 1, 2, 3, 4]
    assert table.attrs["status"] == "holds"
    for name in ("decay_ratio", "prior_lower", "posterior_upper", "printed_lower", "rate"):
        assert math.isnan(table[name][0])
    expected = table["compression"].values[1:] / table["compression"].values[:-1]
    np.testing.assert_array_equal(table["decay_ratio"].values[1:], expected)
    table.to_netcdf(tmp_path / "verification.nc", engine="h5netcdf")


def test_text_html_and_json_say_the_same(trained_case) -> None:
    verification = verify(trained_case.weights, 3 * trained_case.inputs, trained_case.labels)
    text, page, content = repr(verification), verification._repr_html_(), json.loads(verification.to_json())
    for name, assumption in verification.assumptions.items():
        assert name in text
        assert name in page
        assert content["assumptions"][name]["met"] == assumption.met
    assert content["status"] == verification.status == "holds"
    assert content["theorems"]["prior"] == verification.theorems["prior"].status == "assumptions unmet"
    assert "NOT MET" in text
    assert "undefined" in text  # a bound without its assumptions
    assert "nan to" not in text + page
    for claim in verification.claims:
        assert claim.reason[:30] in text
        assert claim.reason in page
    assert len(content["verdicts"]) == len(verification.verdicts)
    assert content["variables"]["prior_upper"]["data"][1] is None


def test_no_number_is_printed_as_programs_write_it(trained_case) -> None:
    verification = verify([1e-3 * weight for weight in trained_case.weights], trained_case.inputs, trained_case.labels)
    for shown in (repr(verification), verification._repr_html_()):
        assert not re.findall(r"\d[.\d]*e[+-]\d+|\b(?:inf|nan)\b|[ >]-\d", shown)
        assert "×10⁻" in shown


def test_notebooks_fold_the_evidence_below_the_claims(trained_case) -> None:
    page = verify(trained_case.weights, trained_case.inputs, trained_case.labels)._repr_html_()
    before, *folded = page.split("<details>")
    assert "Certified compression, D<sub>l</sub>/D<sub>l−1</sub> &lt; 1" in before
    assert "assumption</th>" in folded[0]
    assert len(folded) == page.count("</details>") > 3
    # Without claims the verdicts are the conclusion.
    verdict = Verdict.judge("a ≤ 2", "arithmetic", 1.0, upper=2.0, tolerance=0.0)
    assert "<details>" not in Verification("title", {}, (verdict,))._repr_html_()


def test_claims_of_one_source_share_a_table() -> None:
    claims = [("a", "first"), ("b", "second"), ("c", "first")]
    verdicts = tuple(Verdict.judge(*claim, 1.0, upper=2.0, tolerance=0.0) for claim in claims)
    lines = [line.strip() for line in repr(Verification("title", {}, verdicts)).splitlines()]
    assert [line[:6].strip() for line in lines if line] == [
        "title",
        "first",
        "claim",
        "a",
        "c",
        "second",
        "claim",
        "b",
        "Outcom",
    ]


def test_html_is_escaped() -> None:
    assumption = Assumption("<b>", 1.0, 1.0, 1.0, True, "<script>")
    page = Verification("<i>", {"<b>": assumption}, (), notes=("a < b",))._repr_html_()
    assert "<script>" not in page
    assert "<i>" not in page
    assert "a &lt; b" in page


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_either_precision_are_verified_in_double(trained_case, dtype: torch.dtype) -> None:
    weights = [weight.to(dtype) for weight in trained_case.weights]
    verification = verify(weights, trained_case.inputs.to(dtype), trained_case.labels)
    assert verification.status == "holds"
    assert verification.to_dataset().attrs["weights_dtype"] == str(dtype).removeprefix("torch.")
    assert verification.to_dataset()["compression"].dtype == np.float64
    assert any(str(dtype).removeprefix("torch.") in note for note in verification.notes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_weights_on_a_gpu_are_verified(trained_case) -> None:
    weights = [weight.cuda() for weight in trained_case.weights]
    assert verify(weights, trained_case.inputs.cuda(), trained_case.labels.cuda()).status == "holds"


def test_what_rounding_hides_is_not_judged(exact) -> None:
    case = exact(1, depth=(8, 8), epsilon=(0.005, 0.005))
    verification = verify(case.weights, case.inputs, case.labels)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions["resolution"].met
    for level in ("a priori", "a posteriori"):
        ratios = [verdict for verdict in verification.verdicts if level in verdict.reference and "D_" in verdict.claim]
        assert "resolution at layer" in ratios[-1].reason
    assert not any(verdict.outcome == "violated" for verdict in verification.verdicts)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"inputs": torch.ones(12, 5)}, "near_orthonormal_data"),
        ({"labels": torch.tensor([0] * 7 + [1] * 5)}, "balanced_classes"),
    ],
)
def test_data_the_theorem_does_not_cover_is_named(change: dict, name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 5, generator=generator)
    given = {"inputs": inputs, "labels": torch.arange(12) % 2, **change}
    weights = [torch.randn(5, 5, generator=generator), torch.randn(2, 5, generator=generator)]
    verification = verify(weights, given["inputs"], given["labels"])
    assert verification.theorems["prior"].status == "assumptions unmet"
    assert not verification.assumptions[name].met


def test_fewer_features_than_samples_says_so() -> None:
    verification = verify([torch.eye(5), torch.eye(5)[:2]], torch.randn(12, 5), torch.arange(12) % 2)
    assert "12 samples have only 5 features" in verification.assumptions["near_orthonormal_data"].meaning


@pytest.mark.parametrize(
    ("weights", "samples", "name"),
    [
        ([torch.eye(6)[:2]], 3, "depth"),
        ([torch.eye(6)[:2], torch.eye(2)], 3, "width"),
        ([torch.eye(6), torch.eye(6)[:2]], 1, "several_samples_per_class"),
    ],
)
def test_shapes_the_theorem_does_not_cover_are_named(weights: list, samples: int, name: str) -> None:
    labels = torch.arange(2).repeat_interleave(samples)
    verification = verify(weights, torch.eye(6)[: 2 * samples], labels)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions[name].met


EYE = torch.eye(4)
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("weights", "inputs", "labels", "message"),
    [
        ([], EYE, LABELS, "at least one weight matrix"),
        ([torch.zeros(4, 4, 3, 3)], EYE, LABELS, "must be a real matrix of shape"),
        ([EYE.long()], EYE, LABELS, "must be a real matrix of shape"),
        ([EYE, torch.zeros(2, 3)], EYE, LABELS, "weight 2 takes 3 features but weight 1 gives 4"),
        ([torch.zeros(4, 3), EYE[:2]], EYE, LABELS, "weight 1 takes 3 features but `inputs` have 4"),
        ([EYE * math.nan, EYE[:2]], EYE, LABELS, "NaN or infinite"),
        ([EYE, EYE[:2]], EYE, torch.zeros(4).long(), "at least two classes, got one"),
        ([EYE, EYE[:2]], EYE, torch.tensor([0, 1, 2, 0]), r"integers in \[0, 2\).*got 2 at position 2"),
        ([EYE, EYE[:2]], EYE, LABELS.float(), "one integer per sample"),
        ([EYE, EYE[:2]], EYE, LABELS[:3], "one integer per sample"),
        ([EYE, EYE[:2]], EYE[0], LABELS, r"shape \(samples, features\)"),
        ([EYE, EYE[:2]], EYE[:0], LABELS[:0], r"shape \(samples, features\)"),
        ([EYE, EYE[:2]], EYE.index_fill(0, torch.tensor(2), math.nan), LABELS, "`inputs` must be finite.*sample 2"),
    ],
)
def test_what_cannot_be_verified_is_one_clear_line(weights, inputs, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        verify(weights, inputs, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_weight_of_too_low_a_rank_leaves_the_assumptions_unmet(layer: int, rank: int) -> None:
    weights = [torch.eye(8).double(), torch.eye(8).double(), torch.eye(8)[:3].double()]
    weights[layer][rank:] = 0
    X = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    verification = verify(weights, X, torch.arange(12) % 3)
    assert verification.status == "assumptions unmet"
    assert "violated" not in {verdict.outcome for verdict in verification.verdicts}


@pytest.mark.parametrize(
    "option", [{"tolerance": -1.0}, {"tolerance": math.nan}, {"output_scale": 0.0}, {"separation_means": "both"}]
)
def test_wrong_options_are_refused(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        verify([EYE, EYE[:2]], EYE, LABELS, **option)


def test_layers_that_widen_are_measured_where_features_can_be() -> None:
    X = torch.randn(12, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    problem = LinearProblem.of(linear_weights([8, 20, 20, 3], "orth", 0.5, seed=1), X, torch.arange(12) % 3)
    assert balance(problem.weights).interior_spectral[0] == pytest.approx(0.25)
    reachable = problem.reachable.weights
    assert [tuple(weight.shape) for weight in reachable] == [(8, 8), (8, 8), (3, 8)]
    assert balance(reachable).interior_spectral[0] < 1e-14
    for turned, features in zip(problem.reachable.spreads, problem.spreads, strict=True):
        torch.testing.assert_close(turned.T @ turned, features.T @ features)
    square = LinearProblem.of(linear_weights([8, 8, 5, 3]), X, torch.arange(12) % 3)
    assert square.reachable is square


def test_theta_does_not_depend_on_the_blocks_it_is_formed_in(monkeypatch) -> None:
    X = torch.randn(11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) / 4
    whole = data_gram(X)
    monkeypatch.setattr("neurocollapse.theory.assumptions.BLOCK_ROWS", 4)
    assert data_gram(X).theta == pytest.approx(whole.theta, rel=1e-14)


def test_assumption_numbers_against_loops() -> None:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(6, 9, dtype=torch.float64, generator=generator) / 3
    entries = [abs(float(X[i] @ X[j]) - (i == j)) for i in range(6) for j in range(6)]
    theta, spectral = data_gram(X)
    assert theta == pytest.approx(6 * max(entries))
    assert spectral == pytest.approx(float(np.linalg.norm(X.numpy() @ X.numpy().T - np.eye(6), 2)))
    assert spectral <= theta
    W = [torch.randn(9, 9, generator=generator).double() for _ in range(3)]
    measured = balance(W)
    differences = [(W[i + 1].T @ W[i + 1] - W[i] @ W[i].T).numpy() for i in range(2)]
    assert measured.interior_spectral[0] == pytest.approx(np.linalg.norm(differences[0], 2))
    assert measured.last_frobenius == pytest.approx(np.linalg.norm(differences[1]))
    split = spectrum_split([torch.linalg.svdvals(weight) for weight in W], 2)
    spectra = [np.linalg.svd(weight.numpy(), compute_uv=False) for weight in W]
    assert split.epsilon == pytest.approx(max(values[2] for values in spectra))
    assert split.rho == pytest.approx(split.epsilon - min(values[6] for values in spectra))
    assert whitened(torch.eye(4).double(), 1e-9).met
    assert whitened(2 * torch.eye(4).double(), 1e-9).residual == pytest.approx(3.0)
