"""What pure functions are given: class moments of one layer, features and eigenvalues in any container."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurocollapse.statistics import ClassMoments
from neurocollapse.support.arrays import tensor
from neurocollapse.support.checks import shown

_WIDE = (torch.float32, torch.float64)


def check_moments(moments: Any) -> None:
    """Raise unless these are the class moments of one layer."""
    if not isinstance(moments, ClassMoments):
        raise TypeError(
            f"`moments` must be ClassMoments, got {shown(moments)}; pass nc.collect(model, loader)[layer], or make "
            "them with ClassMoments.from_features"
        )


def matrix(name: str, value: Any) -> Tensor:
    """Numbers in any container as float32 or float64, shape (samples, features).

    Raises
    ------
    TypeError, ValueError
        If they are no numbers, or no matrix.

    Examples
    --------
    >>> matrix("features", [[1, 2], [3, 4]]).shape
    torch.Size([2, 2])
    """
    found = tensor(name, value)
    if found.dim() != 2:
        raise ValueError(f"`{name}` must have shape (samples, features), got {tuple(found.shape)}")
    return found if found.dtype in _WIDE else found.double()


def matrix_of(moments: Any, name: str, value: Any) -> Tensor:
    """The same, with the features that `moments` are of.

    Raises
    ------
    TypeError, ValueError
        As `matrix`, and if these are no class moments, or of other features.
    """
    check_moments(moments)
    found = matrix(name, value)
    if found.shape[1] != moments.num_features:
        raise ValueError(
            f"`{name}` must have the {moments.num_features} features of `moments`, got {found.shape[1]}; take both "
            "from one layer"
        )
    return found


def one_for_each(name: str, values: Any, what: str) -> NDArray[np.float64]:
    """Numbers in any container as float64, one for each `what`.

    Raises
    ------
    TypeError, ValueError
        If they are no numbers, or have more than one axis.

    Examples
    --------
    >>> one_for_each("errors", [0.5, 0.25], "layer").tolist()
    [0.5, 0.25]
    """
    try:
        found = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be an array of numbers, got {shown(values)}") from None
    if found.ndim != 1:
        raise ValueError(f"`{name}` must hold one number for each {what}, got shape {found.shape}")
    return found
