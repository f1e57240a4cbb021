"""The a-posteriori certificate: bounds on D_{l+1}/D_l from measured spectra and misalignments, for any weights."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from neurocollapse.support.numbers import short
from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.conditions import SHAPE, below_one, readout
from neurocollapse.theory.problem import LinearProblem
from neurocollapse.theory.spectrum import Spectrum, spectral_norm
from neurocollapse.theory.theorem import Bracket, Case, Theorem, after_first

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PosteriorCertificate:
    """Bounds for every layer, and the terms that they consist of; index l throughout.

    Attributes
    ----------
    ratio_lower, ratio_upper : arrays of shape (L − 1,)
        Bracket of D_{l+1}/D_l for l = 0 … L−2; NaN where the mechanism is absent.
    reasons : tuple of L − 1 str
        Why, naming the layer; empty where the certificate applies.
    misalignment : array of shape (L − 1,)
        s_l = ‖V_{l+1,1}ᵀU_{l,2}‖₂, the sine of the angle between what layer l writes and layer l+1 reads.
    within_leading : array of shape (L,)
        x_l bounds ‖leading part‖/‖rest‖ of the within-class spread at layer l ≥ 1 (NaN at 0, not needed).
    means_trailing : array of shape (L,)
        y_l bounds ‖trailing part‖/‖leading part‖ of the centred class means at layer l.
    middle_share : array of shape (L − 1,)
        f_l, the share of the within-class energy of layer l in the middle right-singular directions of W_{l+1}.
    readout_mixing, readout_residual
        α = ‖A₁⁻¹A₂‖₂ and e = ‖A₁⁻¹W_{L:1}R‖/‖W_{L−1:1}R‖.
    """

    ratio_lower: Array
    ratio_upper: Array
    reasons: tuple[str, ...]
    misalignment: Array
    within_leading: Array
    means_trailing: Array
    middle_share: Array
    readout_mixing: float
    readout_residual: float


def posterior_certificate(problem: LinearProblem) -> PosteriorCertificate:
    r"""Evaluate the certificate of docs/theory.md, Theorem 2, with K the number of outputs.

    .. math:: \frac{f_l\,\sigma_{l+1,m}^2}{\sigma_{l+1,1}^2} \le \frac{D_{l+1}}{D_l} \le
        \frac{(1 + x_{l+1}^2)(1 + y_l^2)\,\sigma_{l+1,K+1}^2}{\sigma_{l+1,K}^2\, g_l^2}

    with m = min(d_l, d_{l+1}) − K (d − K for square layers) and f_l the share in the directions K+1 … m.

    Parameters
    ----------
    problem : LinearProblem
        Weights and whitened data.

    Raises
    ------
    ValueError
        If the network has no hidden layer, or one of its feature layers is not wider than K.
    """
    K, L = problem.num_classes, problem.depth
    if L < 2:
        raise ValueError(f"the certificate is about hidden layers; it needs at least two weights, got {L}")
    if min(problem.widths) <= K:
        raise ValueError(f"the certificate needs every width to exceed the {K} outputs, got {list(problem.widths)}")
    misalignment = _misalignments(problem.spectra, K)
    mixing, residual = readout(problem)
    within = _within_leading(problem, misalignment, mixing, residual)
    trailing, gains = _means_trailing(problem, misalignment)
    share = _middle_share(problem)
    lower, upper, reasons = [], [], []
    for layer, spectrum in enumerate(problem.spectra):
        values = spectrum.values
        ratio = spectrum.decay(K - 1, K)
        reason = _missing(layer, residual, within, trailing, gains, ratio)
        spread = (1 + within[layer + 1] ** 2) * (1 + trailing[layer] ** 2)
        middle = min(problem.weights[layer].shape) - K
        upper.append(ratio * spread / gains[layer] ** 2 if not reason else math.nan)
        least = _quotient(float(values[middle - 1]), float(values[0])) if middle > K else 0.0
        lower.append(share[layer] * least * least if not reason else math.nan)
        reasons.append(reason)
    return PosteriorCertificate(
        np.array(lower),
        np.array(upper),
        tuple(reasons),
        np.array(misalignment),
        np.array(within),
        np.array(trailing),
        np.array(share),
        mixing,
        residual,
    )


def _misalignments(spectra: tuple[Spectrum, ...], K: int) -> list[float]:
    """s_0 = 0 (the input is read in W_1's own basis) and s_l = ‖V_{l+1,1}ᵀU_{l,2}‖₂, the sine of the largest angle."""
    sines = [0.0]
    for before, after in pairwise(spectra):
        written, read = before.left(K), after.right[:, :K]
        sines.append(min(spectral_norm(read - written @ (written.T @ read)), 1.0))
    return sines


def _within_leading(problem: LinearProblem, sines: list[float], mixing: float, residual: float) -> list[float]:
    """x_L−1 from the last layer, then backward; NaN from the first layer whose denominator is not positive."""
    K, L = problem.num_classes, problem.depth
    x = [math.nan] * L
    x[L - 1] = (mixing + residual) / (1 - residual) if residual < 1 else math.nan
    for layer in range(L - 2, 0, -1):
        carried = x[layer + 1] * math.sqrt(problem.spectra[layer].decay(K - 1, K))
        denominator = math.sqrt(1 - sines[layer] ** 2) - carried * sines[layer]
        x[layer] = (carried + sines[layer]) / denominator if denominator > 0 else math.nan
    return x


def _means_trailing(problem: LinearProblem, sines: list[float]) -> tuple[list[float], list[float]]:
    """y_l forward from the measured y_0, and g_l = c_l − s_l y_l; NaN after the first g_l that is not positive."""
    K = problem.num_classes
    coordinates = problem.spectra[0].right.T @ problem.normalised.centred_means
    y, gains = [_quotient(float(coordinates[K:].norm()), float(coordinates[:K].norm()))], []
    for layer, spectrum in enumerate(problem.spectra):
        gain = math.sqrt(1 - sines[layer] ** 2) - sines[layer] * y[layer]
        gains.append(gain if gain > 0 else math.nan)
        y.append(math.sqrt(spectrum.decay(K - 1, K)) * (y[layer] + sines[layer]) / gains[layer])
    return y, gains


def _middle_share(problem: LinearProblem) -> list[float]:
    """f_l: within-class energy of layer l in the directions K+1 … m of W_{l+1}."""
    K = problem.num_classes
    shares = []
    for spectrum, weight, spread in zip(
        problem.spectra, problem.weights[:-1], problem.normalised.spreads[:-1], strict=True
    ):
        middle = spectrum.right[:, K : min(weight.shape) - K].T @ spread
        shares.append(_quotient(float(middle.square().sum()), float(spread.square().sum())))
    return shares


def _missing(
    layer: int, residual: float, within: list[float], trailing: list[float], gains: list[float], decay: float
) -> str:
    """Say what keeps the certificate from applying to D_{l+1}/D_l, or nothing."""
    if math.isnan(decay):
        return f"σ_K of layer {layer + 1} is 0 within rounding: it drops a direction of the class means"
    if math.isnan(residual):
        return "the readout of the leading block is singular or the last features do not vary within classes"
    if residual >= 1:
        return f"the last layer does not remove the within-class spread (e = {short(residual, 3)} ≥ 1)"
    if not math.isfinite(within[layer + 1]):
        failed = max(i for i, x in enumerate(within) if i > 0 and not math.isfinite(x))
        return f"layers {failed} and {failed + 1} are too misaligned for the within-class spread"
    if not (math.isfinite(trailing[layer]) and math.isfinite(gains[layer])):
        failed = min(i for i, gain in enumerate(gains) if not (math.isfinite(gain) and math.isfinite(trailing[i])))
        return f"layer {failed + 1} does not read the class means in its leading block"
    return ""


def _quotient(numerator: float, denominator: float) -> float:
    """Divide; anything by zero gives NaN, since no bound follows from it."""
    return numerator / denominator if denominator > 0 else math.nan


def _certify(case: Case) -> PosteriorCertificate | None:
    """The certificate, where there is a hidden layer and every layer is wide enough."""
    return None if case.measured.balance is None else posterior_certificate(case.problem)


def _brackets(case: Case, certificate: PosteriorCertificate | None) -> list[Bracket]:
    """Bracket of every decay ratio."""
    depth, claim = case.problem.depth, "D_l/D_{l−1} lies in its bracket"
    if certificate is None:
        nothing = np.full(depth, math.nan)
        return [Bracket(of="decay_ratio", claim=claim, prefix="posterior", lower=nothing, upper=nothing)]
    return [
        Bracket(
            of="decay_ratio",
            claim=claim,
            prefix="posterior",
            lower=after_first(certificate.ratio_lower),
            upper=after_first(certificate.ratio_upper),
            layers=range(1, depth),
            reasons=dict(enumerate(certificate.reasons, start=1)),
        )
    ]


def _assume(case: Case, certificate: PosteriorCertificate | None) -> list[Assumption]:
    """What the certificate needs of the weights; its verdicts ask step by step."""
    if certificate is None:
        return []
    missing = sum(bool(reason) for reason in certificate.reasons)
    e, sine = certificate.readout_residual, float(certificate.misalignment.max())
    words = f"{missing} of {case.problem.depth - 1} ratios lack a certificate"
    return [
        below_one("readout", e, e, "e = ‖A₁⁻¹W_{L:1}R‖/‖W_{L−1:1}R‖: the last layer removes the within-class spread"),
        Assumption(
            "alignment",
            sine,
            float(missing),
            0.0,
            missing == 0,
            f"largest misalignment s_l between neighbours; {words}",
        ),
    ]


def _remarks(case: Case, certificate: PosteriorCertificate | None) -> list[str]:
    """Where the bound is empty."""
    empty = 0 if certificate is None else int((certificate.ratio_upper >= 1).sum())
    return [f"The a-posteriori upper bound is 1 or more, so says nothing of compression, at {empty} layers."] * bool(
        empty
    )


POSTERIOR = Theorem(
    name="posterior",
    label="a posteriori certificate",
    about="From the measured spectra and misalignments of the very weights.",
    reference="docs/theory.md, Theorem 2 (a posteriori)",
    needs=SHAPE,
    certify=_certify,
    brackets=_brackets,
    assume=_assume,
    remarks=_remarks,
)
