"""Printed numbers about matrices: factorization, completion and sensing by full, compressed and narrow networks."""

from collections.abc import Iterator

import xarray as xr

from reproduction.printed import Printed

FACTORIZATION = (
    Printed("matrix-factorization", "ε = 1e−2: largest deviation of W_{L:1}", "V", "2.3e−7", "ε = 0.01: deviation 2"),
    Printed("matrix-factorization", "ε = 1e−3: largest deviation of W_{L:1}", "V", "2.3e−10", "ε = 0.001: deviation 2"),
)


def _completion() -> Iterator[Printed]:
    """Steps to a training loss of 1e−10, and where the frozen network stays."""
    steps = {"full": "20,350", "γ=0.01": "23,250", "γ=0.1": "21,000", "γ=1.0": "28,900", "narrow": "42,900"}
    for name, printed in steps.items():
        yield Printed("matrix-completion", f"{name}: steps", "V", printed, f"{name}: {printed} steps")
    claim = "γ = 0 stalls at a hidden loss"
    yield Printed("matrix-completion", "γ = 0: hidden loss at which it stalls", "V", "0.011", claim)


def _sensing(network: str) -> Printed:
    """Error of the whole matrix at the end."""

    def values(dataset: xr.Dataset) -> float:
        error = dataset["test_error"].sel(problem="sensing", network=network).dropna("step")
        return float(error[-1])

    printed = {"full": "7e−6", "compressed": "4e−6"}[network]
    claim = "sensing: compressed error at the end" if network == "compressed" else ""
    given = {"measurements": 4000}
    return Printed(
        "spectral-init", f"sensing, {network}: error at the end, relative", "F", printed, claim, values, given
    )


def _drops() -> Iterator[Printed]:
    """Steps at which the error drops, or training ends."""
    for problem, words in (("factorization", "drop"), ("completion", "end")):
        steps = {"factorization": ("80,000", "61,000"), "completion": ("7,900", "2,300")}[problem]
        for network, printed in zip(("full", "compressed"), steps, strict=True):
            claim = f"{problem}: {words} of the {network} network"
            yield Printed("spectral-init", f"{problem}, {network}: step of the {words}", "F", printed, claim)


OTHERS = (
    Printed("depth-width", "L = 2: error of the widest over the narrowest", "F", "grows", "L = 2: error of hidden"),
    Printed("depth-width", "L = 3: largest error of hidden entries", "F", "nearly 0", "L = 3: error of hidden"),
    Printed(
        "narrow-vs-compressed",
        "steps, narrow over compressed, 2r̂ ≪ d",
        "F",
        "2.3 to 3",
        "r̂ = 5: 2.3 to 3 times as many",
    ),
    Printed("alignment", "all entries: alignment at the end", "F", "→ 1", "all entries: alignment at the end"),
    Printed("alignment", "30 % of the entries: alignment at the end", "F", "→ 1", "30% of the entries: alignment"),
    Printed(
        "movielens",
        "wall time, full over compressed",
        "F",
        "12",
        "full / compressed: wall time",
        given={"file": "ml-100k/u.data"},
    ),
)
NUMBERS = (*FACTORIZATION, *_completion(), *_drops(), *map(_sensing, ("full", "compressed")), *OTHERS)
