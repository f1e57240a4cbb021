"""What other data look like in the geometry of the classes: NC5 and NECO."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.metrics.arguments import matrix_of
from neurocollapse.metrics.layer import Layer, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.metrics.scores import Outside
from neurocollapse.statistics import ClassMoments

ACCEPTED = 0.95
"""Share of the loader's own samples that the threshold of the false positive rate accepts."""


def nc5(moments: ClassMoments, others: Tensor) -> float:
    r"""NC5, orthogonality of other data: mean over the classes of :math:`|\cos(m_k, m_{\mathrm{OOD}})|`.

    Class means about the origin, and the mean of all other samples.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    others : Tensor of shape (samples, features)
        Features of data that belong to no class.

    Returns
    -------
    float
        In [0, 1], 0 at full collapse; NaN without samples and where a mean is zero.

    References
    ----------
    Ammar, Belkhir, Popescu, Manzanera, Franchi, NECO: neural collapse based out-of-distribution detection, ICLR 2024.

    Examples
    --------
    >>> moments = ClassMoments.from_features([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [0, 1])
    >>> nc5(moments, torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 1.0]]))
    0.0
    """
    return _nc5(moments, matrix_of(moments, "others", others).double().mean(dim=0))


def neco(moments: ClassMoments, features: Tensor) -> Tensor:
    r"""NECO, share of a sample that lies in the span of the class means: :math:`\|P (h - m_G)\| / \|h - m_G\|`.

    With the projection P on the span of the :math:`m_k - m_G`. The paper takes the leading principal components of all
    features for it, which this span is at collapse, and needs to be told their number.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    features : Tensor of shape (samples, features)
        Any samples.

    Returns
    -------
    Tensor of shape (samples,), float64
        In [0, 1]; 1 for collapsed samples of the classes, 0 at the mean of the class means itself. NaN with fewer than
        two classes, and where all class means coincide.

    References
    ----------
    Ammar et al., NECO, ICLR 2024, eq. (7).

    Examples
    --------
    >>> moments = ClassMoments.from_features([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]], [0, 1])
    >>> neco(moments, torch.tensor([[3.0, 0.0, 0.0], [3.0, 4.0, 0.0]])).tolist()
    [1.0, 0.6]
    """
    rows = matrix_of(moments, "features", features)
    return neco_scores(Layer(moments), Rows(rows, moments.present[:0]))


def neco_scores(layer: Layer, rows: Rows) -> Tensor:
    """NECO of some rows, float64."""
    centre, directions = layer.placed(_span, rows.features)
    if not directions.shape[1]:
        return torch.full((len(rows.features),), torch.nan, dtype=torch.float64, device=rows.features.device)
    centred = rows.features.double() - centre
    length = torch.linalg.vector_norm(centred, dim=1)
    along = torch.linalg.vector_norm(centred @ directions, dim=1)
    return torch.where(length > 0, along / length, 0.0)


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Probability that a sample of the classes has a larger score than another one, ties counting one half.

    In [0, 1], 1 where a threshold parts them; NaN where a score is, and without scores.

    Examples
    --------
    >>> auroc(np.array([0.9, 0.8, 0.5]), np.array([0.5, 0.1]))
    0.9166666666666666
    """
    if not (inside.size and outside.size) or np.isnan(inside).any() or np.isnan(outside).any():
        return math.nan
    ordered = np.sort(outside)
    below, not_above = (np.searchsorted(ordered, inside, side=side) for side in ("left", "right"))
    return float((below + not_above).sum()) / (2 * inside.size * outside.size)


def false_positive_rate(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """Share of the other samples that are accepted by the largest threshold that accepts 95 % of the classes' own.

    In [0, 1], 0 where a threshold parts them; NaN where a score is, and without scores.

    Examples
    --------
    >>> false_positive_rate(np.linspace(0.5, 1, 20), np.array([0.55, 0.5, 0.1]))
    0.3333333333333333
    """
    if not (inside.size and outside.size) or np.isnan(inside).any() or np.isnan(outside).any():
        return math.nan
    accepted = math.ceil(ACCEPTED * inside.size - 1e-9)  # 95 % of 20 are 19, whatever the product rounds to
    threshold = np.sort(inside)[inside.size - accepted]
    return float((outside >= threshold).mean())


def _nc5(moments: ClassMoments, mean: Tensor) -> float:
    """NC5 from the mean of the other samples."""
    means = moments.mean[moments.present]
    lengths = torch.linalg.vector_norm(means, dim=1) * torch.linalg.vector_norm(mean)
    if not len(means) or not bool((lengths > 0).all()):
        return math.nan
    return float(((means @ mean).abs() / lengths).mean().clamp(max=1.0))


def _span(layer: Layer, like: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the class means, and directions of their span as columns, where the rows are, float64."""
    return layer.means.centre.to(like.device), layer.axes.directions.T.to(like.device)


def _outside(layer: Layer) -> Outside:
    """The scores of both kinds of samples, which the layer has where this is called."""
    assert layer.outside is not None
    return layer.outside


def _of_scores(name: str, of: Any, **words: Any) -> Quantity:
    """A number of the scores."""
    return Quantity(
        name=name,
        of=lambda layer: of(_outside(layer)),
        needs=("ood",),
        reference=_AMMAR,
        bounds=(0.0, 1.0),
        family="ood",
        **words,
    )


_AMMAR = "Ammar et al., NECO, ICLR 2024"
_SPAN = "‖P(h − m_G)‖/‖h − m_G‖, P on the span of the class means about their mean"

QUANTITIES = (
    Quantity(
        name="nc5",
        of=lambda layer: _nc5(layer.moments, _outside(layer).mean),
        long_name="NC5, cosine to other data",
        symbol=r"\mathrm{mean}_k |\cos(m_k, m_{\mathrm{OOD}})|",
        convention="class means and the mean of the ood_loader about the origin",
        reference=_AMMAR,
        heading="NC5",
        needs=("ood",),
        at_collapse=0.0,
        better="lower",
        bounds=(0.0, 1.0),
        family="ood",
    ),
    _of_scores(
        "neco",
        lambda scores: float(scores.inside.mean()),
        long_name="NECO of the loader's samples",
        symbol=r"\|P h\| / \|h\|",
        convention=f"{_SPAN}; mean over the loader",
        heading="NECO",
        at_collapse=1.0,
        better="higher",
    ),
    _of_scores(
        "neco_ood",
        lambda scores: float(scores.outside.mean()),
        long_name="NECO of other data",
        symbol=r"\|P h_{\mathrm{OOD}}\| / \|h_{\mathrm{OOD}}\|",
        convention=f"{_SPAN}; mean over the ood_loader",
        heading="NECO, other data",
    ),
    _of_scores(
        "neco_auroc",
        lambda scores: auroc(scores.inside.numpy(), scores.outside.numpy()),
        long_name="area under the curve of NECO",
        symbol=r"\mathrm{AUROC}",
        convention="probability that a sample of the loader has a larger NECO than one of the ood_loader; ties ½",
        heading="NECO AUROC",
    ),
    _of_scores(
        "neco_fpr95",
        lambda scores: false_positive_rate(scores.inside.numpy(), scores.outside.numpy()),
        long_name="false positive rate of NECO",
        symbol=r"\mathrm{FPR}_{95}",
        convention="share of the ood_loader above the largest threshold that accepts 95 % of the loader",
        heading="NECO FPR95",
    ),
)
