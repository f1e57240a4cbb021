"""How many directions the features use, exactly over all samples: quantities that need the covariance."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurocollapse.metrics import spectrum
from neurocollapse.metrics.layer import Layer
from neurocollapse.metrics.quantity import Quantity

_TOTAL = "eigenvalues λ of the total covariance over all samples"


def _spectrum(layer: Layer) -> NDArray[np.float64]:
    """The eigenvalues."""
    return spectrum.total_spectrum(layer.moments)


def _of_spectrum(name: str, of: Callable[[NDArray[np.float64]], float], **words: Any) -> Quantity:
    """A number of the eigenvalues, which all of them share."""
    return _of_covariance(name, lambda layer: of(layer.once(_spectrum)), **words)


def _of_covariance(name: str, of: Callable[[Layer], float], **words: Any) -> Quantity:
    """A number of the covariance."""
    return Quantity(name=name, of=of, needs=("covariance",), family="spectrum", **words)


QUANTITIES = (
    _of_spectrum(
        "covariance_effective_rank",
        spectrum.covariance_effective_rank,
        long_name="effective rank of the covariance",
        symbol=r"\mathrm{erank}\,\Sigma_T",
        convention=f"exp of the entropy of √λ/Σ√λ, natural logarithm; {_TOTAL}",
        reference="Roy and Vetterli, EUSIPCO, 2007; Garrido et al., RankMe, ICML 2023",
        heading="effective rank, Σ_T",
        better="lower",
        bounds=(1.0, math.inf),
    ),
    _of_spectrum(
        "covariance_numerical_rank",
        spectrum.covariance_numerical_rank,
        long_name="numerical rank of the covariance",
        symbol=r"r\,(\Sigma_T)",
        convention=f"least k whose √λ carry 95 % of Σ√λ; {_TOTAL}",
        reference="Wang et al., JMLR 26(220), 2025",
        better="lower",
        bounds=(0.0, math.inf),
    ),
    _of_spectrum(
        "participation_ratio",
        spectrum.participation_ratio,
        symbol=r"(\mathrm{tr}\,\Sigma_T)^2 / \|\Sigma_T\|_F^2",
        convention=f"(Σλ)²/Σλ²; {_TOTAL}",
        reference="Gao et al., bioRxiv 214262, 2017",
        heading="participation ratio",
        better="lower",
        bounds=(1.0, math.inf),
    ),
    _of_covariance(
        "participation_ratio_corrected",
        lambda layer: (
            spectrum.participation_ratio_corrected(layer.once(_spectrum), layer.moments.num_samples)
            if layer.record.positions == 1
            else math.nan
        ),
        long_name="participation ratio, corrected for few samples",
        symbol=r"\widehat{(\mathrm{tr}\,\Sigma_T)^2} / \widehat{\mathrm{tr}\,\Sigma_T^2}",
        convention='unbiased traces for normal features; NaN for pool="positions", or with too few samples',
        reference="Srivastava, J. Japan Statist. Soc. 35(2), 2005",
        heading="participation ratio, corrected",
        better="lower",
        bounds=(1.0, math.inf),
    ),
    _of_spectrum(
        "stable_rank",
        spectrum.stable_rank,
        symbol=r"\mathrm{tr}\,\Sigma_T / \lambda_1",
        convention=f"Σλ/λ_1; {_TOTAL}",
        reference="Rudelson and Vershynin, J. ACM 54(4), 2007; He and Ozay, NESUM, ICML 2022",
        heading="stable rank",
        better="lower",
        bounds=(1.0, math.inf),
    ),
    _of_spectrum(
        "spectral_decay",
        spectrum.spectral_decay,
        symbol=r"\alpha",
        convention=f"exponent of λ_i ∝ i^−α, least squares of the logarithms, weighted by 1/i; {_TOTAL}",
        reference="Agrawal et al., α-ReQ, NeurIPS 2022",
        heading="spectral decay",
    ),
    _of_covariance(
        "lidar",
        lambda layer: spectrum.lidar(layer.moments),
        long_name="LiDAR, effective rank of linear discriminant analysis",
        symbol=r"\mathrm{erank}\,(\Sigma_W^{+1/2} \Sigma_B \Sigma_W^{+1/2})",
        convention="exp of the entropy of λ/Σλ; classes with weight 1/K in Σ_B; no ridge: range of Σ_W only",
        reference="Thilak et al., LiDAR, ICLR 2024",
        heading="LiDAR",
        bounds=(1.0, math.inf),
    ),
)
