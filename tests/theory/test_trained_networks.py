"""Trained networks show the numbers of the source material, and lie in every bracket."""

import math

import numpy as np
import pytest

from neurocollapse.data.synthetic import balanced_labels, near_orthonormal, one_hot
from neurocollapse.experiments import progressive_theorem
from neurocollapse.metrics import geometric_decay
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import LinearProblem, Verification, predicted_compression, verify
from neurocollapse.train.descent import descend


def train_row_11(depth: int, init: str, epsilon: float, rate: float, seed: int = 0) -> Verification:
    """Five classes of ten orthonormal samples; loss half the mean square over all entries."""
    inputs, labels = near_orthonormal(50, 50, seed=seed), balanced_labels(5, 10)
    start = linear_weights([50] * depth + [5], init, epsilon, seed=seed)
    # 1e-8: at 1e-6 of the mean the loss still exceeds the within-class spread of the last of eight layers.
    options = {"num_steps": 8000, "tolerance": 1e-8, "reduction": "half_mean"}
    return verify(descend(start, inputs, one_hot(labels), learning_rate=rate, **options).weights, inputs, labels)


@pytest.mark.parametrize(
    ("depth", "epsilon", "rate", "expected"),
    [
        (6, 0.5, 1.0, 0.167),
        (8, 0.5, 1.0, 0.185),
        pytest.param(10, 0.5, 1.0, 0.201, marks=pytest.mark.slow),
        (4, 0.5, 10.0, 0.137),
        (4, 0.25, 10.0, 0.034),
        (4, 0.125, 10.0, 0.0086),
    ],
)
def test_ratios_within_two_per_cent_and_in_the_bracket(
    depth: int, epsilon: float, rate: float, expected: float
) -> None:
    table = train_row_11(depth, "orth", epsilon, rate).to_dataset()
    assert float(table["compression"][0]) == pytest.approx(11.25, rel=1e-9)
    assert geometric_decay(table["compression"].values).factor == pytest.approx(expected, rel=0.02)
    assert geometric_decay(table["compression"].values).factor == pytest.approx(float(table["rate"][1]), rel=0.03)
    for level in ("prior", "posterior"):
        ratios = table["decay_ratio"].values[1:]
        # A tenth of a per cent is left to the unfinished training of the last layers in the a-priori bracket.
        assert (ratios <= table[f"{level}_upper"].values[1:] * 1.001).all()
        assert (ratios >= table[f"{level}_lower"].values[1:]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("init", "expected"), [("norm", -1.85), ("unif", -1.88)])
def test_other_initialisations(init: str, expected: float) -> None:
    slopes = [
        geometric_decay(train_row_11(8, init, 0.5, 1.0, seed).to_dataset()["compression"].values).slope
        for seed in range(4)
    ]
    assert np.mean(slopes) == pytest.approx(expected, rel=0.03)  # the source shows one seed; ours scatter by 1 %


def test_within_two_per_cent_and_in_the_bracket() -> None:
    tables = [progressive_theorem(seed=seed).to_dataset() for seed in range(6)]
    printed = np.array([11.999, 3.482, 0.984, 0.276, 0.0775, 0.0217])
    ratios = np.mean([table["decay_ratio"].values[1:] for table in tables], axis=0)
    np.testing.assert_allclose(ratios, printed[1:] / printed[:-1], rtol=0.02)
    separations = np.mean([table["separation_uncentred"].values[1:] for table in tables], axis=0)
    np.testing.assert_allclose(separations, [0.9681, 0.9716, 0.9761, 0.9809, 0.9859], rtol=0.02)
    for table in tables:
        for level in ("prior", "posterior"):
            inside = (table["decay_ratio"] <= table[f"{level}_upper"]) & (
                table["decay_ratio"] >= table[f"{level}_lower"]
            )
            assert bool(inside[1:].all())


def test_the_rate_is_sharp_where_the_printed_separation_is_vacuous(trained_case) -> None:
    verification = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    table = verification.to_dataset()
    assert verification.status == "holds"
    assert float(table["rate"][1]) == pytest.approx(5.679e-2, rel=1e-3)
    np.testing.assert_allclose(table["decay_ratio"].values[1:], table["rate"].values[1:], rtol=0.015)
    printed = table["separation_printed_lower"].values
    assert (printed[1:-1] < -10).all()
    assert np.isnan(printed[[0, -1]]).all()  # the source claims nothing of the input and of the last features
    assert (table["separation_prior_lower"].values > 0.8).all()
    assert any("vacuous" in note for note in verification.notes)
    np.testing.assert_allclose(table["separation_centred"], 0.5, atol=2e-3)


def test_the_spectrum_predicts_every_layer(trained_case, exact) -> None:
    problem = LinearProblem.of(trained_case.weights, trained_case.inputs, trained_case.labels)
    table = verify(trained_case.weights, trained_case.inputs, trained_case.labels).to_dataset()
    np.testing.assert_allclose(predicted_compression(problem).numpy(), table["compression"], rtol=0.01)
    for seed in range(5):
        case = exact(seed)
        measured = verify(case.weights, case.inputs, case.labels).to_dataset()
        np.testing.assert_allclose(measured["compression_predicted"], measured["compression"], rtol=1e-6)


def test_printed_bounds_are_compared_but_never_counted(trained_case) -> None:
    verification = verify(trained_case.weights, trained_case.inputs, trained_case.labels)
    assert len(verification.comparisons) == 2 * 3
    assert not any("slides" in verdict.reference for verdict in verification.verdicts)


def test_an_unfinished_network_is_not_called_a_violation() -> None:
    inputs, labels = near_orthonormal(50, 50, seed=0), balanced_labels(5, 10)
    start = linear_weights([50] * 8 + [5], "orth", 0.5, seed=0)
    for tolerance in (1e-3, 1e-5, 1e-6):
        options = {"num_steps": 3000, "tolerance": tolerance, "reduction": "half_mean"}
        weights = descend(start, inputs, one_hot(labels), learning_rate=1.0, **options).weights
        verification = verify(weights, inputs, labels)
        assert verification.theorems["prior"].status == "assumptions unmet"
        assert not verification.assumptions["zero_loss_within_classes"].met
        assert math.isfinite(float(verification.to_dataset()["prior_upper"][1]))
