"""The law of parsimony: gradient descent on white data leaves all but a small block of every weight untouched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.dynamics.subspaces import orthonormal_range, principal_angles
from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption, orthogonal_initialisation, whitened
from neurocollapse.theory.invariant import InvariantSubspaces, invariant_subspaces, predicted_scale
from neurocollapse.theory.table import provenance
from neurocollapse.theory.verdict import Verdict, Verification

REFERENCE = "Yaras et al., arXiv 2306.01154, Theorem 1"
TITLE = "Law of parsimony"


def verify_parsimony(
    trajectory: Mapping[int, Sequence[Tensor]],
    inputs: Tensor,
    targets: Tensor,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    tolerance: float | None = None,
) -> Verification:
    """Verify the law of parsimony along a run of full-batch gradient descent.

    Parameters
    ----------
    trajectory
        Step → weights [W_1, …, W_L], step 0 included; the steps are updates of the whole network.
    inputs, targets : Tensors of shape (samples, features) and (samples, outputs)
    learning_rate : float
        η ≥ 0 of W ← (1 − ηλ) W − η ∇ ½‖W_{L:1}X − Y‖².
    weight_decay : float, default 0.0
        λ ≥ 0. Residuals are relative to |ρ|: beyond ηλ = 1
        ρ changes its sign, and where it is 0 nothing is relative to it and the verdict is "assumptions unmet".
    tolerance
        For the relative residuals; default √u, u the rounding unit of the weights' dtype (1.5e−8 for float64). Where
        ρ is so small that rounding in t updates may exceed it, a larger residual is "assumptions unmet".

    Returns
    -------
    Verification
        Its dataset has `rho` (the recursion's prediction) along `step`; `residual`, the larger relative residual of
        W_l(t)V_{l,2} = ρ(t)U_{l,2} and W_l(t)ᵀU_{l,2} = ρ(t)V_{l,2}, and `angle`, how far the image of V_{l,2} has
        turned away from U_{l,2} (radians), along `step` and `layer` 1 … L−1.

    Raises
    ------
    ValueError
        If step 0 is missing or all zero, shapes do not fit, or a number is not finite.

    Examples
    --------
    >>> eye = torch.eye(5, dtype=torch.float64)
    >>> verify_parsimony({0: [0.1 * eye, 0.1 * eye]}, eye, torch.diag(eye[0]), learning_rate=0.1).status
    'holds'
    """
    run = _Run.of(trajectory, inputs, targets, learning_rate, weight_decay, tolerance)
    subspaces = invariant_subspaces(run.weights[0], run.inputs, run.targets)
    assumptions = _assumptions(run, subspaces)
    unmet = [name for name, assumption in assumptions.items() if not assumption.met]
    measurable = subspaces.num_directions > 0
    dataset = _dataset(run, subspaces) if measurable else xr.Dataset(attrs=provenance(TITLE))
    verdicts = _verdicts(run, subspaces, dataset, unmet) if measurable else ()
    dataset = dataset.assign_attrs(
        weights_dtype=str(run.dtype).removeprefix("torch."),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        case=subspaces.case or 0,
        rank=subspaces.rank,
        epsilon=subspaces.epsilon,
        num_invariant=subspaces.num_directions,
    )
    notes = [f"The weights came in {str(run.dtype).removeprefix('torch.')}; everything was computed in float64."]
    if unmet and measurable:
        turned = float(dataset["angle"].max())
        notes.append(f"The assumptions fail; the subspaces turned by up to {short(turned, 3)} rad.")
    return Verification(TITLE, assumptions, tuple(verdicts), (), tuple(notes), dataset)


@dataclass(frozen=True, eq=False)
class _Run:
    """A checked trajectory in float64."""

    steps: tuple[int, ...]
    weights: tuple[tuple[Tensor, ...], ...]
    inputs: Tensor
    targets: Tensor
    learning_rate: float
    weight_decay: float
    dtype: torch.dtype
    tolerance: float

    @classmethod
    def of(
        cls,
        trajectory: Mapping[int, Sequence[Tensor]],
        inputs: Tensor,
        targets: Tensor,
        learning_rate: float,
        weight_decay: float,
        tolerance: float | None,
    ) -> "_Run":
        """Check shapes and convert."""
        if 0 not in trajectory:
            raise ValueError("`trajectory` must include step 0, the initial weights, from which the subspaces follow")
        steps = tuple(sorted(trajectory))
        if steps[0] < 0:
            raise ValueError(f"`trajectory` must have steps of at least 0, got {steps[0]}")
        _check_settings(learning_rate, weight_decay, tolerance)
        weights = tuple(tuple(w.detach().cpu().double() for w in trajectory[step]) for step in steps)
        inputs, targets = inputs.detach().cpu().double(), targets.detach().cpu().double()
        _check_shapes(steps, weights, inputs, targets)
        _check_values(trajectory, inputs, targets)
        dtype = max((weight.dtype for weight in trajectory[0]), key=lambda kind: torch.finfo(kind).eps)
        limit = math.sqrt(torch.finfo(dtype).eps) if tolerance is None else tolerance
        return cls(steps, weights, inputs, targets, learning_rate, weight_decay, dtype, limit)


def _check_settings(learning_rate: float, weight_decay: float, tolerance: float | None) -> None:
    """Raise unless the numbers of the call are finite and not negative."""
    given = {"learning_rate": learning_rate, "weight_decay": weight_decay, "tolerance": tolerance}
    for name, number in given.items():
        if number is not None and not (math.isfinite(number) and number >= 0):
            raise ValueError(f"`{name}` must be a number ≥ 0, got {number!r}")


def _check_shapes(
    steps: tuple[int, ...], weights: tuple[tuple[Tensor, ...], ...], inputs: Tensor, targets: Tensor
) -> None:
    """Raise unless every step holds the same chain of matrices, hidden ones square, that fits the data."""
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
        raise ValueError(
            "`inputs` and `targets` must hold one row per sample, got shapes "
            f"{tuple(inputs.shape)} and {tuple(targets.shape)}"
        )
    d, outputs = inputs.shape[1], targets.shape[1]
    for step, chain in zip(steps, weights, strict=True):
        expected = [(d, d)] * (len(chain) - 1) + [(outputs, d)]
        found = [tuple(weight.shape) for weight in chain]
        if len(chain) != len(weights[0]) or len(chain) < 2 or found != expected:
            raise ValueError(
                f"`trajectory[{step}]` must hold at least two weights, hidden ones {d} × {d} and a last one "
                f"{outputs} × {d}, got {found}"
            )


def _check_values(trajectory: Mapping[int, Sequence[Tensor]], inputs: Tensor, targets: Tensor) -> None:
    """Raise unless weights and data are real and finite, and the initial weights not all zero."""
    for name, data in (("inputs", inputs), ("targets", targets)):
        if not bool(torch.isfinite(data).all()):
            raise ValueError(f"`{name}` must hold finite numbers, got NaN or infinite ones")
    for step, chain in trajectory.items():
        if not all(weight.is_floating_point() and bool(torch.isfinite(weight).all()) for weight in chain):
            raise ValueError(
                f"`trajectory[{step}]` must hold finite real weights, got integer, complex, NaN or infinite ones; "
                "stop before the run diverges"
            )
    if not any(bool(weight.any()) for weight in trajectory[0]):
        raise ValueError(
            "`trajectory[0]` must hold initial weights of scale ε > 0, got zeros only, where the gradient vanishes"
        )


def _assumptions(run: _Run, subspaces: InvariantSubspaces) -> dict[str, Assumption]:
    """Whitened data, orthogonal initialisation, one of the two cases, room for an invariant subspace."""
    d, outputs, rank = run.inputs.shape[1], run.targets.shape[1], subspaces.rank
    found = [
        whitened(run.inputs, run.tolerance / 100),  # an error there grows over the run
        orthogonal_initialisation(run.weights[0], run.tolerance / 100),
        Assumption(
            "case",
            float(subspaces.case or 0),
            0.0 if subspaces.case else 1.0,
            0.0,
            subspaces.case is not None,
            f"case 1: as many outputs as features; case 2: as many as the rank; here {outputs} outputs, {d} features, "
            f"rank {rank}",
        ),
        Assumption(
            "room",
            float(d - 2 * rank),
            float(max(0, 1 - (d - 2 * rank))),
            0.0,
            d > 2 * rank,
            f"m = d − 2r > 0: a subspace is left over, {d} − 2·{rank}",
        ),
    ]
    return {assumption.name: assumption for assumption in found}


def _dataset(run: _Run, subspaces: InvariantSubspaces) -> xr.Dataset:
    """Residuals, angles and the low-rank remainder at every tracked step."""
    depth, m = len(run.weights[0]), subspaces.num_directions
    case = subspaces.case or 2
    rho = predicted_scale(
        subspaces.epsilon,
        run.steps,
        depth=depth,
        case=case,
        learning_rate=run.learning_rate,
        weight_decay=run.weight_decay,
    )
    residual, angle = np.empty((len(run.steps), depth - 1)), np.empty((len(run.steps), depth - 1))
    last, remainder = np.empty(len(run.steps)), np.empty(len(run.steps))
    for index, (weights, scale) in enumerate(zip(run.weights, rho, strict=True)):
        for layer in range(depth - 1):
            V, U = subspaces.right[layer], subspaces.left[layer]
            residual[index, layer] = _residual(weights[layer], V, U, float(scale))
            angle[index, layer] = _turned(weights[layer] @ V, U)
        last[index] = _last_residual(weights[-1], subspaces, float(scale))
        carried = subspaces.right[0]
        for weight in weights:
            carried = weight @ carried
        remainder[index] = float(torch.linalg.matrix_norm(carried, 2))
    limit = _power(rho, depth) if case == 1 else np.zeros_like(rho)
    return xr.Dataset(
        {
            "rho": ("step", rho, _about("predicted scale of the invariant block", "\\rho(t)")),
            "residual": (("step", "layer"), residual, _about("relative residual of the two identities", "")),
            "angle": (("step", "layer"), angle, {**_about("turn of the image of V_{l,2}", ""), "units": "rad"}),
            "last_layer_residual": ("step", last, _about("the identity of the last layer, relative to ρ", "")),
            "remainder": ("step", remainder, _about("‖W_{L:1}V_{1,2}‖₂, beyond rank 2r", "")),
            "remainder_predicted": ("step", limit, _about("|ρ(t)|^L in case 1, 0 in case 2", "|\\rho|^L")),
        },
        coords={"step": np.array(run.steps), "layer": np.arange(1, depth)},
        attrs={**provenance(TITLE), "num_invariant": m},
    )


def _verdicts(
    run: _Run, subspaces: InvariantSubspaces, dataset: xr.Dataset, unmet: Sequence[str]
) -> tuple[Verdict, ...]:
    """One verdict per layer, one for the last layer, one for the low-rank remainder."""
    rho, depth = dataset["rho"].values, len(run.weights[0])
    of_layers, of_product = _rounding(run, rho)
    layers = [
        _judged(
            "max_t |W_l V_{l,2} − ρ U_{l,2}|, |W_lᵀ U_{l,2} − ρ V_{l,2}|, relative to ρ",
            dataset["residual"].sel(layer=layer).values,
            of_layers[:, layer - 1],
            run,
            unmet,
            layer=int(layer),
        )
        for layer in dataset["layer"].values
    ]
    claim = "max_t of the last layer's residual, relative to ρ"
    last = _judged(claim, dataset["last_layer_residual"].values, of_layers[:, -1], run, unmet)
    claim = "max_t |‖W_{L:1}V_{1,2}‖₂ − prediction| / ρ^L: rank ≤ 2r beyond it"
    differences = np.abs(dataset["remainder"].values - dataset["remainder_predicted"].values)
    deviations = np.array([_relative(*pair) for pair in zip(differences, _power(rho, depth), strict=True)])
    return (*layers, last, _judged(claim, deviations, of_product, run, unmet))


def _judged(
    claim: str, values: np.ndarray, rounding: np.ndarray, run: _Run, unmet: Sequence[str], layer: int | None = None
) -> Verdict:
    """Judge the largest of one number per step; unmet if it is too large only where rounding alone may make it so."""
    missed, unexplained = values > run.tolerance, values > run.tolerance + rounding
    if missed.any() and not unexplained.any():
        unmet = [*unmet, f"resolution at step {run.steps[int(missed.argmax())]}"]
    largest = float(np.max(values))  # NaN if any is: a claim about every step needs every step
    return Verdict.judge(claim, REFERENCE, largest, upper=run.tolerance, tolerance=0.0, unmet=unmet, layer=layer)


def _rounding(run: _Run, rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What rounding in t updates may add up to: of shape (steps, L) relative to |ρ|, of (steps,) relative to |ρ|^L."""
    sizes = np.array([[float(torch.linalg.matrix_norm(weight, 2)) for weight in chain] for chain in run.weights])
    units = torch.finfo(run.dtype).eps * (1 + np.array(run.steps))
    depth = sizes.shape[1]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return (
            (units / np.abs(rho))[:, None] * sizes,
            depth * units * sizes.prod(1) / _power(rho, depth),
        )


def _residual(weight: Tensor, right: Tensor, left: Tensor, scale: float) -> float:
    """The larger of ‖WV − ρU‖_F and ‖WᵀU − ρV‖_F, relative to |ρ|√m."""
    size = abs(scale) * math.sqrt(right.shape[1])
    forward = torch.linalg.matrix_norm(weight @ right - scale * left)
    backward = torch.linalg.matrix_norm(weight.T @ left - scale * right)
    return _relative(float(torch.maximum(forward, backward)), size)


def _last_residual(weight: Tensor, subspaces: InvariantSubspaces, scale: float) -> float:
    """The identities of W_L in case 1; in case 2 W_L V_{L,2} = 0."""
    if subspaces.case == 1:
        return _residual(weight, subspaces.right[-1], subspaces.left[-1], scale)
    image = weight @ subspaces.left[-1]
    return _relative(float(torch.linalg.matrix_norm(image)), abs(scale) * math.sqrt(image.shape[1]))


def _turned(image: Tensor, left: Tensor) -> float:
    """Largest principal angle between the image of V_{l,2} and U_{l,2}."""
    return float(principal_angles(orthonormal_range(image), orthonormal_range(left))[-1])


def _power(rho: np.ndarray, depth: int) -> np.ndarray:
    """|ρ|^L; infinite where a diverging recursion leaves the range of float64."""
    with np.errstate(over="ignore"):
        return np.abs(rho) ** depth


def _relative(value: float, size: float) -> float:
    """Divide; relative to nothing is undefined."""
    return float(value / size) if 0 < size < math.inf else math.nan


def _about(name: str, symbol: str) -> dict[str, str]:
    """The attributes every variable has."""
    convention = "gradient descent on ½‖W_{L:1}X − Y‖²"
    return {"long_name": name, "units": "1", "symbol": symbol, "convention": convention, "reference": REFERENCE}
