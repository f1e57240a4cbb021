"""The split certificate: a bracket of D_{l+1}/D_l for every linear tail, whatever its weights (Theorem 3)."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.theory.bands import band_bounds, resolved_bounds
from neurocollapse.theory.blocks import Blocks, Tail
from neurocollapse.theory.problem import LinearProblem

Array = NDArray[np.float64]
MOST_BANDS = 16
"""Bands of the certificate that is shown; more of them drift towards the identity "measured = measured"."""
EXPLAINED = 1.05
"""Upper bound over measurement up to which so many bands count as an explanation."""


class Family(NamedTuple):
    """Columns at layer l, several nested sets of them side by side, as one step sees them.

    Attributes
    ----------
    carried : Tensor of shape (sets,)
        ‖B_{l+1}⁺O‖_F², what the output fixes at layer l+1.
    hidden : Tensor of shape (sets,)
        q = ‖Q_lᵀA‖_F, what the output does not see at layer l.
    leak : Tensor of shape (sets,)
        κ = ‖Q_{l+1}ᵀW_{l+1}B_l⁺O‖_F.
    energies : Tensor of shape (d_l, sets)
        Over the right singular vectors of W_{l+1}.
    """

    carried: Tensor
    hidden: Tensor
    leak: Tensor
    energies: Tensor


def step_bounds(
    carried: Tensor, hidden: Tensor, leak: Tensor, gain_low: Tensor | float, gain_high: Tensor | float
) -> tuple[Tensor, Tensor]:
    r"""Bound ‖W_{l+1}A‖_F² from what the output fixes, and the gain of what it does not see (Lemma 2).

    .. math:: \|B_{l+1}^+O\|^2 + \max(0,\, t^-q - \kappa,\, \kappa - t^+q)^2 \le \|W_{l+1}A\|_F^2
        \le \|B_{l+1}^+O\|^2 + (t^+q + \kappa)^2

    Examples
    --------
    >>> one = torch.ones(1)
    >>> [float(side) for side in step_bounds(one, 2 * one, one, 1.0, 3.0)]
    [2.0, 50.0]
    """
    low = torch.maximum(gain_low * hidden - leak, leak - gain_high * hidden).clamp(min=0)
    return carried + low.square(), carried + (gain_high * hidden + leak).square()


@dataclass(frozen=True, eq=False)
class SplitCertificate:
    """Theorem 3 on one network.

    Attributes
    ----------
    tail
        A tail of at least two weights, every width greater than K.
    """

    tail: Tail

    @classmethod
    def of(cls, problem: LinearProblem) -> "SplitCertificate":
        """The certificate of a problem.

        Parameters
        ----------
        problem : LinearProblem
            Network and data.

        Raises
        ------
        ValueError
            If the network has no hidden layer, or one of its feature layers is not wider than K.
        """
        if problem.depth < 2:
            raise ValueError(f"the certificate is about hidden layers; it needs two weights, got {problem.depth}")
        if min(problem.widths) <= problem.num_classes:
            K, widths = problem.num_classes, list(problem.widths)
            raise ValueError(f"the certificate needs every width to exceed the {K} outputs, got {widths}")
        return cls(Tail(problem))

    @property
    def applies(self) -> bool:
        """Whether rank W_{L:1} = K, the only assumption."""
        return self.tail.bases is not None

    def ratio_bounds(self, bands: int = MOST_BANDS) -> tuple[Array, Array]:
        """Bracket of D_{l+1}/D_l for l = 0 … L−2, the best over the ranks of Π; NaN where it is undefined.

        Parameters
        ----------
        bands : int, default 16
            B. One band uses spectra and the shares of spread and means that the output sees; more of them also how the
            energy is distributed over the singular directions, with the K leading ones resolved.

        Examples
        --------
        >>> eye, labels = torch.eye(6).double(), torch.tensor([0, 0, 0, 1, 1, 1])
        >>> problem = LinearProblem.of([torch.diag(torch.tensor([2.0, 1, 1, 1, 1, 1])), eye[[0, 5]]], eye, labels)
        >>> low, high = SplitCertificate.of(problem).ratio_bounds()
        >>> bool(low[0] <= high[0])
        True
        """
        if not self.applies:
            nothing = np.full(self.tail.problem.depth - 1, math.nan)
            return nothing, nothing
        found = [self._step(layer, bands) for layer in range(self.tail.problem.depth - 1)]
        return np.array([low for low, _ in found]), np.array([high for _, high in found])

    def explanation_length(self, measured: Array) -> Array:
        """The least B ≤ 16 whose upper bound is within 5 % of the measured ratio, for each ratio; NaN if none is.

        Parameters
        ----------
        measured : array of shape (L − 1,)
            D_{l+1}/D_l for l = 0 … L−2.
        """
        lengths = np.full(self.tail.problem.depth - 1, math.nan)
        for bands in range(MOST_BANDS, 0, -1):
            upper = self.ratio_bounds(bands)[1]
            lengths[upper <= EXPLAINED * measured] = bands
        return lengths

    def _step(self, layer: int, bands: int) -> tuple[float, float]:
        """Lower and upper bound of one step."""
        visible, invisible, means = self.families[layer]
        step = self.tail.blocks[layer]
        num_classes = self.tail.problem.num_classes
        visible_low, visible_high = family_bounds(visible, step, bands, num_classes)
        invisible_low, invisible_high = family_bounds(invisible, step, bands, num_classes)
        means_low, means_high = (float(side[0]) for side in family_bounds(means, step, bands, num_classes))
        spread = float(self.tail.visible[layer].square().sum() + self.tail.invisible[layer].square().sum())
        between = float(self.tail.centred_means[layer].square().sum())
        if spread == 0 or between == 0:
            return math.nan, math.nan
        low, high = float((visible_low + invisible_low).max()), float((visible_high + invisible_high).min())
        lower = low / spread * between / means_high if means_high > 0 else math.nan
        return lower, high / spread * between / means_low if means_low > 0 else math.inf

    @cached_property
    def families(self) -> tuple[tuple[Family, Family, Family], ...]:
        """Visible parts for the ranks 0 … of Π, the invisible rests, and the means, at l = 0 … L−2."""
        tail = self.tail
        starts = (tail.visible[0], tail.invisible[0], tail.centred_means[0])
        fixed = [tail.coordinates(start) for start in starts]
        found = []
        for layer, step in enumerate(tail.blocks):
            visible, invisible, means = (
                _columns(features[layer], tail.unseen(features[layer], layer), coordinates[layer], step)
                for features, coordinates in zip((tail.visible, tail.invisible, tail.centred_means), fixed, strict=True)
            )
            found.append((_nested(visible), _nested_rest(visible, invisible), _whole(means)))
        return tuple(found)


def family_bounds(family: Family, step: Blocks, bands: int, num_classes: int) -> tuple[Tensor, Tensor]:
    """Bounds of ‖W_{l+1}A‖_F² for every set of a family: Lemma 2 with the extreme gains of T, and bands of W_{l+1}.

    Bands over the singular directions of T in place of its extreme gains would change 16 bands by less than half a per
    cent on trained networks, and cost a decomposition more.
    """
    low, high = step_bounds(family.carried, family.hidden, family.leak, step.gain_low, step.gain_high)
    if bands == 1:
        return low, high
    for other_low, other_high in (
        band_bounds(step.whole, family.energies, bands),
        resolved_bounds(step.whole, family.energies, num_classes, bands),
    ):
        low, high = torch.maximum(low, other_low), torch.minimum(high, other_high)
    return low, high


def _columns(features: Tensor, hidden: Tensor, coordinates: Tensor, step: Blocks) -> Family:
    """Squares of every column by itself."""
    return Family(
        (step.carried @ coordinates).square().sum(0),
        hidden.square().sum(0),
        (step.leaked @ coordinates).square().sum(0),
        step.whole.energies(features),
    )


def _nested(columns: Family) -> Family:
    """The first j columns together, j = 0, 1, …."""
    return _as_norms(Family(*(torch.nn.functional.pad(one.cumsum(-1), (1, 0)) for one in columns)))


def _nested_rest(columns: Family, rest: Family) -> Family:
    """All columns but the first j, and the rest."""
    sums = (
        torch.nn.functional.pad(one.flip(-1).cumsum(-1).flip(-1), (0, 1)) + other.sum(-1, keepdim=True)
        for one, other in zip(columns, rest, strict=True)
    )
    return _as_norms(Family(*sums))


def _whole(columns: Family) -> Family:
    """All columns together."""
    return _as_norms(Family(*(one.sum(-1, keepdim=True) for one in columns)))


def _as_norms(sums: Family) -> Family:
    """Norms in place of the squares of what is hidden and what leaks."""
    return sums._replace(hidden=sums.hidden.sqrt(), leak=sums.leak.sqrt())
