"""How often nearest class means of a few samples err in the features of a source, beside a proven bound of it."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from neurocollapse.data import LabelledData
from neurocollapse.experiments.experiment import SOFTWARE, at_most
from neurocollapse.experiments.transfer.sources import Halves, described
from neurocollapse.metrics import few_shot_bound
from neurocollapse.statistics import ClassMoments
from neurocollapse.support.quiet import in_mode
from neurocollapse.theory import Verdict

BOUND = "nc.metrics.few_shot_bound, in the manner of Galanti et al., ICLR 2022"
NEW, SOURCE = "new classes", "the source's classes"
SURE = 3.0
"""Standard errors by which a mean over draws may exceed its expectation by chance: once in 700 times."""
VARIABLES = {
    "error": ("error of nearest class means", "", "mean over draws of the samples, every class alike"),
    "error_standard": ("standard error of the error of nearest class means", "", "over the draws"),
    "error_bound": ("proven bound of the error of nearest class means", "", "1 where it says nothing"),
}


def class_mean_errors(source: nn.Module, halves: Halves, shots: Sequence[int], *, draws: int, seed: int) -> xr.Dataset:
    """Errors and bounds along (half, shots), on the training samples of the new and of the source's own classes.

    Samples are drawn with replacement from those at hand, and all of them are told: what the bound is of. On the
    source's classes, which collapse in training, it says something; on new classes it seldom does.
    """
    parts = []
    for samples in (halves.target["train"], halves.source["train"]):
        with in_mode(source, "eval"), torch.no_grad():
            features = source(samples.inputs).double()
        moments = ClassMoments.from_features(features, samples.labels)
        wrong = [_errors(features, samples, count, draws=draws, seed=seed) for count in shots]
        columns = {
            "error": [one.mean() for one in wrong],
            "error_standard": [one.std(ddof=1) / draws**0.5 for one in wrong],
            "error_bound": [few_shot_bound(moments, count) for count in shots],
        }
        parts.append(xr.Dataset({name: ("shots", np.asarray(values)) for name, values in columns.items()}))
    return xr.concat(parts, xr.Variable("half", [NEW, SOURCE])).assign_coords(shots=list(shots))


def described_errors(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset with the attributes of these variables."""
    return dataset.assign({name: dataset[name].assign_attrs(described(words)) for name, words in VARIABLES.items()})


def bound_claim(dataset: xr.Dataset) -> Verdict:
    """No error exceeds its bound by more than chance allows, at any number of shots, of any source."""
    measured, unmet = np.nan, ["the error of nearest class means was not measured"]
    if set(VARIABLES) <= set(dataset.data_vars):
        least = dataset["error"] - SURE * dataset["error_standard"]
        measured = float((least / dataset["error_bound"]).max())
        says = bool((dataset["error_bound"] < 1).any())
        unmet = [] if says else ["every bound is 1, which says nothing"]
    claim = f"{SOFTWARE}error of nearest class means, less {SURE:g} standard errors, over its bound: largest"
    return at_most(claim, BOUND, measured, 1.0, unmet=unmet)


def _errors(features: Tensor, samples: LabelledData, shots: int, *, draws: int, seed: int) -> np.ndarray:
    """The error at each draw: the mean over the classes of the share of samples whose nearest class mean is another."""
    random = torch.Generator().manual_seed(seed)
    classes = range(samples.num_classes)
    own = [torch.nonzero(samples.labels == label).flatten() for label in classes]
    found = []
    for _ in range(draws):
        rows = [one[torch.randint(len(one), (shots,), generator=random)] for one in own]
        means = torch.stack([features[chosen].mean(dim=0) for chosen in rows])
        wrong = torch.cdist(features, means).argmin(dim=1) != samples.labels
        found.append(float(torch.stack([wrong[one].double().mean() for one in own]).mean()))
    return np.asarray(found)
