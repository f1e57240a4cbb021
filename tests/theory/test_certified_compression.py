"""What a verification's status means: every step provably compresses, provably spreads, or is undecided."""

import json
import math

import numpy as np
import pytest
import torch

from neurocollapse.data.synthetic import balanced_labels
from neurocollapse.theory import verify

VARIABLES = (
    "decay_ratio",
    "prior_lower",
    "prior_upper",
    "robust_lower",
    "robust_upper",
    "posterior_lower",
    "posterior_upper",
    "split_lower",
    "split_upper",
    "split_spectral_lower",
    "split_spectral_upper",
    "explanation_length",
    "printed_lower",
    "printed_upper",
    "rate",
)
OF_LAYERS = (
    "certified_lower",
    "certified_upper",
    "separation_split_lower",
    "separation_certified_lower",
    "compression_visible",
    "compression_invisible",
    "compression_predicted",
    "compression_floor",
)


def gaussian(seed: int = 0, scale: float = 1.0):
    """Weights whose layers keep the trailing directions at `scale` of the leading ones, on Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(30, 12, generator=generator).double()
    labels = torch.arange(30) % 3
    means = torch.stack([inputs[labels == k].mean(0) for k in range(3)])
    leading = torch.linalg.qr(means.T).Q
    weight = scale * torch.eye(12).double() + (1 - scale) * leading @ leading.T
    return [weight, weight, leading.T], inputs, labels


def test_layers_that_provably_compress_hold() -> None:
    verification = verify(*gaussian(scale=0.4))
    assert verification.status == "holds"
    assert verification.decided_by == ("split", "split")
    assert [claim.layer for claim in verification.claims] == [1, 2]
    for claim in verification.claims:
        assert claim.upper < 1
        assert claim.reason.startswith(f"layer {claim.layer} provably compresses: factor in [")
    assert "provably compresses" in repr(verification)


def test_layers_that_provably_spread_are_violated() -> None:
    verification = verify(*gaussian(scale=2.5))
    assert verification.status == "violated"
    assert all(claim.lower >= 1 for claim in verification.claims)
    assert "layer 2 provably spreads the classes" in repr(verification)
    assert verification.theorems["split"].status == "holds"  # the measurement lies in the bracket all the same


def test_what_no_bound_decides_is_unmet_and_names_the_layer() -> None:
    weights, inputs, labels = gaussian()
    verification = verify([torch.eye(12).double(), weights[1], weights[2]], inputs, labels)
    assert verification.status == "assumptions unmet"
    assert verification.decided_by == ("", "")
    assert [claim.reason.split(":")[0] for claim in verification.claims] == [
        "layer 1 is undecided",
        "layer 2 is undecided",
    ]


def test_one_step_that_spreads_is_enough() -> None:
    (compress, _, head), inputs, labels = gaussian(scale=0.4)
    spread = gaussian(scale=2.5)[0][0]
    verification = verify([compress, spread, head], inputs, labels)
    assert [claim.outcome for claim in verification.claims] == ["holds", "violated"]
    assert verification.status == "violated"


def test_every_theorem_has_a_status_of_its_own(trained_case) -> None:
    verification = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    assert list(verification.theorems) == ["prior", "robust", "posterior", "split", "balance", "printed"]
    for name in ("prior", "robust", "posterior", "split", "balance"):
        result = verification.theorems[name]
        assert result.status == "holds", name
        assert result.verdicts
        assert all(assumption.met for assumption in result.assumptions.values())
        assert {verdict.reference for verdict in result.verdicts} == {result.reference}
    with pytest.raises(TypeError):
        verification.theorems["prior"] = None
    content = json.loads(verification.to_json())
    assert content["theorems"]["split"] == "holds"
    assert content["decided_by"] == list(verification.decided_by)


def test_a_step_is_never_decided_by_a_theorem_whose_assumptions_are_not_exactly_met() -> None:
    """Imbalance of 0.99 % a layer: the a-priori bracket is missed, the robust one and the split one are not."""
    weights, inputs, labels = gaussian(scale=0.4)
    verification = verify([1.01 * weights[0], *weights[1:]], inputs, labels)
    assert "prior" not in verification.decided_by
    assert verification.status == "holds"


def test_the_dataset_has_every_variable_where_it_belongs() -> None:
    table = verify(*gaussian(scale=0.4)).to_dataset()
    for name in (*VARIABLES, *OF_LAYERS):
        assert table[name].dims == ("layer",), name
        assert {"long_name", "units", "symbol", "convention", "reference"} <= set(table[name].attrs)
    for name in VARIABLES:
        assert math.isnan(table[name][0]), name
    for name in OF_LAYERS:
        assert np.isfinite(table[name]).all(), name
    total = table["compression_visible"] + table["compression_invisible"]
    np.testing.assert_allclose(total, table["compression"], rtol=1e-12)
    assert (table["certified_lower"] <= table["compression"] * (1 + 1e-12)).all()
    assert (table["certified_upper"] >= table["compression"] * (1 - 1e-12)).all()
    assert len(set(table["compression_floor"].values.tolist())) == 1
    assert set(table["explanation_length"].values[1:].tolist()) == {1.0}
    assert table.attrs["status"] == "holds"


@pytest.mark.parametrize("labels", [2, 3])
def test_shallow_networks_have_no_step_to_decide(labels: int) -> None:
    verification = verify([torch.eye(6)[:labels].double()], torch.eye(6).double(), torch.arange(6) % labels)
    assert verification.claims == ()
    assert verification.status == "assumptions unmet"


def test_a_narrow_layer_is_named() -> None:
    inputs, labels = torch.eye(6, dtype=torch.float64), balanced_labels(3, 2)
    verification = verify([torch.eye(6)[:3].double(), torch.eye(3).double()], inputs, labels)
    assert verification.status == "assumptions unmet"
    assert "a width does not exceed the 3 outputs" in verification.claims[0].reason


def test_only_the_step_that_no_bound_decides_is_named() -> None:
    (compress, _, head), inputs, labels = gaussian(scale=0.4)
    verification = verify([compress, torch.eye(12).double(), compress, head], inputs, labels)
    assert [claim.outcome for claim in verification.claims] == ["holds", "assumptions unmet", "holds"]
    assert verification.claims[1].reason.startswith("layer 2 is undecided")
    assert verification.status == "assumptions unmet"


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_a_layer_that_leaves_every_direction_as_it_is_is_neither_held_nor_violated(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    eye, labels = torch.eye(6).double(), torch.tensor([0, 0, 0, 1, 1, 1])
    weights = [factor * eye] * 30 + [torch.randn(2, 6, generator=generator, dtype=torch.float64)]
    verification = verify(weights, eye, labels)
    assert verification.status == "assumptions unmet"
    assert set(verification.decided_by) == {""}
