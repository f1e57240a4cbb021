"""Matrix completion by full, compressed and narrow networks that start with the same small weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.experiments.experiment import Experiment, at_least, at_most, near
from neurocollapse.experiments.recovery.runs import chain_rates, run_dataset, run_networks, step_stability
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import Completion, Compressed, Recovery, compress, first_gradient, observe, recover
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.theory import Verdict

SOURCE = "Yaras et al., arXiv 2306.01154, Section 4"
PRINTED = {"full": 20_350, "narrow": 42_900, "γ=0.01": 23_250, "γ=0.1": 21_000, "γ=1.0": 28_900}
"""Steps to the tolerance in an independent float64 run of the source's setting, by network."""
STALLED = 0.011
"""½ mean square of the hidden errors (over all entries) at which the frozen network stays in that run."""
RISE = 2.0
"""Loss, in units of its least so far, that no stable step comes to: these lower it, up to rounding."""
EDGE = 1.8
"""η·curvature from which a step counts as at the edge of stability: gradient descent oscillates beyond 2."""
PRINTED_SETTING = {
    "size": 100,
    "rank": 3,
    "fraction": 0.3,
    "depth": 3,
    "scale": 1e-3,
    "learning_rate": 100.0,
    "tolerance": 1e-10,
}


@dataclass(frozen=True)
class MatrixCompletion:
    """Setting; the loss is ½ mean over all entries of the matrix, unobserved ones counting as zeros.

    Attributes
    ----------
    size, rank
        d and r of the target, the r leading singular triples of a d × d standard Gaussian matrix.
    fraction
        Part of the entries that is observed.
    depth
        L, square layers of the full network; cores of the compressed one.
    scale
        ε of the orthogonal initial weights.
    learning_rate
        η, in units of the mean loss.
    outer_rates
        γ, learning rates of the outer factors as multiples of η, one compressed network each.
    tolerance
        Stop at this training loss.
    num_steps, frozen_steps
        The most steps; and of networks with γ = 0, which never arrive.
    check_every
        Steps between two checks.
    """

    size: int = 100
    rank: int = 3
    fraction: float = 0.3
    depth: int = 3
    scale: float = 1e-3
    learning_rate: float = 100.0
    outer_rates: tuple[float, ...] = (0.0, 0.01, 0.1)
    tolerance: float = 1e-10
    num_steps: int = 60_000
    frozen_steps: int = 20_000
    check_every: int = 50
    seed: int = 0


def matrix_completion(setting: MatrixCompletion, workplace: Workplace) -> xr.Dataset:
    """Complete a matrix with a full network, compressed ones with several outer rates, and a narrow one.

    Returns
    -------
    Dataset
        Along `network` (and `step`): training loss, relative error of the hidden entries, steps, wall time, number of
        parameters, and `stability`, step size times largest curvature at the end.
    """
    problem, hidden, mask = completion_problem(setting)
    full = linear_weights([setting.size] * (setting.depth + 1), "orth", setting.scale, seed=setting.seed + 2)
    small = compress(full, setting.rank, gradient=first_gradient(problem, full))
    narrow_widths = [setting.size, *[2 * setting.rank] * (setting.depth - 1), setting.size]
    narrow = linear_weights(narrow_widths, "orth", setting.scale, seed=setting.seed + 3)
    job = partial(_job, setting, problem, hidden, mask)
    networks = {f"γ={rate}": job(small, rate) for rate in setting.outer_rates}
    dataset = run_networks({**networks, "narrow": job(narrow, 1.0), "full": job(full, 1.0)}, workplace)
    dataset.attrs["hidden_loss_unit"] = 0.5 * hidden.scale * hidden.reference**2  # loss of a relative error of 1
    return dataset.assign_coords(outer_rate=("network", [*setting.outer_rates, 1.0, 1.0]))


def completion_problem(setting: MatrixCompletion) -> tuple[Completion, Completion, Tensor]:
    """The observed entries, the hidden ones, and the mask as a matrix."""
    target = low_rank_target(setting.size, setting.size, setting.rank, seed=setting.seed)
    seen, unseen = observe(target, setting.fraction, seed=setting.seed + 1)
    mask = torch.zeros(setting.size, setting.size, dtype=torch.float64)
    mask[seen.rows, seen.columns] = 1.0
    return Completion(seen, reduction="half_mean"), Completion(unseen, reduction="half_mean"), mask


def _job(
    setting: MatrixCompletion,
    problem: Completion,
    hidden: Completion,
    mask: Tensor,
    network: Compressed | Sequence[Tensor],
    outer_rate: float,
) -> Callable[[], xr.Dataset]:
    """One network's run, to be called later."""
    weights = network.weights if isinstance(network, Compressed) else network
    rates = chain_rates(weights, setting.learning_rate * problem.scale, outer_rate)

    def run() -> Recovery:
        return recover(
            problem,
            weights,
            learning_rate=setting.learning_rate,
            outer_rate=outer_rate,
            num_steps=setting.num_steps if outer_rate else setting.frozen_steps,
            tolerance=setting.tolerance,
            every=setting.check_every,
            test=hidden,
        )

    return lambda: run_dataset(run, weights, stability=lambda found: step_stability(found.weights, rates, mask))


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source says, beside the measurement."""
    steps = {str(name): float(dataset["num_steps"].sel(network=name)) for name in dataset["network"].values}
    printed = all(dataset.attrs.get(key) == value for key, value in PRINTED_SETTING.items())
    found = []
    for name, count in steps.items():
        run = dataset.sel(network=name)
        rate, error = float(run["outer_rate"]), float(run["final_test_error"])
        if rate == 0:
            found.append(at_least("γ = 0 stalls: error of hidden entries ≥ 0.3", SOURCE, error, 0.3))
            if printed:
                hidden_loss = error**2 * float(dataset.attrs["hidden_loss_unit"])
                claim = f"γ = 0 stalls at a hidden loss of at least half of {STALLED}"
                found.append(at_least(claim, SOURCE, hidden_loss, STALLED / 2))
        elif name == "narrow":
            found.append(at_least("narrow: steps ≥ 1.3 × full", SOURCE, count / steps["full"], 1.3))
        elif name != "full":
            unmet = _edge(run)
            found.append(at_most(f"{name}: steps ≤ 1.3 × full", SOURCE, count / steps["full"], 1.3, unmet=unmet))
        if rate:
            found.append(at_most(f"{name}: error of hidden entries", SOURCE, error, 1e-3, unmet=_edge(run)))
    if printed:
        for name, count in steps.items():
            if name in PRINTED:
                claim = f"{name}: {PRINTED[name]:,} steps"
                unmet = _edge(dataset.sel(network=name))
                found.append(near(claim, SOURCE, count, PRINTED[name], within=0.15, unmet=unmet))
    return found


def _edge(run: xr.Dataset) -> list[str]:
    """Why a step count is not determined, if gradient descent is not stable on its way or at the solution."""
    if int(run["diverged"]):
        return ["the loss diverged: the step is beyond the edge of stability"]
    losses = run["loss"].dropna("step").values
    rise = float((losses / np.minimum.accumulate(losses)).max())
    if rise > RISE:  # it was flung off, and may now be anywhere, where curvature is small
        return [f"the loss rose to {rise:.3g} times its least: the step is beyond the edge of stability"]
    stability = float(run["stability"])
    return [f"the step is at the edge of stability: η·curvature = {stability:.3g} of 2"] if stability > EDGE else []


EXPERIMENT = Experiment(
    name="matrix-completion",
    shows="A compressed network completes a matrix in as many steps as the full one, each a fraction of the work.",
    source="Yaras et al., arXiv 2306.01154, Section 4",
    small=MatrixCompletion(),
    paper=MatrixCompletion(outer_rates=(0.0, 0.01, 0.1, 1.0), frozen_steps=60_000),
    durations=("25 s", "30 s"),
    run=matrix_completion,
    draw=drawn.completion,
    claims=claims,
)
