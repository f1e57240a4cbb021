"""Matrix completion by networks of two and three layers and growing width."""

from collections.abc import Callable
from dataclasses import dataclass

import xarray as xr

from neurocollapse.data.synthetic import low_rank_target
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.recovery.runs import run_dataset, run_networks
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import Completion, observe, recover
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.theory import Verdict

SOURCE = "Yaras et al., arXiv 2306.01154, figure on depth and width"


@dataclass(frozen=True)
class DepthWidth:
    """Setting; the loss is ½ mean over all entries of the matrix, unobserved ones counting as zeros.

    Attributes
    ----------
    size, rank, fraction
        d, r and observed part of the target, as in matrix-completion.
    scale
        ε of the orthogonal initial weights.
    widths
        Widths of the hidden layers.
    depths, learning_rates
        L, and η for each, in units of the mean loss.
    tolerance, num_steps
        Stop at this training loss, or after so many steps.
    check_every
        Steps between two checks.
    trials
        Networks and targets of different seeds, averaged.
    """

    size: int = 100
    rank: int = 10
    fraction: float = 0.3
    scale: float = 1e-3
    widths: tuple[int, ...] = (10, 40, 100)
    depths: tuple[int, ...] = (2, 3)
    learning_rates: tuple[float, ...] = (100.0, 300.0)
    tolerance: float = 1e-10
    num_steps: int = 60_000
    check_every: int = 100
    trials: int = 1
    seed: int = 0


def depth_width(setting: DepthWidth, workplace: Workplace) -> xr.Dataset:
    """Complete a matrix with networks of every depth and width.

    Returns
    -------
    Dataset
        Along `depth`, `width` and `trial`: relative error of the hidden entries at the end, steps, and more; losses and
        errors along `step`.
    """
    if len(setting.depths) != len(setting.learning_rates):
        raise ValueError(
            f"`learning_rates` must hold one rate for each of {len(setting.depths)} depths, "
            f"got {len(setting.learning_rates)}"
        )
    tables = []
    for trial in range(setting.trials):
        by_depth = [_widths(setting, depth, trial, workplace) for depth in setting.depths]
        depths = xr.IndexVariable("depth", list(setting.depths))
        tables.append(xr.concat(by_depth, dim=depths, join="outer"))
    return xr.concat(tables, dim=xr.IndexVariable("trial", range(setting.trials)), join="outer")


def _widths(setting: DepthWidth, depth: int, trial: int, workplace: Workplace) -> xr.Dataset:
    """All widths of one depth on one target."""
    seed, rate = setting.seed + 10 * trial, setting.learning_rates[setting.depths.index(depth)]
    target = low_rank_target(setting.size, setting.size, setting.rank, seed=seed)
    seen, unseen = observe(target, setting.fraction, seed=seed + 1)
    problem, hidden = Completion(seen, reduction="half_mean"), Completion(unseen)

    def job(width: int) -> Callable[[], xr.Dataset]:
        widths = [setting.size, *[width] * (depth - 1), setting.size]
        weights = linear_weights(widths, "orth", setting.scale, seed=seed + 2)
        return lambda: run_dataset(
            lambda: recover(
                problem,
                weights,
                learning_rate=rate,
                num_steps=setting.num_steps,
                tolerance=setting.tolerance,
                every=setting.check_every,
                test=hidden,
            ),
            weights,
        )

    networks = {str(width): job(width) for width in setting.widths}
    found = run_networks(networks, workplace, dim="width", prefix=f"depth-{depth}-trial-{trial}-width-")
    return found.assign_coords(width=list(setting.widths))


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source's figure shows, as inequalities.

    Two layers of exactly the target's rank arrive soonest of all, as there is nothing to suppress; among wider networks
    the widest is the fastest.
    """
    wider = [int(width) for width in dataset["width"].values if int(width) > dataset.attrs["rank"]]
    unmet = [] if dataset.sizes["width"] > 1 else ["at least two widths"]
    few = [] if len(wider) > 1 else ["at least two widths above the rank"]
    error = dataset["final_test_error"].mean("trial")
    steps = dataset["num_steps"].mean("trial")
    found = []
    for depth in dataset["depth"].values:
        of_depth = error.sel(depth=depth)
        if int(depth) == 2:
            growth = float(of_depth[-1] / of_depth[0])
            claim = "L = 2: error of hidden entries grows with width (widest / narrowest)"
            found.append(at_least(claim, SOURCE, growth, 1.5, unmet=unmet))
        else:
            claim = f"L = {int(depth)}: error of hidden entries stays near 0 at every width"
            found.append(at_most(claim, SOURCE, float(of_depth.max()), 0.02))
        of_wider = steps.sel(depth=depth, width=wider)
        quotient = float("nan") if few else float(of_wider[-1] / of_wider[0])
        claim = f"L = {int(depth)}: steps, widest / narrowest wider than r"
        found.append(at_most(claim, SOURCE, quotient, 0.9, unmet=few))
    return found


EXPERIMENT = Experiment(
    name="depth-width",
    shows="Two layers generalise worse the wider they are, three do not; wider networks arrive sooner.",
    source="Yaras et al., arXiv 2306.01154, figure on depth and width",
    small=DepthWidth(),
    paper=DepthWidth(widths=(10, 20, 30, 40, 50, 60, 70, 80, 90, 100), trials=5),
    durations=("20 s", "9 min"),
    run=depth_width,
    draw=drawn.depth_width,
    claims=claims,
)
