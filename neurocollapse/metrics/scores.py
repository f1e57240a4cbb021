"""What passes over a loader and over other data have found of each sample at one layer."""

from typing import NamedTuple

from torch import Tensor


class Outside(NamedTuple):
    """How samples of the classes and other samples lie to the span of the class means.

    Attributes
    ----------
    inside, outside : Tensor of shape (samples,), float64
        NECO of the loader's samples and of the other ones.
    mean : Tensor of shape (features,), float64
        Mean of the other samples.
    """

    inside: Tensor
    outside: Tensor
    mean: Tensor
