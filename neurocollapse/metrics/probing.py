"""Simple classifiers on the features of some samples, and the rank of those features, as quantities."""

import math

from neurocollapse.metrics.quantity import Quantity

_PAPYAN = "Papyan, Han, Donoho, PNAS 117(40), 2020"
_NEAREST = "least Euclidean distance to the class means of the training part"


def _accuracy(name: str, long_name: str, symbol: str, heading: str, convention: str, reference: str) -> Quantity:
    """The accuracy of one classifier on one part of the samples."""
    return Quantity(
        name=name,
        of=lambda layer: getattr(layer.probed, name),
        long_name=long_name,
        symbol=symbol,
        convention=convention,
        reference=reference,
        heading=heading,
        needs=("features",),
        better="higher",
        bounds=(0.0, 1.0),
        family="probes",
    )


QUANTITIES = (
    _accuracy(
        "probe_accuracy_train",
        "linear probe accuracy, train",
        r"a_\ell^{\mathrm{train}}",
        "probe, train",
        "{probe}",
        "{probe_reference}",
    ),
    _accuracy(
        "probe_accuracy_test",
        "linear probe accuracy, test",
        r"a_\ell^{\mathrm{test}}",
        "probe, held out",
        "{probe}",
        "{probe_reference}",
    ),
    _accuracy(
        "ncm_accuracy_train",
        "nearest class mean, train",
        r"c_\ell^{\mathrm{train}}",
        "nearest mean, train",
        _NEAREST,
        _PAPYAN,
    ),
    _accuracy(
        "ncm_accuracy_test",
        "nearest class mean, test",
        r"c_\ell^{\mathrm{test}}",
        "nearest mean, held out",
        _NEAREST,
        _PAPYAN,
    ),
    Quantity(
        name="numerical_rank",
        of=lambda layer: layer.probed.numerical_rank,
        symbol=r"r_\ell",
        convention="least k with σ_1 + … + σ_k ≥ 0.95 Σσ; features not centred",
        reference="Wang et al., JMLR 26(220), 2025",
        heading="rank, 95 %",
        needs=("features",),
        better="lower",
        bounds=(0.0, math.inf),
        family="rank",
    ),
    Quantity(
        name="effective_rank",
        of=lambda layer: layer.probed.effective_rank,
        symbol=r"\mathrm{erank}_\ell",
        convention="exp of the entropy of σ/Σσ, natural logarithm; features not centred",
        reference="Roy and Vetterli, EUSIPCO, 2007",
        heading="effective rank",
        needs=("features",),
        better="lower",
        bounds=(1.0, math.inf),
        family="rank",
    ),
)
