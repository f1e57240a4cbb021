"""Data that belong to no class of a network, in the shape of its inputs."""

import torch
from torch import Tensor
from torch.nn import functional

from neurocollapse.data import DataError, Labelled, LabelledData
from neurocollapse.experiments.transfer.sources import SPLITS, Halves
from neurocollapse.experiments.workplace import Workplace

OTHER_CLASSES, NOISE = "other classes", "noise"
"""Others made from the data themselves: the second half of the classes, and pixels drawn evenly from [0, 1]."""


def parts(
    spec: str, others: tuple[str, ...], workplace: Workplace, *, seed: int
) -> tuple[dict[str, Labelled], dict[str, Tensor]]:
    """The samples of a network's classes, train and test, and the inputs of other data by name.

    Parameters
    ----------
    spec : str
        Data of the network's classes: all of them, or the first half if "other classes" are among the others.
    others : tuple of str
        "other classes", "noise", or data specs, of which the test samples are taken and made to fit: enlarged or
        shrunk, and their colours averaged or a grey repeated.
    seed : int
        Seed of the noise, which has as many samples as there are test samples.

    Raises
    ------
    DataError
        If data are no images.
    """
    if OTHER_CLASSES in others:
        halves = Halves.of(spec, workplace)
        inside: dict[str, Labelled] = {**halves.source}
    else:
        inside = {split: workplace.samples(spec, split=split) for split in SPLITS}
    shape = tuple(inside["test"][0][0].shape)
    found = {}
    for name in others:
        if name == OTHER_CLASSES:
            found[name] = halves.target["test"].inputs
        elif name == NOISE:
            generator = torch.Generator().manual_seed(seed)
            found[name] = torch.rand((len(inside["test"]), *shape), generator=generator)
        else:
            found[name] = fitted(images(workplace.samples(name, split="test")), shape)
    return inside, found


def images(samples: Labelled) -> Tensor:
    """All inputs as one tensor of shape (samples, channels, height, width)."""
    inputs = samples.inputs if isinstance(samples, LabelledData) else torch.stack([one for one, _ in samples])
    if inputs.ndim != 4:
        raise DataError(f"{samples.name} must hold images, got samples of shape {tuple(inputs.shape[1:])}")
    return inputs


def fitted(inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Images with the channels and the size of others, by bilinear interpolation.

    Examples
    --------
    >>> fitted(torch.zeros(5, 1, 8, 8), (3, 32, 32)).shape
    torch.Size([5, 3, 32, 32])
    """
    channels, *size = shape
    if inputs.shape[1] != channels:
        inputs = inputs.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if list(inputs.shape[2:]) == size:
        return inputs
    return functional.interpolate(inputs, size=size, mode="bilinear", antialias=True)
