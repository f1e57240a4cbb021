"""The readers on real files, found through the environment variable NEUROCOLLAPSE_DATA."""

import os
from pathlib import Path

import pytest
import torch

from neurocollapse import data

pytestmark = pytest.mark.data


@pytest.fixture
def root() -> Path:
    place = os.environ.get("NEUROCOLLAPSE_DATA")
    if not place:
        pytest.skip("real data is not part of the repository: set NEUROCOLLAPSE_DATA to its folder to run this")
    return Path(place)


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_reads_as_handwritten_digits(root: Path, split: str) -> None:
    mnist = data.open(f"mnist:{root / 'mnist'}", split=split)
    assert mnist.inputs.shape[1:] == (1, 28, 28)
    assert len(torch.bincount(mnist.labels, minlength=10).nonzero()) == 10
    assert 0.12 < mnist.inputs.mean() < 0.15  # MNIST's published mean is 0.1307; this is a sample of it


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_reads_as_colour_photographs(root: Path, split: str) -> None:
    cifar = data.open(f"cifar10:{root / 'cifar10'}", split=split)
    assert cifar.inputs.shape[1:] == (3, 32, 32)
    assert torch.bincount(cifar.labels).unique().numel() == 1  # balanced
    published = torch.tensor([0.4914, 0.4822, 0.4465])
    assert torch.allclose(cifar.inputs.mean((0, 2, 3)), published, atol=0.02)  # a sample of the published mean's set
