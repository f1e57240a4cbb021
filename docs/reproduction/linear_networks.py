"""Printed numbers about deep linear networks: singular values, decay of D, the theorem and its assumptions."""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import xarray as xr

from reproduction.printed import Printed, at

EVOLUTION = (
    Printed("svd-evolution", "angle of the middle block, rad", "V", "≤ 1e−7", "middle block turns"),
    Printed(
        "svd-evolution",
        "angle of leading and trailing vectors, rad",
        "V",
        "0.3 to 0.5",
        "leading and trailing vectors turn, median",
    ),
    Printed("svd-evolution", "middle singular value at t = 50", "V", "0.951", "middle singular value at the end"),
    Printed(
        "svd-evolution", "middle singular values less ρ(t), relative", "V", "0", "middle singular values against ρ(t)"
    ),
    Printed(
        "svd-nonwhitened",
        "middle singular values less ε, relative, 50 steps",
        "F",
        "nearly 0",
        "middle singular values are nearly ε, relative",
    ),
    Printed("svd-optimizers", "momentum: angle of the middle block, rad", "F", "flat", "momentum: middle block turns"),
    Printed("svd-optimizers", "momentum: turning points of σ₁", "F", "oscillates", "momentum: turning points"),
)

DRIFTS = {"gelu": ("1.4e−2", "1.4e−3", "1.4e−4"), "elu": ("5.6e−3", "6.1e−4", "6.1e−5")}
DRIFTS |= {"tanh": ("1.9e−3", "1.7e−4", "1.8e−5"), "relu": ("0.68", "0.68", "0.68")}


def _drifts() -> Iterator[Printed]:
    """Drift of the first layer outside 2K directions."""
    for name, row in DRIFTS.items():
        for scale, printed in zip((0.1, 0.01, 0.001), row, strict=True):
            claim = f"ReLU, ε = {scale:g}: drift" if name == "relu" else f"{name}: drift ="
            values = at("drift", case="orthonormal", activation=name, init_scale=scale)
            title = {"relu": "ReLU", "gelu": "GELU", "elu": "ELU"}.get(name, name)
            yield Printed("smooth-mlp", f"{title}, ε = {scale:g}: drift", "V", printed, claim, values)


def _factor(depth: int, scale: float) -> Callable[[xr.Dataset], np.ndarray]:
    """D_{l+1}/D_l of linear networks with orthogonal weights, one per network."""
    slope = at("slope", activation="linear", depth=depth, init_scale=scale, init="orth")
    return lambda dataset: np.exp(slope(dataset))


def _decay() -> Iterator[Printed]:
    """Factors and slopes of small networks."""
    yield Printed("collapse-depth", "D₀ = K(n−1)/(K−1)", "V", "11.25", "check of the software: D₀ =")
    for depth, printed in ((6, "0.167"), (8, "0.185"), (10, "0.201")):
        claim = f"linear, orth, L = {depth}, ε = 0.5: D_l+1/D_l = 0"
        quantity = f"linear, L = {depth}, ε = 0.5: D_{{l+1}}/D_l"
        yield Printed("collapse-depth", quantity, "V", printed, claim, _factor(depth, 0.5))
    for scale, printed in ((0.5, "0.137"), (0.25, "0.034"), (0.125, "0.0086")):
        claim = f"linear, orth, L = 4, ε = {scale:g}: D_l+1/D_l = 0"
        quantity = f"linear, L = 4, ε = {scale:g}: D_{{l+1}}/D_l"
        yield Printed("collapse-scale", quantity, "V", printed, claim, _factor(4, scale))
    for experiment in ("collapse-depth", "collapse-scale"):
        quantity = "linear: largest distance from ε²/n^{1/L}, relative"
        yield Printed(experiment, quantity, "V", "≤ 0.03", "linear, orth, L", _off_the_formula)
    for init, printed in (("norm", "−1.85"), ("unif", "−1.88")):
        values = at("slope", activation="linear", depth=8, init_scale=0.5, init=init)
        claim = f"linear, {init}, L = 8, ε = 0.5: slope of ln D_l"
        yield Printed("collapse-init", f"linear, {init}, L = 8: slope of ln D", "V", printed, claim, values)
    for depth, printed in ((6, "−2.26"), (8, "−2.30")):
        values = at("slope", activation="relu", depth=depth, init_scale=0.5, init="orth")
        claim = f"ReLU, orth, L = {depth}, ε = 0.5: slope"
        quantity = f"ReLU, L = {depth}: slope of ln D of one network"
        yield Printed("collapse-depth", quantity, "V", printed, claim, values)
    for scale, most in ((0.5, 100), (0.25, 200), (0.125, 500)):
        claim = f"linear, orth, L = 4, ε = {scale:g}: trained within"
        yield Printed("scale-tradeoff", f"linear, ε = {scale:g}: steps of the slowest", "V", f"≤ {most}", claim)


def _off_the_formula(dataset: xr.Dataset) -> float:
    """By how much the mean factor of linear networks with orthogonal weights is off ε²/n^{1/L} at most."""
    factor = np.exp(dataset["slope"].sel(activation="linear", init="orth")).mean("seed")
    samples = dataset.attrs["samples_per_class"]
    places = product(dataset["depth"].values, dataset["init_scale"].values)
    expected = [scale**2 / samples ** (1 / depth) for depth, scale in places]
    return float(abs(factor.transpose("depth", "init_scale").values.ravel() / expected - 1).max())


def _theorem() -> Iterator[Printed]:
    """D and S of one network, as its authors' program printed them."""
    for layer, printed in enumerate(("11.999", "3.482", "0.984", "0.276", "0.0775", "0.0217")):
        claim, values = f"D_{layer} = {printed.rstrip('0')}", at("compression_as_printed", layer=layer)
        yield Printed("progressive-theorem", f"D_{layer}, counted as printed", "R", printed, claim, values)
    for layer, printed in enumerate(("0.9681", "0.9716", "0.9761", "0.9809", "0.9859"), start=1):
        claim, values = f"1 − S_{layer} = ", at("discrimination", layer=layer)
        yield Printed("progressive-theorem", f"S_{layer} of one network", "R", printed, claim, values)


def _of_depth(name: str, depth: int) -> Callable[[xr.Dataset], xr.DataArray]:
    """A residual of the networks of one depth in the sweep over depths."""

    def values(dataset: xr.Dataset) -> xr.DataArray:
        chosen = (dataset["sweep"].values == "depth") & (dataset["depth"].values == depth)
        return dataset[name].isel(network=np.flatnonzero(chosen))

    return values


def _assumptions() -> Iterator[Printed]:
    """What the theorem assumes."""
    residual, balance = "‖W_{L:1} − YX⁺‖", "imbalance of neighbouring weights"
    for title, name, depth, printed in (
        (residual, "minimum_norm", 2, "0.049"),
        (residual, "minimum_norm", 5, "0.0395"),
        (balance, "balance", 3, "0.066"),
        (balance, "balance", 5, "0.0375"),
    ):
        claim = f"{'‖W_L:1 − YX⁺‖' if name == 'minimum_norm' else 'imbalance'} = {float(printed):g} at L = {depth}"
        quantity = f"{title}, L = {depth}, width 400"
        yield Printed("assumption-checks", quantity, "F", printed, claim, _of_depth(name, depth))
    claim = "middle singular values are all equal"
    yield Printed("assumption-checks", "variance of the middle singular values over ε²", "F", "0", claim)


NUMBERS = (*EVOLUTION, *_drifts(), *_decay(), *_theorem(), *_assumptions())
