"""Theorems as values: an entry of the list is in verdicts, dataset, figure and report, which know none by name."""

from pathlib import Path

import numpy as np
import pytest

import neurocollapse as nc
from neurocollapse.theory import THEOREMS, Assumption, Bracket, Case, Theorem, Verification, verify
from neurocollapse.theory.theorem import after_first


def halving(case: Case, _certificate: object) -> list[Bracket]:
    """D halves at every layer, and at least to a hundredth."""
    steps = np.ones(case.problem.depth - 1)
    return [
        Bracket(
            of="decay_ratio",
            claim="D_l/D_{l−1} is between 1/100 and 1/2",
            prefix="halving",
            lower=after_first(0.01 * steps),
            upper=after_first(0.5 * steps),
            layers=range(1, case.problem.depth),
            reasons={2: "the second step is not its business"},
            curve=("half", after_first(0.5 * steps), "2^{-\\ell}"),
        )
    ]


HALVING = Theorem(
    name="halving",
    label="halving theorem",
    about="Made up for this test.",
    reference="this test",
    needs=("depth", "luck"),
    certify=lambda case: None,
    brackets=halving,
    assume=lambda case, certificate: [Assumption("luck", 1.0, 0.0, 0.0, True, "it is there")],
    remarks=lambda case, certificate: ["A made-up theorem."],
)


@pytest.fixture
def verification(trained_case, monkeypatch) -> Verification:
    monkeypatch.setattr("neurocollapse.theory.progressive.THEOREMS", (*THEOREMS, HALVING))
    return verify(trained_case.weights, trained_case.inputs, trained_case.labels)


def test_a_new_theorem_is_judged_with_the_others(verification: Verification) -> None:
    ours = [verdict for verdict in verification.verdicts if verdict.reference == "this test"]
    assert [verdict.outcome for verdict in ours] == ["holds", "assumptions unmet", "holds", "holds"]
    assert ours[1].reason == "the second step is not its business"
    assert verification.assumptions["luck"].met
    assert "A made-up theorem." in verification.notes
    assert "this test" in repr(verification)


def test_a_new_theorem_is_in_dataset_figure_and_report(verification: Verification, tmp_path: Path) -> None:
    table = verification.to_dataset()
    np.testing.assert_array_equal(table["halving_upper"], [np.nan, 0.5, 0.5, 0.5, 0.5])
    assert table["halving_upper"].attrs["of"] == "decay_ratio"
    legend = nc.plot.bounds(table).get_legend()
    assert {"halving theorem", "half $2^{-\\ell}$"} <= {
        text.get_text().replace("\n", " ") for text in legend.get_texts()
    }
    stored = nc.save(table, tmp_path / "verification.nc")
    assert nc.open(stored)["halving_lower"].attrs == table["halving_lower"].attrs
    page = nc.report({"network": verification}, tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Halving theorem: Made up for this test." in page


def test_an_unmet_need_of_one_theorem_leaves_the_others_alone(trained_case, monkeypatch) -> None:
    unlucky = Theorem(**{**vars(HALVING), "assume": lambda *_: [Assumption("luck", 0.0, 1.0, 0.0, False, "gone")]})
    monkeypatch.setattr("neurocollapse.theory.progressive.THEOREMS", (*THEOREMS, unlucky))
    found = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    outcomes = {verdict.reference: verdict.outcome for verdict in found.verdicts}
    assert outcomes["this test"] == found.theorems["halving"].status == "assumptions unmet"
    assert set(outcomes.values()) == {"holds", "assumptions unmet"}
    assert found.status == found.theorems["split"].status == "holds"


def test_the_steps_of_a_theorem_stand_at_the_layer_they_lead_to(trained_case) -> None:
    table = verify(trained_case.weights, trained_case.inputs, trained_case.labels).to_dataset()
    for theorem in THEOREMS:
        if theorem.name == "balance":  # is about D of the last features
            assert np.isnan(table["balance_upper"][:-1]).all()
            assert float(table["compression"][-1]) <= float(table["balance_upper"][-1])
            continue
        sides = [table[f"{theorem.name}_{side}"] for side in ("lower", "upper")]
        for layer in range(1, 5):
            assert float(sides[0][layer]) <= float(table["decay_ratio"][layer]) <= float(sides[1][layer])
        assert all(np.isnan(side[0]) for side in sides)
