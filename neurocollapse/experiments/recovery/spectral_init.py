"""Compressed networks between the singular vectors of a surrogate: factorization, completion and sensing."""

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from functools import partial

import torch
import xarray as xr
from torch import Tensor

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.experiments.experiment import Experiment, at_most, near
from neurocollapse.experiments.recovery.runs import run_dataset, run_networks
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import (
    Completion,
    Compressed,
    Factorization,
    Observations,
    Sensing,
    compress_spectral,
    observe,
    recover,
)
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.theory import Verdict

SOURCE = "Kwon et al., arXiv 2311.05061"
PROBLEMS = ("factorization", "completion", "sensing")
RECOVERED = 0.1
"""An error below this part of the target's norm counts as the drop."""
SOONER = {"factorization": 0.95, "completion": 0.5, "sensing": 0.98}
"""Upper limits of the compressed network's drop as a part of the full one's, in any setting."""
PRINTED = {"factorization": {"full": 80_000, "compressed": 61_000}, "completion": {"full": 7_900, "compressed": 2_300}}
"""Steps read off the source's figures: of the drop in factorization, of the end in completion."""
PRINTED_SETTINGS = {"factorization": [100.0, 10.0, 1.0, 0.0], "completion": [100.0, 5.0, 10.0, 1e-12]}
"""Size, rank, learning rate and tolerance for which they are read off."""
LATER = 1.05
"""The compressed error may exceed the full one by this factor, where both stand on one plateau."""
FLOOR = 1e-5
"""Errors below count as this: what is left are the directions that never learn, ε^L in size, for either network."""


@dataclass(frozen=True)
class SpectralInit:
    """Setting; one entry a problem (factorization, completion, sensing) in every tuple.

    The losses are ½ mean over entries, ½ mean over observed entries, and ½ sum over measurements with A_i of standard
    Gaussian entries over m.

    Attributes
    ----------
    sizes, ranks
        d and r of the targets, the r leading singular triples of a d × d standard Gaussian matrix.
    fraction
        Part of the entries that completion sees.
    measurements
        m, how many measurements sensing has.
    depth, scale
        L and ε of the orthogonal initial weights.
    learning_rates, outer_rates
        η and γ.
    num_steps, tolerances
        Stop after so many steps, or at this training loss.
    check_every
        Steps between two checks.
    """

    sizes: tuple[int, ...] = (50, 50, 20)
    ranks: tuple[int, ...] = (4, 3, 2)
    fraction: float = 0.4
    measurements: int = 300
    depth: int = 3
    scale: float = 1e-2
    learning_rates: tuple[float, ...] = (10.0, 10.0, 5.0)
    outer_rates: tuple[float, ...] = (1.0, 5.0, 1.0)
    num_steps: tuple[int, ...] = (6000, 6000, 6000)
    tolerances: tuple[float, ...] = (0.0, 0.0, 0.0)
    check_every: int = 50
    seed: int = 0


def spectral_init(setting: SpectralInit, workplace: Workplace) -> xr.Dataset:
    """Train a full network and a compressed one of rank 2r for every problem.

    Returns
    -------
    Dataset
        Along `problem`, `network` and `step`: training loss and relative error of the whole matrix.
    """
    values = [value for value in astuple(setting) if isinstance(value, tuple)]
    if any(len(value) != len(PROBLEMS) for value in values):
        raise ValueError(f"every tuple of the setting needs one entry for each of {', '.join(PROBLEMS)}")
    tables = [_problem(setting, index, workplace) for index in range(len(PROBLEMS))]
    return xr.concat(tables, dim=xr.IndexVariable("problem", list(PROBLEMS)), join="outer")


def masked_or_full(target: Tensor, fraction: float, seed: int) -> Factorization | Completion:
    """Completion of a random part of the entries (mean over these), or factorization for a fraction of 1."""
    if fraction == 1:
        return Factorization(target, reduction="half_mean")
    return Completion(observe(target, fraction, seed=seed)[0], reduction="half_mean_observed")


def _problem(setting: SpectralInit, index: int, workplace: Workplace) -> xr.Dataset:
    """Both networks on one problem."""
    kind, size, rank = PROBLEMS[index], setting.sizes[index], setting.ranks[index]
    target = low_rank_target(size, size, rank, seed=setting.seed)
    problem: Factorization | Completion | Sensing
    if kind == "sensing":
        generator = torch.Generator().manual_seed(setting.seed + 1)
        matrices = torch.randn(setting.measurements, size, size, dtype=torch.float64, generator=generator)
        matrices /= setting.measurements
        problem = Sensing(matrices, (matrices * target).sum((1, 2)))
    else:
        problem = masked_or_full(target, 1.0 if kind == "factorization" else setting.fraction, setting.seed + 1)
    whole = Completion(Observations.where(target, torch.ones_like(target)))
    full = linear_weights([size] * (setting.depth + 1), "orth", setting.scale, seed=setting.seed + 2)
    small = compress_spectral(problem.surrogate(), 2 * rank, depth=setting.depth, scale=setting.scale)

    def job(network: Compressed | Sequence[Tensor], outer_rate: float) -> Callable[[], xr.Dataset]:
        train = partial(recover, problem, network, outer_rate=outer_rate, test=whole, every=setting.check_every)
        weights = network.weights if isinstance(network, Compressed) else network
        rate, steps = setting.learning_rates[index], setting.num_steps[index]
        train = partial(train, learning_rate=rate, num_steps=steps, tolerance=setting.tolerances[index])
        return lambda: run_dataset(train, weights)

    networks = {"full": job(full, 1.0), "compressed": job(small, setting.outer_rates[index])}
    return run_networks(networks, workplace, prefix=f"{kind}-")


def drop(error: xr.DataArray) -> float:
    """The first checked step at which the error is below a tenth; NaN if it never is."""
    below = error["step"].values[error.values < RECOVERED]
    return float(below[0]) if below.size else float("nan")


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source's figures show; the numbers of steps only in the printed setting."""
    found = []
    for name in dataset["problem"].values:
        of_problem = dataset.sel(problem=name)
        networks = (of_problem.sel(network=network) for network in ("full", "compressed"))
        full, small = (network["test_error"].dropna("step") for network in networks)
        found += _printed_steps(dataset, str(name), {"full": full, "compressed": small})
        quotient = drop(small) / drop(full)
        found.append(at_most(f"{name}: error drops sooner, compressed / full", SOURCE, quotient, SOONER[str(name)]))
        worst = float((small.clip(min=FLOOR) / full.clip(min=FLOOR)).max())  # at the steps that both have
        found.append(at_most(f"{name}: compressed error / full error, at any step", SOURCE, worst, LATER))
        found.append(at_most(f"{name}: compressed error at the end", SOURCE, float(small[-1]), FLOOR))
    return found


def _printed_steps(dataset: xr.Dataset, name: str, errors: dict[str, xr.DataArray]) -> list[Verdict]:
    """The source's step counts, if the setting of the problem is the printed one."""
    if name not in PRINTED:
        return []
    index = PROBLEMS.index(name)
    setting = [float(dataset.attrs[key][index]) for key in ("sizes", "ranks", "learning_rates", "tolerances")]
    if setting != PRINTED_SETTINGS[name]:
        return []
    found = []
    for network, steps in PRINTED[name].items():
        run = dataset["num_steps"].sel(problem=name, network=network)
        measured = drop(errors[network]) if name == "factorization" else float(run)
        claim = f"{name}: {'drop' if name == 'factorization' else 'end'} of the {network} network at step {steps:,}"
        found.append(near(claim, SOURCE, measured, steps, within=0.15))
    return found


EXPERIMENT = Experiment(
    name="spectral-init",
    shows="Networks between the singular vectors of a surrogate skip the plateau of the full network.",
    source="Kwon et al., arXiv 2311.05061, figures on factorization, completion and sensing",
    small=SpectralInit(),
    paper=SpectralInit(
        sizes=(100, 100, 200),
        ranks=(10, 5, 5),
        fraction=0.3,
        measurements=4000,
        learning_rates=(1.0, 10.0, 20.0),
        num_steps=(100_000, 25_000, 2_500),  # sensing stands still from step 1,400 on; the source goes on to 25,000
        tolerances=(0.0, 1e-12, 1e-12),
    ),
    durations=("20 s", "12 min"),
    run=spectral_init,
    draw=drawn.spectral_init,
    claims=claims,
)
