"""What a tracker measures of which matrices: options, sizes, and the empty dataset that they fill."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr

from neurocollapse.dynamics.leading import OVERSAMPLE
from neurocollapse.support.provenance import describe_process
from neurocollapse.support.text import listed

FULL_UP_TO = 256
"""Smaller side up to which a matrix is decomposed in full by default: about 20 ms, a few steps of such a layer."""
NUM_LEADING = 32
"""Components kept of larger matrices by default."""
MOST_TILED, TILE_VALUES = 64, 2**15
"""Most steps, and most numbers, that are decomposed together; large matrices gain nothing from it."""
SIDES = ("left", "right")

ROY = "Roy and Vetterli, EUSIPCO 2007"
RUDELSON = "Rudelson and Vershynin, J. ACM 2007"
HALKO = "Halko, Martinsson and Tropp, SIAM Review 2011"
BJORCK = "Björck and Golub, Math. Comp. 1973"
ARORA = "Arora, Cohen and Hazan, ICML 2018"
YARAS = "Yaras et al., arXiv 2306.01154"

_SPECTRUM = ("step", "layer", "component")
_NUMBER = ("step", "layer")
_EDGE = ("step", "layer", "side", "edge")
_BLOCK = ("step", "layer", "side")

VARIABLES: dict[str, tuple[tuple[str, ...], str, str, str, str, str]] = {
    "singular_values": (_SPECTRUM, "singular value", "\\sigma_i", "1", "descending; NaN beyond the layer's", YARAS),
    "singular_value_error": (
        _SPECTRUM, "bound on the error of a singular value", "", "1",
        "an exact one lies within it; 0 where the decomposition is full: rounding only", HALKO,
    ),
    "drift_singular_values": (
        _SPECTRUM, "singular value of the change since the start", "\\sigma_i(W(t)-W(0))", "1",
        "descending; NaN where the start is not finite; of a sketched layer never too high, but low by about 15 % "
        "where the change has no leading directions", YARAS,
    ),
    "range_error": (
        _NUMBER, "what the random sketch misses", "\\|W-QQ^TW\\|_F", "1",
        "Q has ten more dimensions than components are kept; 0 where the decomposition is full", HALKO,
    ),
    "weight_effective_rank": (
        _NUMBER, "effective rank of the weight", "\\exp H(\\sigma/\\Sigma\\sigma)", "1",
        "exponential of the entropy of the normalised spectrum; NaN where only leading values are known", ROY,
    ),
    "stable_rank": (_NUMBER, "stable rank", "\\|W\\|_F^2/\\|W\\|_2^2", "1", "", RUDELSON),
    "imbalance": (
        _NUMBER, "imbalance with the next layer", "\\|W_{l+1}^TW_{l+1}-W_lW_l^T\\|_F", "1",
        "NaN where the next tracked matrix does not fit; estimated by random probes where one of the two is sketched",
        ARORA,
    ),
    "top_angle": (
        _EDGE, "angle of a leading singular vector to the reference step's", "\\theta", "rad",
        "edge 1 is the largest singular value", BJORCK,
    ),
    "bottom_angle": (
        _EDGE, "angle of a trailing singular vector to the reference step's", "\\theta", "rad",
        "edge 1 is the smallest singular value", BJORCK,
    ),
    "middle_angle": (
        _BLOCK, "largest principal angle of the middle block to the reference step's", "\\theta_{mid}", "rad",
        "the singular vectors between the leading and the trailing ones, as one subspace", BJORCK,
    ),
}  # fmt: skip
"""Name → dimensions, long name, symbol, units, convention, reference."""


@dataclass(frozen=True)
class Options:
    """What is asked for, however the weights look."""

    components: int | None
    edge: int
    reference: int | None
    seed: int


@dataclass(frozen=True)
class Layout:
    """Options and the matrices they are applied to.

    Attributes
    ----------
    names
        Names of the layers.
    shapes
        (rows, columns) of each.
    options
        What is asked for.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]
    options: Options

    @property
    def kept(self) -> tuple[int, ...]:
        """How many components of each layer are kept."""
        wanted = self.options.components
        most = [min(shape) for shape in self.shapes]
        return tuple(
            min(size, wanted) if wanted is not None else size if size <= FULL_UP_TO else NUM_LEADING for size in most
        )

    @property
    def sketched(self) -> tuple[bool, ...]:
        """Which layers are decomposed from a sketch: where little of a large spectrum is wanted."""
        pairs = zip(self.kept, self.shapes, strict=True)
        return tuple(2 * (kept + OVERSAMPLE) < min(shape) for kept, shape in pairs)

    @property
    def tile(self) -> int:
        """How many steps are decomposed together: always as many, see `analyse`."""
        largest = max(rows * columns for rows, columns in self.shapes)
        return max(1, min(MOST_TILED, TILE_VALUES // largest))

    @property
    def edges(self) -> tuple[int, ...]:
        """How many single vectors are followed at either end of each spectrum."""
        return tuple(min(self.options.edge, min(shape) // 2) for shape in self.shapes)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of every dimension but `step`."""
        edge = max(1, *self.edges)
        return {"layer": len(self.names), "component": max(self.kept), "side": len(SIDES), "edge": edge}

    def rows(self, count: int) -> dict[str, np.ndarray]:
        """One NaN-filled array a variable, for that many steps."""
        sizes = {**self.sizes, "step": count}
        return {name: np.full([sizes[dim] for dim in dims], np.nan) for name, (dims, *_) in VARIABLES.items()}

    def dataset(self, steps: Sequence[int], rows: dict[str, np.ndarray]) -> xr.Dataset:
        """Label the rows."""
        variables = {name: (dims, rows[name], _attributes(*about)) for name, (dims, *about) in VARIABLES.items()}
        shape = {"long_name": "shape of the weight as a matrix", "units": "1"}
        coordinates = {
            "step": ("step", np.asarray(steps, dtype=np.int64), {"long_name": "optimizer steps taken", "units": "1"}),
            "layer": ("layer", np.array(self.names, dtype=object).astype(str), {"long_name": "layer"}),
            "component": np.arange(1, self.sizes["component"] + 1),
            "side": ("side", np.array(SIDES), {"long_name": "left (output) or right (input) singular vectors"}),
            "edge": np.arange(1, self.sizes["edge"] + 1),
            "rows": ("layer", np.array([shape[0] for shape in self.shapes]), shape),
            "columns": ("layer", np.array([shape[1] for shape in self.shapes]), shape),
        }
        attributes = {"title": "Weights over training", "tracked": self.to_json(), **describe_process()}
        return xr.Dataset(variables, coords=coordinates, attrs=attributes)

    def to_json(self) -> str:
        """Everything by which two trackers are the same."""
        return json.dumps({"names": self.names, "shapes": self.shapes, "options": asdict(self.options)})

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """The layout that `to_json` wrote."""
        found = json.loads(text)
        shapes = tuple((int(rows), int(columns)) for rows, columns in found["shapes"])
        return cls(tuple(found["names"]), shapes, Options(**found["options"]))

    def difference(self, other: "Layout") -> str:
        """In what another layout differs first, in words; empty if in nothing."""
        if self.names != other.names:
            return f"layers {listed(other.names)}, not {listed(self.names)}"
        for name, shape, found in zip(self.names, self.shapes, other.shapes, strict=True):
            if shape != found:
                return f"{name} of shape {found}, not {shape}"
        mine, theirs = asdict(self.options), asdict(other.options)
        return next((f"{key}={theirs[key]}, not {mine[key]}" for key in mine if mine[key] != theirs[key]), "")


def _attributes(long_name: str, symbol: str, units: str, convention: str, reference: str) -> dict[str, str]:
    """The attributes of a variable."""
    about = {"long_name": long_name, "units": units, "symbol": symbol, "convention": convention, "reference": reference}
    return {key: value for key, value in about.items() if value}
