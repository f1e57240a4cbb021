"""What the source's table says of adapters on a vision transformer, beside what was measured."""

import numpy as np
import xarray as xr

from neurocollapse.experiments.adapters.vision_settings import ADALORA, ADAPTERS, FULL, LORA, PROBE, SLIDES
from neurocollapse.experiments.experiment import at_least, at_most
from neurocollapse.theory import Verdict

POINT = 0.01
"""How much accuracy adapters may cost: the source's cost .1 to .42 points."""
WORTH_IT = 2 * POINT
"""What full training must gain over the head alone, so that there is something to adapt."""
SMALL_SHARE = 0.01
"""Largest share of the parameters of a large model; the source trains .38 % of a ViT-B."""
LARGE = 10_000_000
"""Parameters from which on a model is large. In small ones a rank of 4 is a large part of every matrix."""
OURS = "measured with this library on digits"


def claims(dataset: xr.Dataset) -> list[Verdict]:
    """Adapters are within a point of full training, AdaLoRA is as good as LoRA, and the last adapted layer collapses.

    The source's numbers are those of a ViT-B, which nothing small can be compared with: they stand in the dataset as
    `printed_accuracy` and `printed_parameters`. Its share of trained parameters, .38 %, is judged of large models only;
    each claim says what the share is here. The point is that of the source's statement, and was set before any run.

    In the small setting the accuracies come out as violated. With seeds 0 to 2, by which learning rates were chosen,
    LoRA loses 1.1 points to full training, AdaLoRA 2.2, Deep LoRA 3.2 and its compressed form 5.4. With seeds 300 to
    302 and 400 to 402, looked at afterwards only, they lose 2.6 to 2.8, 6.5 to 7.3, 4.8 to 7.4 and 9.5 to 12.5, and
    AdaLoRA stays 4 points below LoRA. All of them collapse the new classes, and none as far as full training.
    """
    methods = [str(method) for method in dataset["tuning"].values]
    accuracy = dataset["accuracy"].mean("repeat")
    unmet = _unmet(dataset, methods)
    found: list[Verdict] = []
    for method in (method for method in ADAPTERS if method in methods):
        one = dataset.sel(tuning=method)
        share = float(one["share"])
        lost = float(accuracy.sel(tuning=method) - accuracy.sel(tuning=FULL)) if FULL in methods else np.nan
        found.append(
            at_least(
                f"{method} ({share:.1%} of the parameters): accuracy above full training's",
                SLIDES,
                lost,
                -POINT,
                unmet=unmet,
            )
        )
        if float(dataset["num_parameters"]) >= LARGE:
            found.append(at_most(f"{method}: share of the parameters trained", SLIDES, share, SMALL_SHARE))
        found.append(
            at_most(
                f"{method}: NC1 at the last adapted layer over what it was before, geometric mean",
                OURS,
                _collapsed(dataset, method) if PROBE in methods else np.nan,
                1.0,
                unmet=unmet,
            )
        )
    if {LORA, ADALORA} <= {*methods}:
        apart = float(accuracy.sel(tuning=ADALORA) - accuracy.sel(tuning=LORA))
        found.append(
            Verdict.judge("AdaLoRA: accuracy above LoRA's", SLIDES, apart, -POINT, POINT, tolerance=0.0, unmet=unmet)
        )
    return found


def _collapsed(dataset: xr.Dataset, method: str) -> float:
    """NC1 at the last adapted layer over that of the untouched model, geometric mean over repeats."""
    last = dataset[["nc1"]].isel(layer=-1).map(np.log)["nc1"]
    return float(np.exp((last.sel(tuning=method) - last.sel(tuning=PROBE)).mean("repeat")))


def _unmet(dataset: xr.Dataset, methods: list[str]) -> list[str]:
    """Why the source's statements do not apply to a run."""
    missing = [method for method in (FULL, PROBE) if method not in methods]
    if missing:
        return [f"{' and '.join(missing)} was not run, with which the others are compared"]
    accuracy = dataset["accuracy"].mean("repeat")
    gained = float(accuracy.sel(tuning=FULL) - accuracy.sel(tuning=PROBE))
    return (
        [] if gained >= WORTH_IT else [f"full training gains {gained:.3f} over the head alone, so that all are alike"]
    )
