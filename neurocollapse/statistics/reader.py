"""The linear layer that reads some features: what duality, margins and heads are measured against."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Reader:
    """Weight and bias of the linear layer behind a tap at its input.

    Attributes
    ----------
    weight : Tensor of shape (outputs, features), float64, on the CPU
        The effective weight: of an adapted, low-rank or quantised layer the one that it computes with.
    bias : Tensor of shape (outputs,), float64, on the CPU, optional
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def num_outputs(self) -> int:
        """Rows of the weight: classes, where the layer is the classifier."""
        return self.weight.shape[0]

    @property
    def num_features(self) -> int:
        """Columns of the weight."""
        return self.weight.shape[1]

    def equals(self, other: "Reader | None") -> bool:
        """Whether both are the same map, to the last bit.

        Parameters
        ----------
        other : Reader or None
            The map to compare with.
        """
        if other is None or (self.bias is None) != (other.bias is None) or not torch.equal(self.weight, other.weight):
            return False
        return self.bias is None or other.bias is None or torch.equal(self.bias, other.bias)

    def to(self, device: torch.device) -> "Reader":
        """The same layer on a device.

        Parameters
        ----------
        device : torch.device
            Where weight and bias are needed.
        """
        return Reader(self.weight.to(device), None if self.bias is None else self.bias.to(device))

    def __repr__(self) -> str:
        bias = "" if self.bias is None else ", with bias"
        return f"Reader({self.num_features} features to {self.num_outputs} outputs{bias})"
