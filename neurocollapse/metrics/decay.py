"""How a quantity decays from layer to layer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurocollapse.metrics.arguments import one_for_each
from neurocollapse.metrics.layer import Network
from neurocollapse.metrics.quantity import Quantity


@dataclass(frozen=True)
class GeometricDecay:
    """A straight line through the natural logarithm of a quantity against the layer index.

    Attributes
    ----------
    slope : float
        Natural logarithm of the factor per layer; negative when the quantity decays.
    intercept : float
        Value of the line, in logarithms, at layer index 0.
    r_squared : float
        Share of the variance of the logarithms that the line explains, in [0, 1]; NaN where they do not vary.
    lower, upper : float
        95 % interval of the line's slope (Student's t), which takes the layers for independent observations of a line:
        how well one describes them, not how sure the numbers are. NaN with fewer than three layers.
    num_layers : int
        Layers that took part in the fit.
    """

    slope: float
    intercept: float
    r_squared: float
    lower: float
    upper: float
    num_layers: int

    @property
    def factor(self) -> float:
        """Factor per layer, exp(slope)."""
        return float(np.exp(self.slope))


def decay_ratio(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Decay ratio of each layer: :math:`D_l / D_{l-1}`.

    Parameters
    ----------
    values : array-like of shape (layers,)
        A non-negative quantity per layer, in order of depth.

    Returns
    -------
    ndarray of shape (layers,), float64
        NaN at the first layer, and wherever the quotient is undefined (0/0, ∞/∞, NaN).

    References
    ----------
    Wang et al., JMLR 26(220), 2025, Theorem 4.

    Examples
    --------
    >>> decay_ratio([8.0, 4.0, 1.0]).tolist()
    [nan, 0.5, 0.25]
    """
    current = one_for_each("values", values, "layer")
    ratios = np.full(current.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios[1:] = current[1:] / current[:-1]
    return ratios


def geometric_decay(values: Sequence[float] | NDArray[np.float64]) -> GeometricDecay:
    r"""Fit of a geometric decay: least squares of :math:`\log D_l` against the layer index l.

    Parameters
    ----------
    values : array-like of shape (layers,)
        A quantity per layer, in order of depth. Layers where it is zero, negative, infinite or NaN are left
        out; `num_layers` says how many took part.

    Returns
    -------
    GeometricDecay
        Slope, intercept, R² and the 95 % interval of the line's slope; NaN with fewer than two usable layers.

    References
    ----------
    He and Su, A law of data separation in deep learning, PNAS 120(36), 2023.

    Examples
    --------
    >>> round(geometric_decay([8.0, 4.0, 2.0]).factor, 12)
    0.5
    """
    quantity = one_for_each("values", values, "layer")
    usable = np.isfinite(quantity) & (quantity > 0)
    layers, logs = np.flatnonzero(usable).astype(np.float64), np.log(quantity[usable])
    nan = float("nan")
    if layers.size < 2:
        return GeometricDecay(nan, nan, nan, nan, nan, int(layers.size))
    offset = layers - layers.mean()
    variation, spread = float(offset @ offset), float(((logs - logs.mean()) ** 2).sum())
    varies = bool(np.ptp(logs) > 0)  # the mean of equal numbers need not equal them to the last bit
    slope = float(offset @ logs) / variation
    residual = logs - logs.mean() - slope * offset
    error = float(residual @ residual)
    half = nan
    if layers.size > 2:
        from scipy.special import stdtrit  # slow import, needed only here

        freedom = layers.size - 2
        half = float(stdtrit(freedom, 0.975)) * math.sqrt(error / freedom / variation)
    return GeometricDecay(
        slope=slope,
        intercept=float(logs.mean() - slope * layers.mean()),
        r_squared=max(0.0, 1.0 - error / spread) if varies else nan,
        lower=slope - half,
        upper=slope + half,
        num_layers=int(layers.size),
    )


_LINE = "natural logarithm of D_l against the position among the layers, least squares"
_HE = "He and Su, PNAS 120(36), 2023"


def _line(network: Network) -> GeometricDecay:
    """The straight line through log D_l."""
    return geometric_decay(network.values("compression"))


def _of_line(name: str, long_name: str, symbol: str, bounds: tuple[float, float] = (-math.inf, math.inf)) -> Quantity:
    """One number of the straight line."""
    return Quantity(
        name=f"decay_{name}",
        of=lambda network: getattr(_line(network), name.removeprefix("slope_").removesuffix("_of_line")),
        long_name=long_name,
        symbol=symbol,
        convention=_LINE,
        reference=_HE,
        bounds=bounds,
        family="decay",
        dims=(),
    )


QUANTITIES = (
    Quantity(
        name="decay_ratio",
        of=lambda network: decay_ratio(network.values("compression")),
        symbol=r"D_\ell / D_{\ell-1}",
        convention="NaN at the first layer",
        reference="Wang et al., JMLR 26(220), 2025",
        heading="D / D before",
        better="lower",
        bounds=(0.0, math.inf),
        family="decay",
        over_layers=True,
    ),
    _of_line("slope", "slope of log D per layer", r"\beta"),
    _of_line("slope_lower_of_line", "slope, lower end of the 95 % interval of the line", r"\beta_{-}"),
    _of_line("slope_upper_of_line", "slope, upper end of the 95 % interval of the line", r"\beta_{+}"),
    _of_line("intercept", "log D of the line at the first layer", r"\alpha"),
    _of_line("r_squared", "share of the variance of log D explained", "R^2", (0.0, 1.0)),
)
