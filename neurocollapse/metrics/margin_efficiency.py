"""How much of the margin that its norms allow a linear head realises, and to what the rest is lost."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import check_moments
from neurocollapse.metrics.duality import Duality
from neurocollapse.metrics.layer import Finish, Layer, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments, Reader

HEAD_TOLERANCE = 0.02
"""Root mean square by which logits may miss W h + b, relative to their size: bfloat16 rounds to 0.004, another scale or
activation behind the layer is further off."""


class MarginEfficiency(NamedTuple):
    r"""Four margins, each at most the next, and the factors between them; NaN where undefined.

    Attributes
    ----------
    of_loss : float
        :math:`t_{CE}`, the margin that equal samples with equal wrong classes have at the same mean cross-entropy.
    of_samples : float
        :math:`t_f`, the margin that equal samples have at the same mean of :math:`f(m_i)`.
    mean : float
        :math:`\bar m`, the mean margin.
    best : float
        :math:`m^*`, the largest mean margin that the norms of weight and features allow.
    spread, duality : float
        :math:`(1 + D)^{-1/2}` and :math:`\cos(W_c, M)`.
    """

    of_loss: float
    of_samples: float
    mean: float
    best: float
    spread: float
    duality: float

    @property
    def samples(self) -> float:
        """What unequal margins of the samples leave; NaN unless the mean margin is positive."""
        return self.of_samples / self.mean if self.mean > 0 else math.nan

    @property
    def classes(self) -> float:
        """What unequal wrong classes leave; NaN unless the margin of the samples is positive."""
        return self.of_loss / self.of_samples if self.of_samples > 0 else math.nan

    @property
    def efficiency(self) -> float:
        """The share of the best margin that is realised: the product of the four factors, NaN where one of them is."""
        return self.of_loss / self.best if self.mean > 0 and self.of_samples > 0 else math.nan


_UNDEFINED = MarginEfficiency(*[math.nan] * 6)


def margin_efficiency(
    moments: ClassMoments, reader: Reader, features: Tensor, labels: Tensor, logits: Tensor | None = None
) -> MarginEfficiency:
    r"""Margin efficiency of a linear head and its four factors, every class with weight 1/K.

    .. math:: \frac{t_{CE}}{m^*} = (1 + D)^{-1/2} \cdot \cos(W_c, M) \cdot \frac{t_f}{\bar m} \cdot
        \frac{t_{CE}}{t_f}, \qquad m^* = \frac{\|W_c\|_F \sqrt{K (\operatorname{tr} \Sigma_W + \operatorname{tr}
        \Sigma_B)}}{K - 1}

    with the margin :math:`m_i = z_y - \mathrm{mean}_{j \ne y} z_j` of each sample, :math:`f(t) = \log(1 + (K - 1)
    e^{-t})`, :math:`t_{CE} = f^{-1}(CE)` and :math:`t_f = f^{-1}(\mathrm{mean} f(m_i))`. The logits :math:`z = W h + b`
    are formed in float64, whatever the network computes in.

    Parameters
    ----------
    moments : ClassMoments
        Class moments of the features.
    reader : Reader
        The head: the linear layer that makes logits of the features, one output a class.
    features : Tensor of shape (samples, features)
        Float32 or float64.
    labels : Tensor of shape (samples,), int64
    logits : Tensor of shape (samples, classes), optional
        What the network makes of them. If given, all is NaN where they are not W h + b up to a shift of all classes.

    Returns
    -------
    MarginEfficiency
        Each factor is at most 1, and 1 at full collapse. All NaN with fewer than two classes, with a class that is
        absent, and where the reader has another number of outputs.

    References
    ----------
    Margin efficiency, in this documentation; the cross-entropy's bound by Jensen's inequality is that of Lu and
    Steinerberger, Neural collapse under cross-entropy loss, 2022.

    Examples
    --------
    >>> features, labels = torch.eye(3, dtype=torch.float64), torch.arange(3)
    >>> found = margin_efficiency(ClassMoments.from_features(features, labels), Reader(features), features, labels)
    >>> round(found.efficiency, 12), round(found.best, 12)
    (1.0, 1.0)
    """
    check_moments(moments)
    layer = Layer(moments, reader=reader)
    if not layer.has_classifier:
        return _UNDEFINED
    rows = Rows(features, labels)
    return _efficiency(layer, _head_sums(layer, rows)(_made(reader, rows) if logits is None else logits))


def _head_sums(layer: Layer, rows: Rows) -> Finish:
    """Over the rows of each class: cross-entropy, f of the margin, and how far the logits are from what the head makes.

    The result has shape (4, classes); all classes' logits are compared after their mean is subtracted, because neither
    margins nor cross-entropy see it.
    """
    reader: Any = layer.reader
    classes = reader.num_outputs
    own = _made(reader, rows)

    def finish(logits: Tensor) -> Tensor:
        sums = own.new_zeros(4, classes)
        if logits.shape[1] != classes or classes < 2:
            return sums.fill_(math.nan)
        other, centred = logits.double(), own - own.mean(dim=1, keepdim=True)
        missed = centred - (other - other.mean(dim=1, keepdim=True))
        label = rows.labels.unsqueeze(1)
        above = own - own.gather(1, label)  # of every class over the right one
        equal = _loss(above.sum(dim=1) / (classes - 1) + math.log(classes - 1))
        loss = _loss(above.scatter(1, label, -math.inf).logsumexp(dim=1))
        columns = torch.stack([loss, equal, missed.square().sum(dim=1), centred.square().sum(dim=1)])
        return sums.index_add_(1, rows.labels, columns)

    return finish


def _made(reader: Reader, rows: Rows) -> Tensor:
    """What the reader makes of the features, W h + b in float64."""
    product = rows.features.double() @ reader.weight.T
    return product if reader.bias is None else product.add_(reader.bias)


def _loss(excess: Tensor) -> Tensor:
    """log(1 + eˣ) with all digits, also where it is 1e-300 or 1e+300: softplus becomes linear too early."""
    return torch.logaddexp(torch.zeros_like(excess), excess)


def _efficiency(layer: Layer, sums: Tensor | None) -> MarginEfficiency:
    """The margins of one layer, from its moments, its reader and what the second pass has added up."""
    means, classes = layer.means, layer.moments.num_classes
    if sums is None or classes < 2 or means.num_classes < classes or not _is_head(sums):
        return _UNDEFINED
    loss, equal = (sums[:2] / layer.moments.count).mean(dim=1).tolist()
    both = Duality(means, layer.reader)  # type: ignore[arg-type]  # a layer without a reader has no sums
    within, between = float(means.spread.mean()), float(means.square.mean())
    weight, along = math.sqrt(float(both.square.sum())), float(both.along.sum())
    best = weight * math.sqrt(classes * (within + between)) / (classes - 1)
    return MarginEfficiency(
        _margin_at(loss, classes),
        _margin_at(equal, classes),
        along / (classes - 1),
        best,
        math.sqrt(between / (within + between)) if within + between > 0 else math.nan,
        along / (weight * math.sqrt(classes * between)) if weight * between > 0 else math.nan,
    )


def _is_head(sums: Tensor) -> bool:
    """Whether the network's logits are those of the reader; not where any of the numbers is NaN."""
    missed, size = float(sums[2].sum()), float(sums[3].sum())
    return missed <= HEAD_TOLERANCE**2 * size


def _margin_at(loss: float, classes: int) -> float:
    """f⁻¹, the margin with this loss: log(K − 1) − log(eᶜ − 1), written so that neither end loses digits."""
    if not torch.finfo(torch.float64).tiny <= loss < math.inf:
        return math.nan
    return math.log(classes - 1) - loss - math.log(-math.expm1(-loss))


def _measured(layer: Layer, _: Tensor) -> MarginEfficiency:
    """What all quantities of a layer share."""
    return _efficiency(layer, layer.total(_head_sums))


def _of_head(name: str, of: Callable[[MarginEfficiency], float], **more: Any) -> Quantity:
    """One number of the head."""
    return Quantity(
        name=name,
        of=lambda layer: of(layer.placed(_measured, layer.moments.offset_square)),
        gather=_head_sums,
        needs=("classifier", "logits"),
        better="higher",
        family="margin",
        **{"reference": "margin efficiency, in this documentation", **more},
    )


_EQUAL = "every class with weight 1/K, whatever `weighting` is; NaN unless the layer makes the logits"
_POSITIVE = f"{_EQUAL}, and while the mean margin is not positive"
QUANTITIES = (
    _of_head(
        "margin_efficiency",
        lambda head: head.efficiency,
        long_name="margin efficiency",
        symbol=r"t_{CE} / m^*",
        convention=f"share of the margin that the norms allow, at equal loss; product of the four factors; {_POSITIVE}",
        heading="margin efficiency",
        at_collapse=1.0,
        bounds=(-math.inf, 1.0),
    ),
    _of_head(
        "margin_spread",
        lambda head: head.spread,
        long_name="margin left by the spread within classes",
        symbol=r"(1 + D)^{-1/2}",
        convention=_EQUAL,
        heading="margin, spread",
        at_collapse=1.0,
        bounds=(0.0, 1.0),
    ),
    _of_head(
        "margin_duality",
        lambda head: head.duality,
        long_name="margin left by the head's direction",
        symbol=r"\cos(W_c, M)",
        convention=f"weight and class means both centred, Frobenius inner product; {_EQUAL}",
        heading="margin, duality",
        at_collapse=1.0,
        bounds=(-1.0, 1.0),
    ),
    _of_head(
        "margin_samples",
        lambda head: head.samples,
        long_name="margin left by unequal samples",
        symbol=r"t_f / \bar m",
        convention=_POSITIVE,
        heading="margin, samples",
        at_collapse=1.0,
        bounds=(-math.inf, 1.0),
    ),
    _of_head(
        "margin_classes",
        lambda head: head.classes,
        long_name="margin left by unequal wrong classes",
        symbol=r"t_{CE} / t_f",
        convention=f"{_EQUAL}, and while the margin of the samples is not positive",
        heading="margin, classes",
        at_collapse=1.0,
        bounds=(-math.inf, 1.0),
    ),
    _of_head(
        "margin_of_loss",
        lambda head: head.of_loss,
        long_name="margin with the same cross-entropy",
        symbol=r"t_{CE}",
        convention=f"of equal samples with equal wrong classes; {_EQUAL}",
        heading="margin of the loss",
    ),
    _of_head(
        "margin_of_samples",
        lambda head: head.of_samples,
        long_name="margin of equal samples",
        symbol=r"t_f",
        convention=f"with the same mean of log(1 + (K − 1) exp(−margin)); {_EQUAL}",
        heading="margin of the samples",
    ),
    _of_head(
        "margin_mean",
        lambda head: head.mean,
        long_name="mean margin",
        symbol=r"\bar m",
        convention=f"logit of the class minus the mean of the others; {_EQUAL}",
        heading="margin, mean",
    ),
    _of_head(
        "margin_best",
        lambda head: head.best,
        long_name="largest mean margin that the norms allow",
        symbol=r"m^*",
        convention=f"from the norms of the centred weight and of the centred features; {_EQUAL}",
        heading="margin, best",
        bounds=(0.0, math.inf),
    ),
)
