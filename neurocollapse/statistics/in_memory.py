"""Class moments of features that are in memory."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurocollapse.statistics.accumulator import MomentAccumulator
from neurocollapse.statistics.class_batch import ClassBatch
from neurocollapse.statistics.labels import check_labels, one_hot_columns
from neurocollapse.statistics.memory import MemoryPlan, memory_limit, state_bytes
from neurocollapse.statistics.moments import ClassMoments
from neurocollapse.support.arrays import tensor
from neurocollapse.support.checks import flag, integer, shown


def from_features(
    features: Any, labels: Any, num_classes: int | None = None, *, covariance: bool = False
) -> ClassMoments:
    """Moments of features that are in memory, accumulated in float64; called as ``ClassMoments.from_features``.

    Parameters
    ----------
    features : array-like of shape (samples, features)
        Features of one layer.
    labels : array-like of shape (samples,) or one-hot of shape (samples, classes)
    num_classes : int, optional
        Default: the number of one-hot columns, or the largest label plus one.
    covariance : bool, default False
        Keep the pooled within-class scatter matrix as well.

    Raises
    ------
    LabelError, TypeError, ValueError
        If the features are no matrix of real numbers, or the labels no class index for each of its rows.
    MemoryPlanError
        If moments of that many classes would not fit into memory.
    """
    values = _doubles(features)
    covariance = flag("covariance", covariance)
    if num_classes is not None:
        num_classes = integer("num_classes", num_classes, least=1)
    if values.ndim != 2:
        raise ValueError(f"`features` must have shape (samples, features), got {tuple(values.shape)}; flatten the rest")
    checked = check_labels(labels, num_samples=values.shape[0], num_classes=num_classes)
    largest = int(checked.max()) + 1 if checked.numel() else 0
    classes = num_classes if num_classes is not None else one_hot_columns(labels) or largest
    size = state_bytes(classes, values.shape[1], working=torch.float64, covariance=covariance)
    MemoryPlan((("features", size),), classes, memory_limit(values.device)).check()
    accumulator = MomentAccumulator(
        classes, values.shape[1], precision="double", device=values.device, covariance=covariance
    )
    if checked.numel():
        accumulator.update(values, ClassBatch(checked, classes))
    return accumulator.moments()


def _doubles(features: Any) -> Tensor:
    """Features in float64; of an array that is read-only or reversed, which torch does not take, a copy."""
    try:
        if not isinstance(features, Tensor):
            features = torch.from_numpy(np.require(features, np.float64, ["C_CONTIGUOUS", "WRITEABLE"]))
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"`features` must be an array of numbers, got {shown(features)}") from None
    if features.is_complex():
        raise TypeError(f"`features` must be real numbers, got {features.dtype}; take their absolute or real part")
    return tensor("features", features).double()


ClassMoments.from_features = staticmethod(from_features)
