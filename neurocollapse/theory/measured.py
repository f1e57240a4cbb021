"""What is measured on a deep linear network and its data: the numbers that theorems speak about."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics import separation
from neurocollapse.statistics import ClassMoments
from neurocollapse.theory.assumptions import Balance, DataGram, SpectrumSplit, balance, spectrum_split
from neurocollapse.theory.prediction import predicted_compression
from neurocollapse.theory.problem import LinearProblem

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers of one network, one entry per layer 0 … L−1.

    Attributes
    ----------
    compression, decay_ratio, separation_uncentred, separation_centred, compression_predicted : arrays of shape (L,)
        D_l; D_l/D_{l−1} (NaN at 0); S_l of uncentred and of centred means, absolute cosines; D_l from the spectrum.
    gram
        θ and θ₂.
    balance, split
        None where the network is too shallow or too narrow to have them.
    """

    compression: Array
    decay_ratio: Array
    separation_uncentred: Array
    separation_centred: Array
    compression_predicted: Array
    gram: DataGram
    balance: Balance | None = None
    split: SpectrumSplit | None = None


def measure_problem(problem: LinearProblem) -> Measured:
    """Measure everything the verification needs."""
    normalised = problem.normalised
    means = [_as_moments(one) for one in normalised.means]
    compressions = measured_compression(normalised)
    ratios = np.full(problem.depth, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios[1:] = compressions[1:] / compressions[:-1]
    measured = Measured(
        compression=compressions,
        decay_ratio=ratios,
        separation_uncentred=np.array([separation(moments, centred=False) for moments in means]),
        separation_centred=np.array([separation(moments) for moments in means]),
        compression_predicted=predicted_compression(problem).numpy(),
        gram=problem.gram,
    )
    if problem.depth < 2 or min(problem.widths) <= problem.num_classes:
        return measured
    reachable = problem.reachable
    grams = [spectrum.gram for spectrum in reachable.spectra]
    values = [spectrum.values for spectrum in reachable.spectra]
    return replace(
        measured, balance=balance(reachable.weights, grams), split=spectrum_split(values, problem.num_classes)
    )


def measured_compression(problem: LinearProblem) -> Array:
    """D_l = (‖W_{l:1}R‖_F²/N) / (‖W_{l:1}M‖_F²/K) with K classes present, l = 0 … L−1; NaN where both are 0."""
    found = []
    for spread, means in zip(problem.spreads, problem.means, strict=True):
        within = float(spread.square().sum()) / problem.num_samples
        between = float((means - means.mean(1, keepdim=True)).square().sum(0).mean())
        found.append(within / between if between > 0 else math.inf if within > 0 else math.nan)
    return np.array(found)


def _as_moments(means: Tensor) -> ClassMoments:
    """Class means as moments of one sample each, which is how the metrics take them."""
    return ClassMoments.from_features(means.T, torch.arange(means.shape[1], device="cpu"), means.shape[1])
