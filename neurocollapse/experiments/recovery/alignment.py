"""How the last layer's leading direction turns towards the target's while a network factorizes or completes it."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.experiments.experiment import Experiment, at_least, at_most
from neurocollapse.experiments.recovery.spectral_init import masked_or_full
from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import recover
from neurocollapse.models.linear import linear_weights
from neurocollapse.plots.experiments import recovery as drawn
from neurocollapse.theory import Verdict
from neurocollapse.train import DescentProgress

SOURCE = "Kwon et al., arXiv 2311.05061, figure on the leading factors"
FALL = 0.01
"""By how much the alignment falls at least on the way, where entries are missing: ten times what is allowed where none
is. By 0.08 to 0.09 with seeds 0 to 2, and by 0.02 for 30 × 30 matrices of which half is seen."""


@dataclass(frozen=True)
class Alignment:
    """Setting; the loss is ½ mean over the observed entries.

    Attributes
    ----------
    size, rank
        d and r of the target: r singular triples of a Gaussian matrix, evenly spread over its upper half.
    fractions
        Observed part of the entries, one run each; 1 is factorization.
    depth, scale
        L and ε of the orthogonal initial weights.
    learning_rate
        η.
    tolerance, num_steps
        Stop at this training loss, or after so many steps.
    check_every
        Steps between two measurements.
    """

    size: int = 100
    rank: int = 10
    fractions: tuple[float, ...] = (1.0, 0.3)
    depth: int = 3
    scale: float = 1e-2
    learning_rate: float = 20.0
    tolerance: float = 1e-9
    num_steps: int = 10_000
    check_every: int = 50
    seed: int = 0


def alignment(setting: Alignment, workplace: Workplace) -> xr.Dataset:
    """Measure |⟨u, u*⟩| and |⟨v, v*⟩| along training.

    Returns
    -------
    Dataset
        Along `fraction` and `step`: `left_alignment`, of the leading left singular vectors of W_L and of the target;
        `right_alignment`, of the right ones of W_1; and the training loss.
    """
    names = {"left_alignment": "|⟨u of W_L, u of the target⟩|", "right_alignment": "|⟨v of W_1, v of the target⟩|"}
    parts = [
        workplace.part(f"fraction-{fraction}", partial(_aligned, setting, fraction)) for fraction in setting.fractions
    ]
    fractions = xr.IndexVariable("fraction", list(setting.fractions))
    joined = xr.concat(parts, dim=fractions, join="outer", combine_attrs="drop")
    for name, long_name in names.items():
        joined[name].attrs.update(long_name=long_name, units="1")
    joined["loss"].attrs.update(long_name="training loss", units="half mean square")
    return joined


def spread_target(size: int, rank: int, seed: int) -> Tensor:
    """Singular triples 0, d/2r, 2d/2r, … of a standard Gaussian matrix, so that their values differ clearly."""
    gaussian = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    left, values, right = torch.linalg.svd(gaussian)
    chosen = [index * size // (2 * rank) for index in range(rank)]
    return (left[:, chosen] * values[chosen]) @ right[chosen]


def _aligned(setting: Alignment, fraction: float) -> xr.Dataset:
    """One run."""
    target = spread_target(setting.size, setting.rank, setting.seed)
    left, _, right = torch.linalg.svd(target)
    weights = linear_weights([setting.size] * (setting.depth + 1), "orth", setting.scale, seed=setting.seed + 2)
    found: dict[str, list[float]] = {"left_alignment": [], "right_alignment": []}

    def measure(progress: DescentProgress) -> None:
        chain = progress.weights
        found["left_alignment"].append(abs(float(torch.linalg.svd(chain[-1])[0][:, 0] @ left[:, 0])))
        found["right_alignment"].append(abs(float(torch.linalg.svd(chain[0])[2][0] @ right[0])))

    run = recover(
        masked_or_full(target, fraction, setting.seed + 1),
        weights,
        learning_rate=setting.learning_rate,
        num_steps=setting.num_steps,
        tolerance=setting.tolerance,
        every=setting.check_every,
        events={"on_check": measure},
    )
    values = {name: ("step", np.array(series)) for name, series in found.items()}
    return xr.Dataset({"loss": ("step", run.losses.numpy()), **values}, coords={"step": run.steps.numpy()})


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """What the source's figure shows: towards 1, monotonously only where everything is observed."""
    found = []
    for fraction in dataset["fraction"].values:
        series = dataset["left_alignment"].sel(fraction=fraction).dropna("step").values[1:]  # ill-defined at the start
        seen = "all entries" if fraction == 1 else f"{fraction:.0%} of the entries"
        limit = 0.999 if fraction == 1 else 0.98
        found.append(at_least(f"{seen}: alignment at the end", SOURCE, float(series[-1]), limit))
        fall = float((np.maximum.accumulate(series) - series).max())
        if fraction == 1:
            found.append(at_most(f"{seen}: largest fall of the alignment", SOURCE, fall, 1e-3))
        else:
            found.append(at_least(f"{seen}: largest fall of the alignment", SOURCE, fall, FALL))
    return found


EXPERIMENT = Experiment(
    name="alignment",
    shows="The leading direction of the last layer turns to the target's, straight or, with a mask, with detours.",
    source="Kwon et al., arXiv 2311.05061, figure on the leading factors",
    small=Alignment(),
    paper=Alignment(learning_rate=3.0, num_steps=100_000),
    durations=("10 s", "1 min"),
    run=alignment,
    draw=drawn.alignment,
    claims=claims,
)
