"""A small convolutional network in the manner of VGG."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, fx, nn

from neurocollapse.support.checks import integer


class SmallVGG(nn.Module):
    """Blocks of two 3 × 3 convolutions that halve the image, then two fully connected layers.

    A block is Conv2d → BatchNorm2d → ReLU, twice, → MaxPool2d. Behind the last block the mean over positions is taken,
    so images of any size fit that leave one position or more. `layers="blocks"` hooks every block, `hidden` is the
    penultimate linear layer and `head` the last.

    Parameters
    ----------
    in_channels
        Channels of an image.
    num_classes
        Outputs of the head.
    widths : sequence of int, default (32, 64)
        Channels of each block.
    hidden : int, default 64
        Features of the fully connected layer before the head.

    Raises
    ------
    ValueError
        If a size is not a positive integer or there is no block.

    References
    ----------
    Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.

    Examples
    --------
    >>> import torch
    >>> model = SmallVGG(3, 10, widths=(16, 32, 64), hidden=64)
    >>> tuple(model(torch.zeros(5, 3, 32, 32)).shape)
    (5, 10)
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, widths: Sequence[int] = (32, 64), hidden: int = 64
    ) -> None:
        super().__init__()
        for name, size in (("in_channels", in_channels), ("num_classes", num_classes), ("hidden", hidden)):
            integer(name, size, least=1)
        for index, width in enumerate(widths):
            integer(f"widths[{index}]", width, least=1)
        if not widths:
            raise ValueError("`widths` must name at least one block's channels, got none; ask for widths=(32, 64)")
        self.in_channels = in_channels
        channels = [in_channels, *widths]
        self.blocks = nn.Sequential(*(_block(*pair) for pair in pairwise(channels)))
        self.hidden = nn.Linear(widths[-1], hidden)
        self.relu = nn.ReLU()
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (samples, channels, height, width) to class scores of shape (samples, num_classes)."""
        _check_images(images, self.in_channels, len(self.blocks))
        features = self.blocks(images).mean(dim=(2, 3))
        scores: Tensor = self.head(self.relu(self.hidden(features)))
        return scores


@fx.wrap  # tracing must not look inside: it knows no shapes
def _check_images(images: Tensor, in_channels: int, num_blocks: int) -> None:
    """Raise unless the images have the model's channels and outlast its poolings."""
    shape, least_size = tuple(images.shape), 2**num_blocks
    if len(shape) != 4 or shape[1] != in_channels:
        raise ValueError(f"`images` must have shape (samples, {in_channels}, height, width), got {shape}")
    if min(shape[2:]) < least_size:
        raise ValueError(
            f"`images` must be at least {least_size} × {least_size}, which {num_blocks} blocks halve to one position, "
            f"got {shape[2]} × {shape[3]}; build the model with fewer widths"
        )


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return two convolutions and the pooling that halves the image."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            norm1=nn.BatchNorm2d(out_channels),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(out_channels),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        )
    )
