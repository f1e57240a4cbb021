"""Which class mean samples are nearest to: NC4."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from neurocollapse.metrics.arguments import matrix, matrix_of
from neurocollapse.metrics.layer import Later, Layer, Rows
from neurocollapse.metrics.quantity import Quantity
from neurocollapse.statistics import ClassMoments, check_labels


def nc4(moments: ClassMoments, features: Tensor, logits: Tensor) -> float:
    r"""NC4, share of the samples that the network assigns to the class whose mean is nearest.

    .. math:: P \bigl( \arg\max_k z_k = \arg\min_k \|h - m_k\| \bigr)

    Parameters
    ----------
    moments : ClassMoments
        Class moments of one layer.
    features : Tensor of shape (samples, features)
        Those that the moments are of, float32 or float64.
    logits : Tensor of shape (samples, outputs)
        A single output decides between two classes by its sign.

    Returns
    -------
    float
        In [0, 1], 1 at collapse; NaN with fewer than two classes present, and without samples. Ties go to the lowest
        class, and classes without samples are nearest to nothing.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020.

    Examples
    --------
    >>> features, logits = torch.tensor([[0.0], [1.0], [8.0]]), torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 3.0]])
    >>> round(nc4(ClassMoments.from_features(features, [0, 0, 1]), features, logits), 4)
    0.6667
    """
    rows = Rows(matrix_of(moments, "features", features), moments.present[:0])
    layer = Layer(moments)
    return _share(layer, _agreements(layer, rows)(matrix("logits", logits)).tensor())


def ncm_error(moments: ClassMoments, features: Tensor, labels: Tensor) -> float:
    r"""Share of the samples whose nearest class mean is not that of their class.

    .. math:: P \bigl( \arg\min_k \|h - m_k\| \ne y \bigr)

    In [0, 1], 0 at collapse; NaN and ties as in `nc4`.

    Parameters
    ----------
    moments : ClassMoments
        Whose class means decide.
    features : Tensor of shape (samples, features)
        What is classified.
    labels : Tensor of shape (samples,), int64
        The true classes.

    References
    ----------
    Papyan, Han, Donoho, PNAS 117(40), 2020; Galanti, György, Hutter, ICLR 2022.

    Examples
    --------
    >>> features, labels = torch.tensor([[0.0], [9.0], [8.0], [8.0]]), torch.tensor([0, 0, 1, 1])
    >>> ncm_error(ClassMoments.from_features(features, labels), features, labels)
    0.25
    """
    rows = matrix_of(moments, "features", features)
    classes = check_labels(labels, num_samples=len(rows), num_classes=moments.num_classes).to(rows.device)
    layer = Layer(moments)
    return _share(layer, misses(layer, Rows(rows, classes)).tensor())


def _agreements(layer: Layer, rows: Rows) -> Callable[[Tensor], Later]:
    """How many rows the network takes for the class whose mean is nearest, and of how many."""
    nearest, device = rows.nearest_later(layer), rows.features.device

    def finish(logits: Tensor) -> Later:
        decided = (logits.argmax(dim=1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()).to(device)
        return Later(lambda: _counted(decided == nearest()))

    return finish


def misses(layer: Layer, rows: Rows) -> Later:
    """How many rows are not nearest to the mean of their class, and of how many."""
    nearest, labels = rows.nearest_later(layer), rows.labels
    return Later(lambda: _counted(nearest() != labels))


def _counted(rows: Tensor) -> Tensor:
    """Number of true ones, and of all."""
    return torch.stack([rows.sum(), rows.new_full((), len(rows), dtype=torch.int64)])


def _share(layer: Layer, total: Tensor | None) -> float:
    """The former by the latter; NaN with fewer than two classes."""
    if total is None or layer.moments.present.numel() < 2:
        return float("nan")
    return float(total[0].double() / total[1].double())


def _of_rows(name: str, gather: Any, **more: Any) -> Quantity:
    """A share of the samples."""
    return Quantity(
        name=name,
        of=lambda layer: _share(layer, layer.total(gather)),
        gather=gather,
        convention="share of the samples, which the class means are of as well; ties go to the lowest class",
        bounds=(0.0, 1.0),
        family="collapse",
        **more,
    )


QUANTITIES = (
    _of_rows(
        "nc4",
        _agreements,
        long_name="NC4, decisions for the nearest class mean",
        symbol=r"P(\arg\max_k z_k = \arg\min_k \|h - m_k\|)",
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020",
        heading="NC4",
        needs=("logits",),
        at_collapse=1.0,
        better="higher",
    ),
    _of_rows(
        "ncm_error",
        misses,
        long_name="error of the nearest class mean",
        symbol=r"P(\arg\min_k \|h - m_k\| \ne y)",
        reference="Papyan, Han, Donoho, PNAS 117(40), 2020; Galanti, György, Hutter, ICLR 2022",
        heading="NCM error",
        at_collapse=0.0,
        better="lower",
    ),
)
