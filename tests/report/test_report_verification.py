"""Verifications on the page: three outcomes that nobody can mistake for each other."""

import importlib
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from neurocollapse.report import report
from neurocollapse.report.verification import bound_tables

OUTCOMES = {"holds": ("✓", "mark holds"), "violated": ("✗", "mark violated"), "assumptions unmet": ("?", "mark unmet")}


@pytest.fixture
def write(tmp_path):
    """Write a report and return its text."""
    return lambda results: report(results, tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def read(write, monkeypatch):
    """The text of a report without its figures, which take most of the time."""
    page = importlib.import_module("neurocollapse.report.page")  # `neurocollapse.report` itself names the function
    monkeypatch.setattr(page, "_pictures", lambda *_: [])
    monkeypatch.setattr(page, "_verification_pictures", lambda *_: [])
    return write


@pytest.mark.parametrize("status", OUTCOMES)
def test_each_outcome_has_a_word_a_sign_and_a_style_of_its_own(read, make_verification, status):
    page = read({"network": make_verification(status)})
    sign, style = OUTCOMES[status]
    assert (
        f'class="{style}"><span class="sign" aria-hidden="true">{sign}</span>\N{NO-BREAK SPACE}{status}</span>' in page
    )
    for other in set(OUTCOMES) - {status}:
        assert f"</span>\N{NO-BREAK SPACE}{other}</span>" not in page


def test_unmet_assumptions_and_violated_claims_are_named(read, make_verification):
    assert "Not met: balancedness." in read(make_verification("assumptions unmet"))
    assert "Violated: decay ratio at layer 0." in read(make_verification("violated"))
    assert "Not met" not in read(make_verification("holds"))


def test_assumptions_and_verdicts_show_their_numbers(read, make_verification):
    page = read(make_verification())
    for expected in ("balancedness", "0.00300", "0.0100", "neighbours have equal", "[W] Theorem 4", "0.2950", "0.0050"):
        assert expected in page


def test_bounds_are_tabled_with_their_tightness(write, make_verification):
    page = write(make_verification())
    assert "<td>0.281 … 0.299</td><td>1.03</td>" in page
    assert page.count("<svg") == 2


def test_mappings_serve_as_assumptions_and_sequences_as_named_values(read, make_verification):
    entry = {"name": "zero loss", "value": 1e-12, "residual": 1e-12, "tolerance": 1e-6, "met": True}
    verdict = {
        "claim": "many ratios",
        "measured": np.array([0.1, 0.2]),
        "lower": None,
        "upper": 0.3,
        "outcome": "holds",
    }
    page = read(make_verification(assumptions=[entry], verdicts={"first": verdict}))
    assert "zero loss" in page
    assert "0.1000 … 0.2000" in page


def test_layers_that_share_a_claim_and_an_outcome_share_a_row(read, make_verification):
    def verdict(layer: int, outcome: str, measured: float) -> dict:
        numbers = {"measured": measured, "lower": 0.1, "upper": float("inf"), "slack": measured - 0.1}
        words = {"claim": "S is at least its bound", "outcome": outcome, "reason": "near_data" if layer == 3 else ""}
        return {**words, "layer": layer, **numbers}

    given = ((0, "holds", 0.3), (1, "holds", 0.2), (2, "violated", 0.05), (3, "assumptions unmet", 0.4))
    assumption = {"value": 1.0, "residual": 1.0, "tolerance": 0.5, "met": False}
    verdicts = [verdict(*one) for one in given]
    page = read(make_verification("violated", verdicts=verdicts, assumptions={"near_data": assumption}))
    assert page.count("S is at least its bound, ℓ = 0 … 1</th>") == 1
    assert "<td>0.1000</td><td>0.2000 … 0.3000</td><td>–</td><td>0.10</td>" in page
    assert "Violated: S is at least its bound, ℓ = 2." in page
    assert ">near data</td>" in page


def test_comparisons_and_notes_are_shown_apart(read, make_verification):
    class Wide:
        status, assumptions, verdicts = "holds", {}, ()
        to_dataset = make_verification().to_dataset
        comparisons = ({"claim": "printed bound", "outcome": "violated", "measured": 0.5, "slack": None},)
        notes = ("the weights came in float32",)

    page = read(Wide())
    assert "For information" in page
    assert "the weights came in float32" in page
    assert "Violated:" not in page


def test_a_verification_without_bounds_along_layers_has_its_tables_only(write, make_verification):
    dataset = xr.Dataset({"rho": ("step", [0.1, 0.2])})
    page = write({"parsimony": make_verification(dataset=dataset)})
    assert "<svg" not in page
    assert "balancedness" in page


def test_analyses_and_verifications_share_a_page(read, make_analysis, make_verification):
    page = read({"hybrid": make_analysis(), "hybrid tail": make_verification("violated")})
    assert page.index('id="findings"') < page.index("<h2>Verification: hybrid tail") < page.index("<h2>Numbers")
    assert page.index("</span>\N{NO-BREAK SPACE}violated") < page.index('id="findings"')  # said in the verdict already


def test_a_bound_of_one_side_says_which_and_symbols_of_the_library_are_set():
    bounded = {"decay_ratio": ("layer", [0.5, 0.4]), "prior_upper": ("layer", [0.6, np.nan])}
    names = {"layer": [1, 2], "layer_name": ("layer", ["W_1", "fc_1"])}
    (table,) = bound_tables(xr.Dataset(bounded, names))
    first, second = table["grid"].rows
    assert [cell.shown for cell in first] == ["1, W<sub>1</sub>", "0.5000", "≤ 0.600", "1.20"]
    assert [cell.shown for cell in second] == ["2, fc_1", "0.4000", "–", "–"]
    assert first[0].exact == "1, W_1"


def test_a_huge_bound_does_not_turn_what_was_measured_into_powers_of_ten(read, make_verification):
    (given,) = make_verification().verdicts
    text = read({"tail": make_verification(verdicts=(replace(given, measured=0.85, lower=-1.234e6, upper=np.inf),))})
    assert "<td>−1,234,000</td><td>0.8500</td>" in text
    huge = replace(given, measured=0.85, lower=-1.2345678e9, upper=np.inf)
    assert "<td>−1.235×10⁹</td><td>0.8500</td>" in read({"tail": make_verification(verdicts=(huge,))})
