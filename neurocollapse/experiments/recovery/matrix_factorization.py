"""Matrix factorization: the compressed network with frozen outer factors follows the full one step by step."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.experiments.experiment import Experiment, near
from neurocollapse.experiments.recovery.runs import described
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import Factorization, compress, first_gradient, recover
from neurocollapse.models.linear import chain_product, linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.theory import Verdict
from neurocollapse.train import DescentProgress

SOURCE = "Yaras et al., arXiv 2306.01154, Section 4"
PRINTED = {1e-2: 2.3e-7, 1e-3: 2.3e-10}
"""Largest relative deviation of the end-to-end matrices for d = 100, r = 5, L = 3, by ε."""
PRINTED_SIZE, PRINTED_DEPTH, PRINTED_RATE = 100, 3, 100.0
"""d, L and η of the printed numbers."""


@dataclass(frozen=True)
class MatrixFactorization:
    """Setting; the loss is ½ mean over all entries.

    Attributes
    ----------
    size, rank
        d and r of the target, the r leading singular triples of a d × d standard Gaussian matrix.
    depth
        Number of matrices, L.
    scales
        ε of the orthogonal initial weights, one pair of networks each.
    learning_rate
        η, in units of the mean loss. None is 100 at d = 100 and L = 3, and follows the edge of stability to other sizes
        and depths, see `stable_rate`.
    tolerance
        Stop at this training loss.
    num_steps
        The most steps.
    check_every
        Steps between two comparisons.
    """

    size: int = 100
    rank: int = 5
    depth: int = 3
    scales: tuple[float, ...] = (1e-2, 1e-3)
    learning_rate: float | None = None
    tolerance: float = 1e-10
    num_steps: int = 60_000
    check_every: int = 50
    seed: int = 0


def matrix_factorization(setting: MatrixFactorization, workplace: Workplace) -> xr.Dataset:
    """Train a full and a compressed network on a target of low rank and compare their end-to-end matrices.

    Returns
    -------
    Dataset
        Along `scale`, `network` and `step`: training loss; along `scale` and `step`: `deviation`, the Frobenius norm of
        the difference of the end-to-end matrices over that of the target; `num_steps`, `seconds`, `num_parameters`;
        `predicted`, √(d − 2r) ε^L / ‖Φ‖_F.
    """
    rate = stable_rate(setting.size, setting.depth) if setting.learning_rate is None else setting.learning_rate
    parts = [workplace.part(f"scale-{scale}", partial(_pair, setting, scale, rate)) for scale in setting.scales]
    scales = xr.IndexVariable("scale", list(setting.scales))
    joined = xr.concat(parts, dim=scales, join="outer", combine_attrs="drop")
    deviation = ("difference of end-to-end matrices / norm of the target", "1")
    joined = described(joined, {"deviation": deviation, "predicted": ("√(d − 2r) ε^L / norm of the target", "1")})
    return joined.assign_attrs(learning_rate_used=rate)


def stable_rate(size: int, depth: int) -> float:
    r"""The step that is as far from the edge of stability as that of the printed numbers.

    At a balanced solution the largest curvature of the mean loss is :math:`L \sigma_1^{2 - 2/L} / d^2`, and the largest
    singular value of a d × d standard Gaussian matrix is close to :math:`2\sqrt d`; gradient descent is stable for η
    below 2 over that. The printed η = 100 at d = 100 and L = 3 is 0.81 of it; the same η at d = 40 is 2.8 times it.

    Examples
    --------
    >>> stable_rate(100, 3), round(stable_rate(40, 3), 2)
    (100.0, 29.47)
    """
    return PRINTED_RATE * _edge(size, depth) / _edge(PRINTED_SIZE, PRINTED_DEPTH)


def _edge(size: int, depth: int) -> float:
    """The largest stable η at a solution, in units of the mean loss."""
    return 2 * size**2 / (depth * (2 * math.sqrt(size)) ** (2 - 2 / depth))


def _pair(setting: MatrixFactorization, scale: float, rate: float) -> xr.Dataset:
    """Both networks from one start."""
    size, rank, depth = setting.size, setting.rank, setting.depth
    target = low_rank_target(size, size, rank, seed=setting.seed)
    problem = Factorization(target, reduction="half_mean")
    full = linear_weights([size] * (depth + 1), "orth", scale, seed=setting.seed + 2)
    small = compress(full, rank, gradient=first_gradient(problem, full))
    train = partial(
        recover,
        problem,
        learning_rate=rate,
        num_steps=setting.num_steps,
        tolerance=setting.tolerance,
        every=setting.check_every,
    )
    followed: list[Tensor] = []
    deviations: list[float] = []

    def follow(progress: DescentProgress) -> None:
        followed.append(chain_product(progress.weights))

    def compare(progress: DescentProgress) -> None:
        place = progress.step // setting.check_every
        if place < len(followed):
            deviations.append(float(torch.linalg.matrix_norm(chain_product(progress.weights) - followed[place])))

    runs = {
        "compressed": train(small, outer_rate=0.0, events={"on_check": follow}),
        "full": train(full, events={"on_check": compare}),
    }
    networks = [
        xr.Dataset(
            {
                "loss": ("step", run.losses.numpy()),
                "num_steps": float(run.num_steps),
                "seconds": run.seconds,
                "num_parameters": float(sum(weight.numel() for weight in run.weights)),
            },
            coords={"step": run.steps.numpy()},
        )
        for run in runs.values()
    ]
    joined = xr.concat(networks, dim=xr.IndexVariable("network", list(runs)), join="outer")
    compared = runs["compressed"].steps.numpy()[: len(deviations)]
    joined["deviation"] = xr.DataArray(
        np.array(deviations) / problem.reference, dims="step", coords={"step": compared}
    ).reindex(step=joined["step"])
    return joined.assign(predicted=math.sqrt(size - 2 * rank) * scale**depth / problem.reference)


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source and the theory say, beside the measurement."""
    found = []
    unmet = [] if dataset.attrs["size"] > 2 * dataset.attrs["rank"] else ["d > 2r"]
    printed = [dataset.attrs[key] for key in ("size", "rank", "depth")] == [100, 5, 3]
    for scale in dataset["scale"].values:
        pair = dataset.sel(scale=scale)
        steps = pair["num_steps"]
        full, small = (float(steps.sel(network=name)) for name in ("full", "compressed"))
        gap = float(pair["deviation"].max())
        found += [
            near(f"ε = {scale:g}: as many steps", SOURCE, small, full, within=0.0, unmet=unmet),
            near(
                f"ε = {scale:g}: deviation = √(d−2r) ε^L/‖Φ‖",
                SOURCE,
                gap,
                float(pair["predicted"]),
                within=0.05,
                unmet=unmet,
            ),
        ]
        if printed and scale in PRINTED:
            found.append(near(f"ε = {scale:g}: deviation {PRINTED[scale]:g}", SOURCE, gap, PRINTED[scale], within=0.05))
    return found


EXPERIMENT = Experiment(
    name="matrix-factorization",
    shows="A network of 2r × 2r cores follows the full one exactly, up to the directions that never learn.",
    source="Yaras et al., arXiv 2306.01154, Section 4 and Theorem 1",
    small=MatrixFactorization(),
    paper=MatrixFactorization(size=1000, rank=10, scales=(1e-3,), learning_rate=1e3),
    durations=("10 s", "several hours"),
    run=matrix_factorization,
    draw=drawn.factorization,
    claims=claims,
)
