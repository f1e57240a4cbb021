"""What is measured on a deep linear network and its data, and the certificates that follow from it."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from neurocollapse.metrics import compression, separation
from neurocollapse.theory.assumptions import Balance, DataGram, SpectrumSplit, balance, data_gram, spectrum_split
from neurocollapse.theory.posterior import PosteriorCertificate, posterior_certificate
from neurocollapse.theory.prediction import predicted_compression
from neurocollapse.theory.printed import PrintedBounds, printed_bounds
from neurocollapse.theory.prior import PriorCertificate, prior_certificate
from neurocollapse.theory.problem import LinearProblem

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Numbers and bounds of one network, one entry per layer 0 … L−1.

    Attributes
    ----------
    compression, decay_ratio, separation, separation_centred, predicted : arrays of shape (L,)
        D_l; D_{l+1}/D_l (NaN at L−1); S_l of uncentred and of centred means, absolute cosines; D_l from the spectrum.
    gram
        θ and θ₂.
    balance, split, prior, posterior, printed
        None where the network is too shallow or too narrow to have them.
    """

    compression: Array
    decay_ratio: Array
    separation: Array
    separation_centred: Array
    predicted: Array
    gram: DataGram
    balance: Balance | None = None
    split: SpectrumSplit | None = None
    prior: PriorCertificate | None = None
    posterior: PosteriorCertificate | None = None
    printed: PrintedBounds | None = None


def measure_problem(problem: LinearProblem) -> Measured:
    """Measure everything the verification needs."""
    compressions = np.array([compression(moments) for moments in problem.moments])
    ratios = np.full(problem.depth, math.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios[:-1] = compressions[1:] / compressions[:-1]
    gram = data_gram(problem.inputs)
    measured = Measured(
        compression=compressions,
        decay_ratio=ratios,
        separation=np.array([separation(moments, centred=False) for moments in problem.moments]),
        separation_centred=np.array([separation(moments) for moments in problem.moments]),
        predicted=predicted_compression(problem).numpy(),
        gram=gram,
    )
    if problem.depth < 2 or min(problem.widths) <= problem.num_classes:
        return measured
    reachable = problem.reachable_weights
    balanced = balance(reachable)
    split = spectrum_split([torch.linalg.svdvals(weight) for weight in reachable[:-1]], problem.num_classes)
    return replace(
        measured,
        balance=balanced,
        split=split,
        prior=_prior(problem, gram, balanced, split),
        posterior=posterior_certificate(problem),
        printed=_printed(problem, gram, balanced, split),
    )


def _prior(problem: LinearProblem, gram: DataGram, balanced: Balance, split: SpectrumSplit) -> PriorCertificate:
    """The a-priori certificate at the measured numbers; the spectral norms enter."""
    return prior_certificate(
        num_classes=problem.num_classes,
        samples_per_class=problem.samples_per_class,
        depth=problem.depth,
        theta=gram.theta_spectral,
        delta=balanced.last_spectral,
        epsilon=split.epsilon,
        rho=split.rho,
        num_unknown=problem.widths[0] - min(problem.widths) + problem.num_classes,
        output_scale=problem.output_scale,
    )


def _printed(problem: LinearProblem, gram: DataGram, balanced: Balance, split: SpectrumSplit) -> PrintedBounds:
    """The printed bounds at the measured numbers; entrywise θ and Frobenius δ enter."""
    return printed_bounds(
        samples_per_class=problem.samples_per_class,
        depth=problem.depth,
        theta=gram.theta,
        delta=balanced.last_frobenius,
        epsilon=split.epsilon,
        output_scale=problem.output_scale,
    )
