"""The law of parsimony along gradient descent, and where it does not hold."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target, near_orthonormal, whiten
from neurocollapse.dynamics import principal_angles
from neurocollapse.models.linear import linear_weights
from neurocollapse.theory import invariant_subspaces, predicted_scale, verify_parsimony
from neurocollapse.train.descent import Trajectory, descend


def run(
    case: int, depth: int, decay: float, *, size: int = 14, rank: int = 3, steps: int = 1000, rate: float = 0.02
) -> tuple[Trajectory, Tensor, Tensor]:
    """Gradient descent on white data with a target of low rank."""
    inputs = near_orthonormal(size, size, seed=depth)
    targets = inputs @ low_rank_target(size if case == 1 else rank, size, rank, seed=1).T / 6
    trajectory = Trajectory(every=steps // 20)
    start = linear_weights([size] * depth + [targets.shape[1]], "orth", 0.5, seed=3)
    settings = {"learning_rate": rate, "weight_decay": decay, "num_steps": steps, "events": {"on_step": trajectory}}
    descend(start, inputs, targets, **settings)
    return trajectory, inputs, targets


def check(case: int, depth: int, decay: float, **size: int) -> None:
    """The residuals and the recursion of one run."""
    trajectory, inputs, targets = run(case, depth, decay, **size)
    verification = verify_parsimony(trajectory, inputs, targets, learning_rate=0.02, weight_decay=decay)
    table = verification.to_dataset()
    assert verification.status == "holds"
    assert table["residual"].dims == ("step", "layer")
    assert table["residual"].sizes["layer"] == depth - 1
    assert float(table["residual"].max()) <= 1e-12
    assert float(table["last_layer_residual"].max()) <= 1e-12
    assert float(table["angle"].max()) <= 1e-12
    moved = [float((trajectory[step][0] - trajectory[0][0]).norm()) for step in trajectory]
    assert moved[-1] > 0.3  # the rest of the network did learn


@pytest.mark.parametrize("decay", [0.0, 1e-2])
@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("case", [1, 2])
def test_the_subspaces_are_only_rescaled(case: int, depth: int, decay: float) -> None:
    check(case, depth, decay)


@pytest.mark.slow
@pytest.mark.parametrize("decay", [0.0, 1e-3])
@pytest.mark.parametrize("depth", range(2, 7))
@pytest.mark.parametrize("case", [1, 2])
def test_the_subspaces_are_only_rescaled_over_five_thousand_steps(case: int, depth: int, decay: float) -> None:
    check(case, depth, decay, size=30, steps=5000)


def test_the_scale_follows_its_recursion() -> None:
    rho, expected = 0.5, []
    for _ in range(5):
        expected.append(rho)
        rho = rho * (1 - 0.1 * 0.01 - 0.1 * rho**4)
    got = predicted_scale(0.5, range(5), depth=3, case=1, learning_rate=0.1, weight_decay=0.01)
    np.testing.assert_allclose(got, expected, rtol=1e-15)
    decayed = predicted_scale(0.5, [0, 10], depth=3, case=2, learning_rate=0.1, weight_decay=0.01)
    assert decayed[1] == pytest.approx(0.5 * (1 - 1e-3) ** 10)


def test_the_middle_singular_values_are_the_scale() -> None:
    trajectory, inputs, targets = run(1, 3, 0.0)
    table = verify_parsimony(trajectory, inputs, targets, learning_rate=0.02).to_dataset()
    for step, scale in zip(table["step"].values[1:], table["rho"].values[1:], strict=True):
        values = torch.linalg.svdvals(trajectory[int(step)][1])
        assert int(((values / scale - 1).abs() < 1e-10).sum()) == 14 - 2 * 3


def test_the_middle_stays_and_the_rest_turns() -> None:
    target = low_rank_target(30, 30, 3, seed=0)
    eye, trajectory = torch.eye(30, dtype=torch.float64), Trajectory()
    start = linear_weights([30] * 4, "orth", 1.0, seed=0)
    events = {"on_step": trajectory}
    descend(start, eye, target.T, learning_rate=1.0, num_steps=50, reduction="half_mean", events=events)
    verification = verify_parsimony(trajectory, eye, target.T, learning_rate=1 / 900)
    assert verification.status == "holds"
    assert float(verification.to_dataset()["rho"][-1]) == pytest.approx(0.951, abs=5e-4)
    assert float(verification.to_dataset()["angle"].max()) <= 1e-7
    bases = [torch.linalg.svd(trajectory[step][0]).U[:, :3] for step in (1, 50)]
    assert float(principal_angles(*bases)[-1]) > 0.05


def test_data_that_is_not_white_is_an_unmet_assumption() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 30, dtype=torch.float64, generator=generator) / 15
    targets = torch.randn(300, 3, dtype=torch.float64, generator=generator)
    trajectory = Trajectory(every=100)
    start, events = linear_weights([30, 30, 30, 3], "orth", 1.0, seed=0), {"on_step": trajectory}
    descend(start, inputs, targets, learning_rate=0.01, num_steps=500, events=events)
    verification = verify_parsimony(trajectory, inputs, targets, learning_rate=0.01)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions["whitened_inputs"].met
    assert float(verification.to_dataset()["residual"].max()) > 1e-3
    assert float(verification.to_dataset()["angle"].max()) > 1e-3
    assert any("turned by up to" in note for note in verification.notes)


def test_whitening_mends_it() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = whiten(torch.randn(300, 12, dtype=torch.float64, generator=generator)).inputs
    targets = torch.randn(300, 3, dtype=torch.float64, generator=generator)
    trajectory = Trajectory(every=100)
    start, events = linear_weights([12, 12, 12, 3], "orth", 0.5, seed=0), {"on_step": trajectory}
    descend(start, inputs, targets, learning_rate=0.02, num_steps=500, events=events)
    assert verify_parsimony(trajectory, inputs, targets, learning_rate=0.02).status == "holds"


def test_a_trajectory_that_is_not_gradient_descent_is_a_violation() -> None:
    trajectory, inputs, targets = run(1, 3, 0.0)
    trajectory[1000] = [1.01 * weight for weight in trajectory[1000]]
    verification = verify_parsimony(trajectory, inputs, targets, learning_rate=0.02)
    assert verification.status == "violated"
    assert verify_parsimony(run(1, 3, 0.0)[0], inputs, targets, learning_rate=0.03).status == "violated"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda weights, targets: (weights, torch.cat([targets, targets[:, :2]], 1)), "case"),
        (lambda weights, targets: ([1.1 * weights[0], *weights[1:]], targets), "orthogonal_initialisation"),
    ],
)
def test_other_unmet_assumptions_are_named(change, name: str) -> None:
    inputs = near_orthonormal(14, 14, seed=0)
    targets = low_rank_target(14, 3, 3, seed=1)
    weights = linear_weights([14, 14, 14, 5 if name == "case" else 3], "orth", 0.5)
    weights, targets = change(weights, targets)
    verification = verify_parsimony({0: weights}, inputs, targets, learning_rate=0.1)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions[name].met


def test_no_room_is_an_unmet_assumption() -> None:
    inputs, targets = near_orthonormal(6, 6), low_rank_target(6, 6, 3)
    verification = verify_parsimony({0: linear_weights([6, 6, 6], "orth", 0.5)}, inputs, targets, learning_rate=0.1)
    assert verification.status == "assumptions unmet"
    assert not verification.assumptions["room"].met


def test_single_precision_runs_are_verified_within_their_rounding() -> None:
    trajectory, inputs, targets = run(2, 3, 0.0)
    single = {step: [weight.float() for weight in weights] for step, weights in trajectory.items()}
    verification = verify_parsimony(single, inputs.float(), targets.float(), learning_rate=0.02)
    assert verification.status == "holds"
    assert verification.to_dataset().attrs["weights_dtype"] == "float32"


def test_the_transposed_identity_counts_too() -> None:
    trajectory, inputs, targets = run(1, 3, 0.0)
    found = invariant_subspaces(trajectory[0], inputs, targets)
    V, U = found.right[1], found.left[1]
    outside = torch.eye(14, dtype=torch.float64) - V @ V.T
    trajectory[1000][1] = trajectory[1000][1] + 0.1 * U @ torch.ones(8, 14, dtype=torch.float64) @ outside
    verification = verify_parsimony(trajectory, inputs, targets, learning_rate=0.02)
    residual = verification.to_dataset()["residual"]
    assert verification.status == "violated"
    assert float(residual.sel(step=1000, layer=2)) > 0.1
    assert float(residual.sel(layer=1).max()) < 1e-12


def test_the_null_space_is_at_least_as_large_as_promised() -> None:
    trajectory, inputs, targets = run(1, 4, 0.0)
    found = invariant_subspaces(trajectory[0], inputs, targets)
    assert found.num_directions == 14 - 2 * 3
    for basis in (*found.right, *found.left):
        torch.testing.assert_close(basis.T @ basis, torch.eye(8).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", [1, 2])
def test_where_the_scale_changes_its_sign_the_law_can_still_fail(case: int) -> None:
    rate, decay = 0.5, 3.0  # ηλ = 1.5, so ρ(1) < 0
    trajectory, inputs, targets = run(case, 3, decay, steps=20, rate=rate)
    settings = {"learning_rate": rate, "weight_decay": decay}
    true = {step: trajectory[step] for step in range(4)}
    verification = verify_parsimony(true, inputs, targets, **settings)
    assert verification.status == "holds"
    assert float(verification.to_dataset()["rho"][1]) < 0
    assert float(verification.to_dataset()["remainder_predicted"].min()) >= 0
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(weight.shape, dtype=torch.float64, generator=generator) for weight in trajectory[0]]
    wrong = verify_parsimony({0: trajectory[0], 1: noise}, inputs, targets, **settings)
    assert {verdict.outcome for verdict in wrong.verdicts} == {"violated"}


@pytest.mark.parametrize(
    ("case", "settings"),
    [(2, {"learning_rate": 0.5, "weight_decay": 2.0}), (1, {"learning_rate": 100.0})],
    ids=["zero", "overflow"],
)
def test_relative_to_no_scale_nothing_is_judged(case: int, settings: dict) -> None:
    trajectory, inputs, targets = run(case, 3, 0.0, steps=20)
    verification = verify_parsimony(trajectory, inputs, targets, **settings)
    assert verification.status == "assumptions unmet"
    assert {verdict.reason for verdict in verification.verdicts} == {"the measurement or its bound is undefined"}


def test_what_rounding_adds_to_a_scale_that_has_decayed_is_not_a_violation() -> None:
    trajectory, inputs, targets = run(2, 4, 0.05, steps=6000)
    settings = {"learning_rate": 0.02, "weight_decay": 0.05}
    verification = verify_parsimony(trajectory, inputs, targets, **settings)
    *layers, remainder = verification.verdicts
    assert {verdict.outcome for verdict in layers} == {"holds"}
    assert remainder.measured > remainder.upper
    assert remainder.outcome == "assumptions unmet"
    assert remainder.reason.startswith("resolution at step ")
    trajectory[6000] = [1.01 * weight for weight in trajectory[6000]]
    assert verify_parsimony(trajectory, inputs, targets, **settings).status == "violated"


NAN = float("nan")
EYES = [torch.eye(4), torch.eye(4)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": NAN}, "`learning_rate` must be a number ≥ 0"),
        ({"learning_rate": -0.1}, "`learning_rate` must be a number ≥ 0"),
        ({"weight_decay": float("inf")}, "`weight_decay` must be a number ≥ 0"),
        ({"tolerance": NAN}, "`tolerance` must be a number ≥ 0"),
        ({"inputs": NAN * torch.eye(4)}, "`inputs` must hold finite numbers"),
        ({"targets": NAN * torch.eye(4)}, "`targets` must hold finite numbers"),
        ({"trajectory": {0: [NAN * torch.eye(4)] * 2}}, r"`trajectory\[0\]` must hold finite real weights"),
        ({"trajectory": {0: EYES, 3: [NAN * torch.eye(4)] * 2}}, r"`trajectory\[3\]` must hold finite real weights"),
        ({"trajectory": {0: [torch.eye(4).long()] * 2}}, r"`trajectory\[0\]` must hold finite real weights"),
        ({"trajectory": {0: [torch.zeros(4, 4)] * 2}}, "scale ε > 0"),
    ],
)
def test_numbers_the_law_cannot_be_about_are_one_clear_line(change: dict, message: str) -> None:
    given = {"trajectory": {0: EYES}, "inputs": torch.eye(4), "targets": torch.eye(4), "learning_rate": 0.1, **change}
    with pytest.raises(ValueError, match=message) as error:
        verify_parsimony(**given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("trajectory", "message"),
    [
        ({0: []}, "at least two weights"),
        ({1: [torch.eye(4), torch.eye(4)]}, "must include step 0"),
        ({0: [torch.eye(4), torch.eye(4)], -1: [torch.eye(4), torch.eye(4)]}, "steps of at least 0"),
        ({0: [torch.eye(4), torch.eye(4)[:2]]}, "hidden ones 4 × 4"),
        ({0: [torch.eye(4)]}, "at least two weights"),
        ({0: [torch.eye(4), torch.eye(4)], 1: [torch.eye(4)] * 3}, r"trajectory\[1\]"),
    ],
)
def test_wrong_trajectories_are_one_clear_line(trajectory: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        verify_parsimony(trajectory, torch.eye(4), torch.eye(4), learning_rate=0.1)


def test_principal_angles_are_exact_near_zero_and_a_right_angle() -> None:
    generator = torch.Generator().manual_seed(0)
    frame = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64, generator=generator)).Q
    angles = torch.tensor([1e-12, 1e-6, 0.4, 1.3], dtype=torch.float64)
    turned = frame[:, :4] * angles.cos() + frame[:, 4:8] * angles.sin()
    torch.testing.assert_close(principal_angles(frame[:, :4], turned), angles, rtol=1e-9, atol=1e-15)
    wide = torch.cat([turned, frame[:, 8:]], dim=1)
    torch.testing.assert_close(principal_angles(wide, frame[:, :2]), angles[:2], rtol=1e-3, atol=1e-15)
