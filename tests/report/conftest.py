"""Analyses as the plots' tests make them, and a stand-in for a verification."""

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

# Tests are not a package (import mode importlib), so the neighbouring factory is loaded by its path.
_SPEC = importlib.util.spec_from_file_location("analyses", Path(__file__).parents[1] / "plots" / "conftest.py")
_ANALYSES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_ANALYSES)

make_analysis = _ANALYSES.make_analysis


@dataclass(frozen=True)
class Assumption:
    """One measured assumption."""

    value: float
    residual: float
    tolerance: float
    met: bool
    meaning: str = ""


@dataclass(frozen=True)
class Verdict:
    """One claim with its outcome."""

    claim: str
    reference: str
    measured: float
    lower: float | None
    upper: float | None
    slack: float
    tolerance: float
    outcome: str


@dataclass(frozen=True)
class Verification:
    """The surface of a verification, without the theory."""

    status: str = "holds"
    assumptions: dict[str, Assumption] = field(default_factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    dataset: xr.Dataset | None = None

    def to_dataset(self) -> xr.Dataset:
        """The given dataset, or one of a network that follows its rate."""
        if self.dataset is not None:
            return self.dataset
        ratio = np.array([0.29, 0.28, 0.283, np.nan])
        variables = {"compression": [12.0, 3.48, 0.984, 0.276], "decay_ratio": ratio, "rate": np.full(4, 0.2838)}
        for name, width in (("posterior", 0.03), ("prior", 0.2), ("printed", 0.6)):
            variables |= {f"{name}_lower": (1 - width) * ratio, f"{name}_upper": (1 + width) * ratio}
        variables["separation_uncentred"] = [0.9, 0.968, 0.971, 0.976]
        variables["separation_prior_lower"] = [np.nan, 0.84, 0.86, 0.88]
        variables["separation_printed_lower"] = [-90.0, -62.0, -45.0, -30.0]
        return xr.Dataset({name: ("layer", values) for name, values in variables.items()}, {"layer": np.arange(4)})


@pytest.fixture(scope="session")
def analysis():
    """The factory of analyses, for pages that several tests read."""
    return _ANALYSES.analysis


@pytest.fixture(scope="session")
def make_verification():
    """A factory of verifications with one assumption and one verdict of the given outcome."""

    def make(status: str = "holds", **changed: object) -> Verification:
        met = status != "assumptions unmet"
        given = {
            "status": status,
            "assumptions": {"balancedness": Assumption(0.003, 0.003, 0.01, met, "neighbours have equal Gram matrices")},
            "verdicts": (Verdict("decay ratio at layer 0", "[W] Theorem 4", 0.29, 0.28, 0.295, 0.005, 1e-6, status),),
        }
        return Verification(**{**given, **changed})

    return make
