"""Plain models with the shapes of well-known ones, untrained: only the time of their operations matters here."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH = 16


def perceptron(width: int = 1024, num_layers: int = 10, *, in_features: int = 784, num_classes: int = 10) -> nn.Module:
    """A multilayer perceptron of `num_layers` linear layers."""
    widths = [in_features, *[width] * (num_layers - 1), num_classes]
    layers: list[nn.Module] = []
    for entering, leaving in pairwise(widths):
        layers += [nn.Linear(entering, leaving), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def deep_perceptron() -> nn.Module:
    """Twelve hidden layers of 1024: 25 modules."""
    return perceptron(num_layers=13)


def resnet18(width: int = 64) -> nn.Module:
    """ResNet-18: eight blocks of two 3×3 convolutions."""
    return ResNet([2, 2, 2, 2], width, bottleneck=False).eval()


def resnet50(width: int = 64) -> nn.Module:
    """ResNet-50: sixteen bottleneck blocks."""
    return ResNet([3, 4, 6, 3], width, bottleneck=True).eval()


def vision_transformer(
    width: int = 384, depth: int = 12, heads: int = 6, patch: int = 16, size: int = 224
) -> nn.Module:
    """ViT-small: patches of 16 pixels and twelve pre-norm blocks."""
    return VisionTransformer(width, depth, heads, PATCH, size).eval()


def language_model(num_tokens: int, width: int, depth: int, heads: int, length: int) -> nn.Module:
    """GPT-2: learned positions, causal pre-norm blocks, and a head that shares the weights of the embedding."""
    return LanguageModel(num_tokens, width, depth, heads, length).eval()


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, mean over positions, linear head."""

    def __init__(self, depths: list[int], width: int, *, bottleneck: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks, channels = [], width
        for stage, depth in enumerate(depths):
            leaving = width * 2**stage * (4 if bottleneck else 1)
            for index in range(depth):
                blocks.append(Residual(channels, leaving, 2 if stage and not index else 1, bottleneck=bottleneck))
                channels = leaving
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(images))).flatten(1))


class Residual(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3 and 1×1, around which the input is carried."""

    def __init__(self, entering: int, leaving: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        inner = leaving // 4 if bottleneck else leaving
        kernels = [(entering, inner, 1, 1), (inner, inner, 3, stride), (inner, leaving, 1, 1)]
        if not bottleneck:
            kernels = [(entering, leaving, 3, stride), (leaving, leaving, 3, 1)]
        layers: list[nn.Module] = []
        for source, target, size, step in kernels:
            convolution = nn.Conv2d(source, target, size, step, size // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(target), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])
        self.shortcut = None
        if stride > 1 or entering != leaving:
            convolution = nn.Conv2d(entering, leaving, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(leaving))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: Tensor) -> Tensor:
        carried = maps if self.shortcut is None else self.shortcut(maps)
        return self.relu(self.body(maps) + carried)


class VisionTransformer(nn.Module):
    """Patch embedding, class token, positions, blocks, norm, linear head."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, size: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) / 50)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 1000)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(len(images), -1, -1), tokens], 1) + self.positions
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class LanguageModel(nn.Module):
    """Token and position embedding, causal blocks, norm, head."""

    def __init__(self, num_tokens: int, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(num_tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[EncoderBlock(width, heads, causal=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_tokens, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        tokens = self.embed(input_ids) + self.positions.weight[: input_ids.shape[1]]
        return self.head(self.norm(self.blocks(tokens)))


class EncoderBlock(nn.Module):
    """Self-attention and a perceptron, each after a norm and around which the input is carried."""

    def __init__(self, width: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape
        heads = self.qkv(self.norm1(tokens)).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*heads.unbind(0), is_causal=self.causal)
        tokens = tokens + self.project(mixed.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.mlp(self.norm2(tokens))
