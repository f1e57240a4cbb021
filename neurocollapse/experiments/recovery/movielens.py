"""MovieLens ratings completed by a full and a compressed network, alternating minimisation and a truncated SVD."""

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.data import DataError
from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import (
    Completion,
    Compressed,
    Diverged,
    Factors,
    Observations,
    Ratings,
    RatingsError,
    alternate,
    compress_spectral,
    read_ratings,
    recover,
    spectral_factors,
)
from neurocollapse.models.linear import chain_product, linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.support.atomic import write
from neurocollapse.theory import Verdict
from neurocollapse.train import DescentProgress

SOURCE = "Kwon et al., arXiv 2311.05061, experiment on MovieLens"
MADE_UP = "made up"


@dataclass(frozen=True)
class MovieLens:
    """Setting; the loss is ½ mean over the training ratings, from which their mean is subtracted.

    Attributes
    ----------
    file
        `u.data` or its folder, as it is or in the data root; "made up" writes and reads a small file of its own.
    rank
        r, of all methods; the compressed network has inner width 2r.
    train_fraction, validation_fraction
        Part of the ratings to train on, and part of the training ratings that choose when to stop.
    depth, scale
        L and ε; the full network is as wide as there are users or items, whichever are fewer.
    learning_rate, outer_rate
        η and γ.
    num_steps, check_every
        Updates of both networks, and between two measurements.
    ridge
        λ of alternating minimisation.
    """

    file: str = MADE_UP
    rank: int = 3
    train_fraction: float = 0.8
    validation_fraction: float = 0.1
    depth: int = 3
    scale: float = 0.05
    learning_rate: float = 20.0
    outer_rate: float = 1.0
    num_steps: int = 2000
    check_every: int = 25
    ridge: float = 0.05
    seed: int = 0


def movielens(setting: MovieLens, workplace: Workplace) -> xr.Dataset:
    """Complete the ratings with every method.

    Returns
    -------
    Dataset
        Along `algorithm`: `rmse` of the test ratings, at the step with the least validation error for networks, and
        `seconds`; along `network` and `step`: `test_rmse`.
    """
    ratings = open_ratings(setting, workplace)
    seen, unseen = ratings.split(setting.train_fraction, seed=setting.seed)
    parts = _Parts.of(seen, unseen, setting)
    problem = Completion(parts.train, reduction="half_mean_observed")
    users, items = seen.shape
    width = min(users, items)
    full = linear_weights([items, *[width] * (setting.depth - 1), users], "orth", setting.scale, seed=setting.seed + 1)
    start = time.perf_counter()
    small = compress_spectral(problem.surrogate(), 2 * setting.rank, depth=setting.depth, scale=setting.scale)
    compressing = time.perf_counter() - start
    networks = {
        "full": workplace.part("full", lambda: _trained(setting, problem, full, 1.0, parts)),
        "compressed": workplace.part(
            "compressed", lambda: _trained(setting, problem, small, setting.outer_rate, parts)
        ),
    }
    joined = xr.concat(list(networks.values()), dim=xr.IndexVariable("network", list(networks)), join="outer")
    others = _others(setting, parts)
    rows = {name: (float(run["best_rmse"]), float(run["seconds"])) for name, run in networks.items()}
    rows["compressed"] = (rows["compressed"][0], rows["compressed"][1] + compressing)
    rows |= others
    dataset = xr.Dataset(
        {
            "rmse": ("algorithm", [row[0] for row in rows.values()], {"long_name": "test error", "units": "stars"}),
            "seconds": ("algorithm", [row[1] for row in rows.values()], {"long_name": "wall time", "units": "s"}),
            "test_rmse": joined["test_rmse"].assign_attrs(long_name="test error", units="stars"),
        },
        coords={"algorithm": list(rows)},
    )
    return dataset.assign_attrs(num_users=users, num_items=items, num_ratings=len(ratings))


def open_ratings(setting: MovieLens, workplace: Workplace) -> Ratings:
    """The ratings that a setting names.

    Raises
    ------
    DataError
        If they cannot be read; the message is one line.
    """
    try:
        if setting.file == MADE_UP:
            with tempfile.TemporaryDirectory() as folder:
                return read_ratings(write_ratings(Path(folder) / "u.data", seed=setting.seed))
        path = Path(setting.file)
        if not path.exists() and workplace.data_root is not None:
            path = Path(workplace.data_root) / setting.file
        return read_ratings(path)
    except RatingsError as error:
        raise DataError(str(error)) from error


def write_ratings(path: Path, *, users: int = 150, items: int = 200, rank: int = 3, seed: int = 0) -> Path:
    """Write made-up ratings in the format of MovieLens: taste of low rank plus noise, rounded to 1 … 5 stars."""
    random = np.random.default_rng(seed)
    taste = random.standard_normal((users, rank)) @ random.standard_normal((rank, items)) / math.sqrt(rank)
    stars = np.clip(np.rint(3.3 + taste + 0.4 * random.standard_normal((users, items))), 1, 5).astype(int)
    rated = np.argwhere(random.random((users, items)) < 0.3)
    lines = [
        f"{user + 1}\t{item + 1}\t{stars[user, item]}\t{881250949 + place}" for place, (user, item) in enumerate(rated)
    ]
    return write(path, "\n".join(lines) + "\n")


@dataclass(frozen=True, eq=False)
class _Parts:
    """Centred training, validation and test ratings."""

    train: Observations
    validation: Completion
    test: Completion

    @classmethod
    def of(cls, seen: Observations, unseen: Observations, setting: MovieLens) -> "_Parts":
        """Take the validation part out of the training ratings and subtract their mean everywhere."""
        mean = float(seen.values.mean())
        order = torch.randperm(len(seen), generator=torch.Generator().manual_seed(setting.seed + 2))
        count = max(1, round(setting.validation_fraction * len(seen)))
        held, kept = (part.sort().values for part in (order[:count], order[count:]))

        def centred(entries: Observations, chosen: Tensor) -> Observations:
            values = entries.values[chosen] - mean
            return Observations(entries.rows[chosen], entries.columns[chosen], values, entries.shape)

        everything = torch.arange(len(unseen))
        return cls(centred(seen, kept), Completion(centred(seen, held)), Completion(centred(unseen, everything)))


def _rmse(problem: Completion, left: Tensor, right: Tensor) -> float:
    """Root mean square error of the entries."""
    errors = problem.residual(left, right)
    return math.sqrt(float(torch.dot(errors, errors)) / len(errors))


def _trained(
    setting: MovieLens, problem: Completion, network: Compressed | Sequence[Tensor], outer_rate: float, parts: _Parts
) -> xr.Dataset:
    """A network's errors along training, and its test error where the validation error is least."""
    steps: list[int] = []
    errors: list[tuple[float, float]] = []

    def measure(progress: DescentProgress) -> None:
        ends = chain_product(progress.weights[1:]), progress.weights[0].T
        steps.append(progress.step)
        errors.append((_rmse(parts.validation, *ends), _rmse(parts.test, *ends)))

    try:
        run = recover(
            problem,
            network,
            learning_rate=setting.learning_rate,
            outer_rate=outer_rate,
            num_steps=setting.num_steps,
            every=setting.check_every,
            events={"on_check": measure},
        )
        seconds = run.seconds
    except Diverged:
        seconds = math.nan
    table = np.array(errors)
    best = int(table[:, 0].argmin())
    seconds = seconds * steps[best] / max(steps[-1], 1)  # until the step that is kept
    values = {"test_rmse": ("step", table[:, 1]), "best_rmse": table[best, 1], "seconds": seconds}
    return xr.Dataset(values, coords={"step": steps})


def _others(setting: MovieLens, parts: _Parts) -> dict[str, tuple[float, float]]:
    """(error, seconds) of the methods without a network."""
    found = {}
    start = time.perf_counter()
    factors = alternate(parts.train, setting.rank, ridge=setting.ridge, seed=setting.seed)
    found["alternating"] = (_rmse(parts.test, *factors), time.perf_counter() - start)
    start = time.perf_counter()
    surrogate = Completion(parts.train).surrogate()
    right = spectral_factors(surrogate, setting.rank).right
    truncated = Factors(surrogate @ right, right)
    found["truncated SVD"] = (_rmse(parts.test, *truncated), time.perf_counter() - start)
    nothing = [torch.zeros(size, 1, dtype=torch.float64) for size in parts.test.shape]
    found["mean rating"] = (_rmse(parts.test, *nothing), 0.0)
    return found


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source's figure shows: the same error, about 12 times sooner."""
    rmse, seconds = (dataset[name].to_series().to_dict() for name in ("rmse", "seconds"))
    quotient = seconds["full"] / seconds["compressed"]
    return [
        at_most("compressed / full: test error", SOURCE, rmse["compressed"] / rmse["full"], 1.02),
        at_most("compressed / alternating: test error", SOURCE, rmse["compressed"] / rmse["alternating"], 1.05),
        at_most("compressed / mean rating: test error", SOURCE, rmse["compressed"] / rmse["mean rating"], 0.97),
        at_least("full / compressed: wall time", SOURCE, quotient, 2.0 if dataset.attrs["file"] == MADE_UP else 6.0),
    ]


EXPERIMENT = Experiment(
    name="movielens",
    shows="A compressed network completes ratings as well as a full one and much sooner.",
    source="Kwon et al., arXiv 2311.05061, experiment on MovieLens-100k",
    small=MovieLens(),
    paper=MovieLens(file="ml-100k/u.data", rank=10, learning_rate=100.0, num_steps=1500, ridge=0.1),
    durations=("5 s", "10 min"),
    run=movielens,
    draw=drawn.movielens,
    claims=claims,
)
