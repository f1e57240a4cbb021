"""A small vision transformer: patches, a class token, pre-norm blocks."""

from collections import OrderedDict

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from neurocollapse.support.checks import integer

INITIAL_SPREAD = 0.02
"""Standard deviation of class token and positions at the start, as usual for transformers."""


class SmallViT(nn.Module):
    """A small vision transformer: patches of an image and a class token in, the scores of the classes out.

    With tokens Z of shape (samples, 1 + patches, width), a block is Z ← Z + attention(norm1(Z)), Z ← Z + mlp(norm2(Z)).
    `layers="blocks"` hooks every block, whose outputs are tokens: pool="cls" takes the class token, which the head
    reads, and "auto" the mean over all tokens. The last hidden weight is that of `blocks.{depth - 1}.mlp.contract`.

    Parameters
    ----------
    image_size
        Height and width of an image.
    num_classes
        Outputs of the head.
    in_channels : int, default 1
        Channels of an image.
    patch_size : int, default 4
        Height and width of a patch; a divisor of `image_size`.
    width : int, default 64
        Features of a token; a multiple of `num_heads`.
    depth : int, default 4
        Number of blocks.
    num_heads : int, default 4
        Heads of each attention.
    hidden : int, default 128
        Features between the two layers of each block's perceptron.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or the patches or heads do not divide.

    References
    ----------
    Dosovitskiy et al., An image is worth 16 × 16 words, ICLR 2021.

    Examples
    --------
    >>> model = SmallViT(8, 10, patch_size=2, width=32, depth=3)
    >>> len(model.blocks), tuple(model(torch.zeros(5, 1, 8, 8)).shape)
    (3, (5, 10))
    """

    def __init__(
        self,
        image_size: int,
        num_classes: int,
        *,
        in_channels: int = 1,
        patch_size: int = 4,
        width: int = 64,
        depth: int = 4,
        num_heads: int = 4,
        hidden: int = 128,
    ) -> None:
        super().__init__()
        sizes = {"image_size": image_size, "num_classes": num_classes, "in_channels": in_channels, "width": width}
        sizes |= {"patch_size": patch_size, "depth": depth, "num_heads": num_heads, "hidden": hidden}
        for name, size in sizes.items():
            integer(name, size, least=1)
        check_divides("image_size", image_size, "patch_size", patch_size)
        check_divides("width", width, "num_heads", num_heads)
        self.image_shape = (in_channels, image_size, image_size)
        self.patches = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        self.class_token = nn.Parameter(INITIAL_SPREAD * torch.randn(1, 1, width))
        self.positions = nn.Parameter(INITIAL_SPREAD * torch.randn(1, 1 + (image_size // patch_size) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, num_heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (samples, channels, height, width) to class scores of shape (samples, num_classes)."""
        _check_images(images, self.image_shape)
        patches = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(images.shape[0], -1, -1), patches], dim=1) + self.positions
        scores: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return scores


class Block(nn.Module):
    """Attention between the tokens, then a perceptron on each; both are normalised before and added to their input."""

    def __init__(self, width: int, num_heads: int, hidden: int, *, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads, causal=causal)
        self.norm2 = nn.LayerNorm(width)
        layers = OrderedDict(expand=nn.Linear(width, hidden), gelu=nn.GELU(), contract=nn.Linear(hidden, width))
        self.mlp = nn.Sequential(layers)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens of shape (samples, tokens, width) to tokens of the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class Attention(nn.Module):
    """Self-attention: in each head, softmax(Q Kᵀ / √c) V with c = width / num_heads; causal: not to later tokens."""

    def __init__(self, width: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens of shape (samples, tokens, width) to tokens of the same shape."""
        split = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))  # samples, tokens, (q, k, v), heads, c
        parts = split.permute(2, 0, 3, 1, 4)  # indexed, not unpacked, so that the model can be traced symbolically
        mixed = functional.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=self.causal)
        outputs: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return outputs


@fx.wrap  # tracing must not look inside: it knows no shapes
def _check_images(images: Tensor, expected: tuple[int, ...]) -> None:
    """Raise unless the images have the model's channels and size."""
    if tuple(images.shape[1:]) != expected:
        shape = ", ".join(map(str, expected))
        raise ValueError(f"`images` must have shape (samples, {shape}), got {tuple(images.shape)}")


def check_divides(name: str, size: int, divisor_name: str, divisor: int) -> None:
    """Raise unless one size is a multiple of another."""
    if size % divisor:
        raise ValueError(f"`{name}` must be a multiple of {divisor_name}={divisor}, got {size}; change one of the two")
