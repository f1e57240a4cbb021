"""Figures of the matrix recovery experiments."""

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from neurocollapse.plots.scales import mean_line
from neurocollapse.plots.style import BLACK, BLUE, GREEN, GREY, LINES, ORANGE, PURPLE, SKY, VERMILLION, context, marker

NETWORK_COLOURS = {"full": BLACK, "compressed": BLUE, "narrow": VERMILLION}
OTHERS = (BLUE, GREEN, SKY, PURPLE, ORANGE)
TWO = (8.8, 3.5)
"""Width and height of two panels in inches."""


def completion(dataset: xr.Dataset) -> Figure:
    """Error of the hidden entries against steps, and against wall time, one line per network."""
    with context():
        figure, (by_step, by_time) = plt.subplots(1, 2, figsize=TWO, sharey=True)
        for index, name in enumerate(dataset["network"].values):
            run = dataset.sel(network=name)
            error = run["test_error"].dropna("step")
            if not error.size:
                continue
            last = max(int(error["step"][-1]), 1)
            style = {"color": _colour(str(name), index), "linestyle": LINES[index % len(LINES)], "label": _label(run)}
            by_step.semilogy(error["step"] / 1000, error, **style)
            by_time.semilogy(error["step"] * float(run["seconds"]) / last, error, **style)
        by_step.set(xlabel="steps / 1000", ylabel="error of hidden entries / norm")
        by_time.set(xlabel="seconds", xscale="log", xlim=_time_limits(dataset))
        by_time.legend(loc="lower left")
    return figure


def factorization(dataset: xr.Dataset) -> Figure:
    """Losses of both networks, and how far their end-to-end matrices are apart, for every ε."""
    with context():
        figure, (losses, gaps) = plt.subplots(1, 2, figsize=TWO)
        for index, scale in enumerate(dataset["scale"].values):
            pair, line = dataset.sel(scale=scale), LINES[index % len(LINES)]
            for name, width in (("full", 4.0), ("compressed", 1.6)):
                loss = pair["loss"].sel(network=name).dropna("step")
                colour = GREY if name == "full" else NETWORK_COLOURS[name]
                style = {"linewidth": width, "alpha": 0.4 if name == "full" else 1.0, "color": colour}
                losses.semilogy(loss["step"], loss, linestyle=line, label=f"{name}, ε = {scale:g}", **style)
            gap = pair["deviation"].dropna("step")
            gaps.semilogy(gap["step"], gap, color=OTHERS[index % len(OTHERS)], label=f"ε = {scale:g}")
            gaps.axhline(float(pair["predicted"]), color=GREY, linestyle=":", label="_" if index else "predicted limit")
        losses.set(xlabel="steps", ylabel="training loss")
        gaps.set(xlabel="steps", ylabel="deviation / norm of the target")
        low, high = float(dataset["predicted"].min()), float(dataset["predicted"].max())
        gaps.set_ylim(low / 30, high * 30)
        losses.legend()
        gaps.legend()
    return figure


def depth_width(dataset: xr.Dataset) -> Figure:
    """Error of hidden entries and steps against width, one line a depth."""
    with context():
        figure, (errors, counts) = plt.subplots(1, 2, figsize=TWO)
        where = dataset["width"].values
        for index, depth in enumerate(dataset["depth"].values):
            of_depth = dataset.sel(depth=depth)
            style = {"color": OTHERS[index % len(OTHERS)], "words": f"{int(depth)} layers"}
            mean_line(errors, where, of_depth["final_test_error"], "trial", index, **style)
            mean_line(counts, where, of_depth["num_steps"] / 1000, "trial", index, **style)
        errors.set(xlabel="width", ylabel="error of hidden entries / norm", yscale="log")
        counts.set(xlabel="width", ylabel="steps / 1000", ylim=(0, None))
        errors.legend()
    return figure


def narrow_vs_compressed(dataset: xr.Dataset) -> Figure:
    """Steps against the estimated rank, and the losses for the largest estimate."""
    with context():
        figure, (counts, losses) = plt.subplots(1, 2, figsize=TWO)
        last = dataset.isel(estimate=-1)
        for index, name in enumerate(dataset["network"].values):
            style = {"color": _colour(str(name), index), "marker": marker(index), "label": str(name)}
            counts.plot(dataset["estimate"], dataset["num_steps"].sel(network=name) / 1000, **style)
            error = last["test_error"].sel(network=name).dropna("step")
            losses.semilogy(error["step"] / 1000, error, color=style["color"], label=str(name))
        counts.set(xlabel="estimated rank r̂", ylabel="steps / 1000", xticks=dataset["estimate"].values, ylim=(0, None))
        losses.set(xlabel="steps / 1000", ylabel="error of hidden entries / norm")
        losses.set_title(f"r̂ = {int(last['estimate'])}")
        counts.legend()
    return figure


def spectral_init(dataset: xr.Dataset) -> Figure:
    """Error of the whole matrix against steps, one panel a problem."""
    with context():
        figure, panels = plt.subplots(1, dataset.sizes["problem"], figsize=(12.0, 3.5), squeeze=False)
        for ax, name in zip(panels[0], dataset["problem"].values, strict=True):
            for index, network in enumerate(dataset["network"].values):
                error = dataset["test_error"].sel(problem=name, network=network).dropna("step")
                style = {"color": _colour(str(network), index), "linestyle": LINES[index % len(LINES)]}
                ax.semilogy(error["step"] / 1000, error, label=str(network), **style)
            ax.set_title(str(name))
            ax.set(xlabel="steps / 1000", ylabel="error / norm of the target")
        panels[0][0].legend()
    return figure


def alignment(dataset: xr.Dataset) -> Figure:
    """Alignment of the leading left and right directions against steps, one line an observed fraction."""
    with context():
        figure, panels = plt.subplots(1, 2, figsize=TWO, sharey=True)
        titles = {"left_alignment": "left: last layer", "right_alignment": "right: first layer"}
        for ax, (name, title) in zip(panels, titles.items(), strict=True):
            for index, fraction in enumerate(dataset["fraction"].values):
                series = dataset[name].sel(fraction=fraction).dropna("step")
                label = "all entries" if fraction == 1 else f"{fraction:.0%} of the entries"
                style = {"color": OTHERS[index % len(OTHERS)], "linestyle": LINES[index % len(LINES)]}
                ax.plot(series["step"] / 1000, series, label=label, **style)
            ax.set_title(title)
            ax.set(xlabel="steps / 1000", ylim=(0, 1.03))
        panels[0].set_ylabel("alignment with the target")
        panels[0].legend(loc="lower right")
    return figure


def movielens(dataset: xr.Dataset) -> Figure:
    """Test error of the networks along training, and of every method against its wall time."""
    with context():
        figure, (training, methods) = plt.subplots(1, 2, figsize=TWO)
        for index, network in enumerate(dataset["network"].values):
            error = dataset["test_rmse"].sel(network=network).dropna("step")
            style = {"color": _colour(str(network), index), "linestyle": LINES[index % len(LINES)]}
            training.plot(error["step"], error, label=str(network), **style)
        training.set(xlabel="steps", ylabel="test error (stars)")
        training.legend()
        names = [str(name) for name in dataset["algorithm"].values]
        for index, name in enumerate(names):
            values = float(dataset["rmse"].sel(algorithm=name)), float(dataset["seconds"].sel(algorithm=name))
            methods.barh(index, values[0], color=_colour(name, index), height=0.6)
            methods.annotate(f" {values[1]:.3g} s", (values[0], index), va="center", fontsize=8.5)
        methods.set_yticks(range(len(names)), names)
        methods.invert_yaxis()
        methods.grid(visible=False)
        methods.set(xlabel="test error (stars), and wall time", xlim=(0, 1.3 * float(dataset["rmse"].max())))
    return figure


def _time_limits(dataset: xr.Dataset) -> tuple[float, float]:
    """From a hundredth of the fastest run's time to the slowest."""
    seconds = dataset["seconds"].values
    return float(np.nanmin(seconds)) / 30, float(np.nanmax(seconds)) * 1.3


def _label(run: xr.Dataset) -> str:
    """The network's name; compressed ones by their outer rate."""
    name = str(run["network"].values)
    return f"compressed, {name.replace('=', ' = ')}" if name.startswith("γ") else name


def _colour(name: str, index: int) -> str:
    """The same colour for the same network in every figure."""
    return NETWORK_COLOURS.get(name, OTHERS[index % len(OTHERS)])
