"""The split certificate as an entry of `THEOREMS`: Theorems 3, 4 and 8 on one network."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocollapse.theory.assumptions import Assumption
from neurocollapse.theory.certified import CertifiedCompression, certified_compression
from neurocollapse.theory.conditions import SHAPE
from neurocollapse.theory.separation_bound import separation_bounds
from neurocollapse.theory.split import MOST_BANDS, SplitCertificate
from neurocollapse.theory.theorem import Bracket, Case, Number, Theorem, after_first

Array = NDArray[np.float64]
SPECTRAL_LABEL = "split certificate, spectra alone"


@dataclass(frozen=True, eq=False)
class _Evaluated:
    """All bounds, at the layers where the dataset shows them."""

    ratio: tuple[Array, Array]
    spectral: tuple[Array, Array]
    length: Array
    compression: CertifiedCompression
    separation: tuple[Array, Array]
    conditions: Array


@np.errstate(all="ignore")
def _certify(case: Case) -> _Evaluated | None:
    """Theorem 3 with 16 bands and with one, Theorem 4 and Theorem 8."""
    if case.tail is None:
        return None
    certificate = SplitCertificate(case.tail)
    lower, upper = certificate.ratio_bounds(MOST_BANDS)
    spectral = certificate.ratio_bounds(1)
    return _Evaluated(
        (after_first(lower), after_first(upper)),
        (after_first(spectral[0]), after_first(spectral[1])),
        after_first(certificate.explanation_length(case.measured.decay_ratio[1:])),
        certified_compression(case.tail),
        separation_bounds(case.tail),
        np.array(case.tail.conditions),
    )


def _brackets(case: Case, found: _Evaluated | None) -> list[Bracket]:
    """Brackets of every decay ratio, of every D_l, and of every S_l from below."""
    depth = case.problem.depth
    nothing = np.full(depth, math.nan)
    pair = (nothing, nothing)
    ratio, spectral, separation = (
        (pair, pair, pair) if found is None else (found.ratio, found.spectral, found.separation)
    )
    compression = pair if found is None else (found.compression.lower, found.compression.upper)
    step, claim = "D_l/D_{l−1} lies in its bracket", "S_l is at least its bound"
    return [
        Bracket(of="decay_ratio", claim=step, prefix="split", lower=ratio[0], upper=ratio[1], layers=range(1, depth)),
        Bracket(
            of="decay_ratio",
            claim=f"{step} (spectra alone)",
            prefix="split_spectral",
            label=SPECTRAL_LABEL,
            lower=spectral[0],
            upper=spectral[1],
            layers=range(1, depth),
            convention="one band: spectra, and the shares of spread and means that the output sees",
        ),
        Bracket(
            of="compression",
            claim="D_l lies in its bracket",
            prefix="certified",
            label="certified from input, output and weights",
            lower=compression[0],
            upper=compression[1],
            layers=range(depth),
            convention="no features between the input and the output of the tail are used",
        ),
        Bracket(
            of="separation_uncentred",
            claim=claim,
            prefix="separation_split",
            label="split certificate, local",
            lower=separation[0],
            layers=range(depth),
            convention="from what the output does not see of the means at the layer before",
        ),
        Bracket(
            of="separation_uncentred",
            claim=f"{claim} (input, output and weights only)",
            prefix="separation_certified",
            label="split certificate, global",
            lower=separation[1],
            layers=range(depth),
        ),
    ]


def _assume(case: Case, found: _Evaluated | None) -> list[Assumption]:
    """The only assumption: the rank of W_{L:1}."""
    if case.tail is None or found is None:
        return []
    full, condition = case.tail.bases is not None, float(found.conditions[0])
    meaning = f"rank W_{{L:1}} = {case.problem.num_classes}, the number of outputs; the value is its condition number κ"
    return [Assumption("output_rank", condition, 0.0 if full else 1.0, 0.0, full, meaning)]


def _numbers(case: Case, found: _Evaluated | None) -> list[Number]:
    """What D_l is made of, and how many bands explain a step."""
    nothing = np.full(case.problem.depth, math.nan)
    parts = None if found is None else found.compression
    explained = f"least number of bands ≤ {MOST_BANDS} whose upper bound is within 5 % of the ratio; NaN if none"
    return [
        Number("explanation_length", nothing if found is None else found.length, "explanation length", "B", explained),
        Number(
            "compression_visible",
            nothing if parts is None else parts.visible,
            "D of the spread that the output sees",
            "D_\\ell^{vis}",
            "the part of the spread that is correlated with the output",
        ),
        Number(
            "compression_invisible",
            nothing if parts is None else parts.invisible,
            "D of the spread that the output does not see",
            "D_\\ell^{inv}",
            "the rest; it falls geometrically",
        ),
        Number(
            "compression_floor",
            nothing if parts is None else np.full(case.problem.depth, parts.floor),
            "floor of D",
            "D_{out}",
            "D of the output, the same at every layer",
        ),
        Number(
            "compression_law",
            nothing if parts is None else parts.law,
            "floor and transient",
            "",
            "D_out + (D_0 − D_out) Π g/b with mean gains; a prediction and no theorem",
        ),
        Number(
            "readout_condition",
            nothing if found is None else found.conditions,
            "condition number of the map to the output",
            "\\kappa(B_\\ell)",
            "largest over smallest singular value of W_{L:l+1}",
        ),
    ]


SPLIT = Theorem(
    name="split",
    label="split certificate",
    about=f"From what the output sees of every layer and {MOST_BANDS} bands of measured energy, for any weights.",
    reference="docs/theory.md, Theorems 3, 4 and 8 (split certificate)",
    needs=(*SHAPE, "output_rank"),
    certify=_certify,
    brackets=_brackets,
    assume=_assume,
    numbers=_numbers,
)
"""A theorem for every linear tail: only a fault of the software, or rounding, can miss its bracket."""
