"""Initial weights of a chosen scale: orthogonal, normal and uniform with the same Frobenius norm."""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from neurocollapse.support.checks import checked_seed, positive_number

KINDS = ("orth", "norm", "unif")

Model = TypeVar("Model", bound=nn.Module)


def init_weights(
    model: Model,
    kind: str = "orth",
    scale: float = 1.0,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Model:
    """Redraw the weights of all Linear layers at one scale, in place; their biases become zero.

    Every weight matrix is one of `initial_weight`. Other modules (normalisation, embeddings) keep what they have.

    Parameters
    ----------
    model
        The model to change; it is also returned.
    kind : str, default "orth"
        "orth", "norm" or "unif".
    scale : float, default 1.0
        ε, the factor in front; positive.
    seed, generator : int and torch.Generator, optional
        Where the numbers come from, one of the two at most; with neither, torch's global generator.

    Raises
    ------
    ValueError
        If the kind is unknown, the scale is not positive, or the model has no Linear layer.

    Examples
    --------
    >>> model = init_weights(nn.Linear(5, 3), "orth", 0.1, seed=0)
    >>> torch.allclose(model.weight @ model.weight.T, 0.01 * torch.eye(3), atol=1e-7)
    True
    """
    if seed is not None and generator is not None:
        raise ValueError("`seed` and `generator` exclude each other; pass one of them")
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ValueError(f"`model` must contain nn.Linear layers to initialise, {type(model).__name__} has none")
    if seed is not None:
        generator = torch.Generator().manual_seed(checked_seed(seed))
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(initial_weight(layer.out_features, layer.in_features, kind, scale, generator=generator))
            if layer.bias is not None:
                layer.bias.zero_()
    return model


def initial_weight(
    num_rows: int, num_columns: int, kind: str, scale: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw one weight matrix W of shape m × n, all kinds with E‖W‖_F² = ε² min(m, n).

    orth: ε times a Haar-distributed orthogonal matrix of size max(m, n), cropped to m × n;
    norm: ε √(min(m, n)/(mn)) N(0, 1);  unif: √3 √(min(m, n)/(mn)) U(−ε, ε).

    Parameters
    ----------
    num_rows, num_columns : int
        m and n.
    kind : {"orth", "normal", "uniform"}
        The distribution; see `init_weights`.
    scale : float
        ε.
    generator : torch.Generator, optional
        Source of the random numbers. Default: torch's own.

    Returns
    -------
    Tensor of shape (m, n), float64.

    Examples
    --------
    >>> W = initial_weight(4, 6, "orth", 2.0, generator=torch.Generator().manual_seed(0))
    >>> torch.allclose(torch.linalg.svdvals(W), torch.tensor(2.0, dtype=torch.float64))
    True
    """
    if kind not in KINDS:
        raise ValueError(f"`kind` must be one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    scale = positive_number("scale", scale)
    if kind == "orth":
        return scale * _haar_orthogonal(max(num_rows, num_columns), generator)[:num_rows, :num_columns]
    spread = scale * math.sqrt(min(num_rows, num_columns) / (num_rows * num_columns))
    shape = (num_rows, num_columns)
    if kind == "norm":
        return spread * torch.randn(shape, dtype=torch.float64, generator=generator, device="cpu")
    return math.sqrt(3) * spread * (2 * torch.rand(shape, dtype=torch.float64, generator=generator, device="cpu") - 1)


def _haar_orthogonal(size: int, generator: torch.Generator | None) -> Tensor:
    """Draw an orthogonal matrix uniformly: QR of a Gaussian is Haar only once the signs of R's diagonal are undone."""
    q, r = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator, device="cpu"))
    return q * r.diagonal().sign()
