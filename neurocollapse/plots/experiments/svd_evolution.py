"""Figures of the experiments on singular values and subspaces of deep linear networks over training."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurocollapse.plots.style import BLACK, PANEL, colour, context
from neurocollapse.plots.trajectory import angles, landscape_legend, trajectory

Drawing = Callable[[Figure, Sequence[Axes]], None]


def draw_evolution(dataset: xr.Dataset) -> Figure:
    """The first weight's spectrum over the steps, and the angles of its right singular vectors."""
    with context():
        figure, (left, right) = _two_panels()
        trajectory(dataset, ax=left)
        steps, middle = dataset["step"].values, dataset.sizes["component"] // 2
        dots = {"color": BLACK, "linestyle": (0, (1, 1.5)), "linewidth": 2.2, "label": "predicted $\\rho(t)$"}
        left.plot([middle + 1] * len(steps), steps, dataset["rho"].values, **dots)
        landscape_legend(left, dataset.sizes["edge"], loc="upper left", bbox_to_anchor=(0.0, 1.0))
        angles(dataset, ax=right)
    return figure


def draw_nonwhitened(dataset: xr.Dataset) -> Figure:
    """Spectrum and angles of the first weight, for the short and the long run."""
    short = dataset.drop_vars([name for name in dataset.variables if str(name).startswith("long_")])
    names = [name for name in dataset.variables if str(name).startswith("long_")]
    long = dataset.drop_vars(["step", *short.data_vars])[names].rename({name: str(name)[5:] for name in names})
    with context():
        figure, panels = _two_panels(rows=2)
        titles = (f"inputs divided by {dataset.attrs.get('data_divisor', 1):g}", "inputs not divided, long run")
        for row, (title, run) in enumerate(zip(titles, (short, long), strict=True)):
            left, right = panels[2 * row : 2 * row + 2]
            trajectory(run, ax=left)
            landscape_legend(left, run.sizes["edge"], loc="upper left", bbox_to_anchor=(0.0, 1.0))
            angles(run, ax=right)
            right.set_xlabel(f"step, {title}")  # above the panel is its legend
    return figure


def draw_optimizers(dataset: xr.Dataset) -> Figure:
    """The largest and a middle singular value, and the angle of the middle block, one curve an optimizer."""
    with context():
        figure, (values, turns) = plt.subplots(1, 2, figsize=(2 * PANEL[0], PANEL[1]))
        steps = dataset["step"].values
        for index, name in enumerate(dataset["optimizer"].values):
            one = dataset.sel(optimizer=name).isel(layer=0)
            style = {"color": colour(index), "label": str(name)}
            values.plot(steps, one["singular_values"].isel(component=0), **style)
            middle = one.sizes["component"] // 2
            values.plot(
                steps, one["singular_values"].isel(component=middle), color=colour(index), linestyle=(0, (2, 1.5))
            )
            angle = one["middle_angle"].max("side").isel(step=slice(2, None))  # from the reference, step 1, on
            turns.semilogy(angle["step"], angle, **style)
        values.set(xlabel="step", ylabel="singular values of $W_1$", ylim=(0, None))
        values.set_title("largest (solid) and median (dashed)")
        turns.set(xlabel="step", ylabel="angle of the middle block  [rad]", ylim=(1e-14, 1e2))
        turns.legend(loc="center right")
    return figure


def _two_panels(rows: int = 1) -> tuple[Figure, Any]:
    """A landscape on the left and a flat panel with room for its legend above on the right, a row each."""
    width, height = 2.1 * PANEL[0], 1.1 * PANEL[1]
    figure = plt.figure(figsize=(width, rows * height), layout="none")
    panels: list[Any] = []
    for row in range(rows):
        bottom = (rows - 1 - row) / rows
        panels.append(figure.add_axes((0.0, bottom + 0.04 / rows, 0.46, 0.94 / rows), projection="3d"))
        panels.append(figure.add_axes((0.60, bottom + 0.16 / rows, 0.385, 0.68 / rows)))
    return figure, panels
