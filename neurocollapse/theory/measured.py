"""What is measured on a deep linear network and its data: the numbers that theorems speak about."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neurocollapse.metrics import compression, separation
from neurocollapse.theory.assumptions import Balance, DataGram, SpectrumSplit, balance, data_gram, spectrum_split
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
    compressions = np.array([compression(moments) for moments in problem.moments])
    ratios = np.full(problem.depth, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios[1:] = compressions[1:] / compressions[:-1]
    measured = Measured(
        compression=compressions,
        decay_ratio=ratios,
        separation_uncentred=np.array([separation(moments, centred=False) for moments in problem.moments]),
        separation_centred=np.array([separation(moments) for moments in problem.moments]),
        compression_predicted=predicted_compression(problem).numpy(),
        gram=data_gram(problem.inputs),
    )
    if problem.depth < 2 or min(problem.widths) <= problem.num_classes:
        return measured
    reachable = problem.reachable_weights
    values = [torch.linalg.svdvals(weight) for weight in reachable[:-1]]
    return replace(measured, balance=balance(reachable), split=spectrum_split(values, problem.num_classes))
