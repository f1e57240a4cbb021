"""Runs of matrix recovery as datasets: one network per part, joined along `network`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from neurocollapse.experiments.workplace import Workplace
from neurocollapse.lowrank import Compressed, Diverged, Recovery
from neurocollapse.models.linear import chain_product
from neurocollapse.support.progress import progress_bar

DESCRIPTIONS = {
    "loss": ("training loss", "half mean square"),
    "test_error": ("error on hidden entries over their norm", "1"),
    "final_test_error": ("error on hidden entries over their norm, at the end", "1"),
    "num_steps": ("updates until the tolerance", "steps"),
    "converged": ("reached the tolerance", "1"),
    "diverged": ("loss stopped being finite", "1"),
    "seconds": ("wall time of the updates", "s"),
    "num_parameters": ("trained numbers", "1"),
    "stability": ("step size times largest curvature at the end; stable below 2", "1"),
}


def run_dataset(
    run: Callable[[], Recovery], weights: Sequence[Tensor], *, stability: Callable[[Recovery], float] | None = None
) -> xr.Dataset:
    """Run and keep losses and test errors along `step`, and the end's numbers; a diverged run has NaN instead."""
    parameters = float(sum(weight.numel() for weight in weights))
    try:
        found = run()
    except Diverged:
        empty = ("step", np.full(1, np.nan))
        scalars = {"num_steps": np.nan, "converged": 0, "diverged": 1, "seconds": np.nan, "stability": np.nan}
        values = {
            "final_test_error": np.nan,
            "loss": empty,
            "test_error": empty,
            "num_parameters": parameters,
            **scalars,
        }
        return xr.Dataset(values, coords={"step": [0]})
    values = {
        "loss": ("step", found.losses.numpy()),
        "test_error": ("step", found.test_errors.numpy()),
        "final_test_error": found.test_error,
        "num_steps": float(found.num_steps),
        "converged": int(found.converged),
        "diverged": 0,
        "seconds": found.seconds,
        "num_parameters": parameters,
        "stability": np.nan if stability is None else stability(found),
    }
    return xr.Dataset(values, coords={"step": found.steps.numpy()})


def run_networks(
    networks: Mapping[str, Callable[[], xr.Dataset]], workplace: Workplace, *, dim: str = "network", prefix: str = ""
) -> xr.Dataset:
    """Run all networks, each a part that an interrupted run keeps, and join them."""
    shown = progress_bar(networks.items(), desc=prefix or None, shown=workplace.progress, leave=False)
    parts = [workplace.part(f"{prefix}{name}".replace("γ=", "outer-rate-"), compute) for name, compute in shown]
    joined = xr.concat(parts, dim=xr.IndexVariable(dim, list(networks)), join="outer", combine_attrs="drop")
    return described(joined)


def described(dataset: xr.Dataset, more: Mapping[str, tuple[str, str]] | None = None) -> xr.Dataset:
    """Long names and units for the variables that have a description."""
    for name, (long_name, units) in {**DESCRIPTIONS, **(more or {})}.items():
        if name in dataset:
            dataset[name].attrs.update(long_name=long_name, units=units)
    return dataset


def step_stability(weights: Sequence[Tensor], rates: Sequence[float], mask: Tensor) -> float:
    r"""The largest eigenvalue of the linearised step on the observed errors; gradient descent is stable below 2.

    Near a solution the errors follow :math:`e \leftarrow e - \sum_l \eta_l\, \Omega\odot(A_l A_l^\top e B_l^\top B_l)`,
    A_l and B_l the products of the weights behind and before layer l.

    Parameters
    ----------
    weights
        [W_1, …, W_L] at a solution.
    rates
        η_l of each, in the units of ½Σe².
    mask : Tensor of the target's shape
        1 where observed.

    Examples
    --------
    >>> round(step_stability([torch.eye(2), 2 * torch.eye(2)], [0.1, 0.1], torch.ones(2, 2)), 6)  # 0.1 (2² + 1²)
    0.5
    """
    weights, mask = [weight.double() for weight in weights], mask.double()
    terms = []
    for layer in range(len(weights)):
        behind = chain_product(weights, layer + 1) if layer + 1 < len(weights) else None
        before = chain_product(weights, 0, layer) if layer else None
        terms.append((rates[layer], behind, before))
    errors = mask / float(torch.linalg.matrix_norm(mask))
    errors = errors * torch.rand(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = 0.0
    for _ in range(_POWER_STEPS):
        moved = sum(rate * _through(errors, behind, before) for rate, behind, before in terms if rate)
        moved = mask * moved
        value = float(torch.linalg.matrix_norm(moved))
        errors = moved / value
    return value


_POWER_STEPS = 200


def _through(errors: Tensor, behind: Tensor | None, before: Tensor | None) -> Any:
    """A Aᵀ e Bᵀ B for the products behind and before a layer; the identity for an end of the chain."""
    if behind is not None:
        errors = behind @ (behind.T @ errors)
    return errors if before is None else (errors @ before.T) @ before


def chain_rates(network: Compressed | Sequence[Tensor], rate: float, outer_rate: float) -> list[float]:
    """η_l of every weight of a chain."""
    num_weights = len(network.weights if isinstance(network, Compressed) else network)
    return [outer_rate * rate, *[rate] * (num_weights - 2), outer_rate * rate]
