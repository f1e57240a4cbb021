"""Features and labels in memory, checked at the edge."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.statistics import check_labels

SAFE_EXPONENT = 400
"""Features up to 2^±400 are used as they are: sums of their squares stay far from both ends of float64, 2^±1022."""


def checked_features(name: str, features: Any) -> NDArray[np.float64]:
    """Features as a finite float64 matrix, or a ValueError that names the argument."""
    values = features.detach().cpu().double().numpy() if isinstance(features, Tensor) else features
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be a matrix of numbers, got {type(features).__name__}") from error
    if matrix.ndim != 2:
        raise ValueError(
            f"`{name}` must have shape (samples, features), got {matrix.shape}; a single feature is a column"
        )
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in row {int(finite.argmin())}; leave it out")
    return matrix


def rounding(features: Any) -> float:
    """Relative rounding of the numbers as they came: ε of their dtype, of float64 for integers and lists."""
    if isinstance(features, Tensor):
        return torch.finfo(features.dtype).eps if features.is_floating_point() else float(np.finfo(np.float64).eps)
    kind = getattr(features, "dtype", np.dtype(np.float64))
    return float(np.finfo(kind if np.issubdtype(kind, np.floating) else np.float64).eps)


def checked_parts(
    features: Any, labels: Any, test_features: Any, test_labels: Any
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Both parts of a data set: matrices of the same width and of a size that can be squared, a class index per row."""
    train, test = checked_features("features", features), checked_features("test_features", test_features)
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"`test_features` must have the {train.shape[1]} columns of `features`, got {test.shape[1]}; "
            "take both from the same layer"
        )
    exponent = _exponent_beyond_range(train)
    return (
        np.ldexp(train, -exponent) if exponent else train,
        check_labels(labels, num_samples=len(train)).numpy(),
        np.ldexp(test, -exponent) if exponent else test,
        check_labels(test_labels, num_samples=len(test)).numpy(),
    )


def _exponent_beyond_range(features: NDArray[np.float64]) -> int:
    """The power of two by which features are divided so that their squares fit in float64; 0 where they do anyway.

    No probe's answer depends on the scale of all features, and division by a power of two rounds nothing.
    """
    exponent = int(np.frexp(np.abs(features).max(initial=0.0))[1])
    return exponent if abs(exponent) > SAFE_EXPONENT else 0
