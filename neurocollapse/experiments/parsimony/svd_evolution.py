"""Singular values and subspaces of a deep linear network along gradient descent, and along other optimizers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.dynamics import WeightTracker
from neurocollapse.experiments.experiment import Experiment, at_least, at_most, near
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.models.linear import DeepLinear, linear_weights
from neurocollapse.plots.experiments.svd_evolution import draw_evolution, draw_optimizers
from neurocollapse.theory import Verdict
from neurocollapse.theory.invariant import predicted_scale
from neurocollapse.train import TrainingError
from neurocollapse.train.descent import descend

SOURCE = "Yaras et al., arXiv 2306.01154"
FLAT = 1e-7
"""Most radians by which the source's middle block turns. Rounding alone gives 1e−12."""
EQUAL = 1e-8
"""Relative difference up to which singular values count as equal; the theorem's own check allows √u = 1.5e−8."""
PRINTED_SCALE = 0.951
"""ρ(50) for ε = 1, L = 3, d = 30, η = 1."""
SHOWN_STEPS = 50
"""How far the source shows the optimizers; momentum has turned back once by step 30, and not at all by step 20."""
DRAWS = 0.1
"""How far the median angle scatters over draws of target and start (0.365 to 0.534 over 30). Single vectors scatter
more, from 0.26 to 0.86: where two singular values come close, their vectors mix."""


@dataclass(frozen=True)
class SvdEvolution:
    """A deep linear network that fits a low-rank matrix: X = I, loss ½ mean over the d² entries of W_{L:1} − Φ.

    Attributes
    ----------
    depth, width, rank : int
        L weight matrices of size d × d, and the rank r of the target.
    init_scale : float
        ε of the orthogonal start.
    learning_rate : float
        η of the mean loss; that of ½‖W_{L:1} − Φ‖_F² would be η/d².
    num_steps : int
    seed : int
        Seed of the target and the start.
    """

    depth: int = 3
    width: int = 30
    rank: int = 3
    init_scale: float = 1.0
    learning_rate: float = 1.0
    num_steps: int = 50
    seed: int = 0


@dataclass(frozen=True)
class SvdOptimizers(SvdEvolution):
    """The same with optimizers of torch.optim, whose steps are not those of the theorem.

    Attributes
    ----------
    momentum : float
        Momentum of gradient descent with momentum, at `learning_rate`; at least 0 and below 1.
    adaptive_rate : float
        Learning rate of Adam and RMSprop.
    """

    momentum: float = 0.9
    adaptive_rate: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"`momentum` must be at least 0 and below 1, got {self.momentum}")


def svd_evolution(setting: SvdEvolution, workplace: Workplace) -> xr.Dataset:
    """Track every weight at every step of gradient descent.

    Returns
    -------
    xarray.Dataset
        Records of the tracker, with `loss` and the predicted `rho` along `step`.
    """
    inputs, target, weights = _problem(setting)
    tracker = WeightTracker(weights, edge=setting.rank, reference=1)
    result = descend(
        weights,
        inputs,
        target.T,
        learning_rate=setting.learning_rate,
        num_steps=setting.num_steps,
        reduction="half_mean",
        events={"on_step": tracker},
    )
    dataset = tracker.to_dataset()
    rho = predicted_scale(
        setting.init_scale,
        range(setting.num_steps + 1),
        depth=setting.depth,
        case=1,
        learning_rate=setting.learning_rate / setting.width**2,
    )
    about = {"long_name": "predicted middle singular value", "symbol": "\\rho(t)", "units": "1", "reference": SOURCE}
    return dataset.assign(loss=("step", result.losses.numpy(), _LOSS), rho=("step", rho, about))


def svd_optimizers(setting: SvdOptimizers, workplace: Workplace) -> xr.Dataset:
    """Track the same network under gradient descent, momentum, Adam and RMSprop.

    Returns
    -------
    xarray.Dataset
        Records of the trackers, along `optimizer`, with `loss`.

    Raises
    ------
    TrainingError
        If a loss is not finite.
    """
    runs = {name: _optimised(setting, name, build) for name, build in _optimizers(setting).items()}
    joined = xr.concat(list(runs.values()), dim="optimizer", combine_attrs="override")
    return joined.assign_coords(optimizer=("optimizer", np.array(list(runs)), {"long_name": "optimizer"}))


def evolution_claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source says of gradient descent; its printed numbers only in the printed setting."""
    rank, width = dataset.sizes["edge"], dataset.attrs["width"]
    unmet = [] if width > 2 * rank else [f"no middle block: width {width} ≤ 2·{rank}"]
    middle = dataset["singular_values"].isel(component=slice(rank, width - rank))
    deviation = _largest(abs(middle / dataset["rho"] - 1))
    theorem = f"{SOURCE}, Theorem 1"
    claims = [
        at_most("middle block turns, rad", theorem, _turn(dataset["middle_angle"]), FLAT, unmet=unmet),
        at_most("middle singular values against ρ(t), relative", theorem, deviation, EQUAL, unmet=unmet),
    ]
    return [*claims, *_printed_claims(dataset)] if _is_printed(dataset) else claims


def optimizer_claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source says of momentum, and what is measured of Adam and RMSprop, to which no theorem applies."""
    rank, width = dataset.sizes["edge"], dataset.attrs["width"]
    unmet = [] if width > 2 * rank else [f"no middle block: width {width} ≤ 2·{rank}"]
    leading = dataset["singular_values"].isel(component=0, layer=0)
    turns = {str(name): _turn(dataset["middle_angle"].sel(optimizer=name)) for name in dataset["optimizer"].values}
    short = [f"shown over {SHOWN_STEPS} steps"] if dataset.sizes["step"] <= SHOWN_STEPS else []
    measured = "measured here; coordinate-wise steps do not commute with rotations, no theorem applies"
    return [
        *(
            at_most(f"{name}: middle block turns, rad", SOURCE, turns[name], FLAT, unmet=unmet)
            for name in ("gradient descent", "momentum")
        ),
        at_most(
            "gradient descent: turning points of the largest singular value",
            SOURCE,
            _turning_points(leading.sel(optimizer="gradient descent").values),
            0,
        ),
        at_least(
            "momentum: turning points of the largest singular value",
            f"{SOURCE}: it oscillates",
            _turning_points(leading.sel(optimizer="momentum").values),
            2,
            unmet=short,
        ),
        *(
            at_least(f"{name}: middle block turns, rad", measured, turns[name], 0.1, unmet=unmet)
            for name in ("Adam", "RMSprop")
        ),
    ]


_LOSS = {"long_name": "½ mean squared error over all entries", "units": "1", "symbol": "\\mathcal{L}"}
_Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def _problem(setting: SvdEvolution) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Identity inputs, the target, and the orthogonal start."""
    widths = [setting.width] * (setting.depth + 1)
    weights = linear_weights(widths, "orth", setting.init_scale, seed=setting.seed)
    target = low_rank_target(setting.width, setting.width, setting.rank, seed=setting.seed + 1)
    return torch.eye(setting.width, dtype=torch.float64), target, weights


def _optimizers(setting: SvdOptimizers) -> dict[str, _Optimizer]:
    """How each optimizer is built."""
    rate, adaptive = setting.learning_rate, setting.adaptive_rate
    return {
        "gradient descent": lambda weights: torch.optim.SGD(weights, lr=rate),
        "momentum": lambda weights: torch.optim.SGD(weights, lr=rate, momentum=setting.momentum),
        "Adam": lambda weights: torch.optim.Adam(weights, lr=adaptive),
        "RMSprop": lambda weights: torch.optim.RMSprop(weights, lr=adaptive),
    }


def _optimised(setting: SvdOptimizers, name: str, build: _Optimizer) -> xr.Dataset:
    """One run of one optimizer."""
    inputs, target, weights = _problem(setting)
    network = DeepLinear.from_weights(weights)
    optimizer = build(network.parameters())
    tracker, losses = WeightTracker(network, edge=setting.rank, reference=1), []
    for step in range(setting.num_steps + 1):
        optimizer.zero_grad()
        loss = 0.5 * (network(inputs) - target.T).square().mean()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"{name}: the loss is {losses[-1]} at step {step}; use a smaller learning rate")
        tracker.record(step, network)
        loss.backward()
        optimizer.step()
    return tracker.to_dataset().assign(loss=("step", np.array(losses), _LOSS))


def _outer_angles(last: xr.Dataset) -> np.ndarray:
    """Angles of the single vectors that face the target alone: right ones of W_1, left ones of W_L."""
    faces = (("right", 0), ("left", -1))
    return np.concatenate(
        [
            last[name].sel(side=side).isel(layer=layer).values
            for name in ("top_angle", "bottom_angle")
            for side, layer in faces
        ]
    )


def _turn(angles: xr.DataArray) -> float:
    """The largest angle after step 1, to whose subspaces all are measured."""
    return _largest(angles.isel(step=slice(2, None)))


def _largest(values: xr.DataArray) -> float:
    """The largest number, NaN if one is undefined or there is none."""
    return float(values.max(skipna=False)) if values.size else math.nan


def _turning_points(curve: np.ndarray) -> float:
    """How often a curve changes from rising to falling or back, NaN if it is too short to turn or not finite."""
    if len(curve) < 3 or not np.isfinite(curve).all():
        return math.nan
    signs = np.sign(np.diff(curve))
    return float((np.diff(signs[signs != 0]) != 0).sum())


def _is_printed(dataset: xr.Dataset) -> bool:
    """Whether a run has the setting whose numbers are printed; any seed will do."""
    printed = {name: value for name, value in asdict(SvdEvolution()).items() if name != "seed"}
    return all(dataset.attrs[name] == value for name, value in printed.items())


def _printed_claims(dataset: xr.Dataset) -> list[Verdict]:
    """The numbers at the end of the printed run."""
    last, rank, figure = dataset.isel(step=-1), dataset.sizes["edge"], f"{SOURCE}, Figure 1, recomputed"
    middle = last["singular_values"].isel(component=slice(rank, -rank))
    grown = (last["singular_values"].isel(component=rank - 1) / last["rho"]).min()
    turned = float(np.median(_outer_angles(last)))
    claim = "leading and trailing vectors turn, median, rad"
    return [
        near("middle singular value at the end", figure, float(middle.mean()), PRINTED_SCALE, within=1e-3),  # 3 digits
        Verdict.judge(claim, figure, turned, 0.3, 0.5, tolerance=DRAWS),
        at_least("leading singular values over the middle ones", f"{SOURCE}, Figure 1", float(grown), 1.1),
    ]


EVOLUTION = Experiment(
    name="svd-evolution",
    shows="Gradient descent changes 2r singular directions of every weight and only rescales all others.",
    source=f"{SOURCE}, Figure 1",
    small=SvdEvolution(),
    paper=SvdEvolution(),
    durations=("1 s", "1 s"),
    run=svd_evolution,
    draw=draw_evolution,
    claims=evolution_claims,
)
OPTIMIZERS = Experiment(
    name="svd-optimizers",
    shows="Momentum oscillates but keeps the middle block; Adam and RMSprop turn it.",
    source=f"{SOURCE}, appendix",
    small=SvdOptimizers(),
    paper=SvdOptimizers(),
    durations=("2 s", "2 s"),
    run=svd_optimizers,
    draw=draw_optimizers,
    claims=optimizer_claims,
)
