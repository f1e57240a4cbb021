"""A small causal transformer: tokens, positions, pre-norm blocks, and scores of the token that comes next."""

import torch
from torch import Tensor, nn

from neurocollapse.models.vit import INITIAL_SPREAD, Block, check_divides
from neurocollapse.support.checks import integer


class SmallGPT(nn.Module):
    """A small causal transformer: tokens in, scores of the next token at every position out.

    With features Z of shape (samples, positions, width), a block is Z ← Z + attention(norm1(Z)), Z ← Z + mlp(norm2(Z)),
    where a position attends to itself and those before it, so that padding on the right changes nothing. What the
    head reads is what `layers="penultimate"` takes.

    Parameters
    ----------
    num_tokens
        Tokens of the vocabulary, and outputs of the head.
    length
        Positions that a sequence may have.
    width : int, default 64
        Features of a position; a multiple of `num_heads`.
    depth : int, default 2
        Number of blocks.
    num_heads : int, default 4
        Heads of each attention.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the heads do not divide.

    References
    ----------
    Radford et al., Language models are unsupervised multitask learners, 2019.

    Examples
    --------
    >>> model = SmallGPT(50, 16, width=32, depth=2)
    >>> len(model.blocks), tuple(model(torch.zeros(5, 16, dtype=torch.int64)).shape)
    (2, (5, 16, 50))
    """

    def __init__(self, num_tokens: int, length: int, *, width: int = 64, depth: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        sizes = {"num_tokens": num_tokens, "length": length, "width": width, "depth": depth, "num_heads": num_heads}
        for name, size in sizes.items():
            integer(name, size, least=1)
        check_divides("width", width, "num_heads", num_heads)
        self.length = length
        self.tokens = nn.Embedding(num_tokens, width)
        self.positions = nn.Parameter(INITIAL_SPREAD * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads, 4 * width, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_tokens, bias=False)
        nn.init.normal_(self.tokens.weight, std=INITIAL_SPREAD)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Map tokens of shape (samples, positions) to scores of shape (samples, positions, num_tokens)."""
        if input_ids.dim() != 2 or input_ids.shape[1] > self.length:
            raise ValueError(
                f"`input_ids` must have shape (samples, at most {self.length}), got {tuple(input_ids.shape)}"
            )
        features = self.tokens(input_ids) + self.positions[:, : input_ids.shape[1]]
        scores: Tensor = self.head(self.norm(self.blocks(features)))
        return scores
