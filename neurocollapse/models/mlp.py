"""The multilayer perceptron whose last hidden layers are linear: where separation ends and compression continues."""

from collections import OrderedDict

from torch import Tensor, fx, nn

from neurocollapse.support.checks import integer, shown

_MOST_LAYERS = 100_000
"""Most layers of a network: their modules alone take about a gigabyte, whatever their width."""


class HybridMLP(nn.Module):
    """A perceptron of nonlinear hidden layers followed by linear ones, and a linear head.

    Its hidden layers all have `width` outputs; the first `num_nonlinear` are Linear → BatchNorm1d → ReLU, the other
    `num_linear` are Linear alone. Every layer's output is one entry of `layers`, so `layers="layers.*"` hooks them all.

    Parameters
    ----------
    in_features
        Size of one flattened sample; inputs of shape (samples, …) are flattened to (samples, in_features).
    width
        Features of each hidden layer.
    num_classes
        Outputs of the head.
    num_nonlinear, num_linear
        Hidden layers of either kind, one in total at least.
    batch_norm : bool, default True
        Normalise before each ReLU.
    bias : bool, default False
        Give the Linear layers, the head included, a bias.

    Raises
    ------
    ValueError
        If a size is not a positive integer or there is no hidden layer.

    References
    ----------
    Wang et al., Understanding deep representation learning via layerwise feature compression and discrimination,
    JMLR 26(220), 2025, Section 4.

    Examples
    --------
    >>> import torch
    >>> model = HybridMLP(64, 32, 10, num_nonlinear=3, num_linear=4)
    >>> len(model.layers), tuple(model(torch.zeros(5, 1, 8, 8)).shape)
    (7, (5, 10))
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        num_classes: int,
        *,
        num_nonlinear: int,
        num_linear: int,
        batch_norm: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        for name, size in (("in_features", in_features), ("width", width), ("num_classes", num_classes)):
            integer(name, size, least=1)
        for name, size in (("num_nonlinear", num_nonlinear), ("num_linear", num_linear)):
            if integer(name, size, least=0) > _MOST_LAYERS:
                raise ValueError(f"`{name}` must be an integer from 0 to {_MOST_LAYERS}, got {shown(size)}")
        if num_nonlinear + num_linear == 0:
            raise ValueError(
                "`num_nonlinear` + `num_linear` must be at least 1, got 0; ask for one hidden layer or more"
            )
        self.in_features = in_features
        sizes = [in_features] + [width] * (num_nonlinear + num_linear - 1)
        self.layers = nn.Sequential(
            *(
                _nonlinear(size, width, batch_norm, bias) if depth < num_nonlinear else nn.Linear(size, width, bias)
                for depth, size in enumerate(sizes)
            )
        )
        self.head = nn.Linear(width, num_classes, bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return class scores of shape (samples, num_classes)."""
        flat = inputs.flatten(1)
        _check_width(inputs, flat, self.in_features)
        scores: Tensor = self.head(self.layers(flat))
        return scores


@fx.wrap  # tracing must not look inside: it knows no shapes
def _check_width(inputs: Tensor, flat: Tensor, in_features: int) -> None:
    """Raise unless the flattened samples have the model's width."""
    if flat.shape[1] != in_features:
        raise ValueError(
            f"`inputs` must have {in_features} values per sample, got shape {tuple(inputs.shape)} "
            f"with {flat.shape[1]}; build the model with in_features={flat.shape[1]}"
        )


def mlp(
    in_features: int, width: int, num_classes: int, *, depth: int, batch_norm: bool = True, bias: bool = False
) -> HybridMLP:
    """Return a plain multilayer perceptron: `depth` nonlinear hidden layers and a linear head.

    Parameters
    ----------
    in_features, width, num_classes : int
        Features of the input and of each hidden layer, and outputs.
    depth : int
        Number of hidden layers.
    batch_norm : bool, default True
        Normalise the features of each hidden layer over the batch.
    bias : bool, default False
        Give each hidden layer a bias.

    Examples
    --------
    >>> len(mlp(64, 32, 10, depth=7).layers)
    7
    """
    integer("depth", depth, least=1)
    return HybridMLP(
        in_features, width, num_classes, num_nonlinear=depth, num_linear=0, batch_norm=batch_norm, bias=bias
    )


def _nonlinear(in_features: int, width: int, batch_norm: bool, bias: bool) -> nn.Sequential:
    """Return one Linear (→ BatchNorm1d) → ReLU block."""
    block: OrderedDict[str, nn.Module] = OrderedDict(linear=nn.Linear(in_features, width, bias))
    if batch_norm:
        block["norm"] = nn.BatchNorm1d(width)
    block["relu"] = nn.ReLU()
    return nn.Sequential(block)
